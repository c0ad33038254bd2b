"""Prints the plan before a run, and the receipts after it."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from consortia.common.words import epsilon_text, number, size
from consortia.engines.base import Job
from consortia.planning.compatibility import cautions, fits_with
from consortia.planning.plan import ParticipantPlan
from consortia.reports.decision import decide
from consortia.reports.fit import print_fitting, print_text
from consortia.reports.glossary import lines as glossary
from consortia.reports.many_participants import first, means, rest
from consortia.reports.receipt_table import account_row, columns, notes, receipt_row, synthetic_for
from consortia.reports.vertical import print_vertical_notes
from consortia.terms.contract import Contract
from consortia.terms.recipe import blocks_of
from consortia.terms.scenario import Scenario
from consortia.trust.trusted_coordinator import account, sentence


def _leaves(scenario: Scenario, plan: ParticipantPlan) -> str:
    """Return how many numbers of a participant's training rows leave, and when."""
    if scenario.contract.of(plan.industry).noisy_sums is None:
        return f"{plan.parameters_shared} numbers a round"
    rule = blocks_of(scenario.contract.of(plan.industry), plan.industry)
    counts = [sum(rule.lengths(message + 1)) for message in range(rule.shares.messages)]
    alike = [(length, len(list(times))) for length, times in groupby(counts)]
    return ", then ".join(f"{times} x {length}" if times > 1 else f"{length}" for length, times in alike) + " numbers"


def _learner(contract: Contract) -> str:
    if contract.statistics is not None:
        return "learner statistics: one message of noisy counts and moments of the columns; nothing is trained"
    if contract.additive is not None:
        return (
            f"learner additive: counts by cell, then {contract.additive.boosting_rounds} rounds of noisy gradients by "
            "cell, added within each industry"
        )
    if contract.own is not None:
        return f"learner {contract.learner}: {contract.rounds} messages of noisy sums, added within each industry"
    return "learner sums: two messages of noisy sums, added within each industry; no training rounds"


def _print_learner(console: Console, scenario: Scenario) -> None:
    contract = scenario.contract
    if contract.noisy_sums is not None:
        console.print(_learner(contract))
        return
    console.print(
        f"{contract.rounds} rounds, at most {contract.participations} of one participant, strategy "
        f"{contract.strategy.name}, shared: "
        + ", ".join(f"{part} with {scope}" for part, scope in contract.scopes.model_dump().items())
    )
    console.print("fits with: " + "; ".join(f"{key}: {value}" for key, value in fits_with(scenario).items()))


def print_plan(console: Console, scenario: Scenario, plans: list[ParticipantPlan]) -> None:
    """Print who takes part, what it costs and what leaves whom."""
    contract = scenario.contract
    console.print(f"[bold]{scenario.name}[/]: {escape(scenario.title)}")
    console.print(f"contract sha256:{contract.sha256()}")
    for part in scenario.parts():
        if contract.by_industry:
            whose = next(iter(part.contract.industries))
            console.print(f"[bold]{whose}[/]: trust {part.contract.trust}", highlight=False)
        _print_learner(console, part)
    for choice in scenario.choices:
        console.print(choice, highlight=False)
    table = Table(title="From proposals and declared sizes (a participant's own policy may lower them)")
    named = any(plan.unit for plan in plans)
    unit = ("unit",) if named else ()
    for name in ("participant", "industry", *unit, "units", "rate q", "steps", "σ", "ε run", "δ", "leaves"):
        table.add_column(name, justify="left" if name in {"participant", "industry", "unit", "leaves"} else "right")
    for plan in first(plans):
        table.add_row(
            plan.name,
            plan.industry,
            *((plan.unit or "its policy's",) if named else ()),
            str(plan.units),
            f"{plan.sampling_rate:g}",
            str(plan.steps),
            number(plan.noise_multiplier, 2),
            "∞ (non-private)" if plan.epsilon is None else number(plan.epsilon, 2),
            f"{plan.delta:g}",
            f"{', '.join(plan.releases)}: {_leaves(scenario, plan)}",
        )
    console.print(table)
    if more := rest(len(plans)):
        console.print(more, highlight=False)
    if contract.central is not None:
        console.print(sentence(account(contract, contract.rounds)), highlight=False)
    console.print(
        "ε of one run (PLD) at its δ, adding or removing one unit"
        + (
            "."
            if all(plan.unit for plan in plans)
            else ": a record, or what the participant's policy names (roster.unit says it to everybody)."
        ),
        highlight=False,
        soft_wrap=True,
    )
    for caution in cautions(scenario):
        console.print(f"[yellow]warning[/] {caution}")
    for plan in first(plans):
        for warning in plan.warnings:
            console.print(f"[yellow]warning[/] {plan.name}: {warning}")


