"""The fault table, measured: see `faults.py`, whose pieces this plays."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import fault_containers
import faults
from fault_containers import NAMES, Up, deployed, up, why_not
from fault_disk import fills, full_disk, make_room, small_disk
from fault_hosts import another_clock, cut_off, restart_host, slow_link, starve
from faults import (
    STARTS,
    Line,
    Play,
    World,
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
CONTAINERS = (
    ("container of a launcher killed", fault_containers.kill("line-b-app")),
    ("container of a SuperNode killed", fault_containers.kill("line-a")),
    ("container of a participant paused for 35 s, deadline 30 s", fault_containers.pause("line-b-app", 35)),
    ("container of the SuperLink killed", fault_containers.kill("superlink")),
)
_SUPEREXEC = ("container of the SuperExec, with the ServerApp in it, killed", fault_containers.kill("superexec"))
_RUNNER = ("container of the runner killed", fault_containers.kill("runner"))
_COORDINATORS = ("superlink", "superexec", "proxy", "runner")
HOSTS = (
    ("launcher left a tenth of a core, until two rounds were done", starve(["line-b-app"], 0.1)),
    (
        "SuperNode and launcher left a tenth of a core each, until two rounds were done",
        starve(["line-b", "line-b-app"], 0.1),
    ),
    (
        "the whole coordinator left a tenth of a core for each container, until two rounds were done",
        starve(_COORDINATORS, 0.1),
    ),
    ("slow link until two rounds were done: .3 s each way, 16 KiB/s", slow_link("line-a", 0.3, 2**14)),
    ("partition: a SuperNode cut off for 90 s", cut_off("line-a", 90)),
)
_RESTART = ("restart of the host: all containers stopped, those of services started", restart_host)
#: Minutes by which a participant's clock is wrong.
CLOCKS = ("+10m", "-10m")
_WENT_ON = "nothing more; the run went on without it"
_DISKS = ("a participant's, room again after 5 s", "a participant's, for good", "the coordinator's")


def _codes(folder: Path, number: int, last: int = 0) -> str:
    """Return what the coordinator's record says of a round, or of some, in order, without repetitions."""
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    found = [
        f"{e['participant']} {e['code']}"
        for e in events
        if e["event"] == "failure" and number <= e["round"] <= max(number, last)
    ]
    return ", ".join(dict.fromkeys(found)) or "nothing: the round took longer"


def _lines(first: Play | Up, named: tuple[tuple[str, object], ...], word: str) -> list[Line]:
    """Return the lines of faults that ended nothing."""
    lines = []
    for fault, _ in named:
        number = first.injected[fault][0] + 1
        until = first.until[fault] if isinstance(first, Up) else number
        lines.append(Line(fault, _codes(first.folder, number, until), first.recovery(fault), word))
    return lines


def _resumed(play: Play | Up, number: int, word: str) -> Line:
    """Return the line of a command that went on with the round of this number."""
    seconds = rounds_done(play.folder)[number] - play.started
    how = "`--resume`" if isinstance(play, Play) else "`CONSORTIA_RESUME=RUN make up`"
    return Line(f"... then {how}", "the rounds that were left", seconds, word)


def _ledgers(made: World) -> Line:
    accounts = {name: account(made.home(name), name) for name in made.names}
    spent = ", ".join(f"{name} {c} committed and {a} abandoned" for name, (c, a) in accounts.items())
    return Line("ledgers at the end", spent, 0.0, "commits + abandoned = reservations")


def _ended(play: Play | Up, fault: str, silent: str = _WENT_ON) -> Line:
    """Return the line of a fault that ended the command; `silent`: what is so when it said nothing of it."""
    saw = play.failure.split("; see")[0].split(" (line-")[0].removeprefix(f"{play.folder}: ") or silent
    return Line(fault, f"exit 1: {saw}", play.ended - play.injected[fault][1], "named failure")


def running(folder: Path) -> list[Line]:
    """Faults while a run goes on, at two participants that are both wanted in every round."""
    terms = {"rounds": _DONE + 3, "quorum": 1.0, "deadline_seconds": 40.0, "attempts": 10, "local_steps": 300}
    with world(folder, ("line-a", "line-b"), **terms) as made:
        wanted = undisturbed(made)
        first = play(made, dict(enumerate(RUNNING, 1)))
        second = play(made, {_DONE + 1: (_COORDINATOR, kill_coordinator)}, resume=first.folder)
        third = play(made, resume=first.folder)
        word = "equal" if third.result is not None and equal(wanted, model(third.folder)) else "DIFFERENT"
        ledgers = _ledgers(made)
    lines = _lines(first, RUNNING[:-1], word)
    lines += [_ended(first, RUNNING[-1][0]), _resumed(second, _DONE + 1, word)]
    return [*lines, _ended(second, _COORDINATOR), _resumed(third, _DONE + 2, word), ledgers]


