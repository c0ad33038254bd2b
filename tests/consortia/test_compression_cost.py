"""The control of compressed updates: the same run without compression, and the change of each metric in the record."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute
from consortia.studies import repeated_runs
from consortia.studies.controlled_run import control, prepare
from consortia.terms.scenario import find_scenario


def _packed(folder: Path) -> str:
    """Write `banks-network` with two participants and int8 updates."""
    file = find_scenario("banks-network")
    made = tomllib.loads(file.read_text())
    made.pop("expect", None)
    made.update(name="packed", roster=made["roster"][:2])
    made["contract"]["compression"] = {"kind": "int8"}
    shutil.copytree(file.parent / "policies" / "banks-network", folder / "policies" / "packed")
    (folder / "packed.toml").write_text(tomli_w.dumps(made))
    return str(folder / "packed.toml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"scenario": "banks-network"},
            r"wanted .* updates are compressed \(\[contract.compression\]\), got none",
        ),
        ({"draws": 1}, "--draws: wanted at least 2, got 1"),
        ({"ledger": Path("homes")}, "--uncompressed: wanted a simulation"),
        ({"engine": "vectorized"}, "--engine vectorized: contract.compression: wanted none"),
        ({"resume": Path("x")}, "--placebo and --uncompressed: wanted a run from its start, got --resume"),
    ],
)
def test_what_has_nothing_to_compare_is_refused_before_it_runs(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=words):
        prepare(Options(**{"scenario": _packed(tmp_path), "uncompressed": True, "out": out, **options}))
    assert not out.exists()


def test_an_interval_by_hand() -> None:
    # Draws .1 and .3: mean .2, sd .1414 / sqrt 2 = .1, x t(1) 12.706 = 1.2706; rows .5 x 1.96 = .98.
    # Half = sqrt(1.2706^2 + .98^2) = 1.6046.
    found = repeated_runs.interval([0.1, 0.3], 0.5)
    assert (found["low"], found["high"]) == (pytest.approx(0.2 - 1.6046, abs=1e-4), pytest.approx(1.8046, abs=1e-4))


@pytest.mark.end_to_end
def test_the_record_says_what_compression_changed(tmp_path: Path) -> None:
    scenario = _packed(tmp_path)
    options = Options(
        scenario=scenario, out=tmp_path / "out", rounds=2, epsilon=("inf",), uncompressed=True, draws=2, seed=3
    )
    job = prepare(options)
    execute(job, options)
    written: list[str] = []
    result = control(job, options, written.append)
    assert written == ["again, compressed (2 of 2)", "without compression (1)"]
    assert json.loads((job.folder / "result.json").read_text())["compression"] == result["compression"]
    plain = Options(scenario=scenario, out=tmp_path / "plain", rounds=2, epsilon=("inf",), compressed=False, seed=3)
    alone = execute(prepare(plain), plain).result["participants"]
    for name, participant in result["compression"]["participants"].items():
        counted, metrics = result["participants"][name]["bytes"], result["participants"][name]["metrics"]["auc"]
        assert (participant["bytes_sent"], participant["bytes_saved"]) == (counted["sent"], counted["saved"])
        assert counted["saved"] > 0
        assert "saved" not in alone[name]["bytes"]
        # The control is the run that somebody without compression gets.
        assert participant["uncompressed"] == metrics["uncompressed"]
        assert participant["uncompressed"] == pytest.approx(alone[name]["metrics"]["auc"]["federated"])
        first = metrics["federated"] - participant["uncompressed"]
        assert participant["change"]["draws"][0] == pytest.approx(first)
        assert participant["change"]["value"] == pytest.approx(np.mean(participant["change"]["draws"]))
        assert abs(first) < 0.05  # a byte a number after so few steps
