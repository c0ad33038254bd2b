"""Golden runs: committed results of small non-private runs, a tolerance per value.

`python tests/consortia/test_golden.py` writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

FOLDER = Path(__file__).resolve().parents[1] / "golden"
RUNS: dict[str, dict[str, Any]] = {
    "linear": {"rounds": 10, "seed": 1},
    "banks": {"seed": 1, "epsilon": ("inf",)},
    "banks-network": {"rounds": 4, "seed": 1, "epsilon": ("inf",)},
    "hospitals-network": {"rounds": 4, "seed": 1, "epsilon": ("inf",)},
}
#: AUC and accuracy move in steps of one row; the rest is rounding of another machine's sums.
TOLERANCE = {"auc": 0.005, "accuracy": 0.02, "auprc": 0.01, "ece": 0.01, "rmse": 1e-3, "mae": 1e-3, "r2": 1e-3}


def _measure(name: str, out: Path) -> dict[str, Any]:
    options = Options(scenario=name, out=out, **RUNS[name])
    result = execute(prepare(options), options).result
    return {
        participant: {
            "units": line["units"],
            "bytes": line["bytes"],
            "metrics": {
                metric: {kind: None if value is None else round(value, 6) for kind, value in values.items()}
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
    for golden_name in RUNS:
        with tempfile.TemporaryDirectory() as scratch:
            text = json.dumps(_measure(golden_name, Path(scratch)), indent=1)
        FOLDER.mkdir(exist_ok=True)
        (FOLDER / f"{golden_name}.json").write_text(text + "\n", encoding="utf-8")
