"""What a terminal or an editor does to text: missing characters, a byte-order mark; and intervals that say nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import APP
from typer.testing import CliRunner

from clients.metrics import MINIMUM_UNITS
from consortia.engines.demonstration import demo_policy_file
from consortia.participant.evaluation import gain_interval
from consortia.participant.home import Home
from consortia.terms.scenario import find_scenario, load_scenario
from consortia.vertical.receipt import gain_of
from privacy.ledger import Ledger

SCENARIO = "hospitals-network"


def test_a_latin_1_terminal_gets_escapes() -> None:
    code = "from consortia.common import logs; logs.tolerant_streams(); print('\\u03b5 1.0, \\u2265 2')"
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, env=latin)
    assert run.returncode == 0, run.stderr
    assert run.stdout == b"\\u03b5 1.0, \\u2265 2\n"


@pytest.mark.end_to_end
def test_a_run_on_a_latin_1_terminal_ends_well(tmp_path: Path) -> None:
    latin = {**os.environ, "PYTHONIOENCODING": "latin-1", "COLUMNS": "200"}
    command = [sys.executable, "-m", "consortia.cli", "run", "linear", "--rounds", "20", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, check=False, env=latin)
    assert run.returncode == 0, run.stderr
    assert b"\\u03b5" in run.stdout


def test_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    file = tmp_path / "two.toml"
    file.write_bytes(mark + find_scenario(SCENARIO).read_bytes())
    assert load_scenario(str(file)).contract == load_scenario(SCENARIO).contract
    home = Home(tmp_path / "cleveland", "cleveland")
    home.create()
    Ledger.create(home.ledger, "cleveland").close()
    text = demo_policy_file(SCENARIO, "cleveland").read_text(encoding="utf-8")
    text = text.replace("demo = true", "demo = false").replace('contracts = "any"', "contracts = []")
    home.policy.write_bytes(mark + text.encode())
    for arguments, said in (
        (["preflight", "cleveland", "--scenario", SCENARIO], "policy: ok"),
        (["budget", "set", "cleveland", "--run", "0.5"], "recorded in the ledger"),
    ):
        result = CliRunner().invoke(APP, [*arguments, "--home", str(tmp_path)], env={"COLUMNS": "300"})
        assert said in result.output


@pytest.mark.parametrize("metric", ["auc", "accuracy", "rmse"])
def test_few_units_have_no_interval(metric: str) -> None:
    """Ten rows of one unit are one unit."""
    scores, other = np.linspace(0, 1, 40), np.linspace(1, 0, 40)
    target = np.arange(40) % 2.0

    def interval(units: int) -> Any:
        table: Any = SimpleNamespace(measured=target, unit_index=np.arange(40) % units, n_units=units)
        return gain_interval(metric, scores, other, table, "p")

    assert interval(1) is None
    assert interval(MINIMUM_UNITS - 1) is None
    assert interval(MINIMUM_UNITS) is not None


def test_few_rows_have_no_gain_in_vertical_mode() -> None:
    labels = np.arange(MINIMUM_UNITS) % 2
    scores = np.linspace(0, 1, MINIMUM_UNITS)
    assert gain_of(scores, scores[::-1], labels, "p") is not None
    assert gain_of(scores[1:], scores[:0:-1], labels[1:], "p") is None
