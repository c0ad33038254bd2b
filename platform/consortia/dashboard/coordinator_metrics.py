"""`/metrics` of the coordinator: the newest runs, by released and public values only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from consortia.dashboard.certificates import expiry_metric
from consortia.dashboard.spending import Spending
from consortia.reports.live_runs import LiveParticipant, Run, Runs

#: Runs that are told of: a time series per run and participant must not grow without end.
_NEWEST = 5
_STATES = ("prepared", "running", "completed", "failed", "stopped")


class CoordinatorCollector(Collector):
    """Reads the runs when it is scraped."""

    def __init__(self, runs: Runs, spending: Spending, pki: Path | None) -> None:
        self._runs = runs
        self._pki = pki
        self._spending = spending

    def describe(self) -> list[Metric]:
        """Nothing: what is told depends on the runs."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the newest runs."""
        runs = self._runs.refresh()[:_NEWEST]
        yield from _of_runs(runs)
        yield from self._of_participants(runs)
        yield expiry_metric(self._pki)

    def _of_participants(self, runs: list[Run]) -> Iterator[Metric]:
        plain = {
            "contributed_rounds": "Rounds whose update was taken.",
            "failures": "Failures that were attributed to the participant.",
            "waited_for": "1 while an answer is open.",
            "last_heard_timestamp_seconds": "When it was last heard.",
            "epsilon": "Spent in this run, an upper bound at its declared noise and delta (add/remove one unit).",
            "epsilon_budget": "What it allows this run.",
        }
        gauges = {name: _family(f"participant_{name}", text, "run", "participant") for name, text in plain.items()}
        sent = _family("participant_bytes", "Bytes over the wire.", "run", "participant", "direction")
        metric = _family("participant_metric", "The newest released metric.", "run", "participant", "metric")
        for run in runs:
            for participant in run.participants.values():
                labels = [run.id, participant.name]
                for name, value in self._plain(run, participant).items():
                    if value is not None:
                        gauges[name].add_metric(labels, value)
                for direction, values in (("sent", participant.sent), ("received", participant.received)):
                    if values:
                        sent.add_metric([*labels, direction], values[-1][1])
                for name, value in _newest(participant).items():
                    metric.add_metric([*labels, name], value)
        yield from (*gauges.values(), sent, metric)

    def _plain(self, run: Run, participant: LiveParticipant) -> dict[str, float | None]:
        return {
            "contributed_rounds": len(participant.contributed),
            "failures": participant.failures,
            "waited_for": run.status == "running" and participant.waited_since is not None,
            "last_heard_timestamp_seconds": participant.seen,
            "epsilon": self._spending.of(run, participant).epsilon,
            "epsilon_budget": participant.budget,
        }


def _of_runs(runs: list[Run]) -> Iterator[Metric]:
    done = _family("run_rounds_done", "Finished rounds.", "run", "scenario")
    total = _family("run_rounds", "Rounds of the contract.", "run", "scenario")
    status = _family("run_status", "1 for the status that the run has.", "run", "scenario", "status")
    duration = _family("run_round_seconds", "Duration of the last round.", "run", "scenario")
    for run in runs:
        labels = [run.id, run.scenario.name]
        done.add_metric(labels, run.done)
        total.add_metric(labels, run.total)
        for state in _STATES:
            status.add_metric([*labels, state], run.status == state)
        if run.rounds:
            duration.add_metric(labels, run.rounds[-1][1])
    yield from (done, total, status, duration)


def _newest(participant: LiveParticipant) -> dict[str, float]:
    points = {name: values[-1] for name, values in participant.metrics.items()} | participant.final
    return {name: point.value for name, point in points.items() if point.value is not None}


def _family(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"consortia_{name}", text, labels=labels)
