"""The fault table in small: real processes, real signals, a full disk. `benchmarks/faults.py` has the whole."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from consortia.coordinator.checkpoint import load_latest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
faults = importlib.import_module("faults")
fault_disk = importlib.import_module("fault_disk")


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]


pytestmark = pytest.mark.end_to_end


@pytest.mark.long
def test_faults_of_a_running_federation_leave_the_undisturbed_model(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("disks that fill: wanted root, which mounts small file systems")
    # Everybody is wanted in every round, so that what was disturbed must give the same bits.
    terms = {"rounds": 6, "quorum": 1.0, "deadline_seconds": 20.0, "attempts": 10, "local_steps": 300}
    with contextlib.ExitStack() as stack:
        world = stack.enter_context(faults.world(tmp_path, ("line-a", "line-b"), **terms))
        home, runs = world.home("line-b"), tmp_path / "runs"
        for folder, size in ((home, "4m"), (runs, "64m")):
            stack.enter_context(fault_disk.small_disk(folder, size))
        planned = {
            1: ("ClientApp killed in training", faults.kill_training("line-b")),
            2: ("launcher killed", faults.kill("line-b-app")),
            3: ("a participant's disk full for 3 s", fault_disk.fills(home, 3.0)),
            4: ("SuperLink killed", faults.kill("superlink")),
        }
        first = faults.play(world, planned)
        assert "the SuperLink ended" in first.failure, [e for e in events(first.folder) if e["event"] == "failure"]
        assert set(first.injected) == {name for name, _ in planned.values()}
        assert len(faults.rounds_done(first.folder)) == 4
        said = [line for line in events(first.folder) if line["event"] == "failure" and line["round"] == 4]
        assert {(line["participant"], line["code"]) for line in said} == {("line-b", "PARTICIPANT_ERROR")}
        # A log at home has room until its last page is full; the rest goes to the launcher's own.
        log = "".join(f.read_text() for f in (home / "participant.log", first.folder / "flower" / "line-b-app.log"))
        assert "LedgerDiskError" in log
        assert "Traceback" not in log

        second = faults.play(world, {5: ("the coordinator's disk fills", fault_disk.fills(runs))}, resume=first.folder)
        assert "no room on the disk" in second.failure
        assert "--resume" in second.failure
        assert load_latest(first.folder).round == 5
        fault_disk.make_room(runs)

        third = faults.play(world, resume=first.folder)
        assert third.failure == ""
        assert third.result["status"] == "completed"
        assert [line["round"] for line in third.result["history"]] == [1, 2, 3, 4, 5, 6]
        assert [line["round"] for line in events(first.folder) if line["event"] == "round"] == [1, 2, 3, 4, 5, 6]
        for name, number in first.injected.items():
            print(name, number, f"{first.recovery(name):.1f} s")
        assert faults.equal(faults.model(third.folder), faults.undisturbed(world))
        accounts = {name: faults.account(world.home(name), name) for name in world.names}
        # One commit a round; the kill in training abandoned one reservation, the full disk none.
        assert {name: committed for name, (committed, _) in accounts.items()} == {"line-a": 6, "line-b": 6}
        assert accounts["line-b"][1] == 1


def test_participants_that_start_wrong_are_named_and_the_others_train(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a full disk: wanted root, which mounts a small file system")
    wrong = {start.replace(" ", "-"): start for start in faults.STARTS}
    names = ("line-a", "line-b", *wrong)
    terms = {"rounds": 2, "quorum": 2 / len(names), "deadline_seconds": 10.0, "attempts": 2}
    with faults.world(tmp_path, names, **terms) as world:
        faults.restore_old_ledger(world, "old-ledger")
        with fault_disk.full_disk(world.home("full-disk")):
            played = faults.play(world, starts=wrong, join_seconds=30)
            accounts = {name: faults.account(world.home(name), name) for name in names}
        assert played.failure == ""
        assert played.result["status"] == "completed"
        codes = {
            name: {failure["code"] for failure in participant["failures"]}
            for name, participant in played.result["participants"].items()
        }
        assert codes["line-a"] | codes["line-b"] <= {"NO_REPLY", "LATE_REPLY"}
        assert codes["wrong-key"] == {"NOT_JOINED"}
        assert codes["expired-certificate"] == codes["slow-clock"] == {"NO_REPLY"}
        assert codes["full-disk"] == {"PARTICIPANT_ERROR", "NOT_TRAINED"}
        assert codes.get("wrong-clock", {"NOT_JOINED"}) == {"NOT_JOINED"}  # where libfaketime is installed
        assert "LEDGER_BEHIND" in codes["old-ledger"]
        logs = {name: (played.folder / "flower" / f"{name}-app.log").read_text() for name in wrong}
        assert "certificate has expired" in logs["expired-certificate"]
        assert "certificate is not yet valid" in logs["slow-clock"]
        # Whoever could not take part released nothing; the two others are undisturbed.
        assert accounts["line-a"][0] == accounts["line-b"][0] == 4  # two rounds here, two in the run before
        assert accounts["old-ledger"] == (0, 0)
        assert accounts["full-disk"][0] == 2  # in the run before
        assert faults.equal(faults.model(played.folder), faults.undisturbed(world, ("line-a", "line-b")))
