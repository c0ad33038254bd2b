"""Statistical tests with known laws (two-sided unless stated), and the bound of one-run auditing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]


def two_sided(lower: float, upper: float) -> float:
    """Combine the chances of a smaller and of a larger value."""
    return min(1.0, 2 * min(lower, upper))


def normal_p(z: float) -> float:
    """Chance of a standard normal at least as far from 0."""
    return float(2 * stats.norm.sf(abs(z)))


def size_p(standardised: Array) -> float:
    """Whether numbers that should be standard normal have mean square 1."""
    total, n = float(np.square(standardised).sum()), standardised.size
    return two_sided(float(stats.chi2.cdf(total, n)), float(stats.chi2.sf(total, n)))


def mean_p(standardised: Array) -> float:
    """Whether the mean over rows of (n_rows, n_columns) standard normals is 0 in every column."""
    rows, columns = standardised.shape
    return float(stats.chi2.sf(rows * float(np.square(standardised.mean(axis=0)).sum()), columns))


def shape_p(standardised: Array) -> float:
    """Whether numbers are standard normal (Kolmogorov and Smirnov)."""
    return float(stats.kstest(standardised.ravel(), "norm").pvalue)


def normal_scores(below: Array, above: Array) -> Array:
    """Turn chances of smaller and of larger values into the standard normal numbers with these chances."""
    tiny = np.finfo(np.float64).tiny
    lower, upper = stats.norm.ppf(np.maximum(below, tiny)), stats.norm.isf(np.maximum(above, tiny))
    scores: Array = np.where(below < above, lower, upper)
    return scores


def binomial_scores(values: Array, trials: int, rate: float, deviation: float) -> Array:
    """Return exactly standard normal numbers where each value is Binomial(trials, rate) plus N(0, deviation^2)."""
    k = np.arange(trials + 1)
    weights = stats.binom.pmf(k, trials, rate)
    at = (np.asarray(values)[:, None] - k) / deviation
    return normal_scores(stats.norm.cdf(at) @ weights, stats.norm.sf(at) @ weights)


def rounded_scores(values: Array, scale: float, law: str, random: np.random.Generator) -> Array:
    """Return exactly standard normal numbers where each value is Laplace or Gaussian noise, rounded to an integer.

    The chance of a smaller value is drawn evenly between those of the integer's two edges.
    """
    noise = {"laplace": stats.laplace, "gaussian": stats.norm}[law]
    part = random.random(values.shape)
    # By symmetry from the side where the chances are small, so that none is lost in a 1 - p.
    size = np.abs(values)
    near, far = noise.sf((size - 0.5) / scale), noise.sf((size + 0.5) / scale)
    beyond = far + part * (near - far)
    return np.where(values >= 0, 1.0, -1.0) * normal_scores(1 - beyond, beyond)


def products_p(products: Array, *, chained: bool = False) -> float:
    """Whether products of independent standard normal pairs add up to 0; `chained` where pairs share a number."""
    if not products.size:
        return 1.0
    return float(_forms_p(np.array(abs(float(products.sum()))), np.array(products.size), 2.0 if chained else 1.0))


def _forms_p(totals: Array, counts: Array, reach: float) -> Array:
    """Chance that sums of `counts` products of standard normal pairs are at least `totals` away from 0.

    Laurent and Massart 2000, lemma 1: a form sum_ij a_ij x_i x_j with zero diagonal exceeds 2 |a|_F sqrt(t) + 2 |a| t
    with a chance of at most e^-t. Here |a|_F^2 = count / 2, and |a| = reach / 2: 1/2 for separate pairs, at most 1 for
    chains.
    """
    root = (np.sqrt(2 * counts + 4 * reach * totals) - np.sqrt(2 * counts)) / (2 * reach)
    chances: Array = np.minimum(1.0, 2 * np.exp(-np.square(root)))
    return chances


#: Products at a lag, or about a centre, below which they say little.
_LEAST = 8


def lags_p(vectors: Array) -> float:
    """Whether the numbers of each vector (n, d) are unrelated to each other, forwards at every lag and mirrored.

    For each lag s the sum of x[i] x[i + s], and for each centre m / 2 that of x[i] x[m - i] over i < m - i: of each
    vector, and of all of them together, since a mistake has its place in the code. Sizes without signs are looked
    at in the same way, as the standard normal numbers that belong to them. The smallest chance (`_forms_p`) is
    multiplied by the number of looks.
    """
    n, d = vectors.shape
    least = _LEAST if d >= 2 * _LEAST else 1  # of short vectors all together may say enough
    if d < 2:
        return 1.0
    sizes = normal_scores(stats.chi2.cdf(np.square(vectors), 1), stats.chi2.sf(np.square(vectors), 1))
    sizes = sizes.clip(-4.0, 4.0)  # a number on a grid may be 0, whose score has no end; shorter is within the bound
    lags, centres = np.arange(1, d - least + 1), np.arange(2 * least - 1, 2 * d - 2 * least)
    pairs = (np.minimum(centres, 2 * (d - 1) - centres) + 1) // 2
    smallest, looks = 1.0, 0
    for numbers in (vectors, sizes):
        spectrum = np.fft.rfft(numbers, 2 * d)
        chained = np.fft.irfft(np.abs(spectrum) ** 2, 2 * d)[:, lags]
        # Every pair counts twice in a convolution, and a number in the centre once with itself.
        both = np.fft.irfft(spectrum**2, 2 * d)[:, centres]
        both[:, centres % 2 == 0] -= np.square(numbers[:, centres[centres % 2 == 0] // 2])
        for sums, counts, reach in ((chained, d - lags, 2.0), (both / 2, pairs, 1.0)):
            alone = _forms_p(np.abs(sums).max(axis=0), counts, reach)
            together = _forms_p(np.abs(sums.sum(axis=0)), n * counts, reach)
            smallest = min(smallest, float(alone.min()), float(together.min()))
            looks += (n + 1) * len(counts)
    return min(1.0, smallest * looks)


_REACHES = (2.5, 2.75, 3.0, 3.25, 3.5, 4.0, 4.5, 5.0)


def tails_p(standardised: Array) -> float:
    """Whether as many numbers as the law has are beyond 2.5 to 5 deviations, on either side.

    The counts are Binomial with the normal law's chances; both too few and too many count. Some limits lie between the
    whole numbers: a tail that is cut at 3 may lie at 3 and a little. To see that takes some 25,000 numbers.
    """
    size = np.asarray(standardised).size
    smallest = 1.0
    for reach in _REACHES:
        for side in (standardised, -standardised):
            beyond, law = int((side > reach).sum()), stats.binom(size, stats.norm.sf(reach))
            smallest = min(smallest, two_sided(float(law.cdf(beyond)), float(law.sf(beyond - 1))))
    return min(1.0, 2 * len(_REACHES) * smallest)


def alike_p(vectors: Array) -> float:
    """Whether independent standard normal vectors (n, d) are unlike each other: at any shift, mirrored, of either sign.

    Three laws, each with the smallest chance over all pairs times the number of looks: |x -/+ y|^2 / 2 is
    chi-square with d degrees; <x, y shifted> / |y shifted| is standard normal (no shift included), and so it is for y
    read backwards.
    """
    n, d = vectors.shape
    if n < 2:
        return 1.0
    first, second = np.triu_indices(n, 1)
    x, y = vectors[first], vectors[second]
    looks = 2 * len(first)
    smallest = (
        min(
            float(stats.chi2.cdf(np.square(x - y).sum(axis=1).min() / 2, d)),
            float(stats.chi2.cdf(np.square(x + y).sum(axis=1).min() / 2, d)),
        )
        * looks
    )
    return min(1.0, 3 * min([smallest, _shifted_p(x, y), _shifted_p(x, y[:, ::-1])]))


def _shifted_p(x: Array, y: Array) -> float:
    """Smallest chance of <x, y shifted> over pairs of rows and shifts in both directions, times the looks."""
    d = x.shape[1]
    # All shifts at once: sum_i x[i + s] y[i] by FFT, over the norm of the part of y that meets x.
    size = 2 * d
    crossed = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size)), size)
    head = np.sqrt(np.cumsum(np.square(y), axis=1))
    tail = np.sqrt(np.cumsum(np.square(y[:, ::-1]), axis=1))
    shifts = np.arange(max(1, d - _LEAST + 1))
    ahead = crossed[:, shifts] / head[:, d - shifts - 1]
    behind = crossed[:, -shifts] / tail[:, d - shifts - 1]
    largest = max(float(np.abs(ahead).max()), float(np.abs(behind).max()))
    return min(1.0, normal_p(largest) * 2 * len(x) * len(shifts))


def guesses_p(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Chance of at least `correct` right guesses against an (epsilon, delta)-DP algorithm.

    Steinke, Nasr and Jagielski 2023, *Privacy Auditing with One (1) Training Run*, Theorem 5.2 with independent
    fair coins: P[W >= v] <= P[B >= v] + 2 m delta max_i (P[B >= v - i] - P[B >= v]) / i, B ~ Binomial(r,
    e^epsilon / (1 + e^epsilon)).

    Parameters
    ----------
    canaries : m, units whose presence a fair coin decided.
    guesses : r, of them were guessed at (the others: abstained).
    correct : v.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"wanted 0 <= correct <= guesses <= canaries, got {correct}, {guesses}, {canaries}")
    right = stats.binom(guesses, 1 / (1 + math.exp(-epsilon)))
    at_least = float(right.sf(correct - 1))
    if correct == 0 or delta == 0:
        return min(1.0, at_least)
    i = np.arange(1, correct + 1)
    slope = float(((right.sf(correct - i - 1) - at_least) / i).max())
    return min(1.0, at_least + 2 * canaries * delta * slope)


def epsilon_lower_bound(canaries: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """Largest epsilon that the guesses refute at `level`; 0 when they refute none."""
    low, high = 0.0, 1.0
    if guesses_p(canaries, guesses, correct, 0.0, delta) >= level:
        return 0.0
    while guesses_p(canaries, guesses, correct, high, delta) < level and high < 64:
        high *= 2
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if guesses_p(canaries, guesses, correct, middle, delta) < level else (low, middle)
    return low
