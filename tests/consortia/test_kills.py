"""Invariant 2 through the whole participant: 200 random kills while it answers; a run that is killed and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consortia.coordinator.checkpoint import load_latest
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.home import Home
from privacy.ledger import Ledger

pytestmark = pytest.mark.end_to_end
# Every abandoned reservation takes a round's budget: more rounds than kills, so that the last kill hits a training too.
ROUNDS, KILLS = 400, 200


@pytest.mark.long
def test_two_hundred_random_kills(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = make_site("factory-a", rounds=ROUNDS)
    folder = site.home.folder.parent
    for number in range(1, ROUNDS + 1):
        (folder / f"message-{number:03d}").write_bytes(site.message(number))
    driver = Path(__file__).with_name("kill_driver.py")
    subprocess.run([sys.executable, str(driver), str(folder), site.name, str(KILLS)], check=True, timeout=900)
    received: dict[int, set[str]] = defaultdict(set)
    codes: set[str] = set()
    for line in (folder / "received.txt").read_text().splitlines():
        number, got = line.split()
        if len(got) == 64:
            received[int(number)].add(got)
        else:
            codes.add(got)
    assert codes <= {"RETRIES_EXHAUSTED", "BUDGET_EXHAUSTED"}
    with site.ledger() as ledger:
        entries = ledger.entries()
        assert ledger.verify().counter >= len(entries)
    commits = {entry.round: entry.reply_sha256 for entry in entries if entry.state == "committed"}
    abandoned = [entry for entry in entries if entry.state == "reserved"]
    assert len(abandoned) > KILLS / 10, "hardly a kill hit a training: the test showed little"
    assert len(abandoned) <= KILLS
    print(f"{KILLS} kills: {len(abandoned)} abandoned, {len(commits)} committed, {len(received)} received")
    assert len(commits) + len(abandoned) == len(entries)
    # Whatever the receiver got, it got the same bytes every time, and the ledger holds a commit for it.
    assert all(len(digests) == 1 for digests in received.values())
    assert {number: next(iter(digests)) for number, digests in received.items()}.items() <= commits.items()


def test_a_run_killed_at_random_resumes_to_the_end(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "consortia.cli", "run", "banks-network", "--rounds", "60", "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while time.monotonic() < end and not list(tmp_path.glob("*/checkpoints/round-00001*")):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    (folder,) = tmp_path.iterdir()
    state = load_latest(folder)
    assert state is not None
    assert state.round >= 9  # the tenth may be half written when the run is killed
    options = Options(scenario="", resume=folder)
    result = execute(prepare(options), options).result
    assert result["status"] == "completed"
    assert [line["round"] for line in result["history"]] == list(range(1, 61))
    for name, participant in result["participants"].items():
        home = Home(folder / "participants" / name, name, simulation=True)
        with Ledger.open(home.ledger, name) as ledger:
            entries = ledger.entries()
        assert participant["epsilon"]["run"] <= participant["epsilon"]["budget"] + 1e-9
        assert len(entries) + len(participant["failures"]) >= 60
