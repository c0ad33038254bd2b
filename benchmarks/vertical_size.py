"""A vertical run of a million persons: seconds and peak memory of every step, each participant's step in a process.

    python benchmarks/vertical_size.py [--rows N] [--folder DIR] [--until STEP[/PARTICIPANT]] [--partners NAME ...]

The scenario is `shared-customers` with that many rows at the label owner and the default models. Each message is
answered by a child process that reads, works and ends, as a participant's launcher does it; the peak is that of the
child or of the largest of its workers. Progress is what participants note at home. With `--until` the run stops after
that step; started again with the same folder it goes on from the outboxes. `--intersection N` times one intersection
of N with N identifiers on one core instead. Exit status 1 when the intersection of 10 000 takes more than 5 s.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from consortia.common.strict import read_toml
from consortia.engines.base import Job
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.terms.scenario import find_scenario
from consortia.vertical import psi
from consortia.vertical.coordinator import VerticalCoordinator
from consortia.vertical.handle import handle

MOST_SECONDS = 5.0
SHARE = 0.75  # of the made-up persons who are the label owner's


class PausedError(Exception):
    """`--until` was reached."""


@dataclass
class Processes:
    """Delivers messages one participant after the other; `lines` has what each took."""

    job: Job
    until: str
    lines: list[dict[str, Any]] = field(default_factory=list)

    def exchange(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        """Answer every envelope in a child process."""
        del deadline
        step, _, only = self.until.partition("/")
        answers = []
        for name, data in envelopes.items():
            answers.append(Answer(name, self._ask(kind, name, data)))
            if kind == f"query.{step}" and only in {name, ""} and (only or name == list(envelopes)[-1]):
                raise PausedError
        return answers

    def _ask(self, kind: str, name: str, data: bytes) -> bytes:
        receiver, sender = multiprocessing.Pipe(duplex=False)
        started = time.perf_counter()
        child = multiprocessing.Process(target=_answer, args=(sender, data, self.job.homes[name]))
        steps = self.job.homes[name].folder / "runs" / self.job.run_id / "steps.jsonl"
        seen = len(_lines(steps))
        child.start()
        sender.close()
        while not receiver.poll(2.0):
            notes = _lines(steps)
            if len(notes) > seen:
                seen, last = len(notes), json.loads(notes[-1])
                done = f"{last['done'] / last['total']:4.0%}"
                print(f"  {name}: {last['step']} {done}, {time.perf_counter() - started:.0f} s", flush=True)
        reply, peak, cpu = receiver.recv()
        child.join()
        line = {"step": kind, "participant": name, "bytes": len(reply), "peak_mb": peak, "cpu_seconds": cpu}
        self.lines.append({**line, "seconds": time.perf_counter() - started})
        print(f"{kind} {name}: {self.lines[-1]['seconds']:.0f} s, {cpu:.0f} s of CPU, {peak:.0f} MB", flush=True)
        return reply


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []


def _answer(pipe: Any, data: bytes, home: Home) -> None:
    reply = handle(data, home)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    peak = max(each.ru_maxrss for each in used) / 1024
    pipe.send((reply, peak, sum(each.ru_utime + each.ru_stime for each in used)))


def lay_out(rows: int, folder: Path, partners: list[str]) -> Job:
    """Write the scenario with its policies and prepare its run, or find the run that is there."""
    if earlier := sorted((folder / "runs").glob("size-*")):
        return prepare(Options(scenario="", resume=earlier[-1]))
    return prepare(Options(scenario=str(write(rows, folder, partners)), out=folder / "runs"))


def write(rows: int, folder: Path, partners: list[str], deadline: float = 300.0) -> Path:
    """Write the scenario and its policies; return the scenario's file."""
    persons = round(rows / SHARE)
    scenario = read_toml(find_scenario("shared-customers"))
    scenario["name"] = "size"
    largest = round(1.2 * rows)
    scenario["contract"]["vertical"] |= {"largest_set": largest, "batches": 0, "partners": partners}
    scenario["contract"]["round"] = {"deadline_seconds": deadline}
    scenario["roster"] = [
        participant for participant in scenario["roster"] if participant["name"] in {"bank", *partners}
    ]
    policies = folder / "policies" / "size"
    policies.mkdir(parents=True)
    delta = 0.1 / largest
    for participant in scenario["roster"]:
        participant |= {"units": rows, "delta": delta}
        policy = read_toml(demo_policy_file("shared-customers", participant["name"]))
        policy["dataset"]["customers"] |= {"source": f"synthetic:{persons}", "declared_units": rows}
        policy["vertical"]["set_size_cap"] = largest
        policy["budget"] = {
            "run": {"epsilon": 2.0, "delta": delta},
            "lifetime": {"epsilon": 4.0, "delta": 3 * delta},
        }
        (policies / f"{participant['name']}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    file = folder / "size.toml"
    file.write_text(tomli_w.dumps(scenario), encoding="utf-8")
    return file


def intersection(count: int) -> float:
    """Return the CPU seconds of both sides of one intersection of `count` with `count` identifiers, half in both."""
    owner = [f"id-{n}" for n in range(count)]
    partner = [f"id-{n}" for n in range(count // 2, count + count // 2)]
    a, b = psi.new_power(), psi.new_power()
    started = time.process_time()
    order = psi.shuffled(count)
    sent = psi.blind(b"size", [partner[i] for i in order], b)
    twice_mine = psi.raise_points(sent, a, count)
    found = psi.match(psi.raise_points(psi.blind(b"size", owner, a), b, count), twice_mine)
    assert sum(place >= 0 for place in found) == count - count // 2
    return time.process_time() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--until", default="")
    parser.add_argument("--partners", nargs="+", default=["hospital", "factory"])
    parser.add_argument("--intersection", type=int)
    options = parser.parse_args()
    if options.intersection:
        seconds = intersection(options.intersection)
        print(f"intersection of {options.intersection} with as many: {seconds:.2f} s of one core, both sides together")
        return int(options.intersection == 10_000 and seconds > MOST_SECONDS)
    folder = options.folder or Path(tempfile.mkdtemp())
    job = lay_out(options.rows, folder, options.partners)
    processes = Processes(job, options.until)
    coordinator = VerticalCoordinator(job.scenario, job.run_id, job.folder, processes.exchange)
    try:
        print(coordinator.run()["status"])
    except PausedError:
        print(f"stopped after {options.until}; again with --folder {folder} it goes on")
    else:
        receipt = json.loads((job.homes["bank"].folder / "runs" / job.run_id / "receipt.json").read_text())
        print(json.dumps({key: receipt[key] for key in ("rows", "matched", "metrics", "decision")}))
    with (folder / "steps.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in processes.lines)
    worst = max(line["peak_mb"] for line in processes.lines)
    mine = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak of a participant's step: {worst:.0f} MB; of the coordinator: {mine:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
