"""Takes the noisy gradient out of the first step of an adaptive optimizer, and compares it with the clipped sum.

With `epsilon` = 1 the first step of Adam, AdamW and RMSprop can be turned back: rate x g / (r |g| + 1), with r = 1
for the first two and the root of 1 - beta2 for the last. So what the optimizer saw is known, and what it saw beside the
clipped sum must be noise of the charged size.
"""

from __future__ import annotations

import math

import numpy as np

from consortia.audit import statistics
from consortia.audit.probe import altered, random_model
from consortia.audit.reference import clipped, flat, noise_deviation, parameter_names, unit_gradients
from consortia.audit.result import Check
from consortia.audit.settings import Audit
from consortia.terms.roster import RosterParticipant

_EPSILON = 8.0
_ROUNDS, _QUICK_ROUNDS = 8, 4
_UNITS = 12
_BETA2 = 0.99
_SCALE = 0.3


def checks(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """Return what a participant's optimizer saw; [] where the contract's steps do not adapt."""
    name, rules = audit.adaptive.get(participant.industry), audit.contract.industries[participant.industry]
    if name is None:
        return []
    rate = 1e-3 * participant.units / rules.clip
    optimizer = {"name": name, "epsilon": 1.0, "beta2": _BETA2}
    steps = {"local_steps": 1, "sampling_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    rounds = _QUICK_ROUNDS if audit.quick else _ROUNDS
    contract = altered(
        audit.contract, participant.industry, rounds=rounds, learning_rate=rate, optimizer=optimizer, **steps
    )
    pool, industry = audit.pool(participant), participant.industry
    frame = pool.frame.iloc[pool.of("train")[:_UNITS]]
    table, source = pool.encode(frame, "record"), pool.write(frame)
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    sizes = parameter_names(contract, industry)
    names, count = [one for one, _ in sizes], sum(size for _, size in sizes)
    units = max(1, round(bench.declared_units * contract.split.train))
    left = []
    for number in range(1, rounds + 1):
        start = random_model(contract, industry, audit.random, _SCALE)
        sent = bench.train(contract, "adaptive", number, start, source)
        events = [event for entry in bench.export()["entries"] for event in entry["events"]]
        noise = noise_deviation(events[-1]["noise_multiplier"], rules.clip, count, bench.noise)
        step = (flat(start, names) - flat(sent.tensors, names)) / rate
        seen = step / (1 - (math.sqrt(1 - _BETA2) if name == "rmsprop" else 1.0) * np.abs(step))
        wanted = clipped(unit_gradients(contract, industry, start, table), rules.clip).sum(axis=0)
        rounded = np.spacing(np.abs(flat(start, names)).astype(np.float32)).astype(float) / rate * units
        left.append((seen * units - wanted) / np.sqrt(noise**2 + rounded**2 / 6))
    rest = np.array(left)
    said = f"mean square {np.square(rest).mean():.4g} over {rest.size} numbers"
    subject, normal = f"{participant.name}, {name}", "a rest of standard normal numbers"
    law = "an adaptive optimizer sees the clipped sum plus the charged noise"
    return [
        Check(law, subject, normal, said, statistics.size_p(rest)),
        Check("what it sees beside the clipped sum is centred", subject, "mean 0", said, statistics.mean_p(rest)),
    ]
