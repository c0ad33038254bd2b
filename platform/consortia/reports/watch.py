"""Shows the rounds of a run while it goes on."""

from __future__ import annotations

import json
import threading
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from consortia.common.words import number
from consortia.engines.base import Job
from consortia.messages.size_release import once_events, solve_sigma
from consortia.reports.receipt_table import label
from consortia.reports.vertical import long_step, show_step
from consortia.reports.waiting import EVERY_SECONDS, Waiting
from consortia.terms.costs import updates_event
from consortia.trust.trusted_coordinator import models_only
from consortia.vertical.request import total_steps
from privacy.accounting import epsilon


class Watch(AbstractContextManager[None]):
    """Shows the rounds of a running job: a bar in a terminal, plain lines without one, and at least one a minute."""

    def __init__(self, console: Console, job: Job, *, simulation: bool) -> None:
        self._console = console
        self._job = job
        self._simulation = simulation
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._position = self._size()
        self._waiting = Waiting(job.scenario)
        self._said_at = time.time()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> None:
        self._progress.start()
        self._task = self._progress.add_task("starting", total=total_steps(self._job.scenario))
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(timeout=5)
        self._progress.stop()

    def _file(self) -> Path:
        return self._job.folder / "events.jsonl"

    def _size(self) -> int:
        return self._file().stat().st_size if self._file().is_file() else 0

    def _follow(self) -> None:
        while not self._done.wait(0.2):
            self._show(self._new_events())
        self._show(self._new_events())

    def _new_events(self) -> list[dict[str, Any]]:
        if not self._file().is_file():
            return []
        with self._file().open(encoding="utf-8") as file:
            file.seek(self._position)
            lines = file.readlines()
            if lines and not lines[-1].endswith("\n"):
                lines.pop()
            self._position += sum(len(line.encode()) for line in lines)
        return [json.loads(line) for line in lines]

    def _show(self, events: list[dict[str, Any]]) -> None:
        for event in events:
            told = self._waiting.read(event)
            if event["event"] != "failure" or not self._simulation:  # a simulation names causes at its end
                for line in told:
                    self._say(line)
            if event["event"] == "step":
                self._progress.update(self._task, completed=event["round"], description=show_step(event))
                self._say(show_step(event))
        self._show_rounds(events)
        if not self._done.is_set() and self._silent():
            line = self._waiting.sentence(time.time())
            self._progress.update(self._task, description=line)
            self._say(line)

    def _say(self, line: str) -> None:
        """Print a line where no bar moves."""
        self._said_at = time.time()
        if not self._console.is_terminal:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _silent(self) -> bool:
        return time.time() - self._said_at >= EVERY_SECONDS

    def _show_rounds(self, events: list[dict[str, Any]]) -> None:
        rounds = [event for event in events if event["event"] == "round"]
        if not rounds:
            if self._simulation and (text := long_step(self._job)):
                self._progress.update(self._task, description=text)
            return
        last = rounds[-1]
        total = self._job.scenario.rounds
        told = last["round"] in {1, total} or last["round"] % max(1, total // 5) == 0 or self._silent()
        if not told and not self._console.is_terminal:  # counting ε takes longer than a round
            return
        # An industry with terms of its own may be through before the others.
        asked = sum(
            len(part.roster) for part in self._job.scenario.parts() if part.contract.rounds >= last["round"]
        ) or len(self._job.homes)
        text = f"round {last['round']}, {len(last['replies'])} of {asked} replied"
        if (metric := self._metric()) is not None:
            text += f", validation {metric}"
        text += f", run ε so far {self._epsilon(last.get('participations', last['round']))}"
        self._progress.update(self._task, completed=last["round"], description=text)
        if told:
            self._say(f"{text} ({last['round']}/{total})")

    def _metric(self) -> str | None:
        """Return the mean validation metric: a simulation's operator holds all rows, so may see it."""
        if not self._simulation:
            return None
        by_name: dict[str, list[float]] = {}
        for home in self._job.homes.values():
            file = home.folder / "runs" / self._job.run_id / "progress.jsonl"
            if file.is_file() and (lines := file.read_text(encoding="utf-8").splitlines()):
                last = json.loads(lines[-1])
                if last["value"] is not None:
                    by_name.setdefault(last["metric"], []).append(last["value"])
        return ", ".join(f"{label(k)} {number(sum(v) / len(v))}" for k, v in by_name.items()) or None

    def _epsilon(self, rounds: int) -> str:
        """Return the range over participants of epsilon after `rounds`, from proposals; a policy may lower it."""
        contract = self._job.scenario.contract
        if contract.central is not None:
            seen, terms = models_only(contract, min(rounds, contract.participations)), contract.central
            return f"{'∞' if seen is None else format(seen, '.2f')} (models only, {terms.unit}, δ {terms.delta:g})"
        private = [participant for participant in self._job.scenario.roster if not participant.non_private]
        open_ended = len(self._job.scenario.roster) - len(private)
        if not private:
            return "∞ (non-private)"
        values = []
        for participant in private:
            contract = self._job.scenario.contract.of(participant.industry)
            rules, taken = contract.industries[participant.industry], min(rounds, contract.participations)
            sigma = solve_sigma(contract, rules, participant.epsilon, participant.delta)
            event = updates_event(contract, rules, sigma, taken, messages=range(1, taken + 1))
            once = once_events(contract, participant.epsilon, "record")
            values.append(epsilon([event, *once], participant.delta, grid=1e-3))
        deltas = ", ".join(f"{d:g}" for d in sorted({participant.delta for participant in private}))
        infinite = f"∞ of {open_ended} non-private, " if open_ended else ""
        return f"{infinite}by proposals {min(values):.2f}–{max(values):.2f} (δ {deltas}, add/remove one unit)"


def wait_hint(folder: Path, engine: str = "embedded") -> str:
    """Return how to go on after an interruption."""
    if engine == "vectorized":
        return "interrupted; this engine keeps no rounds, so start it again, or take --engine embedded"
    if (folder / "result.json").is_file():
        return f"interrupted; the run itself is complete: {folder / 'result.json'}"
    chosen = "" if engine == "embedded" else f" --engine {engine}"
    return f"interrupted; every finished round is kept. Go on with: consortia run --resume {folder}{chosen}"
