"""What the page of one run shows beside its tables: sentences while it runs, and its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from consortia.common import words
from consortia.dashboard.spending import Spending
from consortia.reports.charts import Level, Line, Spot, line_chart
from consortia.reports.decision import counts_of, listed, reasons
from consortia.reports.explain import shape_charts
from consortia.reports.live_runs import Failure, LiveParticipant, Run
from consortia.reports.many_participants import first
from consortia.reports.round_times import without_setup

__all__ = [
    "by_code",
    "metric_chart",
    "progress_in_words",
    "run_charts",
    "seconds_chart",
    "share_chart",
    "verdict_counts",
]

#: Lines of shares no farther apart, in percentage points, are drawn as one.
_NEAR = 4.0


def progress_in_words(run: Run, waited: Sequence[str]) -> list[str]:
    """Return how far a run is, who is waited for, and what happened that should not."""
    if run.status == "failed":
        rounds = f"{run.done} of {run.total} rounds" if run.done else "no round was finished"
        return [f"The run failed: {rounds}.", *reasons(run.reason, list(run.participants))]
    if run.status != "running":
        how = {
            "stopped": "has given no sign of life for too long. `consortia run --resume` goes on with it",
            "completed": "is complete; its record is being written",
        }.get(run.status, "has not begun")
        return [f"The run {how}."]
    told = [f"Round {min(run.done + 1, run.total)} of {run.total} is going on."]
    told.append(f"It waits for {listed(waited)}." if waited else "Everybody has answered.")
    if run.left is not None:
        told.append(f"About {words.seconds(run.left)} are left.")
    if run.failures:
        told.append(f"{len(run.failures)} replies failed or were late; they stand at the end of this page.")
    return told


def by_code(failures: Sequence[Failure]) -> list[dict[str, Any]]:
    """Return failures by their code, the last first: whose, how many, in which rounds, and when the last was."""
    found: dict[str, list[Failure]] = {}
    for one in reversed(failures):
        found.setdefault(one.code, []).append(one)
    return [
        {
            "code": code,
            "count": len(some),
            "who": listed(sorted({one.participant for one in some})),
            "first": min(one.round for one in some),
            "last": max(one.round for one in some),
            "time": some[0].time,
        }
        for code, some in found.items()
    ]


def verdict_counts(record: Mapping[str, Any] | None) -> str:
    """Return for how many joining paid, by verdict, as a cell; a dash where nobody's is known here."""
    return (counts_of(record["participants"].values()) if record else "") or "–"


def share_chart(run: Run, spending: Spending) -> tuple[str, Markup]:
    """Return caption and plot of everybody's ε by round as a share of its own run budget; equals share a line."""
    alike: list[tuple[list[LiveParticipant], list[Spot]]] = []
    complete = True
    for participant in first(list(run.participants.values())):
        budget = participant.budget
        if not budget or participant.non_private:
            continue
        curve, whole = spending.curve(run, participant)
        points: list[Spot] = [(n, 100 * value / budget, None, None) for n, value, *_ in curve]
        complete &= whole
        for members, line in alike:
            if _near(points, line):
                members.append(participant)
                break
        else:
            alike.append(([participant], points))
    lines = [Line(_called(members, run), points) for members, points in alike]
    drawn = [_called(members, run) for members, points in alike if points]
    who = (
        "the same for everybody" if drawn == ["everybody"] else f"of {drawn[0]}" if len(drawn) == 1 else "one line each"
    )
    caption = f"ε spent by round, in % of a participant's run budget ({who}); 100 % at the end is the plan"
    caption += "" if complete else "; some rounds are still being counted"
    for members, points in alike:
        few = max(run.scenario.contract.of(one.roster.industry).participations for one in members)
        if points and points[-1][0] < run.total and max(len(one.contributed) for one in members) >= few:
            caption += f"; where the line of {_called(members, run)} ends, all its messages are sent"
    label = "ε spent, % of the run budget"
    return caption, line_chart("ε by round", "round", label, lines, [Level("run budget", 100.0)], zero=True)


def _near(one: Sequence[Spot], other: Sequence[Spot]) -> bool:
    """Return whether two lines of shares lie over each other: they would hide one another."""
    return [spot[0] for spot in one] == [spot[0] for spot in other] and all(
        abs(spot[1] - beside[1]) <= _NEAR for spot, beside in zip(one, other, strict=True)
    )


def _called(members: Sequence[LiveParticipant], run: Run) -> str:
    """Return the name of a line: everybody, whole industries, or participants."""
    if 1 < len(members) == len(run.participants):
        return "everybody"
    if len(members) <= 2:
        return ", ".join(member.name for member in members)
    industries = list(dict.fromkeys(member.roster.industry for member in members))
    if sum(one.roster.industry in industries for one in run.participants.values()) == len(members):
        return ", ".join(industries)
    return f"{members[0].name} and {len(members) - 1} more"


def seconds_chart(runs: Sequence[Run]) -> tuple[str, Markup]:
    """Return caption and plot of the rounds' duration."""
    lines, says = [], []
    for run in runs:
        points, apart = without_setup([(number, seconds) for number, seconds, _ in run.rounds])
        lines.append(Line(run.id, points))
        says.append(apart)
    caption = f"Duration of a round{says[0] if len(says) == 1 else ''}"
    return caption, line_chart("Duration of a round", "round", "seconds", lines, zero=True)


def metric_chart(metric: str, participant: LiveParticipant) -> Markup:
    """Return the plot of one metric that one participant released."""
    points = [(p.round, p.value, p.low, p.high) for p in participant.metrics[metric] if p.value is not None]
    title = f"{metric} that {participant.name} released, by round"
    return line_chart(title, "round", f"{metric} (released)", [Line(participant.name, points)])


def run_charts(run: Run) -> list[tuple[str, Markup]]:
    """Return a plot of every metric for each participant that released it, and of the rounds' duration."""
    charts = [
        (f"{participant.name}: {metric}", metric_chart(metric, participant))
        for metric in run.metrics
        for participant in run.participants.values()
        if metric in participant.metrics
    ]
    charts.append(seconds_chart([run]))
    charts += shape_charts(run.scenario.contract, run.folder)
    return [(title, chart) for title, chart in charts if chart]
