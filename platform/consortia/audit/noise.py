"""The noise law: a release without gradients is Gaussian noise of the charged size, like no other release.

The participant gets the scenario's own contract and budget, but no row in its training partition: every draw is
empty, so whatever the model, its update is sum_t w_t noise_t, with w_t from the public optimizer. Rows of the
other partitions are there, with gradients: they must move nothing. Releases come from several rounds, runs,
participants and forked processes, the global generators put to one state before some of them.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from consortia.audit import statistics
from consortia.audit.probe import Sent, altered, forked, random_model, same_global_seeds
from consortia.audit.reference import Array, parameter_names
from consortia.audit.release import observe, parameters
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.settings import Audit, Noise
from consortia.participant import handle
from consortia.scenario import Contract, Seat

# Noise numbers of a participant: sigma x 2/3 and x 3/2 are then far outside every band.
_NUMBERS, _QUICK_NUMBERS = 1000, 400
_MOST_RELEASES = 80
_RUNS = 2
_OUTSIDE = 12  # rows of the other partitions
_FORKS = 3


def run(audit: Audit, progress: Progress) -> Findings:
    """Check every participant, then all of them against each other."""
    findings = Findings("noise")
    everything: list[Array] = []
    for seat in audit.seats():
        progress(seat.name)
        if seat.non_private:
            findings.notes.append(f"{seat.name}: non-private, claims no epsilon; its path was audited at 1")
        probes = _contracts(audit, seat)
        for what, changes in probes.items():
            contract = altered(audit.contract, seat.industry, **changes)
            kinds: tuple[Noise, ...] = (audit.noise_of(seat, what == "own terms"),)
            for kind in kinds if audit.quick else ("secure", "float"):
                subject = f"{seat.name}, {what}, {kind} noise"
                noise = _releases(audit, seat, contract, findings, subject, kind)
                everything.append(noise)
                findings.checks += _laws(noise, contract, seat.industry, subject)
    width = min(noise.shape[1] for noise in everything)
    together = np.concatenate([noise[-8:, :width] for noise in everything])
    findings.checks.append(_alike(together, "all participants"))
    return findings


def _contracts(audit: Audit, seat: Seat) -> dict[str, dict[str, Any]]:
    """The scenario's own terms; several steps with momentum and weight decay, where those lack them."""
    gradient = audit.contract.strategy.strategy().fit.gradient
    several = {"rounds": 8, "local_steps": 1 if gradient else 3, "momentum": 0.5, "weight_decay": 0.01}
    return {"own terms": {}, "private head": {**audit.models()["private head"], **several}}


def _releases(audit: Audit, seat: Seat, contract: Contract, findings: Findings, subject: str, kind: Noise) -> Array:
    """Return standardised noise, shape (n_releases, n_parameters); the last ones are of forked processes."""
    pool = audit.pool(seat)
    source = pool.write(pool.frame.iloc[np.concatenate([pool.of(part)[:_OUTSIDE] for part in ("validation", "test")])])
    bench = audit.bench(seat, delta=min(seat.delta, audit.probe_delta(seat)), noise=kind)
    numbers = _QUICK_NUMBERS if audit.quick else _NUMBERS
    releases = min(max(math.ceil(numbers / parameters(contract, seat.industry)), 8), _MOST_RELEASES)
    sents: list[Sent] = []
    while len(sents) < releases:
        model = random_model(contract, seat.industry, audit.random, 1.0)
        run_id = f"noise-{len(sents)}"
        rounds = range(1, min(contract.rounds, math.ceil(releases / _RUNS)) + 1)
        sents += [bench.train(contract, run_id, number, model, source) for number in rounds]
    # Children of one and the same state, as a launcher forks them for each message.
    model = random_model(contract, seat.industry, audit.random, 1.0)
    requests = [bench.message(contract, f"fork-{child}", 1, model) for child in range(_FORKS)]

    def work(request: bytes, child: int) -> bytes:
        if child:
            same_global_seeds()
        return handle(request, bench.home, f"csv:{source}")

    replies = forked([partial(work, request, child) for child, request in enumerate(requests)])
    sents += [bench.must(bench.keep(*pair)) for pair in zip(requests, replies, strict=True)]
    seen, checks = observe(bench, contract, sents, subject)
    findings.checks += checks
    return np.array([one.standardised for one in seen])


def _laws(noise: Array, contract: Contract, industry: str, subject: str) -> list[Check]:
    found = f"mean square {np.square(noise).mean():.4f} over {noise.size} numbers"
    wanted = "standard normal numbers"
    per_release = min(statistics.size_p(one) for one in noise) * len(noise)
    per_tensor = _by_tensor(noise, contract, industry)
    return [
        Check("the noise has the charged size", subject, "mean square 1", found, statistics.size_p(noise)),
        Check("every release has noise of that size", subject, "mean square 1", found, min(1.0, per_release)),
        Check("every tensor has noise of that size", subject, "mean square 1", found, per_tensor),
        Check(
            "noise is centred, and other partitions move nothing",
            subject,
            "mean 0",
            f"means up to {np.abs(noise.mean(axis=0)).max():.3f}",
            statistics.mean_p(noise),
        ),
        Check("noise is Gaussian", subject, wanted, found, statistics.shape_p(noise)),
        _alike(noise, subject),
    ]


def _by_tensor(noise: Array, contract: Contract, industry: str) -> float:
    sizes = [size for _, size in parameter_names(contract, industry)]
    blocks = np.split(noise, np.cumsum(sizes)[:-1], axis=1)
    return min(1.0, min(statistics.size_p(block) for block in blocks) * len(blocks))


def _alike(noise: Array, subject: str) -> Check:
    """Rounds, runs, forks, participants: no two releases share their noise."""
    return Check(
        "no two releases share noise", subject, "independent noise", f"{len(noise)} releases", statistics.alike_p(noise)
    )
