"""Shows what an ε buys, from public numbers alone: noise, rounds, runs of a lifetime, and useful changes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consortia.engines.demonstration import demo_policy_file
from consortia.messages.size_release import once_events
from consortia.participant.account import runs_left
from consortia.participant.home import Home
from consortia.planning.plan import ParticipantPlan, learned, make_plans, noise_ratio, of_products
from consortia.terms.contract import Contract, planned_rounds
from consortia.terms.forecast import Forecast, forecasts
from consortia.terms.policy import Policy, load_policy, policy_or_input_error
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.terms.scopes import build_module
from consortia.terms.tensors import frozen_names
from privacy.accounting import epsilon, solve_noise_multiplier
from privacy.errors import PlanError
from privacy.events import Event, PoissonGaussian
from privacy.ledger import Budget, Ledger

_MOST_ROUNDS = 100_000
#: A knob helps when it lowers noise over signal by at least this share.
_WORTH = 0.05


#: sigma, noise over signal, noise in a coordinate.
_Outcome = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class Price:
    """What one ε means to one participant.

    Attributes
    ----------
    epsilon, delta : float
        Of one run.
    noise_multiplier : float or None
        sigma for the contract's rounds; None when no noise is enough.
    noise_ratio : float or None
        See `ParticipantPlan.noise_ratio`.
    rounds_affordable : int
        Rounds that this ε pays for at the noise of the scenario's own proposal.
    """

    epsilon: float
    delta: float
    noise_multiplier: float | None
    noise_ratio: float | None
    rounds_affordable: int


@dataclass(frozen=True)
class Knob:
    """One change of the contract or the proposal, everything else as it is.

    `update_noise` is the standard deviation of all noise in one coordinate of the model after the run (without
    momentum): learning rate x sigma x clip x sqrt(steps) / (q n).
    """

    knob: str
    before: str
    after: str
    noise_multiplier: float | None
    noise_ratio: float | None
    update_noise: float | None
    helps: bool
    note: str = ""


def prices(scenario: Scenario, plan: ParticipantPlan, epsilons: list[float]) -> list[Price]:
    """Return the price of each ε for one participant."""
    scenario = scenario.of(plan.industry)
    rules = scenario.contract.industries[plan.industry]
    contract, size = scenario.contract, _size(scenario, scenario.participant(plan.name))
    found = []
    for value in epsilons:
        sigma = _solve(contract, value, plan.delta, plan.sampling_rate, plan.steps)
        ratio = None
        if sigma is not None:
            noise = of_products(contract, sigma)
            ratio = noise_ratio(noise, size, plan.sampling_rate, plan.training_units, plan.steps)
        rounds = 0
        if plan.noise_multiplier is not None:
            once = once_events(scenario.contract, plan.epsilon, "record")
            # The messages of a learner of noisy sums are one step.
            rounds = _affordable(value, plan, rules.local_steps, once) * (contract.rounds if contract.noisy_sums else 1)
        found.append(Price(value, plan.delta, sigma, ratio, rounds))
    return found


def _solve(contract: Contract, value: float, delta: float, rate: float, steps: int) -> float | None:
    once = once_events(contract, value, "record")
    try:
        return solve_noise_multiplier(epsilon=value, delta=delta, sampling_rate=rate, steps=steps, besides=once)
    except PlanError:
        return None


def _affordable(value: float, plan: ParticipantPlan, local_steps: int, once: tuple[Event, ...]) -> int:
    """Return how many rounds an ε of `value` pays for at the proposal's noise; the coarse grid may give too few."""
    grid = max(1e-3, 1e-4 * value)  # a large epsilon on a fine grid takes minutes

    def spent(rounds: int) -> float:
        event = PoissonGaussian(
            noise_multiplier=plan.noise_multiplier or 1.0,
            sampling_rate=plan.sampling_rate,
            steps=local_steps * rounds,
            partition="train",
            unit="record",
        )
        return epsilon([event, *once], plan.delta, grid=grid)

    if spent(1) > value:
        return 0
    low, high = 1, 2
    while high < _MOST_ROUNDS and spent(high) <= value:
        low, high = high, high * 2
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if spent(middle) <= value else (low, middle)
    return low


