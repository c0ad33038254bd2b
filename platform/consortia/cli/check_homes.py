"""`consortia check --ledger HOMES`: who can take part by the owners' own policies, and what their lifetimes leave."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from consortia.common.errors import ConsortiaError, InputError, RefusedError
from consortia.common.words import number
from consortia.coordinator.readiness import lacking
from consortia.participant.account import runs_left
from consortia.participant.agreement import check_signed
from consortia.participant.home import Home
from consortia.participant.lifetimes import check_sources, sharing
from consortia.terms.policy import Proposal, check_contract, effective_budget, load_policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import initial_groups
from privacy.errors import PrivacyError
from privacy.ledger import Budget, Ledger


@dataclass(frozen=True)
class Standing:
    """What one participant's home says of a run.

    Attributes
    ----------
    epsilon, delta : float or None
        What the run may cost there: the least of proposal, policy and what the lifetime leaves; None when non-private.
    left, lifetime : float or None
        Epsilon that the lifetime leaves for certain, and all of it; None where policy or ledger cannot be read.
    runs_left : int or None
        Such runs that fit into what is left.
    unit : str or None
        Whom one unit of privacy is there.
    problem : str
        Why it cannot take part; empty when it can.
    """

    name: str
    epsilon: float | None = None
    delta: float | None = None
    left: float | None = None
    lifetime: float | None = None
    runs_left: int | None = None
    unit: str | None = None
    declared_units: int | None = None
    problem: str = ""


def standings(scenario: Scenario, root: Path) -> list[Standing]:
    """Read every home of the roster below `root`; no row is read and nothing is written."""
    return [_standing(scenario, participant, root) for participant in scenario.roster]


def _standing(scenario: Scenario, participant: RosterParticipant, root: Path) -> Standing:
    home = Home((root / participant.name).resolve(), participant.name, simulation=True)
    proposal = Proposal.to(participant)
    known: dict[str, object] = {}
    try:
        policy = load_policy(home.policy, simulation=True)
        life = policy.budget.lifetime.budget()
        with Ledger.open(home.ledger, participant.name) as ledger:
            whole = Budget(math.inf, life.delta) if participant.non_private else life
            left = ledger.lifetime_left(participant.dataset, whole, claims=scenario.contract.grows)
            shared = sharing(ledger, policy, participant.dataset)
        known = {"left": left.epsilon, "lifetime": life.epsilon}
        terms = check_contract(policy, scenario.contract, participant.industry, proposal, scenario.name)
        check_signed(home, policy, scenario.contract, proposal)
        check_sources(policy, participant.dataset, terms.source, shared)
        known |= {"unit": terms.unit, "declared_units": terms.declared_units}
        allowed = effective_budget(policy, proposal, left, policy.budget.of(scenario.contract))
    except RefusedError as error:
        return Standing(participant.name, **known, problem=f"{error.code}: {error.detail}")  # type: ignore[arg-type]
    except (ConsortiaError, PrivacyError) as error:
        return Standing(participant.name, **known, problem=str(error))  # type: ignore[arg-type]
    if allowed is not None:
        known |= {"epsilon": allowed.epsilon, "delta": allowed.delta, "runs_left": runs_left(left, allowed)}
    return Standing(participant.name, **known)  # type: ignore[arg-type]


def effective(scenario: Scenario, found: list[Standing]) -> Scenario:
    """Return the scenario with what the homes allow instead of what it proposes to them."""
    participants = []
    for participant, one in zip(scenario.roster, found, strict=True):
        allowed = {"epsilon": one.epsilon, "delta": one.delta, "units": one.declared_units}
        changes = {key: value for key, value in allowed.items() if value is not None and one.epsilon is not None}
        participants.append(participant.model_copy(update=changes))
    return scenario.model_copy(update={"roster": tuple(participants)})


def refuse_hopeless(scenario: Scenario, found: list[Standing]) -> None:
    """Raise InputError, one line a participant, where a run of those who can take part could not succeed."""
    able = {one.name for one in found if not one.problem}
    groups = initial_groups(scenario.contract, [participant.industry for participant in scenario.roster])
    if missing := lacking(scenario, able, groups):
        raise InputError(*missing, *(f"{one.name}: {one.problem}" for one in found if one.problem))


def print_standings(console: Console, found: list[Standing], root: Path) -> None:
    """Print who can take part, at which ε, and what is left."""
    table = Table(title=f"From the policies and ledgers in {root}")
    for heading in ("participant", "unit", "ε run", "δ", "ε left", "ε lifetime", "like runs left", "can take part"):
        table.add_column(heading, justify="left" if heading in {"participant", "unit", "can take part"} else "right")
    for one in found:
        non_private = one.epsilon is None and not one.problem
        table.add_row(
            one.name,
            one.unit or "–",
            "∞ (non-private)" if non_private else number(one.epsilon, 2),
            "–" if one.delta is None else f"{one.delta:g}",
            number(one.left, 2),
            number(one.lifetime, 2),
            "–" if one.runs_left is None else str(one.runs_left),
            "no" if one.problem else "yes",
        )
    console.print(table)
    for one in found:
        if one.problem:
            console.print(f"{one.name}: {one.problem}", style="red", markup=False, highlight=False, soft_wrap=True)
