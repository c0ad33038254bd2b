"""Tests the released number of training units: Laplace noise of the charged size, once a run.

The audit knows how many units train. Over many runs what a size adds to that number must be the charged Laplace noise,
rounded to whole numbers; it leaves with the first reply alone; and updates and size together keep the run's budget.
"""

from __future__ import annotations

import hashlib

import numpy as np

from consortia.audit import statistics
from consortia.audit.probe import altered, shared_start
from consortia.audit.recount import recounted
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.settings import Audit
from consortia.messages.size_release import SIZE
from consortia.terms.roster import RosterParticipant

_EPSILON = 8.0
_RUNS, _QUICK_RUNS = 130, 60
_UNITS = 40  # so many that no size is cut off at its least


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry."""
    findings = Findings("sizes")
    for participant in audit.one_per_industry():
        progress(participant.name)
        findings.checks += _law(audit, participant)
    return findings


def _law(audit: Audit, participant: RosterParticipant) -> list[Check]:
    contract = altered(
        audit.contract,
        participant.industry,
        rounds=2,
        local_steps=1,
        strategy={"name": "fedavg", "weighting": "noised"},
    )
    bench, pool = (
        audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant)),
        audit.pool(participant),
    )
    train = [int(row) for row in pool.of("train")]
    rows = [*(train * _UNITS)[:_UNITS], *pool.of("test")[:5]]
    source, model = pool.write(pool.frame.iloc[rows]), shared_start(contract, participant.industry)
    values, again, charged, spent = [], 0, 0, 0.0
    for number in range(_QUICK_RUNS if audit.quick else _RUNS):
        run_id = f"size-{number}"
        sent = bench.train(contract, run_id, 1, model, source)
        values.append(float(sent.tensors[SIZE]) if SIZE in sent.tensors else np.nan)
        entries = [entry for entry in bench.export()["entries"] if entry["run_id"] == run_id]
        digest = hashlib.sha256(sent.reply).hexdigest()
        events = [e for entry in entries if entry["reply_sha256"] == digest for e in entry["events"]]
        laplace = [event for event in events if event["kind"] == "laplace"]
        charged += len(laplace) == 1 and laplace[0]["count"] == 1 and laplace[0]["partition"] == "train"
        if number == 0:
            second = bench.train(contract, run_id, 2, model, source)
            again += SIZE in second.tensors
            every = [e for entry in bench.export()["entries"] for e in entry["events"]]
            spent = recounted(every, bench.delta)
            scale = laplace[0]["noise_multiplier"] if laplace else 1.0
    noise = statistics.rounded_scores(np.array(values) - _UNITS, scale, "laplace", audit.random)
    found = f"mean square {np.square(noise).mean():.4g} over {noise.size} sizes"
    return [
        fact(
            "every size has exactly one event",
            participant.name,
            charged == len(values),
            wanted=len(values),
            got=charged,
        ),
        fact("a size leaves with the first reply alone", participant.name, again == 0, wanted=0, got=again),
        fact(
            "updates and size keep the run's budget",
            participant.name,
            spent <= _EPSILON * 1.001,
            wanted=_EPSILON,
            got=spent,
        ),
        Check(
            "a size is the number of units plus the charged noise",
            participant.name,
            "mean square 1",
            found,
            statistics.size_p(noise),
        ),
        Check("what a size adds is centred", participant.name, "mean 0", found, statistics.mean_p(noise[:, None])),
        Check("its noise has the charged law", participant.name, "Laplace", found, statistics.shape_p(noise)),
    ]
