"""The sampler's law: every unit is in every draw by a coin of its own, whatever the other draws hold.

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
from consortia.audit.probe import altered, random_model
from consortia.audit.reference import Array, clipped, unit_gradients
from consortia.audit.release import observe
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.settings import Audit
from consortia.scenario import Contract, Seat

_EPSILON = 8.0
_STEPS = 4
_RATE = 0.5
_ROUNDS = 4
_RUNS, _QUICK_RUNS = 16, 10
_RATE_OF_LEARNING = 1e-3
_ROWS = 3  # of a unit that is no record
_CANDIDATES = 12


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry, with many units and with few."""
    findings = Findings("sampler")
    for seat in audit.one_per_industry():
        pool = audit.pool(seat)
        for unit in ("record", *pool.unit_columns[:1]):
            for copies in (12, 1):
                subject = f"{seat.name}, by {unit}, {2 * copies} units"
                progress(subject)
                _sample(audit, seat, unit, copies, findings, subject)
    return findings


def _contract(audit: Audit, seat: Seat) -> Contract:
    gradient = audit.contract.strategy.strategy().fit.gradient
    changes: dict[str, Any] = {
        "rounds": _ROUNDS,
        "local_steps": 1 if gradient else _STEPS,
        "sampling_rate": _RATE,
        "learning_rate": _RATE_OF_LEARNING,
        "momentum": 0.0,
        "weight_decay": 0.0,
    }
    return altered(audit.contract, seat.industry, **changes)


def _sample(audit: Audit, seat: Seat, unit: str, copies: int, findings: Findings, subject: str) -> None:
    contract = _contract(audit, seat)
    pool = audit.pool(seat)
    rules = contract.industries[seat.industry]
    model = random_model(contract, seat.industry, audit.random, 0.5)
    a, b = _far_apart(audit, seat, contract, model)
    size = 1 if unit == "record" else _ROWS
    # One after the other, so that no order of the file is an order of the kinds.
    frame = frame_of(pool, unit, [[a] * size, [b] * size] * copies)
    table = pool.encode(frame, unit)
    bench = audit.bench(seat, unit=unit, epsilon=_EPSILON, delta=audit.probe_delta(seat))
    source = pool.write(frame)
    runs = _QUICK_RUNS if audit.quick else _RUNS
    sents = [
        bench.train(contract, f"sampler-{number}", round_, model, source)
        for number in range(runs)
        for round_ in range(1, _ROUNDS + 1)
    ]
    seen, checks = observe(bench, contract, sents, subject)
    findings.checks += checks
    units = clipped(unit_gradients(contract, seat.industry, seen[0].start, table), rules.clip)
    kinds = np.array([units[0], units[1]])  # (2, n_parameters)
    decode = np.linalg.pinv(kinds)  # (n_parameters, 2)
    totals = np.array([one.total for one in seen])
    noise = seen[0].noise * math.sqrt(rules.local_steps)
    findings.checks += _laws(totals, kinds, decode, noise, copies, rules.local_steps, subject)


def _far_apart(audit: Audit, seat: Seat, contract: Contract, model: Any) -> tuple[int, int]:
    """Return two training rows whose gradients point in directions as different as possible."""
    from consortia.audit.probe import first_private

    pool = audit.pool(seat)
    rows = [int(row) for row in pool.of("train")[:_CANDIDATES]]
    table = pool.encode(pool.frame.iloc[rows], "record")
    start = {**first_private(contract, seat.industry, model), **model}
    gradients = clipped(unit_gradients(contract, seat.industry, start, table), contract.industries[seat.industry].clip)
    # The smaller singular value of a pair says how well the two are told apart.
    best, pair = -1.0, (rows[0], rows[1])
    for i in range(len(rows)):
        for j in range(i):
            told = float(np.linalg.svd(gradients[[i, j]], compute_uv=False)[-1])
            if told > best:
                best, pair = told, (rows[i], rows[j])
    return pair


