"""Tests FedRep: the private parameters move first by DP-SGD, then the shared ones.

Each phase must be the clipped sum over its own parameters plus noise of the charged size, and each of its steps must be
charged. The private parameters after a round lie at home and the audit owns the home, so the second phase's gradient is
known as exactly as the first one's.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from consortia.audit.message_games import HEAD
from consortia.audit.noise_laws import noise_laws
from consortia.audit.probe import altered, first_private, random_model
from consortia.audit.reference import Array, clipped, flat, noise_deviation, parameter_names, unit_gradients
from consortia.audit.result import Findings, Progress, fact
from consortia.audit.settings import Audit, Noise
from consortia.terms.roster import RosterParticipant

_EPSILON = 8.0
_ROUNDS, _QUICK_ROUNDS = 12, 5
_UNITS = 12


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry, with rows and without."""
    findings = Findings("phases")
    for participant in audit.one_per_industry():
        for noise in ("secure", "float"):
            for rows in (True, False):
                subject = f"{participant.name}, {noise} noise, {'with' if rows else 'without'} rows"
                progress(subject)
                _law(audit, participant, noise, findings, subject, rows=rows)
    return findings


def _law(
    audit: Audit, participant: RosterParticipant, noise: Noise, findings: Findings, subject: str, *, rows: bool
) -> None:
    rules, pool = audit.contract.industries[participant.industry], audit.pool(participant)
    rounds = _QUICK_ROUNDS if audit.quick else _ROUNDS
    changes: dict[str, Any] = {
        "rounds": rounds,
        "local_steps": 2,
        "private_steps": 1,
        "sampling_rate": 1.0,
        "learning_rate": max(rules.learning_rate, 1e-3 * participant.units / rules.clip),
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip": 0.6 * rules.clip,
        "model": {"kind": "mlp", "hidden": [6, 4]},
        "scopes": HEAD,
        "strategy": {"name": "fedavg"},
    }
    contract = altered(audit.contract, participant.industry, **changes)
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant), noise=noise)
    train = [int(row) for row in pool.of("train")[:_UNITS]]
    own = train * 2 if rows else []
    source = pool.write(pool.frame.iloc[[*own, *pool.of("test")[:4]]])
    table = pool.encode(pool.frame.iloc[own], "record") if rows else None
    sizes = parameter_names(contract, participant.industry)
    names = [name for name, _ in sizes]
    rest: dict[str, list[Array]] = {"private": [], "shared": []}
    steps, wanted_steps = [], [2] * rounds
    before = first_private(
        contract, participant.industry, random_model(contract, participant.industry, audit.random, 1.0)
    )
    for number in range(1, rounds + 1):
        model = random_model(contract, participant.industry, audit.random, 10.0 if number % 2 else 0.3)
        sent = bench.train(contract, "phases", number, model, source)
        digest = hashlib.sha256(sent.reply).hexdigest()
        events = [e for entry in bench.export()["entries"] if entry["reply_sha256"] == digest for e in entry["events"]]
        steps.append(sum(event.get("steps", 0) for event in events))
        private = bench.private_state("phases", number)
        plan = bench.export()["runs"][0]
        normaliser = plan["sampling_rate"] * plan["declared_units"]
        states = {"private": {**before, **model}, "shared": {**private, **model}}
        after = {"private": private, "shared": dict(sent.tensors)}
        for phase, state in states.items():
            chosen = [name for name in names if (name in private) == (phase == "private")]
            total = np.zeros(sum(size for name, size in sizes if name in chosen))
            clip = contract.industries[participant.industry].clip
            if table is not None:
                gradients = unit_gradients(contract, participant.industry, state, table)
                mask = np.array([name in chosen for name, size in sizes for _ in range(size)])
                total = clipped(gradients[:, mask], clip).sum(axis=0)
            scale = normaliser / changes["learning_rate"]
            end = flat(after[phase], chosen)
            deviation = noise_deviation(events[0]["noise_multiplier"], clip, len(total), noise)
            rounding = (np.spacing(np.abs(end).astype(np.float32)).astype(float) * scale) ** 2 / 12
            moved = (flat(state, chosen) - end) * scale
            rest[phase].append((moved - total) / np.sqrt(deviation**2 + rounding))
        before = private
    findings.checks.append(
        fact("both phases' steps are charged", subject, steps == wanted_steps, wanted=wanted_steps, got=steps)
    )
    for phase, found in rest.items():
        numbers = np.array(found)
        law = "a phase is the clipped sum of what it moves, plus the charged noise"
        findings.checks += noise_laws(numbers, f"{subject}, {phase}", law, "the rest of a phase", "phases")
