"""Tests with known laws, two-sided where nothing else is said, and the bound of one-run auditing."""

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
    """Whether products of independent standard normal pairs add up to 0; `chained` where pairs share a number.

    Laurent and Massart 2000, lemma 1: a form sum_ij a_ij x_i x_j with zero diagonal exceeds 2 |a|_F sqrt(t) + 2 |a| t
    with a chance of at most e^-t. Here |a|_F^2 = count / 2, and |a| is 1/2 for separate pairs, at most 1 for a chain.
    """
    count = products.size
    if not count:
        return 1.0
    total, reach = abs(float(products.sum())), 2.0 if chained else 1.0
    root = (math.sqrt(2 * count + 4 * reach * total) - math.sqrt(2 * count)) / (2 * reach)
    return min(1.0, 2 * math.exp(-(root**2)))


def alike_p(vectors: Array) -> float:
    """Whether independent standard normal vectors (n, d) are unlike each other, at any shift and either sign.

    Three laws, each with the smallest chance over all pairs times the number of looks: |x -/+ y|^2 / 2 is
    chi-square with d degrees; <x, y shifted> / |y shifted| is standard normal.
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
    aligned = np.abs((x * y).sum(axis=1) / np.linalg.norm(y, axis=1)).max()
    smallest = min(smallest, normal_p(float(aligned)) * len(first))
    least = 8  # fewer numbers in common say little
    if d > least:
        # All shifts at once: sum_i x[i + s] y[i] by FFT, over the norm of the part of y that meets x.
        size = 2 * d
        crossed = np.fft.irfft(np.fft.rfft(x, size) * np.conj(np.fft.rfft(y, size)), size)
        head = np.sqrt(np.cumsum(np.square(y), axis=1))
        tail = np.sqrt(np.cumsum(np.square(y[:, ::-1]), axis=1))
        shifts = np.arange(1, d - least + 1)
        ahead = crossed[:, shifts] / head[:, d - shifts - 1]
        behind = crossed[:, size - shifts] / tail[:, d - shifts - 1]
        largest = max(float(np.abs(ahead).max()), float(np.abs(behind).max()))
        smallest = min(smallest, normal_p(largest) * 2 * len(first) * len(shifts))
    return min(1.0, 3 * smallest)


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
