"""Tests the vectorised engine: each participant has its own sum, noise and account in one batched product.

Its participants open their places as in a run (policy, plan, rows) and train together, on rows of the audit's own: some
have none, so that their updates are noise alone, others units whose clipped sums are counted a second time. It is also
played as a neighbour game: one row less at one participant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from consortia.audit import games, statistics
from consortia.audit.games import Game
from consortia.audit.message_games import STILL
from consortia.audit.noise_laws import noise_laws
from consortia.audit.probe import Bench, altered, random_model, shared_start
from consortia.audit.recount import recounted
from consortia.audit.reference import Array, clipped, flat, parameter_names, response, unit_gradients
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.scenes import HOSTILE, MODELS, TAME, Deck, model_of
from consortia.audit.settings import Audit
from consortia.common.errors import InputError
from consortia.engines.base import Job
from consortia.engines.vectorized import participants
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State
from privacy.errors import BudgetExhaustedError
from privacy.events import PoissonGaussian
from privacy.observation import observing

_EPSILON = 8.0
_CROWD = 3
_UNITS = 10
_ROUNDS, _QUICK_ROUNDS = 12, 6


def why_not(audit: Audit) -> str:
    """Return why the engine does not run this scenario, in its own words; empty where it does."""
    if audit.contract.noisy_sums is not None:
        return f"learner {audit.contract.learner}: nothing is batched; its messages are the other instruments'"
    try:
        participants.check(audit.scenario)
    except InputError as error:
        return str(error).splitlines()[0]
    return ""


class Crowd:
    """Some participants of one industry, alike but for their rows."""

    def __init__(
        self, audit: Audit, participant: RosterParticipant, contract: Contract, epsilon: float = _EPSILON
    ) -> None:
        self.benches: dict[str, Bench] = {}
        for number in range(_CROWD):
            bench = audit.bench(participant, name=f"{participant.name}-{number}", epsilon=epsilon, noise="float")
            self.benches[bench.name] = bench
        roster = [participant.model_copy(update={"name": name, "epsilon": epsilon}) for name in self.benches]
        self.scenario = Scenario.model_construct(
            schema_version=1, name="crowd", title="", contract=contract, roster=tuple(roster)
        )
        self.trainer = participants.Trainer(contract, participant.industry)

    def places(self, run_id: str, sources: Sequence[Path]) -> list[participants.Place]:
        """Open everybody's place, as a run does."""
        names = list(self.benches)
        files = {name: f"csv:{source}" for name, source in zip(names, sources, strict=True)}
        homes = {name: bench.home for name, bench in self.benches.items()}
        job = Job(self.scenario, run_id, Path(), homes, files)
        return [participants.open_place(job, participant) for participant in self.scenario.roster]

    def train(self, places: Sequence[participants.Place], start: State, number: int = 1) -> dict[str, State]:
        """Charge and train together; return updates by name."""
        out = {}
        for place in places:
            place.account.charge(number)
        for chunk, update in self.trainer.chunks(places, start, MappingProxyType({}), number):
            for at, place in enumerate(chunk):
                out[place.participant.name] = {name: tensor[at] for name, tensor in update.items()}
        return out


def run(audit: Audit, progress: Progress) -> Findings:
    """Check a crowd of each industry."""
    findings = Findings("vectorised")
    for participant in audit.one_per_industry():
        progress(participant.name)
        _law(audit, participant, findings)
        findings.checks += _account(audit, participant)
    return findings


def _contract(audit: Audit, participant: RosterParticipant, **changes: Any) -> Contract:
    return altered(audit.contract, participant.industry, **{"local_steps": 1, "sampling_rate": 1.0, **changes})


def _law(audit: Audit, participant: RosterParticipant, findings: Findings) -> None:
    rules, pool = audit.contract.industries[participant.industry], audit.pool(participant)
    rounds = _QUICK_ROUNDS if audit.quick else _ROUNDS
    contract = _contract(
        audit, participant, rounds=rounds, learning_rate=max(rules.learning_rate, 1e-3 * participant.units / rules.clip)
    )
    people = Crowd(audit, participant, contract)
    rows = [int(row) for row in pool.of("train")[:_UNITS]]
    outside = pool.frame.iloc[pool.of("test")[:3]]
    owned = [[], rows, rows[:3] * 4]
    files = [pool.write(pd.concat([pool.frame.iloc[own], outside])) for own in owned]
    places = people.places("law", files)
    names = [name for name, _ in parameter_names(contract, participant.industry)]
    rest: dict[str, list[Array]] = {name: [] for name in people.benches}
    gradient = contract.strategy.strategy().fit.gradient
    for number in range(1, rounds + 1):
        start = random_model(contract, participant.industry, audit.random, 10.0 if number % 2 else 0.3)
        known = response(contract, participant.industry, start, start)
        updates = people.train(places, start, number)
        for (name, update), place, own in zip(
            updates.items(), _sorted(places, updates), _sorted_rows(owned, places, updates), strict=True
        ):
            after = {n: start[n] - t for n, t in update.items()} if gradient else update
            moved = flat(after, names) - known.zero
            normaliser = place.plan.sampling_rate * place.plan.declared_units
            wanted: Array = np.zeros(len(moved))
            if own:
                table = pool.encode(pool.frame.iloc[own], "record")
                wanted = clipped(unit_gradients(contract, participant.industry, start, table), rules.clip).sum(axis=0)
            weight = known.weights.sum(axis=0)
            deviation = np.abs(weight) * place.plan.noise_multiplier * place.plan.clip / normaliser
            spacing = np.spacing(np.abs(flat(after, names)).astype(np.float32)).astype(float)
            rest[name].append((moved - weight * wanted / normaliser) / np.sqrt(deviation**2 + spacing**2 / 12))
    for name, found in rest.items():
        law = "an update is the clipped sum over the public normaliser, plus the charged noise"
        findings.checks += noise_laws(np.array(found), name, law, "the rest of an update")
    everything = np.concatenate([np.array(found) for found in rest.values()])
    findings.checks.append(
        Check(
            "no two updates share noise",
            participant.name,
            "independent noise",
            f"{len(everything)} updates",
            statistics.alike_p(everything),
        )
    )


