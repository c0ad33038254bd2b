"""Checks whether a roster can give the metrics that a contract wants."""

from __future__ import annotations

from clients import registry
from clients.industry import IndustryClient
from consortia.common.errors import InputError
from consortia.metrics import groups
from consortia.metrics.from_histograms import HISTOGRAM_METRICS
from consortia.metrics.score_bins import has_bins
from consortia.terms.scenario import Scenario


def check_metrics(scenario: Scenario) -> None:
    """Refuse metrics that nobody can release, and stopping by one that never comes.

    Raises
    ------
    InputError
        With one line for each reason.
    """
    contract = scenario.contract
    metrics, stopping = contract.evaluation.metrics, contract.stopping
    clients = {participant.industry: registry.get(participant.industry) for participant in scenario.roster}
    problems = [
        f"contract.evaluation.metrics: wanted 'none' or 'exact' with industry {name}, whose regression target has no "
        "public bounds for a histogram, got 'dp'"
        for name, client in sorted(clients.items())
        if metrics == "dp" and not has_bins(client.schema.target)
    ]
    for name, terms in sorted(contract.evaluation.groups.items()):
        grouping = contract.evaluation.grouping(name)
        if name in clients and grouping and (wrong := groups.problem(clients[name].schema, grouping)):
            problems.append(f"contract.evaluation.groups.{name} ({terms.column}): {wrong}")
    if stopping is not None:
        known = {name for client in clients.values() for name in _released(client, metrics)}
        if stopping.metric not in known:
            problems.append(
                f"contract.stopping.metric: wanted one that the roster's industries release as {metrics!r} "
                f"({', '.join(sorted(known))}), got {stopping.metric!r}{_why(stopping.metric, metrics)}; the run would "
                "never stop early"
            )
        if not contract.split.validation:
            problems.append(
                "contract.split.validation: wanted > 0 with stopping, which reads metrics of the validation rows, got 0"
            )
    if problems:
        raise InputError(*problems)


def kept_home(scenario: Scenario) -> list[str]:
    """Return one line for each industry some of whose metrics do not leave, since no histogram gives them."""
    if scenario.contract.evaluation.metrics != "dp":
        return []
    found = []
    for name in sorted({participant.industry for participant in scenario.roster}):
        client = registry.get(name)
        released = _released(client, "dp")
        if kept := [metric for metric in client.metrics if metric not in released]:
            found.append(
                f"industry {name}: {', '.join(kept)} cannot be had from a histogram and stays in the receipts; what "
                f"leaves is {', '.join(released)}"
            )
    return found


def _released(client: IndustryClient, metrics: str) -> tuple[str, ...]:
    return client.metrics if metrics == "exact" else HISTOGRAM_METRICS[client.schema.target.kind]


def _why(metric: str, metrics: str) -> str:
    some = any(metric in names for names in HISTOGRAM_METRICS.values())
    return ", which no histogram gives" if metrics == "dp" and not some else ""