def print_result(console: Console, result: dict[str, Any], scenario: Scenario | None = None) -> None:
    """Print for whom joining paid and what it cost, the tables of both, what every epsilon means, and the glossary."""
    simulation = result["observer"] == "simulation"
    print_text(console, str(decide(result, scenario)))
    console.print(
        f"[bold]{result['scenario']}[/]: {result['status']} after {result['rounds']} rounds, "
        f"{result['seconds']:.1f} s, engine {result['engine']}",
        highlight=False,
    )
    shown = first(list(result["participants"].items()))
    measured = any(participant["metrics"] for participant in result["participants"].values())
    headings = columns(result["participants"].values())
    if measured:
        _print_scores(console, headings, [(name, *receipt_row(participant, headings)) for name, participant in shown])
    print_fitting(console, _COSTS, [(name, *_cost_row(participant)) for name, participant in shown])
    print_fitting(console, _MEANS, [(name, *_means_row(participant)) for name, participant in shown])
    for line in (rest(len(result["participants"])), means(result["participants"])):
        if line:
            console.print(line, highlight=False)
    _print_notes(console, result, simulation)
    if result["status"] != "completed":
        return
    terms = (*(headings if measured else ()), "net gain" if "net gain [95 %]" in headings else "gain")
    for term, says in glossary(*terms[2 if measured else 1 :], "runs left", "estimate"):
        console.print(f"[bold]{term}[/]: {says}", highlight=False)


_COSTS = ("participant", "runs left", "ε run", "δ run", "run budget", "ε lifetime, estimate", "δ lifetime")
_MEANS = ("participant", "rows", "units", "sent", "received", "seconds", "state")


