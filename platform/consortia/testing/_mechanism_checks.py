"""Checks the release of a mechanism. Each check raises AssertionError with what it saw.

Statistical checks fail an honest mechanism less often than once in ten million runs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from consortia.testing._mechanism_case import Case, normal_scores
from consortia.testing._suite import require
from privacy.mechanism import AdditiveNoise, Array

#: What floating point may add to the sensitivity.
_ROUNDING = 1e-3
_NEVER = 1e-9
_LAGS = 64


def one_unit_moves_no_more_than_the_sensitivity(case: Case) -> None:
    """The neighbour game: hostile rows, alone and among others, in front and behind."""
    limit = case.mechanism.sensitivity
    require(math.isfinite(limit) and limit > 0, f"sensitivity: wanted a finite number > 0, got {limit!r}")
    games, worst = 0, 0.0
    for what, one, other in case.neighbours():
        results = case.exact(one), case.exact(other)
        for result in results:
            require(bool(np.isfinite(result).all()), f"{what}: the result is not finite")
        moved = case.distance(*results)
        require(moved <= limit * (1 + _ROUNDING), f"{what}: the result moved by {moved:.6g}, declared {limit:g}")
        games, worst = games + 1, max(worst, moved)
    require(games >= 20, f"wanted at least 20 games, got {games}; give the example at least 8 units")
    require(worst > 0, f"no unit moves the result in {games} games: does query read the rows?")


def the_query_is_exact(case: Case) -> None:
    """Asked again it gives the same to the last bit, and changes none of its rows."""
    before = case.data.values.copy()
    one, other = (np.asarray(case.mechanism.query(case.data)) for _ in range(2))
    require(np.array_equal(one, other), "query of the same rows gave another result: noise belongs into release")
    require(np.array_equal(before, case.data.values, equal_nan=True), "query changed its rows")


def shapes_tell_nothing_about_rows(case: Case) -> None:
    """Shape and dtype of a release are the same for neighbours, hostile ones among them, and those of the query."""
    for number, (what, one, other) in enumerate(case.neighbours()):
        if number % 7:
            continue
        with np.errstate(all="ignore"):
            first, second = (np.asarray(case.mechanism.release(data)) for data in (one, other))
        wanted = case.exact(one).shape
        same = first.shape == second.shape == wanted and first.dtype == second.dtype
        require(same, f"{what}: shapes {first.shape} and {second.shape}, of the query {wanted}")
        require(bool(np.isfinite(first).all()), f"{what}: the release is not finite")


def noise_follows_its_law(case: Case) -> None:
    """Its distribution, and its size both ways: too little is no privacy, too much is not what was declared."""
    found = case.uniforms.ravel()
    require(bool(np.isfinite(found).all()), "releases hold numbers that the declared law cannot give")
    p = float(stats.kstest(found, "uniform").pvalue)
    require(p > _NEVER, f"{found.size} numbers do not follow the declared law (p = {p:.2g})")
    square = float(np.square(normal_scores(found)).sum())
    p = 2 * min(stats.chi2.cdf(square, found.size), stats.chi2.sf(square, found.size))
    size = math.sqrt(square / found.size)
    require(p > _NEVER, f"the noise is {size:.3f} times as large as declared (p = {p:.2g})")


def noise_is_independent(case: Case) -> None:
    """Between coordinates, at all distances and mirrored, and between releases; of values and of sizes."""
    scores = case.scores
    sizes = normal_scores(np.abs(2 * case.uniforms - 1))
    for what, table in (("noise", scores), ("the size of noise", sizes)):
        for where, one, other in _pairings(table):
            p = _dependence_p(one, other)
            require(p > _NEVER, f"{what} depends on that of {where} (p = {p:.2g})")


def _pairings(table: Array) -> Iterator[tuple[str, Array, Array]]:
    """Pairs of columns (n_releases, n_numbers): each with each where there are few, else by distance and mirrored."""
    n = table.shape[1]
    yield "the release before", table[1:], table[:-1]
    for lag in range(1, min(n - 1, _LAGS) + 1):
        yield f"the coordinate {lag} before", table[:, lag:], table[:, :-lag]
    if n > 1:
        yield "the mirrored coordinate", table[:, : n // 2], table[:, ::-1][:, : n // 2]
    for one in range(min(n, 32)):
        for other in range(one):
            yield f"coordinate {other}", table[:, one], table[:, other]


def _dependence_p(one: Array, other: Array) -> float:
    """Two-sided p of the correlation of standard normal numbers."""
    x, y = np.ravel(one), np.ravel(other)
    r = float(np.clip((x * y).sum() / math.sqrt(float((x**2).sum() * (y**2).sum())), -1, 1))
    t = r * math.sqrt((x.size - 1) / max(1 - r * r, 1e-300))
    return float(2 * stats.t.sf(abs(t), x.size - 1))


def releases_centre_on_the_query(case: Case) -> None:
    """On average a release is the exact result, times the sampling rate where units are drawn."""
    noise, exact = case.mechanism.noise, case.exact(case.data)
    length = float(np.linalg.norm(exact))
    if not isinstance(noise, AdditiveNoise) or length == 0:
        return
    along = exact / length
    reach = np.array([float(np.asarray(case.mechanism.release(case.data)) @ along) for _ in range(200)])
    wanted = case.mechanism.sampling_rate * length
    p = float(stats.ttest_1samp(reach, wanted).pvalue)
    require(p > _NEVER, f"wanted {wanted:.4g} along the exact result on average, got {reach.mean():.4g} (p = {p:.2g})")


def randomness_is_fresh(case: Case) -> None:
    """No two releases are alike: not one after the other, not under one global seed, not in two forks of a process."""
    from consortia.audit.probe import forked, same_global_seeds  # loads the whole platform

    def draw() -> bytes:
        return b"".join(np.asarray(case.mechanism.release(case.data)).tobytes() for _ in range(8))

    def seeded() -> bytes:
        same_global_seeds()
        return draw()

    require(draw() != draw(), "two releases were alike to the last bit")
    require(seeded() != seeded(), "the noise comes from a global generator: with its seed, releases were alike")
    one, other = forked([draw, draw])
    require(one != other, "two forks of one process released the same")
