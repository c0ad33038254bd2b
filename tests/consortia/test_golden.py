"""Golden runs: committed results of small non-private runs, a tolerance per value.

`python tests/consortia/test_golden.py [NAME ...]` writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from clients.dataset import Table
from clients.industry import IndustryClient
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant import baseline
from consortia.participant.baseline import Baseline, Own
from consortia.participant.own_candidates import majority
from consortia.terms.contract import Contract

FOLDER = Path(__file__).resolve().parents[1] / "golden"
RUNS: dict[str, dict[str, Any]] = {
    "linear": {"rounds": 10, "seed": 1},
    "banks": {"seed": 1, "epsilon": ("inf",)},
    "banks-network": {"rounds": 4, "seed": 1, "epsilon": ("inf",)},
    "hospitals-network": {"rounds": 4, "seed": 1, "epsilon": ("inf",)},
    "survival": {"rounds": 6, "seed": 1, "epsilon": ("inf",)},
    **{
        name: {"rounds": 2, "seed": 1, "epsilon": ("inf",)}
        for name in (
            "digits",
            "heartbeats",
            "imaging",
            "intrusions",
            "intrusions-unlabelled",
            "turbofans",
            "turbofans-life",
        )
    },
}
#: Their own models take minutes to find, and no golden value depends on them.
UNSEARCHED = frozenset(RUNS) - {"linear", "banks", "banks-network", "hospitals-network"}
#: AUC and accuracy move in steps of one row; the rest is rounding of another machine's sums.
TOLERANCE = {
    "auc": 0.005,
    "accuracy": 0.02,
    "balanced_accuracy": 0.02,
    "auprc": 0.01,
    "ece": 0.01,
    "rmse": 1e-3,
    "mae": 1e-3,
    "r2": 1e-3,
    "macro_auc": 0.005,
    "log_loss": 1e-3,
    "brier": 1e-3,
    "concordance": 0.005,
}


def _nothing(contract: Contract, client: IndustryClient, train: Table, name: str) -> Baseline:
    """Return the majority for the best own model."""
    del contract, name
    nowhere, constant = np.zeros(0, dtype=np.int64), majority(client, train)
    none = train.take(nowhere)
    own = Own("majority", "", constant, lambda rows: majority(client, rows), constant(none))
    return Baseline(constant, own, None, nowhere, none, nowhere, ())


def _measure(name: str, out: Path) -> dict[str, Any]:
    options = Options(scenario=name, out=out, **RUNS[name])
    with mock.patch.object(baseline, "of_run", _nothing) if name in UNSEARCHED else nullcontext():
        result = execute(prepare(options), options).result
    return {
        participant: {
            "units": line["units"],
            "bytes": line["bytes"],
            "metrics": {
                metric: {
                    kind: None if value is None else round(value, 6)
                    for kind, value in values.items()
                    if name not in UNSEARCHED or kind in {"majority", "federated"}
                }
                for metric, values in line["metrics"].items()
            },
        }
        for participant, line in result["participants"].items()
    }


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", RUNS)
def test_a_golden_run(name: str, tmp_path: Path) -> None:
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    measured = _measure(name, tmp_path)
    assert set(measured) == set(golden)
    for participant, wanted in golden.items():
        got = measured[participant]
        assert got["units"] == wanted["units"]
        for metric, values in wanted["metrics"].items():
            for kind in ("majority", "federated"):  # the local baseline may stop an epoch earlier elsewhere
                value = got["metrics"][metric][kind]
                if values[kind] is None:
                    assert value is None
                else:
                    assert value == pytest.approx(values[kind], abs=TOLERANCE[metric]), (participant, metric, kind)


if __name__ == "__main__":
    for golden_name in sys.argv[1:] or RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            text = json.dumps(_measure(golden_name, Path(scratch)), indent=1)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{golden_name}.json").write_text(text + "\n", encoding="utf-8")
