"""The containers of a federation killed in turn while a run goes on: the lines of docs/faults.md on containers.

About eight minutes: not part of `.ci/run`, which has the federation of `test_federation.py`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
fault_table = importlib.import_module("fault_table")

pytestmark = pytest.mark.containers


def test_killed_containers_leave_the_undisturbed_model_or_a_named_failure(tmp_path: Path) -> None:
    if reason := fault_table.why_not():
        pytest.skip(reason)
    # It checks every ledger on its way: commits and abandoned reservations, each round once.
    lines = {line.fault: line for line in fault_table.contained(tmp_path)}
    for line in lines.values():
        print(line)
    for fault, _ in fault_table.CONTAINERS:
        assert lines.pop(fault).model == "equal"
    assert all(line.model == "equal" for fault, line in lines.items() if fault.startswith("... then"))
    named = {fault: line.saw for fault, line in lines.items() if line.model == "named failure"}
    assert len(named) == 2
    assert all(saw.startswith("exit 1: ") for saw in named.values())
    (ledgers,) = [line for fault, line in lines.items() if fault == "ledgers at the end"]
    assert ledgers.saw.startswith("line-a 7 committed")