def _sorted(places: Sequence[participants.Place], updates: Mapping[str, State]) -> list[participants.Place]:
    by_name = {place.participant.name: place for place in places}
    return [by_name[name] for name in updates]


def _sorted_rows(
    owned: Sequence[list[int]], places: Sequence[participants.Place], updates: Mapping[str, State]
) -> list[list[int]]:
    by_name = {place.participant.name: own for place, own in zip(places, owned, strict=True)}
    return [by_name[name] for name in updates]


def _account(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """Rounds are charged before they train, and no more of them than the plan paid for."""
    contract, pool = _contract(audit, participant, rounds=2), audit.pool(participant)
    people = Crowd(audit, participant, contract, epsilon=1.0)
    source = pool.write(pool.frame.iloc[:20])
    places = people.places("account", [source] * _CROWD)
    start = shared_start(contract, participant.industry)
    refused = 0
    for number in range(1, 5):
        try:
            people.train(places, start, number)
        except BudgetExhaustedError:
            refused += 1
    events = [event for entry in places[0].account.entries() for event in entry.events]
    plain = [
        {
            "kind": "poisson_gaussian",
            "noise_multiplier": e.noise_multiplier,
            "sampling_rate": e.sampling_rate,
            "steps": e.steps,
        }
        for e in events
        if isinstance(e, PoissonGaussian)
    ]
    spent = recounted(plain, places[0].plan.allowance.delta)
    return [
        fact("no more rounds than were paid for", participant.name, refused == 2, wanted=2, got=4 - refused),
        fact("every round has one event", participant.name, len(plain) == len(events) == 2, wanted=2, got=len(events)),
        fact("the events keep the run's budget", participant.name, spent <= 1.001, wanted=1.0, got=spent),
    ]


def play(audit: Audit, participant: RosterParticipant, deck: Deck, seed: int) -> list[Game]:
    """Play one scene: the same start, every row once, then one row less at one participant."""
    random = np.random.default_rng(seed)
    networks = [model for model in MODELS if model.get("norm") != "layer"]
    network = networks[int(random.integers(len(networks)))]
    clip = float(random.choice([0.01, 0.3, 1.0]))
    contract = _contract(audit, participant, model=network, clip=clip, learning_rate=STILL, rounds=8)
    people = Crowd(audit, participant, contract, epsilon=1e4)
    weights = str(random.choice(TAME + HOSTILE))
    start = model_of(weights, shared_start(contract, participant.industry), random)
    pool, filler = audit.pool(participant), deck.filler()
    units = [deck.units(random, "record", "train", 12) for _ in range(_CROWD)]
    owner = int(random.integers(_CROWD))

    def notes(left: int | None) -> Any:
        frames = [u.without(left) if left is not None and at == owner else u.frame for at, u in enumerate(units)]
        files = [pool.write(pd.concat([frame, filler])) for frame in frames]
        places = people.places(f"game-{seed}-{left}", files)
        with observing() as found:
            people.train(places, start)
        # In a chunk participants stand by their numbers of rows; who is who is told by its place.
        order = sorted(range(_CROWD), key=lambda at: len(places[at].parts.train))
        by_place = {at: found[rank] for rank, at in enumerate(order)} if len(found) == _CROWD else {}
        return by_place, places[owner].plan.noise_multiplier

    (whole, z), out = notes(None), []
    for left in sorted({0, units[owner].count - 1}):
        less, _ = notes(left)
        ratio = math.inf
        if whole and less:
            a, b = [whole[owner]], [less[owner]]
            ratio = max(games.step_ratio(a, b, z), games.clip_ratio(a, b, clip))
            for at in set(range(_CROWD)) - {owner}:
                ratio = max(ratio, games.moved([whole[at]], [less[at]], z) / games.SIMULATION)
        shape = f"{network['kind']} {network.get('hidden', '')}"
        recipe = f"{participant.name}, vectorised, seed {seed}: {shape}, {weights} weights"
        out.append(Game("vectorised", f"{recipe}, clip {clip:g}, without row {left} of {owner}", ratio))
    return out
