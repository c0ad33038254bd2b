"""Tests the sampler: each unit is in each draw by an independent coin.

The training units are copies of two rows A and B, whose clipped gradients point in two directions, and the learning
rate is so small that the model hardly moves. Then a release tells how often units of A and of B were drawn in its
steps, up to noise of known size. Under Poisson sampling both counts are Binomial and independent: of each other, of
the next round's, and of the noise, which is there whether or not a draw was empty.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import stats

from consortia.audit import statistics
from consortia.audit.mechanism import frame_of
from consortia.audit.probe import altered, first_private, random_model
from consortia.audit.reference import Array, clipped, unit_gradients
from consortia.audit.release import observe
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.settings import Audit
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant

_EPSILON = 50.0  # so little noise that units can be counted
_STEPS = 4
# A likely and a rare unit: a sampler may take another way for each.
_RATES = (0.5, 0.15)
_ROUNDS = 4
_RUNS, _QUICK_RUNS = 16, 6
# By so many clips of an average gradient the model moves in a step: little against its own size, much for float32.
_MOVE = 1e-5
_ROWS = 3  # of a unit that is no record
_CANDIDATES = 12


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry, with many units and with few."""
    findings = Findings("sampler")
    for participant in audit.one_per_industry():
        pool = audit.pool(participant)
        for unit in ("record", *pool.unit_columns[:1]):
            for rate in _RATES:
                # Quick: many likely units and few rare ones.
                for copies in ((12,) if rate == _RATES[0] else (1,)) if audit.quick else (12, 1):
                    subject = f"{participant.name}, by {unit}, {2 * copies} units at {rate:g}"
                    progress(subject)
                    # As many units as declared, too: what goes by the expected number shows where draws reach it.
                    declared = participant.units if rate == _RATES[0] else 2 * copies
                    whose = participant.model_copy(update={"units": declared})
                    _sample(audit, whose, unit, copies, rate, findings, subject)
    return findings


