"""The fault table in small: real processes, real signals, a full disk. `benchmarks/faults.py` has the whole."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.end_to_end


def _bench() -> Any:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "faults.py"
    spec = importlib.util.spec_from_file_location("benchmark_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


BENCH = _bench()


def test_faults_of_a_running_federation_leave_the_undisturbed_model(tmp_path: Path) -> None:
    # Everybody is wanted in every round, so that what was disturbed must give the same bits.
    terms = {"rounds": 4, "quorum": 1.0, "deadline_seconds": 20.0, "attempts": 10, "local_steps": 300}
    with BENCH.world(tmp_path, ("line-a", "line-b"), **terms) as world:
        faults = {
            1: ("ClientApp killed in training", BENCH.kill_training("line-b")),
            2: ("launcher killed", BENCH.kill("line-b-app")),
            3: ("SuperLink killed", BENCH.kill("superlink")),
        }
        first = BENCH.play(world, faults)
        assert "the SuperLink ended" in first.failure
        assert set(first.injected) == {name for name, _ in faults.values()}
        assert len(BENCH.rounds_done(first.folder)) == 3

        second = BENCH.play(world, resume=first.folder)
        assert second.failure == ""
        assert second.result["status"] == "completed"
        assert [line["round"] for line in second.result["history"]] == [1, 2, 3, 4]
        for name, number in first.injected.items():
            print(name, number, f"{first.recovery(name):.1f} s")
        assert BENCH.equal(BENCH.model(second.folder), BENCH.undisturbed(world))
        accounts = {name: BENCH.account(world.home(name), name) for name in world.names}
        # One commit a round; the kill in training abandoned one reservation.
        assert {name: committed for name, (committed, _) in accounts.items()} == {"line-a": 4, "line-b": 4}
        assert accounts["line-b"][1] >= 1


def test_participants_that_start_wrong_are_named_and_the_others_train(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a full disk: wanted root, which mounts a small file system")
    wrong = {start.replace(" ", "-"): start for start in BENCH.STARTS}
    names = ("line-a", "line-b", *wrong)
    terms = {"rounds": 2, "quorum": 2 / 7, "deadline_seconds": 10.0, "attempts": 2}
    with BENCH.world(tmp_path, names, **terms) as world:
        BENCH.restore_old_ledger(world, "old-ledger")
        with BENCH.full_disk(world.home("full-disk")):
            played = BENCH.play(world, starts=wrong, join_seconds=30)
            accounts = {name: BENCH.account(world.home(name), name) for name in names}
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
        assert "LEDGER_BEHIND" in codes["old-ledger"]
        logs = {name: (played.folder / "flower" / f"{name}-app.log").read_text() for name in wrong}
        assert "certificate has expired" in logs["expired-certificate"]
        assert "certificate is not yet valid" in logs["slow-clock"]
        # Whoever could not take part released nothing; the two others are undisturbed.
        assert accounts["line-a"][0] == accounts["line-b"][0] == 4  # two rounds here, two in the run before
        assert accounts["old-ledger"] == (0, 0)
        assert accounts["full-disk"][0] == 2  # in the run before
        assert BENCH.equal(BENCH.model(played.folder), BENCH.undisturbed(world, ("line-a", "line-b")))
