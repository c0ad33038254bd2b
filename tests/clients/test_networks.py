"""Kinds of networks for images and sequences: shapes, options, masks, the way to them from a package."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packages import Packages
from shaped_rows import IMAGE, OPTIONS, STEPS, network, of, rows_of, shape_of
from torch import nn

from clients import networks
from clients.arrays import array_frame
from clients.dataset import prepare
from clients.errors import ModelError, SchemaError
from clients.industry import IndustryClient, ModelSpec
from clients.models import predict
from clients.schema import Column, Schema
from clients.shapes import Image, Sequence
from consortia.testing import SlowNetworkWarning, check_client


@pytest.mark.parametrize("kind", ["gru", "lstm", "transformer"])
def test_steps_that_a_mask_leaves_out_change_nothing(kind: str) -> None:
    client = of(STEPS)
    table, module = rows_of(client), network(client, kind)
    x = table.inputs["features"].view(-1, 3, 6).clone()
    before = predict(module, {"features": x.flatten(1)})
    there = x[:, 2:] > 0
    assert not there.all()
    x[:, :2] = torch.where(there, x[:, :2], torch.full_like(x[:, :2], 0.7))
    assert torch.allclose(predict(module, {"features": x.flatten(1)}), before, atol=1e-6)
    x[:, :2] = torch.where(there, x[:, :2] + 0.5, x[:, :2])
    assert not torch.allclose(predict(module, {"features": x.flatten(1)}), before, atol=1e-3)


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_cells_are_torch_s(kind: str) -> None:
    shape = Sequence(length=5, channels=2)
    ours: Any = networks.get(kind).build(shape, 3, networks.read_options(kind, {"state": 4}))
    cells = {"gru": nn.GRU, "lstm": nn.LSTM}[kind](2, 4, batch_first=True)
    with torch.no_grad():
        for (layer, part), into in {
            ("inputs", "weight"): cells.weight_ih_l0,
            ("inputs", "bias"): cells.bias_ih_l0,
            ("states", "weight"): cells.weight_hh_l0,
            ("states", "bias"): cells.bias_hh_l0,
        }.items():
            into.copy_(getattr(getattr(ours, layer), part))
    x = torch.randn(7, 2, 5)
    last = cells(x.transpose(1, 2))[0][:, -1]
    assert torch.allclose(ours(x), torch.tanh(ours.dense(last)), atol=1e-6)


def test_features_take_their_shape_in_the_order_of_the_columns() -> None:
    assert IMAGE.names("p")[:6] == ("p_0_0_0", "p_0_0_1", "p_0_0_2", "p_0_0_3", "p_0_1_0", "p_0_1_1")
    assert Image(channels=1, height=1, width=2).names("p") == ("p_0_0", "p_0_1")
    client = of(IMAGE)
    values = np.linspace(-2, 2, 32).reshape(1, 2, 4, 4)
    table = prepare(client, array_frame(IMAGE, "v", values, y=["a"]))
    (into, *_) = network(client, "cnn").encoder
    assert torch.allclose(into(table.inputs["features"]), torch.from_numpy(values / 2).float())


def test_what_does_not_fit_is_named() -> None:
    table = Schema(name="t", version=1, columns=(Column(name="x", dtype="flag"),), target=of(IMAGE).schema.target)
    for shape, kind, words in [
        (IMAGE, "gru", "client 'beat': model: kind 'gru': wanted a client whose rows are sequence, got image"),
        (STEPS, "torch:none", "kind: wanted one of"),
        (STEPS, "torch:cnn", "got 'torch:cnn'"),
    ]:
        with pytest.raises(ModelError, match=words):
            network(of(shape), kind)
    flat = IndustryClient(**{**vars(of(IMAGE)), "schema": table})
    with pytest.raises(ModelError, match="got a table; take mlp or linear"):
        network(flat, "cnn")
    for options, words in [
        ({"channel": [3]}, "wanted channels, kernel, pool, norm, activation for cnn, got 'channel'"),
        ({"channels": "many"}, r"options\.channels: wanted"),
        ({"kernel": 2}, r"options\.kernel: wanted an odd number, got 2"),
        ({"channels": [1, 1, 1], "pool": 2}, "at most as many blocks"),
    ]:
        with pytest.raises(ModelError, match=words):
            network(of(IMAGE), "cnn", options=options)
    with pytest.raises(ModelError, match=r"options\.heads: wanted a divisor of state = 16, got 3"):
        network(of(STEPS), "transformer", options={"heads": 3})
    with pytest.raises(ModelError, match="hidden: wanted positive widths"):
        network(of(IMAGE), "cnn", hidden=())
    with pytest.raises(ModelError, match="options: wanted none for mlp, got channels"):
        ModelSpec(kind="mlp", hidden=(3,), options={"channels": [3]})
    with pytest.raises(SchemaError, match="shape: wanted 32 number or flag columns without missing values, got 33"):
        Schema(
            name="t",
            version=1,
            columns=(*of(IMAGE).schema.columns, Column(name="x", dtype="flag")),
            target=table.target,
            shape=IMAGE,
        )
    with pytest.raises(SchemaError, match="got 31 features"):
        of(IMAGE).schema.select(tuple(IMAGE.names("v"))[:31])
    with pytest.raises(SchemaError, match="array: wanted rows of shape"):
        array_frame(IMAGE, "v", np.zeros((3, 4, 4)))
    for wrong in ({"length": 0, "channels": 1}, {"length": 3, "channels": 1, "mask": True}):
        with pytest.raises(SchemaError, match="wanted"):
            Sequence(**wrong)  # type: ignore[arg-type]


@pytest.mark.end_to_end
@pytest.mark.parametrize("kind", ["cnn", "gru"])
def test_the_conformance_suite_takes_such_a_client(kind: str) -> None:
    spec = ModelSpec(kind=kind, hidden=(5,), options=OPTIONS[kind])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowNetworkWarning)  # what is recurrent trains row by row
        assert check_client(of(shape_of(kind)), spec=spec)


OWN = """
from dataclasses import dataclass
import torch
from torch import nn
from clients.networks import NetworkKind
from clients.shapes import Image

@dataclass(frozen=True)
class Options:
    bands: int
    scale: float = 1.0

class Own(nn.Module):
    def __init__(self, shape, width, options):
        super().__init__()
        self.first, self.second = nn.Conv2d(shape.channels, options.bands, 2), nn.Linear(options.bands * 9, width)

    def forward(self, x):
        return torch.tanh(self.second(torch.flatten(torch.tanh(self.first(x)), 1)))

NETWORK = NetworkKind(options=Options, build=Own, shapes=(Image,))
"""


def test_a_package_brings_a_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = Packages(tmp_path / "packages", monkeypatch)
    points = "own = own_network:NETWORK\nbroken = own_network:Options\n"
    packages.install("own-network", f"[{networks.GROUP}]\n{points}", own_network=OWN)
    assert networks.names()[-2:] == ("torch:broken", "torch:own")
    module = network(of(IMAGE), "torch:own", options={"bands": 3})
    assert module(rows_of(of(IMAGE)).inputs).shape == (40, 3)
    for kind, options, words in [
        ("torch:own", {}, r"options\.bands: wanted a value for torch:own, got none"),
        ("own", {"bands": 3}, "kind: wanted one of .*torch:own, got 'own'"),
        ("torch:broken", {}, "'broken' of own-network: wanted a clients.networks.NetworkKind"),
    ]:
        with pytest.raises(ModelError, match=words):
            network(of(IMAGE), kind, options=options)