def _print_scores(console: Console, headings: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Print the receipts; a metric that all have stands above the table."""
    metrics = {row[1] for row in rows} - {"–"}
    if len(metrics) == 1:
        kept = [place for place in range(len(headings)) if place != 1]
        title = f"{metrics.pop()} on untouched test rows"
        headings, rows = (
            tuple(headings[place] for place in kept),
            [tuple(row[place] for place in kept) for row in rows],
        )
        print_fitting(console, headings, rows, title=title)
        return
    print_fitting(console, headings, rows)


def _cost_row(participant: dict[str, Any]) -> tuple[str, ...]:
    account = participant["epsilon"]
    left, spent, delta, *lifetime = account_row(account)
    budget = "–" if account["non_private"] else epsilon_text(account["budget"])
    return left, spent, delta, budget, *lifetime


def _means_row(participant: dict[str, Any]) -> tuple[str, ...]:
    units, made_up = participant.get("units"), participant.get("synthetic")
    return (
        "–" if made_up is None else "synthetic" if made_up else "real",
        str(sum(units.values())) if units else "–",
        size(participant["bytes"]["sent"]),
        size(participant["bytes"]["received"]),
        number(_seconds(participant["seconds"]), 1),
        participant["state"].lower().replace("_", "-"),
    )


def _seconds(spent: dict[str, float | None]) -> float | None:
    known = [value for value in spent.values() if value is not None]
    return sum(known) if known else None


def _print_notes(console: Console, result: dict[str, Any], simulation: bool) -> None:
    accounts = [participant["epsilon"] for participant in result["participants"].values()]
    units = ", ".join(sorted({a["unit"] for a in accounts if a["unit"]})) or "–"
    deltas = ", ".join(f"{d:g}" for d in sorted({a["delta"] for a in accounts}))
    if any("step" in line for line in result["history"]):
        print_vertical_notes(console, result)
    else:
        lifetimes = sorted({a["lifetime_delta"] for a in accounts if a.get("lifetime_delta") is not None})
        console.print(
            f"ε counts the training releases of this run (PLD), δ = {deltas}, unit: {units}, add/remove one; "
            f"lifetime: all runs of the data set in this ledger{_at(lifetimes)}.",
            highlight=False,
        )
    if simulation:
        charged = "charged to the given ledger" if result["charged"] else "not charged"
        console.print(f"Simulation by one operator who holds all rows: {charged}.", highlight=False)
        if "together" in result:
            console.print(f"Engine vectorized is {result['together']}.", highlight=False)
    else:
        console.print(
            "Receipts stay at home (`consortia receipt HOME` there); a dash is something that was not released.",
            highlight=False,
        )
    if "central" in result:
        console.print(sentence(result["central"]), highlight=False)
    if any(account["metrics_non_private"] for account in accounts):
        console.print(
            "Exact metrics left the participants: the evaluation units' ε is ∞ (non-private).", highlight=False
        )
    paid = [account["metrics"] for account in accounts if account.get("metrics")]
    if paid:
        highest, delta = max(a["budget"] for a in paid), max(a["delta"] for a in paid)
        console.print(
            f"Metrics left as histograms with noise: ε up to {highest:g} (this run), δ = {delta:g}, unit: {units} of "
            "the evaluation rows, an account of their own; 95 % intervals in result.json.",
            highlight=False,
        )
    if result["synthetic"]:
        whose = f" for {escape(some)}; the rows of the others are real" if (some := synthetic_for(result)) else ""
        console.print(f"Data: [bold]synthetic[/] rows on each industry's schema{whose}.", highlight=False)
    _print_rows(console, result)
    if any(participant["failures"] for participant in result["participants"].values()):
        console.print("Failures:")
        failed = [
            (name, participant) for name, participant in result["participants"].items() if participant["failures"]
        ]
        for name, participant in first(failed):
            for failure in participant["failures"][-3:]:
                console.print(f"  round {failure['round']} {name}: {failure['code']} {failure['detail']}", markup=False)


def _print_rows(console: Console, result: dict[str, Any]) -> None:
    """Print what was expected of the run, and where the reader owns the rows, which were set apart or drifted."""
    for name, participant in first(list(result["participants"].items())):
        for line in notes(participant):
            print_text(console, f"{name}: {line}")


def _at(deltas: list[float]) -> str:
    return f" (PLD estimate at δ = {', '.join(f'{d:g}' for d in deltas)})" if deltas else ""


def refusal_hint(result: dict[str, Any]) -> str | None:
    """Return what participants that do not know the contract can do, or None."""
    codes = {failure["code"] for participant in result["participants"].values() for failure in participant["failures"]}
    if found := sorted(codes & {"LEDGER_BEHIND", "LEDGER_FORKED", "LEDGER_BROKEN"}):
        return (
            f"{', '.join(found)}: that participant's ledger is not the one that earlier replies left with, so it "
            "releases nothing. Its own log says what to do. Only when its owner offers new data instead, remove its "
            "line from heads.json beside the runs."
        )
    if "CONTRACT_NOT_ALLOWED" not in codes:
        return None
    return (
        f"A participant accepts this contract by adding sha256:{result['contract_sha256']} to allow.contracts of its "
        "policy (`consortia budget allow NAME SCENARIO`, with the same --rounds and --seed). "
        "While one tries in a simulation, --by-name accepts the scenario however it changes."
    )


def conditional_split_note(job: Job) -> str | None:
    """Return the sentence that a published, data-dependent split owes, or None."""
    industries = job.scenario.contract.industries
    named = sorted({terms.split for terms in industries.values() if terms.split != "hash"})
    if not named or job.scenario.contract.central is not None:  # a whole participant is the unit, its split included
        return None
    return (
        f"ε is conditional on the split {', '.join(named)}: it depends on the number of rows, so one row more "
        "would move others between training and test."
    )