def knobs(scenario: Scenario, participant: RosterParticipant) -> list[Knob]:
    """Return what single changes would do to one private participant, in numbers."""
    scenario = scenario.of(participant.industry)
    contract = scenario.contract
    rules = contract.industries[participant.industry]
    n = contract.split.training_units(participant.units)
    steps = rules.local_steps * planned_rounds(contract)
    size = _size(scenario, participant)

    def outcome(
        *,
        value: float = participant.epsilon,
        rate: float = rules.sampling_rate,
        taken: int = steps,
        numbers: int = size,
        clip: float = rules.clip,
        step: float = rules.learning_rate,
    ) -> _Outcome:
        sigma = _solve(contract, value, participant.delta, rate, taken)
        if sigma is None:
            return None, None, None
        noise = step * sigma * clip * math.sqrt(taken) / (rate * n)
        return sigma, noise_ratio(of_products(contract, sigma), numbers, rate, n, taken), noise

    base = outcome()
    found = [Knob("as proposed", "", "", *base, helps=False)]

    def add(name: str, before: object, after: object, changed: _Outcome, note: str = "") -> None:
        ratio = changed[1]
        better = base[1] is not None and ratio is not None and ratio < base[1] * (1 - _WORTH)
        found.append(Knob(name, str(before), str(after), *changed, helps=better, note=note))

    add("epsilon", f"{participant.epsilon:g}", f"{2 * participant.epsilon:g}", outcome(value=2 * participant.epsilon))
    if contract.noisy_sums is not None:
        return found
    if rules.sampling_rate < 1:
        rate = min(1.0, 2 * rules.sampling_rate)
        add("sampling_rate", f"{rules.sampling_rate:g}", f"{rate:g}", outcome(rate=rate), "larger batches")
    if (planned := planned_rounds(contract)) > 1:
        rounds = planned // 2
        add(
            "rounds" if contract.max_participations is None else "max_participations",
            planned,
            rounds,
            outcome(taken=rounds * rules.local_steps),
            "fewer steps to learn in",
        )
    note = "noise and the largest step of a unit shrink together; helps where gradients are shorter than the clip"
    add("clip", f"{rules.clip:g}", f"{rules.clip / 2:g}", outcome(clip=rules.clip / 2), note)
    halved = outcome(step=rules.learning_rate / 2)
    note = "noise and steps shrink together; lower it where a run diverges"
    add("learning_rate", f"{rules.learning_rate:g}", f"{rules.learning_rate / 2:g}", halved, note)
    if rules.model.kind not in {"linear", "autoencoder"}:
        smaller = _size(_linear(scenario, participant.industry), participant)
        add("model", f"{size} numbers", f"linear, {smaller} numbers", outcome(numbers=smaller))
    if "metrics" in contract.releases:
        add("releases", "with metrics", "without", base, "metrics are paid by the evaluation units' own account")
    return found


def _size(scenario: Scenario, participant: RosterParticipant) -> int:
    if scenario.contract.statistics is not None:
        return sum(blocks_of(scenario.contract, participant.industry).lengths(1))
    module = build_module(scenario.contract, participant.industry)
    state = module.state_dict()
    trained = state.keys() - frozen_names(module)
    return sum(state[name].numel() for name in learned(scenario.contract, trained))


def _linear(scenario: Scenario, industry: str) -> Scenario:
    import json

    data = json.loads(scenario.to_json())
    # A file, frozen parts and adapters name the layers of the other network.
    added: dict[str, object] = {"init": None, "freeze": [], "lora": None}
    data["contract"]["industries"][industry] |= {"model": {"kind": "linear", "hidden": []}, **added}
    return scenario_from_json(json.dumps(data))


@dataclass(frozen=True)
class Lifetime:
    """What the participant's own policy and ledger leave: `left` for certain, and how many such runs fit into it."""

    source: str
    run_budget: float
    lifetime_budget: float
    left: float
    runs_left: int
    unit: str
    delta: float


def lifetime_of(scenario: Scenario, name: str, participant: RosterParticipant, root: Path | None) -> Lifetime | None:
    """Read policy and ledger of a participant's home; without `root` the scenario's demonstration policy, unspent."""
    if root is not None:
        home = Home((root / participant.name).resolve(), participant.name)
        policy = policy_or_input_error(home.policy, simulation=True)
        with Ledger.open(home.ledger, participant.name) as ledger:
            left = ledger.lifetime_left(participant.dataset, policy.budget.lifetime.budget())
        return _lifetime(policy, participant, left, "policy and ledger")
    file = demo_policy_file(name, participant.name)
    if not file.is_file():
        return None
    policy = load_policy(file, simulation=True)
    return _lifetime(policy, participant, policy.budget.lifetime.budget(), "demonstration policy")


def _lifetime(policy: Policy, participant: RosterParticipant, left: Budget, source: str) -> Lifetime:
    run, life = policy.budget.run, policy.budget.lifetime
    asked = Budget(min(participant.epsilon, run.epsilon), min(participant.delta, run.delta))
    runs = runs_left(left, asked)
    terms = policy.dataset.get(participant.dataset)
    unit = terms.unit if terms else "record"
    return Lifetime(source, run.epsilon, life.epsilon, left.epsilon, runs, unit, life.delta)


def _everybody_at(scenario: Scenario, value: float) -> dict[str, Forecast]:
    return forecasts(scenario.with_overrides(epsilon=(f"{value!r}",)))


def answer(scenario: Scenario, name: str, epsilons: list[float], root: Path | None, only: str = "") -> dict[str, Any]:
    """Return everything that `consortia budget plan` says before it simulates, JSON-able."""
    participants = {}
    plans = make_plans(scenario)
    proposed = forecasts(scenario)
    at = {value: _everybody_at(scenario, value) for value in epsilons} if proposed else {}
    for plan in plans:
        if only and plan.name != only:
            continue
        participant = scenario.participant(plan.name)
        lifetime = lifetime_of(scenario, name, participant, root)
        participants[plan.name] = {
            "industry": plan.industry,
            "training_units": plan.training_units,
            "delta": plan.delta,
            "unit": lifetime.unit if lifetime else participant.unit or "record",
            "proposed_epsilon": None if participant.non_private else participant.epsilon,
            "forecast": proposed[plan.name].to_json() if proposed else None,
            "prices": [
                {**asdict(price), "forecast": at[price.epsilon][plan.name].to_json() if proposed else None}
                for price in prices(scenario, plan, epsilons)
            ],
            "knobs": [] if participant.non_private else [asdict(knob) for knob in knobs(scenario, participant)],
            "lifetime": asdict(lifetime) if lifetime else None,
        }
    return {"schema": 1, "scenario": scenario.name, "relation": "add_or_remove_one", "participants": participants}
