"""Trains one round at home: solves the noise, checks the model, makes the steps. Nothing here sends anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from clients import registry
from clients.dataset import Table
from clients.models import FederatedModule, loss_for
from clients.schema import Target
from consortia.common.errors import RefusedError
from consortia.messages.size_release import once_events, solve_sigma
from consortia.participant.alternating import joined, phases
from consortia.terms.contract import Contract, clip_of, planned_rounds, spare
from consortia.terms.optimizer import make_optimizer as local_optimizer
from consortia.terms.policy import DatasetTerms
from consortia.terms.scopes import State, check_like, load_state, starting_module, state_of, travelling
from consortia.terms.tensors import frozen_names
from consortia.trust.trusted_coordinator import shortened
from privacy.dp_sgd import DpSgdPlan, PlainPlan, StepReport, check_module, train_plain, train_private
from privacy.events import Event, NonPrivate
from privacy.ledger import Budget, RunPlan
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator, seeded_generator
from strategies.base import Controlled, LocalHalf, loss_bound

_checked: set[tuple[str, str]] = set()


def make_plan(
    contract: Contract,
    terms: DatasetTerms,
    dataset: str,
    run_id: str,
    allowance: Budget | None,
    participant: str = "",
) -> RunPlan:
    """Solve the noise for the whole run on the participant's side, before the first step.

    Parameters
    ----------
    allowance : Budget or None
        What this run may cost; None for a non-private run.
    participant : str
        Whose new units a further release of a run of steps counts; elsewhere nobody asks.
    """
    rules, learner = contract.industries[terms.industry], contract.noisy_sums
    sigma = 0.0 if allowance is None else solve_sigma(contract, rules, allowance.epsilon, allowance.delta)
    if learner is None:
        rounds, events = planned_rounds(contract), _other_events(contract, terms.unit)
    else:
        rounds, events = learner.shares.plan(sigma, terms.unit, spare(contract))
    return RunPlan(
        run_id=run_id,
        dataset=dataset,
        contract_sha256=contract.sha256(),
        unit=terms.unit,
        declared_units=contract.training_units(participant, terms.declared_units),
        allowance=allowance or Budget(float("inf"), 1e-5),
        noise_multiplier=sigma,
        sampling_rate=rules.sampling_rate,
        steps_per_round=rules.local_steps,
        rounds=rounds,
        clip=clip_of(contract, rules, sigma),
        non_private=allowance is None,
        other_events=events,
        listed=learner is not None,
        once_events=once_events(contract, None if allowance is None else allowance.epsilon, terms.unit),
    )


def _other_events(contract: Contract, unit: str) -> tuple[Event, ...]:
    """Return what a round releases besides its update."""
    if contract.strategy.strategy().fit.loss:
        return (NonPrivate(what="training loss", partition="train", unit=unit),)
    return ()


@dataclass(frozen=True)
class RoundOutcome:
    """The result of one round of training. Everything except `update` stays at home."""

    update: State
    private: State
    report: StepReport
    seconds: float
    loss: Tensor | None = None


def ready_module(
    contract: Contract,
    industry: str,
    plan: RunPlan,
    train: Table,
    received: Mapping[str, Tensor],
    private: Mapping[str, Tensor],
    *,
    control: Mapping[str, Tensor] = MappingProxyType({}),
) -> FederatedModule:
    """Return the module with the received model, after every check that needs no row.

    It is called before the reservation, so a message that cannot be trained on costs nothing.

    Raises
    ------
    RefusedError
        With code RELEASE_NOT_ALLOWED if the strategy wants a loss and the participant is private. With code BAD_MESSAGE
        if names, shapes, dtypes or sizes of the received parameters or controls do not fit.
    PlanError
        Per-unit clipping cannot bound the influence of a unit on this module.
    """
    torch.set_num_threads(1)
    if contract.strategy.strategy().fit.loss and not plan.non_private:
        raise RefusedError("RELEASE_NOT_ALLOWED", "the strategy wants an exact training loss, and this run is private")
    # A participant's own network starts from the file, too; without the file its gain would be flattered.
    module = starting_module(contract, industry)
    try:
        check_like(travelling(module, contract), received)
        wanted = received if isinstance(contract.strategy.strategy(), Controlled) else {}
        check_like({name: tensor for name, tensor in wanted.items() if tensor.is_floating_point()}, control)
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None
    load_state(module, {**received, **private})
    known = (contract.sha256(), industry)
    if not plan.non_private and known not in _checked:
        # The check depends on the network's structure only, so it runs once for each contract. Training checks again.
        check_module(module, train.inputs, train.target, loss_for(registry.get(industry).schema.target))
        _checked.add(known)
    return module


def train_round(
    module: FederatedModule,
    contract: Contract,
    industry: str,
    plan: RunPlan,
    train: Table,
    received: Mapping[str, Tensor],
    *,
    participant: str,
    round_number: int,
    noise: NoiseContext,
    secure_noise: bool = True,
    control: Mapping[str, Tensor] = MappingProxyType({}),
) -> RoundOutcome:
    """Run the local steps of one round on a ready module (see `ready_module`).

    DP steps train every parameter, private ones included. Each step clips all parameters that it changes jointly
    (invariant 7): all of them at once, or first the private and then the shared ones (`alternating`). The noise
    generator is made here from new entropy and `noise`, for this attempt only (invariant 8), by default with
    `privacy.secure_noise`. A non-private run claims no epsilon and draws from the contract's seed, so that it can be
    repeated.

    Parameters
    ----------
    noise : the charged attempt that the noise belongs to.

    Returns
    -------
    RoundOutcome
        `update` holds every shared parameter after the steps, or, for FedSGD, the gradient.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    rules = contract.industries[industry]
    before = state_of(module)
    strategy = contract.strategy.strategy()
    gradient_only = strategy.fit.gradient
    rate = 1.0 if gradient_only else rules.rate(round_number, contract.rounds)

    def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        # Moments, momentum and weight decay use the noisy gradient inside step(), so they are post-processing.
        optimizer = local_optimizer(
            rules.optimizer,
            parameters,
            learning_rate=rate,
            momentum=rules.momentum,
            weight_decay=rules.weight_decay,
        )
        if isinstance(strategy, LocalHalf):
            named = [(parameter, received.get(name)) for name, parameter in module.named_parameters()]
            strategy.attach(optimizer, [(parameter, sent) for parameter, sent in named if sent is not None])
        if isinstance(strategy, Controlled):
            corrected = [(p, control[name]) for name, p in module.named_parameters() if name in control]
            strategy.correct(optimizer, corrected)
        return optimizer

    target = registry.get(industry).schema.target
    loss = _mean_loss(module, train, target, loss_bound(strategy)) if strategy.fit.loss else None
    rows = (train.inputs, train.target, train.unit_index, train.n_units, loss_for(target), make_optimizer)
    sampling: dict[str, Any] = {"sampling_rate": plan.sampling_rate, "declared_units": plan.declared_units}
    size: dict[str, Any] = {"noise_multiplier": plan.noise_multiplier, "clip": plan.clip}
    generator = (
        seeded_generator("sampling", contract.seed, participant, round_number)
        if plan.non_private
        else fresh_generator(noise)
    )
    reports = []
    single = plan.unit == "record"
    for steps in phases(module, received, plan.steps_per_round, rules.private_steps):
        if plan.non_private:
            plain = PlainPlan(steps=steps, **sampling)
            reports.append(train_plain(module, *rows, plain, generator, single=single))
        else:
            dp = DpSgdPlan(steps=steps, **sampling, **size)
            reports.append(train_private(module, *rows, dp, generator, secure=secure_noise, single=single))
    report = joined(reports)
    after = state_of(module)
    update = {name: after[name] for name in received}
    if gradient_only:
        update = {
            name: (before[name] - tensor if tensor.is_floating_point() else tensor) for name, tensor in update.items()
        }
    update = shortened(contract, received, update)
    own = after.keys() - received.keys() - frozen_names(module)
    kept = {name: after[name] for name in sorted(own)}
    return RoundOutcome(update, kept, report, time.perf_counter() - started, loss)


def _mean_loss(module: FederatedModule, train: Table, target: Target, bound: float) -> Tensor:
    """Return the received model's mean loss over the training rows. Each loss is clipped to the public bound."""
    if not len(train.target):
        return torch.tensor(0.0)
    with torch.no_grad():
        try:
            losses = loss_for(target)(module(train.inputs), train.target)
        except (Exception, SystemExit):  # noqa: BLE001 - of some row, so it must not show
            losses = torch.stack([_loss_alone(module, train, target, bound, row) for row in range(len(train.target))])
    return losses.nan_to_num(bound, bound, 0.0).clamp(0.0, bound).mean()


def _loss_alone(module: FederatedModule, train: Table, target: Target, bound: float, row: int) -> Tensor:
    """Return the loss of one row; the bound where the model fails on it."""
    inputs = {name: tensor[row : row + 1] for name, tensor in train.inputs.items()}
    try:
        return loss_for(target)(module(inputs), train.target[row : row + 1])[0]
    except (Exception, SystemExit):  # noqa: BLE001 - as in `_mean_loss`
        return torch.tensor(bound)