def _laws(
    totals: Array, kinds: Array, decode: Array, noise: float, copies: int, steps: int, subject: str
) -> list[Check]:
    """Compare counts of drawn units with the Binomial law.

    Parameters
    ----------
    totals : (n_releases, n_parameters), decode : (n_parameters, 2), noise : deviation of a coordinate of a total.
    """
    trials = copies * steps
    checks = []
    counts = totals @ decode  # (n_releases, 2): how often a unit of each kind was drawn, plus noise
    functionals = {"of kind A": decode[:, 0], "of kind B": decode[:, 1], "in all": decode.sum(axis=1)}
    standardised = {}
    for name, direction in functionals.items():
        number = trials * (2 if name == "in all" else 1)
        value = totals @ direction
        drawn = number * _RATE * (1 - _RATE)
        variance = drawn + noise**2 * float(direction @ direction)
        z = (value - number * _RATE) / math.sqrt(variance)
        standardised[name] = z
        # Excess kurtosis of a Binomial, diluted by the noise.
        kurtosis = (1 - 6 * _RATE * (1 - _RATE)) / drawn * (drawn / variance) ** 2
        found = f"{value.mean():.2f} on average, deviation {value.std():.2f}"
        wanted = f"{number * _RATE:g} on average, deviation {math.sqrt(variance):.2f}"
        checks += [
            Check(
                f"units {name} are drawn at the charged rate",
                subject,
                wanted,
                found,
                statistics.normal_p(float(z.sum()) / math.sqrt(len(z))),
            ),
            Check(
                f"the number of units {name} is Binomial, never fixed",
                subject,
                wanted,
                found,
                statistics.dispersion_p(float(np.square(z).sum()), len(z), kurtosis),
            ),
        ]
    one, two = counts[:, 0] - trials * _RATE, counts[:, 1] - trials * _RATE
    spread = noise**2 * float(decode[:, 0] @ decode[:, 1])  # the noise ties the two estimates together
    sizes = [trials * _RATE * (1 - _RATE) + noise**2 * float(decode[:, i] @ decode[:, i]) for i in (0, 1)]
    products = one * two - spread
    deviation = math.sqrt((sizes[0] * sizes[1] + spread**2) * len(one))
    checks.append(
        Check(
            "whether a unit is drawn does not depend on the others",
            subject,
            "no correlation",
            f"correlation {np.corrcoef(one, two)[0, 1]:.3f}",
            _product_p(float(products.sum()) / deviation, len(one)),
        )
    )
    z = standardised["in all"].reshape(-1, _ROUNDS)
    pairs = (z[:, 1:] * z[:, :-1]).ravel()
    checks.append(
        Check(
            "a draw does not depend on the draws before",
            subject,
            "no correlation",
            f"correlation {pairs.mean():.3f}",
            _product_p(float(pairs.sum()) / math.sqrt(len(pairs)), len(pairs)),
        )
    )
    # Beside the two directions there is noise alone, from every step, drawn units or not.
    basis = np.linalg.qr(kinds.T)[0]
    beside = (totals - totals @ basis @ basis.T) / noise
    free = totals.shape[0] * (totals.shape[1] - 2)
    if free:
        total = float(np.square(beside).sum())
        p = statistics.two_sided(float(stats.chi2.cdf(total, free)), float(stats.chi2.sf(total, free)))
        checks.append(
            Check(
                "every step adds its noise, whatever was drawn",
                subject,
                "mean square 1",
                f"mean square {total / free:.4f} over {free} numbers",
                p,
            )
        )
    return checks


def _product_p(z: float, count: int) -> float:
    """Chance of a standardised sum of products of (nearly) normal pairs.

    A product of two standard normals has heavier tails than a normal; a sum of `count` has the law of
    Q(count) - Q'(count) over 2 sqrt(count) with chi-squares Q, Q'. Bernstein's bound is safe: |z| t - ... at
    t = |z| / (1 + |z| / sqrt(count)).
    """
    x = abs(z)
    return min(1.0, 2 * math.exp(-(x**2) / (2 * (1 + x / math.sqrt(count)))))
