"""The coordinator's view: runs and their participants, by released and public values only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import Response
from markupsafe import Markup

from consortia.common.words import epsilon_text
from consortia.coordinator.event_file import FILE
from consortia.dashboard.app import Pages
from consortia.dashboard.background import Background
from consortia.dashboard.certificates import certificates
from consortia.dashboard.changes import Changes
from consortia.dashboard.coordinator_metrics import CoordinatorCollector
from consortia.dashboard.run_page import (
    by_code,
    metric_chart,
    progress_in_words,
    run_charts,
    seconds_chart,
    share_chart,
    verdict_counts,
)
from consortia.dashboard.share_map import share_map
from consortia.dashboard.spending import Spending
from consortia.dashboard.starting import Starter
from consortia.reports.charts import Level, Line, gauge, line_chart
from consortia.reports.decision import decide, reasons
from consortia.reports.fairness import fairness_sections
from consortia.reports.gain_chart import gain_chart
from consortia.reports.glossary import lines as glossary
from consortia.reports.live_runs import LiveParticipant, Run, Runs
from consortia.reports.operator_record import told
from consortia.reports.proofs import proofs

#: A page that a participant's image lacks (platform/Dockerfile).
PAGES = Path(__file__).parent / "pages" / "runs.html"
_NAV = (("/", "Runs"), ("/participants", "Participants"), ("/compare", "Compare"))
_MOST_COMPARED = 6
#: Runs whose plots are kept in memory.
_MOST_DRAWN = 8
#: The plot of shares with its caption, then the others with theirs.
Plots = tuple[tuple[str, Markup], list[tuple[str, Markup]]]


class CoordinatorView:
    """Pages over one folder of runs.

    Parameters
    ----------
    root : Path
        The folder of runs.
    pki : Path or None
        The folder of the coordinator's certificates.
    """

    name = "coordinator"

    def __init__(self, root: Path, pki: Path | None) -> None:
        self.pages = Pages("Coordinator", _NAV, "Runs")
        self._root = root
        self._pki = pki
        self._runs = Runs(root)
        self.starter = Starter(root)
        self._background = Background()
        self._records: dict[str, tuple[tuple[int, int], dict[str, Any] | None]] = {}
        self._drawn: dict[str, tuple[str, int, Plots]] = {}
        self._spending = Spending(self._background)
        self.collector = CoordinatorCollector(self._runs, self._spending, pki)

    def version(self, about: str) -> str:
        """Return what changes with the event files of the run `about`, or of all."""
        one = [self._root / about / name for name in (FILE, "result.json")] if about in self._runs.known else []
        files = one or [file for name in (FILE, "result.json") for file in self._root.glob(f"*/{name}")]
        sizes = sum(file.stat().st_size for file in files if file.is_file())
        return f"{len(files)}-{sizes}-{self._background.version}"

    def add_pages(self, app: FastAPI) -> None:
        """Add the pages."""

        Changes(app, self.pages).offer("run", "/", self.starter.propose)

        @app.get("/")
        async def index(request: Request) -> Response:
            version = self.version("")
            runs = self._runs.refresh()
            running = [run for run in runs if run.status == "running"]
            now = next(iter(running or runs), None)
            say = "; ".join(f"{run.id}: round {run.done} of {run.total}" for run in running) or "no run is going on"
            return self._page(
                "runs.html", "/", version, "", say, runs=runs, unreadable=self._runs.unreadable,
                paid={run.id: verdict_counts(self._told(run)) for run in runs}, map=share_map(now) if now else None,
                may_change=request.state.may_change, scenarios=self.starter.names if request.state.may_change else (),
            )  # fmt: skip

        @app.get("/runs/{run_id}")
        async def show_run(run_id: str) -> Response:
            version = self.version(run_id)
            run = self._run(run_id)
            waited = [one.name for one in run.participants.values() if one.waited_since is not None]
            waited = waited if run.status == "running" else []
            record = self._told(run)
            caption, gains = gain_chart(record["participants"]) if record else ("", Markup(""))
            (share_caption, shares), charts = self._plots(run, version)
            return self._page(
                "run.html", "/", version, run.id, f"{run.status}, round {run.done} of {run.total}",
                run=run, waited=waited, record=record, paid=verdict_counts(record), gain_caption=caption, gains=gains,
                sentences=_paragraph(run, record) if record else progress_in_words(run, waited),
                spent={participant.name: self._gauge(run, participant) for participant in run.participants.values()},
                share_caption=share_caption, shares=shares, charts=charts, words=glossary(),
                failures=by_code(run.failures), proofs=proofs(run.folder, run.id),
                fairness=fairness_sections(record) if record else (),
            )  # fmt: skip

        @app.get("/runs/{run_id}/{participant}")
        async def show_participant(run_id: str, participant: str) -> Response:
            version = self.version(run_id)
            run = self._run(run_id)
            found = run.participants.get(participant)
            if found is None:
                raise HTTPException(404)
            failures = [one for one in run.failures if one.participant == participant]
            return self._page(
                "participant.html", "/", version, run.id, f"{run.status}, round {run.done} of {run.total}",
                run=run, participant=found, spent=self._gauge(run, found), charts=self._participant_charts(run, found),
                failures=by_code(failures),
            )  # fmt: skip

        @app.get("/participants")
        async def participants() -> Response:
            version = self.version("")
            people = _people(self._runs.refresh())
            return self._page(
                "participants.html", "/participants", version, "", f"{len(people)} participants",
                people=people, certificates=certificates(self._pki),
            )  # fmt: skip

        @app.get("/compare")
        async def compare(run: Annotated[list[str] | None, Query()] = None) -> Response:
            runs = self._runs.refresh()
            chosen = [one for one in runs if one.id in (run or [])][:_MOST_COMPARED]
            lines = [
                (one, [self._compared(one, participant) for participant in one.participants.values()]) for one in chosen
            ]
            return self.pages(
                "compare.html", here="/compare", runs=runs, chosen=lines, charts=_compared_charts(chosen),
                most=_MOST_COMPARED, paid={one.id: verdict_counts(self._told(one)) for one in chosen},
            )  # fmt: skip

    def _page(self, template: str, here: str, version: str, about: str, say: str, **values: Any) -> Response:
        return self.pages(template, here=here, version=version, live=f"/live?about={about}", say=say, **values)

    def _told(self, run: Run) -> dict[str, Any] | None:
        """Return what the record says, read once."""
        file = run.folder / "result.json"
        state = (file.stat().st_mtime_ns, run.position) if file.is_file() else None
        if state is None:
            return None
        known = self._records.get(run.id)
        if known is None or known[0] != state:
            known = self._records[run.id] = (state, told(run))
        return known[1]

    def _plots(self, run: Run, version: str) -> Plots:
        """Return the run's plots: ε drawn once for each version of the page, the others once for each new event."""
        known = self._drawn.get(run.id)
        if known is None or known[0] != version:
            same = known is not None and known[1] == run.position
            charts = known[2][1] if known is not None and same else run_charts(run)
            known = self._drawn[run.id] = (version, run.position, (share_chart(run, self._spending), charts))
            while len(self._drawn) > _MOST_DRAWN:
                del self._drawn[next(iter(self._drawn))]
        return known[2]

    def _run(self, run_id: str) -> Run:
        run = self._runs.get(run_id)
        if run is None:
            raise HTTPException(404)
        return run

    def _gauge(self, run: Run, participant: LiveParticipant) -> dict[str, Any]:
        if participant.non_private:
            return {"bar": Markup(""), "text": "∞ (non-private)"}
        spent = self._spending.of(run, participant)
        if spent.epsilon is None:
            return {"bar": Markup(""), "text": "not counted yet" if participant.contributed else "–"}
        most = "≤ " if spent.rounds > len(participant.contributed) else ""
        text = f"{most}{epsilon_text(spent.epsilon)} of {epsilon_text(participant.budget)}"
        return {"bar": gauge(spent.epsilon, participant.budget, f"ε spent {text}"), "text": text}

    def _compared(self, run: Run, participant: LiveParticipant) -> dict[str, Any]:
        return {"participant": participant, "spent": self._gauge(run, participant)["text"]}

    def _participant_charts(self, run: Run, participant: LiveParticipant) -> list[tuple[str, Markup]]:
        charts = [(metric, metric_chart(metric, participant)) for metric in participant.metrics]
        if curve := self._spending.curve(run, participant)[0]:
            levels = [Level("run budget", participant.budget)] if participant.budget else []
            label = f"ε of this run (δ = {participant.delta:g})"
            chart = line_chart(f"ε by round, {participant.name}", "round", label, [Line("ε", curve)], levels, zero=True)
            charts.append(("ε spent in this run against the run budget", chart))
        last = "round, then the evaluation"
        charts.append(("Time to answer", _plain_chart("Time to answer", "seconds", participant.seconds, last)))
        charts.append(("Sent so far", _plain_chart("Bytes sent so far", "bytes", participant.sent, last)))
        return [(title, chart) for title, chart in charts if chart]