def filling(folder: Path) -> list[Line]:
    """Disks that fill while a run goes on: a participant's for a while and for good, then the coordinator's."""
    terms = {"rounds": 4, "quorum": 1.0, "deadline_seconds": 40.0, "attempts": 5, "local_steps": 300}
    while_, for_good, coordinator = (f"disk filled: {what}" for what in _DISKS)
    with world(folder, ("line-a", "line-b"), **terms) as made, contextlib.ExitStack() as disks:
        home, runs = made.home("line-b"), folder / "runs"
        disks.enter_context(small_disk(home, "4m"))
        disks.enter_context(small_disk(runs, "64m"))
        wanted = undisturbed(made)
        first = play(made, {1: (while_, fills(home, 5.0)), 2: (for_good, fills(home))})
        make_room(home)
        second = play(made, {3: (coordinator, fills(runs))}, resume=first.folder)
        make_room(runs)
        third = play(made, resume=first.folder)
        word = "equal" if third.result is not None and equal(wanted, model(third.folder)) else "DIFFERENT"
        lines = [Line(while_, _codes(first.folder, 2), first.recovery(while_), word)]
        lines += [_ended(first, for_good), _resumed(second, 3, word)]
        return [*lines, _ended(second, coordinator), _resumed(third, 4, word), _ledgers(made)]


def contained(folder: Path) -> list[Line]:
    """Containers of a real federation killed while a run goes on, each with the signal of a crash."""
    count = len(CONTAINERS)
    terms = {"rounds": count + 3, "quorum": 1.0, "deadline_seconds": 30.0, "attempts": 10, "local_steps": 300}
    with world(folder, NAMES, **terms) as made, deployed(folder, made) as federation:
        wanted = undisturbed(made)
        first = up(federation, {**dict(enumerate(CONTAINERS, 1)), count + 1: _SUPEREXEC})
        second = up(federation, {count + 2: _RUNNER}, first.folder)
        third = up(federation, {}, first.folder)
        word = "equal" if third.status == 0 and equal(wanted, model(third.folder)) else "DIFFERENT"
        lines = _lines(first, CONTAINERS, word)
        lines += [_ended(first, _SUPEREXEC[0]), _resumed(second, count + 2, word), _ended(second, _RUNNER[0])]
        lines.append(Line("... then `CONSORTIA_RESUME=RUN make up`", "the table", third.ended - third.started, word))
        return [*lines, _ledgers(made)]


def hosts(folder: Path) -> list[Line]:
    """Containers without CPU time, on a slow or broken link, and a host that restarts; no round may be lost."""
    count = len(HOSTS)
    terms = {"rounds": 50, "quorum": 1.0, "deadline_seconds": 300.0, "attempts": 4, "local_steps": 300}
    with world(folder, NAMES, **terms) as made, deployed(folder, made) as federation:
        wanted = undisturbed(made)
        first = up(federation, {**dict(enumerate(HOSTS, 1)), count + 1: _RESTART})
        second = up(federation, {}, first.folder)
        word = "equal" if second.status == 0 and equal(wanted, model(second.folder)) else "DIFFERENT"
        lines = [*_lines(first, HOSTS, word), _ended(first, _RESTART[0], "nothing more; no service goes on with a run")]
        went_on = first.injected[_RESTART[0]][0] + 1
        return [*lines, _resumed(second, went_on, word), _ledgers(made)]


def full_disks(folder: Path) -> list[Line]:
    """Disks that fill under a federation of containers: as `filling`, and what the coordinator's says of itself."""
    terms = {"rounds": 4, "quorum": 1.0, "deadline_seconds": 60.0, "attempts": 3, "local_steps": 300}
    while_, for_good, coordinator = (f"containers, disk filled: {what}" for what in _DISKS)
    with world(folder, NAMES, **terms) as made, contextlib.ExitStack() as stack:
        home, runs = made.home("line-b"), folder / "runs"
        stack.enter_context(small_disk(home, "4m"))
        stack.enter_context(small_disk(runs, "64m"))
        federation = stack.enter_context(deployed(folder, made))
        wanted = undisturbed(made)
        first = up(federation, {1: (while_, fills(home, 5.0)), 2: (for_good, fills(home))})
        make_room(home)
        second = up(federation, {3: (coordinator, fills(runs))}, first.folder)
        make_room(runs)
        third = up(federation, {}, first.folder)
        word = "equal" if third.status == 0 and equal(wanted, model(third.folder)) else "DIFFERENT"
        lines = [Line(while_, _codes(first.folder, 2), first.recovery(while_), word)]
        lines += [_ended(first, for_good), _resumed(second, 3, word)]
        return [*lines, _ended(second, coordinator), _resumed(third, 4, word), _ledgers(made)]


