"""A federation of containers whose processes, hosts, links, disks and clocks fail: lines of docs/faults.md.

Most of an hour: not part of `.ci/run`, which has the federation of `test_federation.py`.
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


def test_starvation_bad_links_and_a_restart_lose_no_round(tmp_path: Path) -> None:
    if reason := fault_table.why_not():
        pytest.skip(reason)
    lines = {line.fault: line for line in fault_table.hosts(tmp_path)}
    for line in lines.values():
        print(line)
    starved = {fault: lines[fault].saw for fault, _ in fault_table.HOSTS if "a tenth of a core" in fault}
    assert set(starved.values()) == {"nothing: the round took longer"}
    assert len(starved) == 3
    assert all(lines[fault].model == "equal" for fault, _ in fault_table.HOSTS)
    assert [line.model for line in lines.values() if line.fault.startswith("... then")] == ["equal"]


def test_full_disks_end_as_the_undisturbed_run_or_with_their_name(tmp_path: Path) -> None:
    if reason := fault_table.why_not():
        pytest.skip(reason)
    lines = fault_table.full_disks(tmp_path)
    for line in lines:
        print(line)
    assert {line.model for line in lines[:-1]} == {"equal", "named failure"}
    assert any("no room on the disk" in line.saw for line in lines)


def test_a_wrong_clock_is_named_and_leaves_the_others_alone(tmp_path: Path) -> None:
    if reason := fault_table.why_not():
        pytest.skip(reason)
    lines = fault_table.clocks(tmp_path)
    for line in lines:
        print(line)
    assert len(lines) == len(fault_table.CLOCKS)
    assert all(line.model.startswith("equal") for line in lines)
