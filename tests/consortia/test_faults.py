"""The fault table in small: real processes, real signals, a full disk. `benchmarks/faults.py` has the whole."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks"))
faults = importlib.import_module("faults")
fault_disk = importlib.import_module("fault_disk")

pytestmark = pytest.mark.end_to_end


def test_faults_of_a_running_federation_leave_the_undisturbed_model(tmp_path: Path) -> None:
    # Everybody is wanted in every round, so that what was disturbed must give the same bits.
    terms = {"rounds": 4, "quorum": 1.0, "deadline_seconds": 20.0, "attempts": 10, "local_steps": 300}
    with faults.world(tmp_path, ("line-a", "line-b"), **terms) as world:
        planned = {
            1: ("ClientApp killed in training", faults.kill_training("line-b")),
            2: ("launcher killed", faults.kill("line-b-app")),
            3: ("SuperLink killed", faults.kill("superlink")),
        }
        first = faults.play(world, planned)
        assert "the SuperLink ended" in first.failure
        assert set(first.injected) == {name for name, _ in planned.values()}
        assert len(faults.rounds_done(first.folder)) == 3

        second = faults.play(world, resume=first.folder)
        assert second.failure == ""
        assert second.result["status"] == "completed"
        assert [line["round"] for line in second.result["history"]] == [1, 2, 3, 4]
        for name, number in first.injected.items():
            print(name, number, f"{first.recovery(name):.1f} s")
        assert faults.equal(faults.model(second.folder), faults.undisturbed(world))
        accounts = {name: faults.account(world.home(name), name) for name in world.names}
        # One commit a round; the kill in training abandoned one reservation.
        assert {name: committed for name, (committed, _) in accounts.items()} == {"line-a": 4, "line-b": 4}
        assert accounts["line-b"][1] >= 1


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
            name: {failure["code"] for failure in seat["failures"]}
            for name, seat in played.result["participants"].items()
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