def _paragraph(run: Run, record: Mapping[str, Any]) -> list[str]:
    """Return the paragraph of a record, with the reasons of a run that failed, which stand in its events."""
    found = decide(record, run.scenario)
    return replace(found, why=reasons(run.reason, run.participants) if run.status == "failed" else ()).sentences


def _plain_chart(title: str, label: str, values: Sequence[tuple[int, float]], x_label: str = "round") -> Markup:
    points = [(x, y, None, None) for x, y in values]
    return line_chart(f"{title} by round", x_label, label, [Line(title, points)], zero=True)


def _people(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one line per participant over all runs, by name."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:  # the newest first
        for participant in run.participants.values():
            line = found.setdefault(
                participant.name,
                {
                    "name": participant.name,
                    "industry": participant.roster.industry,
                    "runs": 0,
                    "seen": None,
                    "run": run,
                    "participant": participant,
                },
            )
            line["runs"] += 1
            line["seen"] = max((t for t in (line["seen"], participant.seen) if t is not None), default=None)
    return [found[name] for name in sorted(found)]


def _compared_charts(runs: Sequence[Run]) -> list[tuple[str, Markup]]:
    charts = [
        (f"{metric}: mean over who released it", line_chart(
            f"Mean released {metric} by round", "round", f"mean {metric} (released)",
            [Line(run.id, _mean(run, metric)) for run in runs],
        ))
        for metric in sorted({name for run in runs for name in run.metrics})
    ]  # fmt: skip
    charts.append(seconds_chart(runs))
    return [(title, chart) for title, chart in charts if chart]


def _mean(run: Run, metric: str) -> list[tuple[float, float, None, None]]:
    by_round: dict[int, list[float]] = {}
    for participant in run.participants.values():
        for point in participant.metrics.get(metric, []):
            if point.value is not None:
                by_round.setdefault(point.round, []).append(point.value)
    return [(number, statistics.fmean(values), None, None) for number, values in sorted(by_round.items())]
