"""The fault table, measured: see `faults.py`, whose pieces this plays."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

import faults
from fault_disk import full_disk
from faults import (
    STARTS,
    Line,
    account,
    equal,
    kill,
    kill_coordinator,
    kill_training,
    model,
    pause,
    play,
    restore_old_ledger,
    rounds_done,
    undisturbed,
    world,
)

RUNNING = (
    ("ClientApp killed in training", kill_training("line-b")),
    ("launcher (SuperExec) killed", kill("line-b-app")),
    ("SuperNode killed", kill("line-a")),
    ("participant stopped (SIGSTOP) for 45 s, deadline 40 s", pause("line-b-app", 45)),
    ("SuperLink killed", kill("superlink")),
)
_DONE = len(RUNNING)
_COORDINATOR = "ServerApp (coordinator) killed"


def _codes(folder: Path, number: int) -> str:
    """Return what the coordinator's record says of a round, in order, without repetitions."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    found = [f"{e['participant']} {e['code']}" for e in events if e["event"] == "failure" and e["round"] == number]
    return ", ".join(dict.fromkeys(found)) or "nothing: the round took longer"


def running(folder: Path) -> list[Line]:
    """Faults while a run goes on, at two participants that are both wanted in every round."""
    terms = {"rounds": _DONE + 3, "quorum": 1.0, "deadline_seconds": 40.0, "attempts": 10, "local_steps": 300}
    lines = []
    with world(folder, ("line-a", "line-b"), **terms) as made:
        wanted = undisturbed(made)
        after = dict(enumerate(RUNNING, 1))
        first = play(made, after)
        second = play(made, {_DONE + 1: (_COORDINATOR, kill_coordinator)}, resume=first.folder)
        third = play(made, resume=first.folder)
        same = third.result is not None and equal(wanted, model(third.folder))
        accounts = {name: account(made.home(name), name) for name in made.names}
    word = "equal" if same else "DIFFERENT"
    for number, (fault, _) in after.items():
        if number < len(after):
            lines.append(Line(fault, _codes(first.folder, number + 1), first.recovery(fault), word))
    done = rounds_done(first.folder)
    for played, fault, number, then in (
        (first, RUNNING[-1][0], _DONE + 1, second),
        (second, _COORDINATOR, _DONE + 2, third),
    ):
        saw = played.failure.split("; see")[0].split(" (line-")[0]
        lines.append(Line(fault, f"exit 1: {saw}", played.recovery(fault), "named failure"))
        lines.append(Line("... then `--resume`", "the rounds that were left", done[number] - then.started, word))
    spent = ", ".join(f"{name} {c} committed and {a} abandoned" for name, (c, a) in accounts.items())
    return [*lines, Line("ledgers at the end", spent, 0.0, "commits + abandoned = reservations")]


def starting(folder: Path) -> list[Line]:
    """Five participants that start wrong beside two that do not; two are wanted."""
    wrong = {start.replace(" ", "-"): start for start in STARTS}
    names = ("line-a", "line-b", *wrong)
    terms = {"rounds": 2, "quorum": 2 / len(names), "deadline_seconds": 15.0, "attempts": 2}
    with world(folder, names, **terms) as made:
        restore_old_ledger(made, "old-ledger")
        with full_disk(made.home("full-disk")):
            played = play(made, starts=wrong, join_seconds=60)
            for name in names:
                account(made.home(name), name)
        same = played.result is not None and equal(undisturbed(made, names[:2]), model(played.folder))
    word = "equal to that of the two others alone" if same else "DIFFERENT"
    done = rounds_done(played.folder)
    events = (json.loads(line) for line in (played.folder / "events.jsonl").read_text().splitlines())
    begun = next(event["time"] for event in events if event["event"] == "start")
    seats = (played.result or {})["participants"]
    lines = []
    for name, start in wrong.items():
        codes = ", ".join(dict.fromkeys(failure["code"] for failure in seats[name]["failures"]))
        log = (played.folder / "flower" / f"{name}-app.log").read_text()
        at_home = next((word for word in _AT_HOME if word in log), "")
        saw = f"{name}: {codes}" + (f"; at home: {at_home}" if at_home else "")
        lines.append(Line(f"started with: {start}", saw, done[1] - begun, word))
    return lines


_AT_HOME = ("certificate has expired", "certificate is not yet valid")


def main() -> int:
    """Measure and print the table; exit 1 when a model differs."""
    parser = argparse.ArgumentParser(description=faults.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write the table into this file too")
    options = parser.parse_args()
    lines = []
    for part in (running, starting):
        with tempfile.TemporaryDirectory() as name:
            lines += part(Path(name))
    table = "| fault | what the user saw | seconds to recover | model |\n|---|---|---|---|\n"
    for line in lines:
        seconds = f"{line.seconds:.1f}" if line.seconds else ""
        table += f"| {line.fault} | {line.saw} | {seconds} | {line.model} |\n"
    print(table)
    if options.write:
        text = (faults.__doc__ or "").partition("Every process")
        made = f"{os.cpu_count()} cores, load average {os.getloadavg()[2]:.0f} (15 minutes)"
        made = f"Made by `python benchmarks/fault_table.py --write docs/faults.md`; {made}."
        options.write.write_text(f"# Faults\n\n{made}\n\n{text[1]}{text[2].rstrip()}\n\n{table}")
    return 1 if any(line.model == "DIFFERENT" for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
