"""Bounds epsilon from below by one-run auditing: an attacker guesses which canaries took part.

Steinke, Nasr and Jagielski 2023, *Privacy Auditing with One (1) Training Run*. Each canary is a unit of its own that
a fair coin puts into the data or leaves out. The attacker knows every row, every model that was sent and every
release of the run, and scores a canary by how much of its clipped gradient the releases hold. Runs of disjoint data
compose in parallel, so the canaries of all runs count as those of one. Whatever the mistake, an attacker who is right
more often than the claimed (epsilon, delta) permits proves that the claim is false; one who is not proves nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from consortia.audit import statistics
from consortia.audit.probe import altered, first_private, random_model
from consortia.audit.reference import clipped, unit_gradients
from consortia.audit.release import observe
from consortia.audit.result import ALPHA, Check, Findings, Progress
from consortia.audit.settings import Audit
from consortia.terms.roster import RosterParticipant

_EPSILON = 1.0
_ROUNDS, _STEPS = 2, 2
_RATE = 0.5
_CANARIES = 6
_RUNS, _QUICK_RUNS = 40, 24
_SHARES = (1.0, 1 / 3)  # of the canaries that are guessed at: fixed before, the surest first


def run(audit: Audit, progress: Progress) -> Findings:
    """Attack one participant of each industry."""
    findings = Findings("canary")
    for participant in audit.one_per_industry():
        progress(participant.name)
        findings.checks += _attack(audit, participant)
    return findings


def _attack(audit: Audit, participant: RosterParticipant) -> list[Check]:
    gradient = audit.contract.strategy.strategy().fit.gradient
    changes: dict[str, Any] = {
        "rounds": _ROUNDS,
        "local_steps": 1 if gradient else _STEPS,
        "sampling_rate": _RATE,
        "learning_rate": 1e-3,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    contract = altered(audit.contract, participant.industry, **changes)
    pool = audit.pool(participant)
    model = random_model(contract, participant.industry, audit.random, 1.0)
    start = {**first_private(contract, participant.industry, model), **model}
    rows = pool.of("train")[:60]
    table = pool.encode(pool.frame.iloc[rows], "record")
    clip = contract.industries[participant.industry].clip
    gradients = clipped(unit_gradients(contract, participant.industry, start, table), clip)
    chosen = _apart(gradients, min(_CANARIES, gradients.shape[1]))
    decode = np.linalg.pinv(gradients[chosen])
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    filler = pool.frame.iloc[pool.of("test")[:1]]  # a row that does not train: a source may not be empty
    runs = _QUICK_RUNS if audit.quick else _RUNS
    present, scores = [], []
    for number in range(runs):
        coins = audit.random.random(len(chosen)) < 0.5
        frame = pool.frame.iloc[rows[np.array(chosen)[coins]]]
        source = pool.write(pd.concat([frame, filler]))
        sents = [bench.train(contract, f"canary-{number}", round_, model, source) for round_ in range(1, _ROUNDS + 1)]
        present.append(coins)
        seen, checks = observe(bench, contract, sents, participant.name)
        scores.append(np.sum([one.total @ decode for one in seen], axis=0))
    truth = np.concatenate(present)
    surplus = np.concatenate(scores) - _ROUNDS * changes["local_steps"] * _RATE / 2
    order = np.argsort(-np.abs(surplus))
    claimed = (float(sents[-1].header["epsilon_budget"]), float(sents[-1].header["delta"]))
    out = []
    for share in _SHARES:
        guessed = order[: max(1, int(share * len(order)))]
        correct = int(((surplus[guessed] > 0) == truth[guessed]).sum())
        bound = statistics.epsilon_lower_bound(len(truth), len(guessed), correct, claimed[1], ALPHA / len(_SHARES))
        out.append(
            Check(
                "nobody can tell who took part better than the claimed epsilon permits",
                participant.name,
                f"epsilon at most {claimed[0]:g} at delta {claimed[1]:g}",
                f"{correct} of {len(guessed)} guesses right about {len(truth)} canaries: epsilon at least {bound:.2f}",
                statistics.guesses_p(len(truth), len(guessed), correct, *claimed),
            )
        )
    return [*checks, *out]


def _apart(gradients: Any, count: int) -> list[int]:
    """Choose rows greedily, each the farthest from the span of those chosen."""
    rest = gradients.copy()
    chosen: list[int] = []
    for _ in range(count):
        best = int(np.linalg.norm(rest, axis=1).argmax())
        chosen.append(best)
        axis = rest[best] / max(float(np.linalg.norm(rest[best])), 1e-300)
        rest = rest - np.outer(rest @ axis, axis)
    return chosen