def clocks(folder: Path) -> list[Line]:
    """A participant's containers in another time beside one that is right; one is wanted, two are asked."""
    if not faults.OTHER_CLOCK.is_file():
        print("left out: clocks (wanted Debian's libfaketime)")
        return []
    lines = []
    for offset in CLOCKS:
        place = folder / offset
        place.mkdir()
        terms = {"rounds": 2, "quorum": 0.5, "deadline_seconds": 15.0, "attempts": 2}
        with world(place, NAMES, **terms) as made, deployed(place, made) as federation:
            another_clock(federation, "line-b", offset)
            first = up(federation, {})
            both = equal(undisturbed(made), model(first.folder)) if first.status == 0 else False
            alone = first.status == 0 and equal(undisturbed(made, ("line-a",)), model(first.folder))
        word = "equal" if both else "equal to that of the other alone" if alone else "DIFFERENT"
        codes = ", ".join(dict.fromkeys(_codes(first.folder, n) for n in (0, 1, 2)))
        fault = f"containers of a participant whose clock is wrong by {offset.replace('m', ' min')}"
        lines.append(Line(fault, codes, first.ended - first.started, word))
    return lines


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
    participants = (played.result or {})["participants"]
    lines = []
    for name, start in wrong.items():
        codes = ", ".join(dict.fromkeys(failure["code"] for failure in participants[name]["failures"]))
        log = (played.folder / "flower" / f"{name}-app.log").read_text()
        at_home = next((word for word in _AT_HOME if word in log), "")
        saw = f"{name}: {codes}" + (f"; at home: {at_home}" if at_home else "")
        lines.append(Line(f"started with: {start}", saw, done[1] - begun, word))
    return lines


_AT_HOME = ("certificate has expired", "certificate is not yet valid")
#: The parts of the table by heading, and whether each needs containers.
PARTS: dict[str, tuple[Callable[[Path], list[Line]], bool]] = {
    "Processes": (running, False),
    "Disks": (filling, False),
    "Containers": (contained, True),
    "Hosts and links": (hosts, True),
    "Disks of containers": (full_disks, True),
    "Clocks of containers": (clocks, True),
    "Starts": (starting, False),
}
_HEAD = "| fault | what the user saw | seconds to recover | model |\n|---|---|---|---|\n"


def _section(lines: list[Line]) -> str:
    """Return the table of a part, with when it was measured."""
    load = f"{os.cpu_count()} cores, load average {os.getloadavg()[2]:.0f} (15 minutes)"
    text = f"Measured {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, {load}.\n\n{_HEAD}"
    for line in lines:
        seconds = f"{line.seconds:.1f}" if line.seconds else ""
        text += f"| {line.fault} | {line.saw} | {seconds} | {line.model} |\n"
    return text


def _write(file: Path, measured: dict[str, str]) -> None:
    """Put measured parts into the page; those that were not measured stay."""
    old = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = dict(re.findall(r"^## ([^\n]+)\n\n(.*?)\n*(?=^## |\Z)", old, flags=re.MULTILINE | re.DOTALL))
    text = (faults.__doc__ or "").partition("Every process")
    parts = {name: measured.get(name, found.get(name, "")).rstrip() for name in PARTS}
    page = "".join(f"\n## {name}\n\n{part}\n" for name, part in parts.items() if part)
    made = "Made by `make nightly WRITE=docs/faults.md` (`PARTS=...`: some of its parts; the others stay)."
    file.write_text(f"# Faults\n\n{made}\n\n{text[1]}{text[2].rstrip()}\n{page}", encoding="utf-8")


def main() -> int:
    """Measure and print the table; exit 1 when a model differs."""
    parser = argparse.ArgumentParser(description=faults.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, help="write what was measured into this page too")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=[*PARTS], help="measure these; all without")
    options = parser.parse_args()
    measured: dict[str, list[Line]] = {}
    for name in options.parts:
        part, containers = PARTS[name]
        if containers and (reason := why_not()):
            print(f"left out: {name} ({reason})")
            continue
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = part(Path(folder))
        print("\n".join(map(str, measured[name])), flush=True)
        if options.write and measured[name]:
            _write(options.write, {name: _section(measured[name])})
    return 1 if any(line.model == "DIFFERENT" for lines in measured.values() for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
