"""Writes one ONNX file from raw rows to predictions, and checks it first.

`torch.onnx` translates the network, whatever modules an industry brings; `onnx_rows` translates the schema.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clients import registry
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.common.logs import quieter
from consortia.models.rows import columns_of, outputs_of, predict, view_of
from consortia.participant.own_model import About, OwnModel

__all__ = ["TOLERANCE", "largest_difference", "predicted_range", "run_onnx", "to_onnx"]

#: How far a prediction of the ONNX file may be from torch's: a share of what predictions range over.
TOLERANCE = 1e-5
_OPSET = 20
_WANTS = "wanted the packages of the extra `onnx`, got none; pip install 'consortia[onnx]'"


def to_onnx(model: OwnModel, about: About) -> bytes:
    """Return the ONNX file.

    One input of text cells (n_rows,) per column, named as in the schema; one output `scores` (n_rows, outputs),
    float32, NaN for a row that breaks the schema. Checked with onnxruntime on 200 synthetic rows against torch.

    Raises
    ------
    InputError
        The extra is not installed, the schema does what ONNX cannot, or the check failed.
    """
    try:
        import onnxruntime  # noqa: F401 - the check below needs it
        from onnx import checker, helper
    except ImportError:
        raise InputError(f"export: {_WANTS}") from None
    from consortia.models.onnx_cells import FLOAT, STRING, Graph
    from consortia.models.onnx_rows import add_rows

    view = view_of(about)
    graph = Graph()
    rows = add_rows(graph, view)
    network = _network(model, view.width)
    graph.nodes.append(helper.make_node("Identity", [rows.features], ["network/features"]))
    for node in network.graph.node:  # torch writes where the code lies on this machine into each node
        del node.metadata_props[:]
        node.doc_string = ""
    graph.nodes.extend(network.graph.node)
    graph.constants.extend(network.graph.initializer)
    count = len(outputs_of(view.target))
    shaped = graph.add("Reshape", "network/scores", graph.constant(np.array([-1, count], dtype=np.int64)))
    whole = graph.add("Unsqueeze", rows.whole, graph.constant(np.array([1], dtype=np.int64)))
    last = graph.add("Where", whole, shaped, graph.constant(np.float32(np.nan)))
    graph.nodes.append(helper.make_node("Identity", [last], ["scores"]))
    file = helper.make_model(
        helper.make_graph(
            graph.nodes,
            f"{about.industry} {about.kind}",
            [helper.make_tensor_value_info(name, STRING, ["rows"]) for name in rows.inputs],
            [helper.make_tensor_value_info("scores", FLOAT, ["rows", count])],
            initializer=graph.constants,
        ),
        producer_name="consortia",
        opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", 4)],
        ir_version=10,
    )
    outputs = json.dumps(outputs_of(view.target))
    origin = {"participant": about.participant, "run_id": about.run_id, "model": about.kind, "outputs": outputs}
    helper.set_model_props(file, origin)
    checker.check_model(file, full_check=True)
    data: bytes = file.SerializeToString()
    client = registry.get(about.industry)
    sample = client.synthesise(np.random.default_rng(0), 200, client.sites[0])
    allowed = TOLERANCE * predicted_range(view.target)
    if (difference := largest_difference(data, model, about, sample)) > allowed:
        raise InputError(f"export: the ONNX file differs from torch by {difference:.1e}, wanted at most {allowed:.1e}")
    return data


def predicted_range(target: Target) -> float:
    """Return what predictions range over: 1 for probabilities, and the public bounds of a number.

    A number without bounds is learned as it is, on a scale of 1.
    """
    return 1.0 if target.low is None or target.high is None else target.high - target.low


def run_onnx(data: bytes, about: About, frame: pd.DataFrame) -> NDArray[np.float32]:
    """Return the scores (n_rows, n_outputs) that onnxruntime gives for raw rows; an absent column counts as missing."""
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    cells = {
        column.name: (frame[column.name] if column.name in frame else pd.Series("", index=frame.index))
        .astype(object)
        .where(lambda values: values.notna(), "")
        .map(str)
        .to_numpy(dtype=object)
        for column in columns_of(view_of(about))
    }
    return np.asarray(session.run(["scores"], cells)[0])


def largest_difference(data: bytes, model: OwnModel, about: About, frame: pd.DataFrame) -> float:
    """Return the largest difference of predictions, torch against ONNX; infinite when they differ in who gets one."""
    torchs, _ = predict(model, about, frame, "the rows")
    found = run_onnx(data, about, frame)
    wanted = torchs.to_numpy()
    if not np.array_equal(np.isnan(wanted), np.isnan(found)):
        return float("inf")
    return float(np.nanmax(np.abs(wanted - found), initial=0.0))


def _network(model: OwnModel, width: int) -> Any:
    """Return torch's translation of the network, every name in it prefixed."""
    from onnx import compose, inliner

    try:
        with _quiet():
            program = torch.onnx.export(
                model.eval(),
                (torch.zeros(2, width),),
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                input_names=["features"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
            )
    except Exception as error:  # noqa: BLE001 - torch may fail in any way on a network of a package
        raise InputError(f"export: torch has no ONNX for this network, got {type(error).__name__}") from None
    assert program is not None
    return compose.add_prefix(inliner.inline_local_functions(program.model_proto), "network/")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about packages that are not there, and its own deprecations, to itself."""
    with (
        quieter(logging.ERROR, "torch.onnx"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield
