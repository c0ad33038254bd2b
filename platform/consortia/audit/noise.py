"""Tests the noise: a release without gradients is Gaussian, of the charged size, and like no other release.

The participant gets the scenario's own contract and budget, but no row in its training partition: every draw is
empty, so whatever the model, its update is sum_t w_t noise_t, with w_t from the public optimizer. Rows of the
other partitions are there, with gradients: they must move nothing. Releases come from several rounds, runs,
attempts, participants and forked processes, the global generators put to one state before some of them.

Wide models show what few numbers cannot: the tails, and whether numbers of one release are related to each other. Their
sizes meet each way in which noise is made: on the grid, by torch, and by Box and Muller from the key stream.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from consortia.audit import entropy, statistics
from consortia.audit.probe import Sent, altered, forked, random_model, same_global_seeds
from consortia.audit.reference import Array, flat, parameter_names
from consortia.audit.release import observe, parameters
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.settings import Audit, Noise
from consortia.messages.envelope import decode
from consortia.participant.handle import handle
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant

# Noise numbers of a participant: sigma x 2/3 and x 3/2 are then far outside every band.
_NUMBERS, _QUICK_NUMBERS = 1000, 400
_MOST_RELEASES = 80
_RUNS = 2
_OUTSIDE = 12  # rows of the other partitions
_FORKS = 3
#: Hidden layers of wide models and the noise that each is for.
_WIDE: tuple[tuple[int, Noise], ...] = ((96, "secure"), (96, "float"), (200, "float"))


def run(audit: Audit, progress: Progress) -> Findings:
    """Check every participant, then all of them against each other."""
    findings = Findings("noise")
    everything: list[Array] = []
    for participant in audit.participants():
        progress(participant.name)
        if participant.non_private:
            findings.notes.append(f"{participant.name}: non-private, claims no epsilon; its path was audited at 1")
        probes = _contracts(audit, participant)
        for what, changes in probes.items():
            contract = altered(audit.contract, participant.industry, **changes)
            kinds: tuple[Noise, ...] = (audit.noise_of(participant, what == "own terms"),)
            for kind in kinds if audit.quick else ("secure", "float"):
                subject = f"{participant.name}, {what}, {kind} noise"
                noise = _releases(audit, participant, contract, findings, subject, kind)
                everything.append(noise)
                findings.checks += _laws(noise, contract, participant.industry, subject)
    for participant in audit.one_per_industry():
        for width, kind in _WIDE:
            progress(f"{participant.name}, {width} wide")
            everything.append(_wide(audit, participant, width, kind, findings))
    width = min(noise.shape[1] for noise in everything)
    together = np.concatenate([noise[-8:, :width] for noise in everything])
    findings.checks.append(_alike(together, "all participants"))
    return findings


def _contracts(audit: Audit, participant: RosterParticipant) -> dict[str, dict[str, Any]]:
    """The scenario's own terms; several steps with momentum and weight decay, where those lack them."""
    gradient = audit.contract.strategy.strategy().fit.gradient
    several = {"rounds": 8, "local_steps": 1 if gradient else 3, "momentum": 0.5, "weight_decay": 0.01}
    return {"own terms": {}, "private head": {**audit.models()["private head"], **several}}


def _releases(
    audit: Audit, participant: RosterParticipant, contract: Contract, findings: Findings, subject: str, kind: Noise
) -> Array:
    """Return standardised noise, shape (n_releases, n_parameters); the last ones are of forked processes."""
    source = _no_training_rows(audit, participant)
    bench = audit.bench(participant, delta=min(participant.delta, audit.probe_delta(participant)), noise=kind)
    numbers = _QUICK_NUMBERS if audit.quick else _NUMBERS
    releases = min(max(math.ceil(numbers / parameters(contract, participant.industry)), 8), _MOST_RELEASES)
    sents: list[Sent] = []
    while len(sents) < releases:
        model = random_model(contract, participant.industry, audit.random, 1.0)
        run_id = f"noise-{len(sents)}"
        rounds = range(1, min(contract.rounds, math.ceil(releases / _RUNS)) + 1)
        sents += [bench.train(contract, run_id, number, model, source) for number in rounds]
    # Children of one and the same state, as a launcher forks them for each message.
    model = random_model(contract, participant.industry, audit.random, 1.0)
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


def _no_training_rows(audit: Audit, participant: RosterParticipant) -> Path:
    pool = audit.pool(participant)
    return pool.write(pool.frame.iloc[np.concatenate([pool.of(part)[:_OUTSIDE] for part in ("validation", "test")])])


def _wide(audit: Audit, participant: RosterParticipant, width: int, kind: Noise, findings: Findings) -> Array:
    """Return standardised noise of a wide model: two rounds, and an attempt at the second that died after its noise."""
    scopes = dict.fromkeys(("encoder", "trunk", "head"), "industry")
    shared = {"model": {"kind": "mlp", "hidden": [width, width]}, "scopes": scopes}
    # Three rounds are planned for, since the attempt that died stays charged.
    plain = {"rounds": 3, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0}
    contract = altered(audit.contract, participant.industry, **shared, **plain)
    subject = f"{participant.name}, {width} wide, {kind} noise"
    bench, twin = (
        audit.bench(participant, delta=min(participant.delta, audit.probe_delta(participant)), noise=kind)
        for _ in range(2)
    )
    source = _no_training_rows(audit, participant)
    if kind == "secure" or width > min(one for one, _ in _WIDE):
        findings.checks += entropy.checks(audit, bench, twin, contract, source, subject)
    model = random_model(contract, participant.industry, audit.random, 1.0)
    sents = [bench.train(contract, "wide", 1, model, source)]
    with entropy.abandoned() as ready:
        bench.ask(bench.message(contract, "wide", 2, model), source)
    sents.append(bench.train(contract, "wide", 2, model, source))
    seen, checks = observe(bench, contract, sents, subject)
    findings.checks += checks
    noise = [one.standardised for one in seen]
    # The dead attempt's answer differs from the second's by noise alone.
    names = [name for name, _ in parameter_names(contract, participant.industry)]
    apart = flat(decode(ready[0]).tensors, names) - flat(sents[1].tensors, names)
    sign = -1 if contract.strategy.strategy().fit.gradient else 1
    noise.append(noise[1] + sign * apart / seen[1].deviation)
    found = np.array(noise)
    findings.checks += _laws(found, contract, participant.industry, subject)
    return found


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
        Check(
            "noise reaches as far as the law",
            subject,
            f"{2 * noise.size * stats.norm.sf(3):.1f} numbers beyond 3 deviations",
            f"{int((np.abs(noise) > 3).sum())}",
            statistics.tails_p(noise),
        ),
        Check(
            "numbers of one release are unrelated",
            subject,
            "no lag, no mirror",
            f"{noise.shape[1]} numbers a release",
            statistics.lags_p(noise),
        ),
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