def _contract(audit: Audit, participant: RosterParticipant, rate: float) -> Contract:
    gradient = audit.contract.strategy.strategy().fit.gradient
    rules = audit.contract.industries[participant.industry]
    changes: dict[str, Any] = {
        "rounds": _ROUNDS,
        "local_steps": 1 if gradient else _STEPS,
        "sampling_rate": rate,
        "learning_rate": _MOVE * rate * participant.units / rules.clip,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    return altered(audit.contract, participant.industry, **changes)


def _sample(
    audit: Audit, participant: RosterParticipant, unit: str, copies: int, rate: float, findings: Findings, subject: str
) -> None:
    contract = _contract(audit, participant, rate)
    pool = audit.pool(participant)
    rules = contract.industries[participant.industry]
    model = random_model(contract, participant.industry, audit.random, 2.0)
    a, b = _far_apart(audit, participant, contract, model)
    size = 1 if unit == "record" else _ROWS
    # One after the other, so that no order of the file is an order of the kinds.
    frame = frame_of(pool, unit, [[a] * size, [b] * size] * copies)
    table = pool.encode(frame, unit)
    kind = audit.noise_of(participant, rate == _RATES[0])
    bench = audit.bench(participant, unit=unit, epsilon=_EPSILON, delta=audit.probe_delta(participant), noise=kind)
    source = pool.write(frame)
    runs = _QUICK_RUNS if audit.quick else _RUNS
    sents = [
        bench.train(contract, f"sampler-{number}", round_, model, source)
        for number in range(runs)
        for round_ in range(1, _ROUNDS + 1)
    ]
    seen, checks = observe(bench, contract, sents, subject)
    findings.checks += checks
    units = clipped(unit_gradients(contract, participant.industry, seen[0].start, table), rules.clip)
    kinds = np.array([units[0], units[1]])  # (2, n_parameters)
    totals = np.array([one.total for one in seen])
    noise = seen[0].noise * math.sqrt(rules.local_steps)
    findings.checks += _laws(totals, kinds, noise, copies * rules.local_steps, rate, audit.random, subject)


def _far_apart(audit: Audit, participant: RosterParticipant, contract: Contract, model: Any) -> tuple[int, int]:
    """Return two training rows whose gradients point in directions as different as possible."""
    pool = audit.pool(participant)
    rows = [int(row) for row in pool.of("train")[:_CANDIDATES]]
    table = pool.encode(pool.frame.iloc[rows], "record")
    start = {**first_private(contract, participant.industry, model), **model}
    gradients = clipped(
        unit_gradients(contract, participant.industry, start, table), contract.industries[participant.industry].clip
    )
    # The smaller singular value of a pair says how well the two are told apart.
    best, pair = -1.0, (rows[0], rows[1])
    for i in range(len(rows)):
        for j in range(i):
            told = float(np.linalg.svd(gradients[[i, j]], compute_uv=False)[-1])
            if told > best:
                best, pair = told, (rows[i], rows[j])
    return pair


def _laws(
    totals: Array, kinds: Array, noise: float, trials: int, rate: float, random: np.random.Generator, subject: str
) -> list[Check]:
    """Compare counts of drawn units with the Binomial law.

    A count that is decoded from a release is Binomial plus Gaussian noise of known size; `statistics.binomial_scores`
    turns it into a number that is exactly standard normal, however few trials there are.

    Parameters
    ----------
    totals : (n_releases, n_parameters), kinds : (2, n_parameters), noise : deviation of a coordinate of a total.
    trials : units of a kind times steps of a release.
    """
    checks = []
    decode = np.linalg.pinv(kinds)  # (n_parameters, 2)
    counts = totals @ decode  # (n_releases, 2): how often a unit of each kind was drawn, plus noise
    spread = noise**2 * (decode.T @ decode)  # covariance of that noise
    sums = counts.sum(axis=1)
    every = {
        "of kind A": (counts[:, 0], trials, float(spread[0, 0])),
        "of kind B": (counts[:, 1], trials, float(spread[1, 1])),
        "in all": (sums, 2 * trials, float(spread.sum())),
    }
    for name, (value, number, variance) in every.items():
        z = statistics.binomial_scores(value, number, rate, math.sqrt(variance))
        # All releases together are one Binomial, of more power than the mean of the scores where trials are few.
        drawn = np.array([value.sum()])
        together = statistics.binomial_scores(drawn, number * len(value), rate, math.sqrt(variance * len(value)))
        found = f"{value.mean():.2f} on average, deviation {value.std():.2f}"
        deviation = math.sqrt(number * rate * (1 - rate) + variance)
        wanted = f"{number * rate:g} on average, deviation {deviation:.2f}"
        checks += [
            Check(
                f"units {name} are drawn at the charged rate",
                subject,
                wanted,
                found,
                statistics.normal_p(float(together[0])),
            ),
            Check(
                f"the number of units {name} is Binomial, never fixed",
                subject,
                wanted,
                found,
                statistics.size_p(z),
            ),
        ]
    # The noise ties the two counts together; more of it, in the other direction, makes them independent again.
    level = float(np.linalg.eigvalsh(spread)[-1]) * (1 + 1e-9)
    untied = counts + random.multivariate_normal(np.zeros(2), level * np.eye(2) - spread, len(counts), method="eigh")
    one, two = (statistics.binomial_scores(untied[:, i], trials, rate, math.sqrt(level)) for i in (0, 1))
    checks.append(
        Check(
            "whether a unit is drawn does not depend on the others",
            subject,
            "no correlation",
            f"correlation {np.mean(one * two):.3f}",
            statistics.products_p(one * two),
        )
    )
    z = statistics.binomial_scores(sums, 2 * trials, rate, math.sqrt(float(spread.sum()))).reshape(-1, _ROUNDS)
    pairs = (z[:, 1:] * z[:, :-1]).ravel()
    checks.append(
        Check(
            "a draw does not depend on the draws before",
            subject,
            "no correlation",
            f"correlation {pairs.mean():.3f}",
            statistics.products_p(pairs, chained=True),
        )
    )
    # Beside the two directions there is noise alone, from every step, drawn units or not.
    basis = np.linalg.qr(kinds.T)[0]
    beside = (totals - totals @ basis @ basis.T) / noise
    free = totals.shape[0] * (totals.shape[1] - 2)
    if free:
        total = float(np.square(beside).sum())
        checks.append(
            Check(
                "every step adds its noise, whatever was drawn",
                subject,
                "mean square 1",
                f"mean square {total / free:.4f} over {free} numbers",
                statistics.two_sided(float(stats.chi2.cdf(total, free)), float(stats.chi2.sf(total, free))),
            )
        )
    return checks
