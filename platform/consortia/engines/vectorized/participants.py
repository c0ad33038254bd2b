"""The participants of a vectorised simulation: terms, rows, accounts and training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients import registry
from clients.models import loss_for
from consortia.common.errors import InputError, RefusedError
from consortia.engines.base import Job
from consortia.engines.vectorized.accounts import ScratchAccount
from consortia.engines.vectorized.network import Layer, by_name, dense_layers, stacked
from consortia.messages.envelope import message_key
from consortia.participant.agreement import check_signed
from consortia.participant.data import load_partitions
from consortia.participant.own_sums import Sent
from consortia.participant.partitions import Partitions
from consortia.participant.training import make_plan
from consortia.terms.contract import Contract
from consortia.terms.optimizer import make_optimizer as local_optimizer
from consortia.terms.policy import DatasetTerms, Policy, Proposal, check_contract, effective_budget, load_policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import LARGEST, State, build_module
from privacy.central import clipped
from privacy.dp_sgd import DpSgdPlan, PlainPlan
from privacy.ledger import Budget, RunPlan
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator, seeded_generator
from privacy.stacked import OneGenerator, Randomness, SeededDraws, StackedRows, train_stacked
from strategies.base import Asynchronous, Clusters, Controlled, LocalHalf, TakesTurns

#: Number of participants in one batched product. It keeps the activations in the cache and limits the memory.
CHUNK = 64


@dataclass(frozen=True)
class Place:
    """One participant that accepted the contract."""

    participant: RosterParticipant
    policy: Policy
    terms: DatasetTerms
    parts: Partitions
    plan: RunPlan
    account: ScratchAccount
    steps: PlainPlan
    #: Its part of the last message of noisy sums, exactly as it was sent.
    sent: list[Sent] = dataclasses.field(default_factory=list)

    @property
    def header(self) -> dict[str, str]:
        """The declarations of its replies."""
        plan = self.plan
        return {
            "noise_multiplier": repr(plan.noise_multiplier),
            "epsilon_budget": "null" if plan.non_private else repr(plan.allowance.epsilon),
            "delta": repr(plan.allowance.delta),
            "unit": plan.unit,
            "non_private": str(plan.non_private).lower(),
        }


def check(scenario: Scenario) -> None:
    """Refuse a contract that batched products cannot express. The error names the contract's key.

    Raises
    ------
    InputError
        It has one line for each key.
    """
    contract = scenario.contract
    if contract.vertical is not None:
        raise InputError('--engine vectorized: wanted contract.mode = "horizontal", got "vertical"')
    strategy = contract.strategy.strategy()
    excluded = {
        'contract.learner: wanted one with a model, got "statistics"': contract.statistics is not None,
        "contract.by_industry: wanted one learner and one trust for all": bool(contract.by_industry),
        "contract.trust: wanted no secure sums": contract.trust == "aggregate",
        "contract.compression: wanted none": contract.compression is not None,
        "contract.scopes: wanted no private parameters": "private" in contract.scopes.named,
        "contract.evaluation.metrics: wanted none": contract.evaluation.metrics != "none",
        "contract.strategy.weighting: wanted no noised sizes": contract.strategy.weighting == "noised",
        f"contract.strategy.name: wanted rounds of everybody on one model, got {contract.strategy.name}": (
            isinstance(strategy, Asynchronous | Clusters | TakesTurns) or strategy.fit.loss
        ),
        "contract.industries: wanted private_steps = 0": any(t.private_steps for t in contract.industries.values()),
    }
    if problems := [
        f"--engine vectorized: {text}; take --engine embedded" for text, wrong in excluded.items() if wrong
    ]:
        raise InputError(*problems)
    if contract.noisy_sums is not None:  # blocks are summed one participant after the other, whatever the network
        return
    for industry in sorted({participant.industry for participant in scenario.roster}):
        dense_layers(build_module(contract, industry), industry)


def open_place(job: Job, participant: RosterParticipant) -> Place:
    """Do what a participant does with the first message of a run: check policy and budget, make the plan, read the
    rows.

    Raises
    ------
    RefusedError
        The participant would refuse with the same code.
    """
    contract, home = job.scenario.contract, job.homes[participant.name]
    policy = load_policy(home.policy, simulation=True)
    proposal = Proposal.to(participant)
    terms = check_contract(policy, contract, participant.industry, proposal, job.scenario.name)
    check_signed(home, policy, contract, proposal)
    if (source := job.sources.get(participant.name)) is not None:
        terms = terms.model_copy(update={"source": source})
    life = policy.budget.lifetime.budget()
    life = Budget(math.inf, life.delta) if participant.non_private else life
    plan = make_plan(contract, terms, participant.dataset, job.run_id, effective_budget(policy, proposal, life))
    parts = load_partitions(home, terms, participant.dataset, contract, job.run_id)
    stepped = not plan.non_private and contract.noisy_sums is None
    if stepped and (parts.train.n_units != len(parts.train) or policy.secure_noise(simulation=True)):
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            "the vectorised engine trains networks with units of one row and floating-point noise only",
        )
    return Place(participant, policy, terms, parts, plan, ScratchAccount(plan, life), _steps(plan))


def _steps(plan: RunPlan) -> PlainPlan:
    sampling = PlainPlan(
        sampling_rate=plan.sampling_rate, declared_units=plan.declared_units, steps=plan.steps_per_round
    )
    if plan.non_private:
        return sampling
    return DpSgdPlan(**dataclasses.asdict(sampling), noise_multiplier=plan.noise_multiplier, clip=plan.clip)


class Trainer:
    """Local training of the participants of one industry, in chunks.

    Parameters
    ----------
    contract : Contract
    industry : str
    workers : int
        So many chunks are trained side by side, each by a thread with one core. The results are the same to the bit:
        chunks share no number, and each has its own draws.
    """

    def __init__(self, contract: Contract, industry: str, workers: int = 1) -> None:
        self.contract = contract
        self.workers = workers
        self.rules = contract.industries[industry]
        self.strategy = contract.strategy.strategy()
        self.layers: list[Layer] = dense_layers(build_module(contract, industry), industry)
        self.loss = loss_for(registry.get(industry).schema.target)

    def chunks(
        self, places: Sequence[Place], start: State, control: Mapping[str, State], number: int
    ) -> Iterator[tuple[Sequence[Place], State]]:
        """Yield participants with their updates, each parameter stacked (n_participants, ...).

        Private and non-private participants never share a chunk, because their steps differ.
        """
        parts: list[Sequence[Place]] = []
        for private in (False, True):
            chosen = [place for place in places if place.plan.non_private != private]
            # Tables of equal length need no padding.
            chosen.sort(key=lambda place: len(place.parts.train))
            parts += [chosen[first : first + CHUNK] for first in range(0, len(chosen), CHUNK)]

        def trained(chunk: Sequence[Place]) -> State:
            return self._train(chunk, start, control, number)

        if min(self.workers, len(parts)) <= 1:
            for chunk in parts:
                yield chunk, trained(chunk)
            return
        pool = ThreadPoolExecutor(self.workers, "chunk", torch.set_num_threads, (1,))
        try:
            yield from zip(parts, pool.map(trained, parts), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)

    def _train(self, chunk: Sequence[Place], start: State, control: Mapping[str, State], number: int) -> State:
        layers = stacked(self.layers, start, len(chunk))
        names = [f"{layer.name}.{part}" for layer in self.layers for part in ("weight", "bias")]
        rules, gradient = self.rules, self.strategy.fit.gradient

        def make_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
            held = list(parameters)
            optimizer = local_optimizer(
                rules.optimizer,
                held,
                learning_rate=1.0 if gradient else rules.rate(number, self.contract.rounds),
                momentum=rules.momentum,
                weight_decay=rules.weight_decay,
            )
            named = list(zip(names, held, strict=True))
            if isinstance(self.strategy, LocalHalf):
                self.strategy.attach(optimizer, [(one, _like(one, start[name].unsqueeze(0))) for name, one in named])
            if isinstance(self.strategy, Controlled):
                each = [control[place.participant.name] for place in chunk]
                corrections = [(one, _like(one, torch.stack([c[name] for c in each]))) for name, one in named]
                self.strategy.correct(optimizer, corrections)
            return optimizer

        rows = StackedRows.of((place.parts.train.inputs["features"], place.parts.train.target) for place in chunk)
        plans = [place.steps for place in chunk]
        train_stacked(layers, rows, self.loss, make_optimizer, plans, self._randomness(chunk, number, start))
        after = by_name(self.layers, layers)
        if self.contract.central is not None:
            return _shortened(start, after, self.contract.central.clip)
        return {name: start[name] - tensor for name, tensor in after.items()} if gradient else after

    def _randomness(self, chunk: Sequence[Place], number: int, start: State) -> Randomness:
        """Return new entropy for private participants; otherwise the draws of `training.train_round`."""
        if not chunk[0].plan.non_private:
            return noise_source(chunk, number, start)
        seeds = chunk if self.rules.sampling_rate < 1 else []
        generators = [
            seeded_generator("sampling", self.contract.seed, place.participant.name, number) for place in seeds
        ]
        return SeededDraws(generators, self.rules.local_steps)


def noise_source(chunk: Sequence[Place], number: int, start: State) -> Randomness:
    """Return the source of draws and noise of private participants: new entropy for this round, model and chunk."""
    names = ",".join(place.participant.name for place in chunk)
    message = message_key(start, chunk[0].plan.run_id, str(number), names)
    return OneGenerator(fresh_generator(NoiseContext(purpose="train", message=message, attempt=0, ledger="")))


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Give a stack of biases (n, outputs) the parameter's shape (n, 1, outputs)."""
    return tensor if tensor.dim() == parameter.dim() else tensor.unsqueeze(1)


def _shortened(start: State, after: State, clip: float) -> State:
    """Clip every participant's whole change (see `consortia.trust.trusted_coordinator.shortened`)."""
    changes = {name: tensor.double() - start[name].double() for name, tensor in after.items()}
    flat = clipped(torch.cat([change.flatten(1) for change in changes.values()], dim=1), clip)
    parts = torch.split(flat, [change[0].numel() for change in changes.values()], dim=1)
    return {
        name: (start[name].double() + part.view_as(change)).to(start[name].dtype)
        for (name, change), part in zip(changes.items(), parts, strict=True)
    }


def usable(update: State) -> Tensor:
    """Return, shape (n_participants,), whether the coordinator would accept each update."""
    sizes = [tensor.flatten(1).abs().amax(1) for tensor in update.values() if tensor[0].numel()]
    return (torch.stack(sizes) <= LARGEST).all(0)  # NaN is not
