"""Plans a run: its cost and whether it can be useful, from proposals and declared sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from clients import registry
from clients.errors import ClientError
from consortia.common.errors import InputError
from consortia.learners.additive.model import SHAPES
from consortia.learners.sums.model import WEIGHTS
from consortia.messages.size_release import once_events, solve_sigma
from consortia.planning.compatibility import check_fit
from consortia.planning.known import known
from consortia.planning.metrics import check_metrics
from consortia.planning.networks import check_targets
from consortia.terms.contract import Contract, planned_rounds
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.costs import noise_plan, plan_event
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import build_module, initial_groups, scope_of
from consortia.terms.tensors import frozen_names
from privacy.accounting import epsilon
from privacy.errors import PlanError

#: Accumulated noise over the largest possible accumulated signal (see `ParticipantPlan.noise_ratio`).
_USELESS = 0.5


@dataclass(frozen=True)
class ParticipantPlan:
    """The plan of one participant.

    Attributes
    ----------
    units : int
        Declared units of the data set; `training_units` of them train.
    unit : str
        Whom one of them is; empty where the roster leaves it to the participant's policy.
    noise_multiplier : float or None
        sigma, solved for the whole run; None when non-private.
    epsilon : float or None
        PLD epsilon after the last round at `delta`.
    parameters_shared, parameters_private : int
    noise_ratio : float or None
        sigma sqrt(d) / (q n sqrt(T)): the norm of all noise added in T steps over the norm of T clipped
        gradients that all point the same way. Above about .5 little of a model can be left.
    warnings : tuple of str
    """

    name: str
    industry: str
    unit: str
    units: int
    training_units: int
    steps: int
    sampling_rate: float
    noise_multiplier: float | None
    epsilon: float | None
    delta: float
    parameters_shared: int
    parameters_private: int
    noise_ratio: float | None
    releases: tuple[str, ...]
    learner: str
    warnings: tuple[str, ...]


def make_plans(scenario: Scenario) -> list[ParticipantPlan]:
    """Return the plan of every participant.

    Raises
    ------
    InputError
        When the strategy does not fit the roster, a model cannot be built or a budget cannot be met, naming
        participant and key.
    """
    if scenario.contract.vertical is not None:
        return []  # checked when it was parsed; `consortia.vertical.setup.describe` shows it
    if scenario.contract.by_industry:
        found = {plan.name: plan for part in scenario.parts() for plan in make_plans(part)}
        return [found[participant.name] for participant in scenario.roster]
    check_targets(scenario)
    check_fit(scenario)
    check_metrics(scenario)
    plans = []
    for participant in scenario.roster:
        where = f"roster.{participant.name}"
        try:
            _check_names(scenario, participant)
            plans.append(_plan(scenario, participant))
        except (ClientError, PlanError) as error:
            raise InputError(f"{where}: {error}") from None
    initial_groups(
        scenario.contract, [participant.industry for participant in scenario.roster]
    )  # shapes and pretrained files
    return plans


def noise_ratio(sigma: float, numbers: int, rate: float, units: int, steps: int) -> float:
    """Return the norm of all noise over that of the largest possible signal (see `ParticipantPlan.noise_ratio`)."""
    return sigma * math.sqrt(numbers) / (rate * units * math.sqrt(steps))


def of_products(contract: Contract, sigma: float) -> float:
    """Return the multiplier of the noise that a model learns through: of sums, that of the target's products."""
    return sigma if contract.sums is None else sigma / math.sqrt(contract.sums.slope_share)


def learned(contract: Contract, names: Iterable[str]) -> list[str]:
    """Return the parameters that noise falls on: all, or the weights or shapes that our own noisy sums give."""
    if contract.noisy_sums is None or contract.own is not None:
        return list(names)
    return [SHAPES if contract.additive is not None else WEIGHTS]


def _check_names(scenario: Scenario, participant: RosterParticipant) -> None:
    client = registry.get(participant.industry)
    client.check_site(participant.site)
    rules = scenario.contract.industries[participant.industry]
    if rules.split != "hash" and rules.split not in client.splits:
        known = ", ".join(("hash", *client.splits))
        raise InputError(
            f"contract.industries.{participant.industry}.split: wanted one of {known}, got {rules.split!r}"
        )


def _noise(contract: Contract, rules: IndustryTerms, budget: float, delta: float) -> tuple[float, float]:
    once = once_events(contract, budget, "record")

    def solve() -> tuple[float, float]:
        sigma = solve_sigma(contract, rules, budget, delta)
        return sigma, epsilon([plan_event(contract, rules, sigma), *once], delta)

    plan = ["plan", *noise_plan(contract, rules, budget, delta, once)]
    sigma, spent = known(plan, solve, 2)
    return sigma, spent


def _plan(scenario: Scenario, participant: RosterParticipant) -> ParticipantPlan:
    contract = scenario.contract
    rules = contract.industries[participant.industry]
    if contract.statistics is not None:  # nothing is trained
        sizes = {WEIGHTS: sum(blocks_of(contract, participant.industry).lengths(1))}
    else:
        module = build_module(contract, participant.industry)
        frozen = frozen_names(module)
        sizes = {name: tensor.numel() for name, tensor in module.state_dict().items() if name not in frozen}
    private = sum(size for name, size in sizes.items() if scope_of(name, contract) == "private")
    if rules.private_steps and not private:
        raise InputError(
            f"contract.industries.{participant.industry}.private_steps: wanted 0, got {rules.private_steps}, "
            "since nothing of "
            "its network is private under contract.scopes"
        )
    training = contract.split.training_units(participant.units)
    steps = rules.local_steps * planned_rounds(contract)
    warnings = []
    sigma = spent = ratio = None
    if participant.non_private and contract.central is None:
        warnings.append("non-private: epsilon is infinite, the update is not protected")
    elif not participant.non_private:
        sigma, spent = _noise(contract, rules, participant.epsilon, participant.delta)
        numbers = sum(sizes[name] for name in learned(contract, sizes))
        ratio = noise_ratio(of_products(contract, sigma), numbers, rules.sampling_rate, training, steps)
        if ratio > _USELESS and contract.noisy_sums is None:  # of sums, what counts is the total over participants
            warnings.append(
                f"epsilon {participant.epsilon:g} with {training} training units and {sum(sizes.values())} parameters: "
                f"noise {ratio:.1f} x the largest possible signal; raise epsilon, take a smaller model "
                "(kind = 'linear'), a larger sampling_rate or fewer steps"
            )
    return ParticipantPlan(
        name=participant.name,
        industry=participant.industry,
        unit=participant.unit,
        units=participant.units,
        training_units=training,
        steps=steps,
        sampling_rate=rules.sampling_rate,
        noise_multiplier=sigma,
        epsilon=spent,
        delta=participant.delta,
        parameters_shared=sum(sizes.values()) - private,
        parameters_private=private,
        noise_ratio=ratio,
        releases=contract.releases,
        learner=contract.learner,
        warnings=tuple(warnings),
    )
