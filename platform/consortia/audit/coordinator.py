"""Tests a trusted coordinator: it draws who takes part, clips each change again, and adds the noise once.

The audit plays the participants: nobody answers, or they answer with changes that are far too long, short, or no
numbers at all. What the next model moved by must be the mean of the clipped changes and noise of the size that the
contract's epsilon needs, and who is asked must be a coin for each participant. One more asks a real participant for its
own half: its change leaves shortened. Privacy units are participants here; towards the coordinator nothing is claimed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy import stats

from consortia.audit import entropy, statistics
from consortia.audit.noise_laws import noise_laws
from consortia.audit.probe import shared_start
from consortia.audit.recount import recounted
from consortia.audit.reference import Array, noise_deviation
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.settings import Audit
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.trusted_rounds import CentralRounds
from consortia.messages.envelope import decode
from consortia.terms.contract import contract_from_json
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, initial_groups
from consortia.trust import trusted_coordinator
from consortia.trust.trusted_coordinator import flat_change, moved
from privacy.noise_context import NoiseContext

_ROUNDS, _QUICK_ROUNDS = 60, 20
_NUMBERS = 2000


def run(audit: Audit, progress: Progress) -> Findings:
    """Check the coordinator's half and one participant's."""
    findings = Findings("coordinator")
    progress("noise")
    _law(audit, findings, answers=False)
    progress("changes")
    _law(audit, findings, answers=True)
    progress("who is asked")
    findings.checks += _draws(audit)
    findings.checks += _account(audit)
    progress("a participant's half")
    findings.checks += _participant(audit, next(audit.one_per_industry()))
    return findings


def _scenario(audit: Audit, **terms: Any) -> Scenario:
    data = json.loads(audit.scenario.to_json())
    data["contract"]["strategy"] = {"name": "fedavg", "weighting": "equal"}
    data["contract"]["central"] |= terms
    return Scenario.model_validate_json(json.dumps(data))


def _law(audit: Audit, findings: Findings, *, answers: bool) -> None:
    scenario = _scenario(audit, sampling_rate=1.0)
    rounds, (industry,) = CentralRounds(scenario, "audit"), scenario.contract.industries
    strategy, plan = scenario.contract.strategy.strategy(), rounds.plan
    subject = "changes of every size" if answers else "nobody answers"
    start = shared_start(scenario.contract, industry)
    ((group, _),) = _groups(scenario, start).items()
    size = sum(tensor.numel() for tensor in start.values())
    deviation = noise_deviation(plan.noise_multiplier, plan.clip, size, "secure") if plan.noise_multiplier else 0.0
    if not deviation:
        findings.notes.append("the contract's epsilon is infinite: nothing is claimed, and no noise was looked for")
        return
    count = min(_QUICK_ROUNDS if audit.quick else _ROUNDS, max(8, math.ceil(_NUMBERS / size)))
    rest: list[Array] = []
    bound: list[NoiseContext] = []
    for _ in range(count):
        model = {name: tensor + torch.randn(tensor.shape) * 0.3 for name, tensor in start.items()}
        changes = _changes(audit, len(scenario.roster), size, plan.clip) if answers else []
        names = sorted(participant.name for participant in scenario.roster)

        def ask(
            sent: Mapping[str, State], changes: list[Array] = changes, names: list[str] = names, model: State = model
        ) -> dict[str, State]:
            pairs = zip(names, changes, strict=False)
            return {name: moved(model, torch.from_numpy(one)) for name, one in pairs if name in sent}

        state = Checkpoint(0, {group: model}, {}, {}, [])
        with entropy.contexts() as seen:
            after, _, _ = rounds.round(strategy, state, ask)
        bound += seen
        change = flat_change(model, after[group]).numpy()
        # What arrived is the model in float32, so the change that counts is that of the model.
        arrived = ask(dict.fromkeys(names, model))
        told = [flat_change(model, one).numpy() for one in arrived.values()]
        wanted = np.sum([_clipped(one, plan.clip) for one in told], axis=0) if told else np.zeros(size)
        where = np.abs(flat_change({n: torch.zeros_like(t) for n, t in model.items()}, after[group]).numpy())
        rounding = (np.spacing(where.astype(np.float32)).astype(float) * plan.denominator) ** 2 / 12
        rest.append((change * plan.denominator - wanted) / np.sqrt(deviation**2 + rounding))
    noise = np.array(rest)
    law = "the model moves by the mean of the clipped changes, plus the charged noise"
    findings.checks += [
        *noise_laws(noise, subject, law, "the rest of a round", "rounds"),
        # One run and one round, each time another model.
        entropy.no_context_twice(bound, subject),
    ]


def _groups(scenario: Scenario, start: State) -> dict[str, State]:
    groups = initial_groups(scenario.contract, scenario.contract.industries)
    assert [set(group) for group in groups.values()] == [set(start)]
    return groups


def _changes(audit: Audit, count: int, size: int, clip: float) -> list[Array]:
    """Return changes of 1000 clips, of half a clip, and one that is not finite."""
    lengths = [1000.0, 0.5, 1.0]
    out = []
    for place in range(count):
        direction = audit.random.normal(size=size)
        direction *= lengths[place % 3] * clip / np.linalg.norm(direction)
        if place % 5 == 4:
            direction[0] = math.inf
        out.append(direction)
    return out


def _clipped(change: Array, clip: float) -> Array:
    if not np.isfinite(change).all():
        return np.zeros(len(change))
    shortened: Array = change * min(1.0, clip / max(float(np.linalg.norm(change)), 1e-300))
    return shortened


def _draws(audit: Audit) -> list[Check]:
    """Each participant is asked by a coin of its own."""
    rounds = CentralRounds(_scenario(audit), "audit")
    strategy, rate = rounds.scenario.contract.strategy.strategy(), rounds.plan.sampling_rate
    start = shared_start(rounds.scenario.contract, next(iter(rounds.scenario.contract.industries)))
    ((group, _),) = _groups(rounds.scenario, start).items()
    names = sorted(participant.name for participant in rounds.scenario.roster)
    count = 16 * (_QUICK_ROUNDS if audit.quick else _ROUNDS)  # a coin tells little, and costs little
    asked = np.zeros((count, len(names)))
    for place in range(count):

        def ask(sent: Mapping[str, State], place: int = place) -> dict[str, State]:
            asked[place] = [name in sent for name in names]
            return {}

        rounds.round(strategy, Checkpoint(0, {group: start}, {}, {}, []), ask)
    found = f"{asked.mean():.3f} on average"
    if rate == 1:
        return [fact("who is asked is drawn at the contract's rate", "all", bool(asked.all()), wanted=1, got=found)]

    # A number between two edges of the Binomial law, so that the score is exactly normal.
    def score(drawn: Array, trials: int) -> Array:
        part = audit.random.random(drawn.shape)
        law = stats.binom(trials, rate)
        below = law.cdf(drawn - 1) + part * law.pmf(drawn)
        return statistics.normal_scores(below, 1 - below)

    one = score(np.array([asked.sum()]), asked.size)
    each = score(asked.sum(axis=1), len(names))
    pairs = each[1:] * each[:-1]
    return [
        Check(
            "who is asked is drawn at the contract's rate",
            "all rounds",
            f"{rate:g}",
            found,
            statistics.normal_p(one[0]),
        ),
        Check("how many are asked is Binomial, never fixed", "all rounds", f"{rate:g}", found, statistics.size_p(each)),
        Check(
            "a draw does not depend on the draws before",
            "all rounds",
            "no correlation",
            f"correlation {pairs.mean():.3f}",
            statistics.products_p(pairs, chained=True),
        ),
    ]


def _account(audit: Audit) -> list[Check]:
    """The noise keeps the contract's epsilon over all rounds, counted by dp-accounting alone."""
    contract = audit.contract
    terms, plan = contract.central, trusted_coordinator.plan_of(contract)
    if terms is None or not plan.noise_multiplier:
        return []
    event = {
        "kind": "poisson_gaussian",
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": terms.sampling_rate,
        "steps": contract.rounds,
    }
    spent = recounted([event], terms.delta)
    told = trusted_coordinator.account(contract, contract.rounds)["epsilon"]
    public = (plan.clip, plan.sampling_rate, plan.units) == (terms.clip, terms.sampling_rate, terms.units)
    return [
        fact(
            "the noise keeps the contract's budget",
            "all rounds",
            spent <= terms.epsilon * 1.001,
            wanted=terms.epsilon,
            got=spent,
        ),
        fact(
            "the account reports the recounted epsilon",
            "all rounds",
            abs((told["models_only"] or math.inf) - spent) <= 0.01 * max(1.0, spent),
            wanted=spent,
            got=told["models_only"],
        ),
        fact("towards the coordinator nothing is claimed", "all rounds", told["coordinator"] is None, wanted=None),
        fact("clip, rate and denominator are the contract's", "all rounds", public, wanted=terms, got=plan),
    ]


def _participant(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """A real participant's change is shortened before it leaves, whatever its rows and steps made of it."""
    contract = audit.contract
    terms = contract.central
    if terms is None:
        return []
    bench = audit.bench(participant, epsilon=math.inf)
    pool = audit.pool(participant)
    source = pool.write(pool.frame.iloc[pool.of("train")[:40]])
    model = shared_start(contract, participant.industry)
    data = json.loads(contract.canonical())
    data["industries"][participant.industry] |= {"learning_rate": 50.0}
    sent = bench.train(contract_from_json(json.dumps(data)), "central", 1, model, source)
    length = float(flat_change(model, dict(decode(sent.reply).tensors)).norm())
    place = sum(float(np.square(np.spacing(np.abs(t.numpy()))).sum()) for t in sent.tensors.values()) ** 0.5
    return [
        fact(
            "a participant shortens its change to the contract's clip",
            participant.name,
            0 < length <= terms.clip * (1 + 1e-6) + place,
            wanted=f"at most {terms.clip:g}",
            got=f"{length:.6g}",
        )
    ]
