"""Every source of noise against every law: size, shape, tails, relations within a release and between releases.

Chance of a false alarm: each comparison is with 1e-8, and there are at most 70 of them in the file: below 1e-6 a run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from dp_step import SILENT, Linear, moved, plan
from noise_contexts import TEST
from numpy.typing import NDArray
from scipy import stats

from consortia.audit import statistics
from privacy._optimizer import NoisyOptimizer
from privacy.central import CentralPlan, noisy_mean
from privacy.dp_logistic import train_logistic
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.noise_context import NoiseContext
from privacy.randomized_response import keep_probability, respond
from privacy.randomness import KeyStream, fresh_generator
from privacy.sampling import poisson_draws
from privacy.secure_noise import Grid, discrete_gaussian
from privacy.secure_sum.noise import rounded_gaussian
from privacy.secure_sum.sharing import share
from privacy.stacked import OneGenerator

Array = NDArray[np.float64]
CHANCE = 1e-8
MANY = 12_000  # 32 numbers beyond 3 deviations
RELEASES = 3
EMPTY = np.zeros(0, dtype=np.int64)


def _steps(numbers: int, context: NoiseContext, *, secure: bool) -> Array:
    """The noise of two steps of one attempt, one after the other."""
    parameter = torch.nn.Parameter(torch.zeros(numbers))
    optimizer = NoisyOptimizer(
        torch.optim.SGD([parameter], lr=1.0),
        [parameter],
        noise_multiplier=2.0,
        max_grad_norm=1.0,
        expected_batch_size=1.0,
        generator=fresh_generator(context),
        secure=secure,
    )
    found = []
    for _ in range(2):
        optimizer.total = torch.zeros(numbers, dtype=torch.float64 if secure else torch.float32)
        optimizer.pre_step()
        found.append(optimizer._noisy.double().numpy().copy())
    grid = Grid(1.0, numbers)
    return np.concatenate(found) / (2.0 * (grid.sensitivity * grid.step if secure else 1.0))


def secure(context: NoiseContext) -> Array:
    return _steps(MANY // 2, context, secure=True)


def of_torch(context: NoiseContext) -> Array:
    return _steps(MANY // 2, context, secure=False)


def of_the_key_stream(context: NoiseContext) -> Array:
    return _steps(1 << 15, context, secure=False)


def narrow_grid(context: NoiseContext) -> Array:
    """Blocks of one integer: another branch of the sampler."""
    drawn = discrete_gaussian(MANY, 40.0, KeyStream(context))
    return statistics.rounded_scores(drawn, 40.0, "gaussian", np.random.default_rng())


def laplace_histogram(context: NoiseContext) -> Array:
    noise = HistogramNoise("laplace", 2.5)
    drawn = noisy_histogram(EMPTY, MANY, EMPTY, rows_per_unit=2, noise=noise, context=context)
    return statistics.rounded_scores(drawn, 5.0, "laplace", np.random.default_rng())


def gaussian_histogram(context: NoiseContext) -> Array:
    noise = HistogramNoise("gaussian", 0.7)
    drawn = noisy_histogram(EMPTY, MANY, EMPTY, rows_per_unit=1, noise=noise, context=context)
    return statistics.rounded_scores(drawn, 0.7, "gaussian", np.random.default_rng())


def share_of_a_sum(context: NoiseContext) -> Array:
    return rounded_gaussian(40_000, 5000.0, context) / 5000.0  # two chunks


def central(context: NoiseContext) -> Array:
    law = CentralPlan(noise_multiplier=3.0, clip=2.0, sampling_rate=0.5, units=10)
    grid = Grid(2.0, MANY)
    noise = noisy_mean([], MANY, law, fresh_generator(context)).numpy() * law.denominator
    return np.asarray(noise / (3.0 * grid.sensitivity * grid.step))


def vertical(context: NoiseContext) -> Array:
    weights = train_logistic(
        np.zeros((0, MANY)), EMPTY, noise_multiplier=4.0, steps=1, generator=fresh_generator(context), rate=1.0
    )
    return -weights / 8.0


def vectorised(context: NoiseContext) -> Array:
    out = [torch.empty(4, MANY // 8), torch.empty(4, MANY // 8)]
    OneGenerator(fresh_generator(context)).noise(out, torch.tensor([1.0, 1.0, 1.0, 1.0]))
    return torch.cat([tensor.flatten() for tensor in out]).double().numpy()


def randomised_response(context: NoiseContext) -> Array:
    flipped = respond(np.zeros(MANY, dtype=int), 2, 1.0, entropy=KeyStream(context).bytes) == 1
    keep, random = keep_probability(1.0, 2), np.random.default_rng()
    low, high = np.where(flipped, keep, 0.0), np.where(flipped, 1.0, keep)
    at = low + random.random(MANY) * (high - low)
    return statistics.normal_scores(at, 1 - at)


def shares_of_keys(context: NoiseContext) -> Array:
    shares = share(bytes(32), MANY // 5, 2, KeyStream(context))  # on a line through 0: its slope is what is drawn
    slopes = [int.from_bytes(share(bytes(32), 1, 2, KeyStream(context))[0], "big") for _ in range(MANY // 5)]
    assert len(set(shares)) == MANY // 5
    at = np.array([slope / 2.0**256 for slope in slopes]).clip(1e-12, 1 - 1e-12)
    return statistics.normal_scores(at, 1 - at)


GAUSSIAN = (secure, of_torch, of_the_key_stream, share_of_a_sum, central, vertical, vectorised)
SOURCES = (*GAUSSIAN, narrow_grid, laplace_histogram, gaussian_histogram, randomised_response, shares_of_keys)


def _contexts() -> list[NoiseContext]:
    """Attempts, rounds and participants (whose ledgers have heads of their own)."""
    return [NoiseContext(purpose="train", message=f"round {n}", attempt=n, ledger=f"{n:064x}") for n in range(RELEASES)]


def _chances(source: Callable[[NoiseContext], Array]) -> dict[str, float]:
    releases = np.array([source(context) for context in _contexts()])
    chances = {
        "size": statistics.size_p(releases),
        "shape": statistics.shape_p(releases),
        "tails": statistics.tails_p(releases),
        "relations within a release": statistics.lags_p(releases),
        "relations between releases": statistics.alike_p(releases),
    }
    if source in (secure, of_torch, of_the_key_stream):  # the two steps of each
        steps = np.concatenate(np.split(releases, 2, axis=1))
        chances["relations between steps"] = statistics.alike_p(steps)
    return chances


def again_p(first: Array, second: Array, rate: float) -> float:
    """Whether draws (n_draws, n_units) of two releases share units as often as independent ones do.

    A unit is in both draws of a pair with the chance rate^2, and all pairs of places are looked at, in order and in the
    order reversed.
    """
    smallest = 1.0
    for other in (second, second[::-1]):
        law = stats.binom(first.size, rate * rate)
        shared = int((first.astype(bool) & other.astype(bool)).sum())
        smallest = min(smallest, statistics.two_sided(float(law.cdf(shared)), float(law.sf(shared - 1))))
    return min(1.0, 2 * smallest)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_the_noise_keeps_every_law(source: Callable[[NoiseContext], Array]) -> None:
    chances = _chances(source)
    assert min(chances.values()) > CHANCE, chances


MIRRORS: dict[str, Callable[[Array], Array]] = {
    "mirrored half": lambda x: x[::-1],
    "mirrored half of other signs": lambda x: -x[::-1],
    "the same half": lambda x: x,
    "a half of the same sizes": lambda x: np.abs(x[::-1]) * np.sign(np.random.default_rng(0).normal(size=len(x))),
}


@pytest.mark.parametrize("change", MIRRORS, ids=str)
def test_a_half_that_follows_from_the_other_is_seen(change: str) -> None:
    noise = np.random.default_rng(1).normal(size=(1, 600))
    noise[:, 300:] = MIRRORS[change](noise[0, :300])
    assert statistics.lags_p(noise) < CHANCE
    assert min(statistics.size_p(noise), statistics.shape_p(noise)) > 1e-5  # which do not see it


def test_a_tail_that_is_cut_or_too_long_is_seen() -> None:
    noise = np.random.default_rng(1).normal(size=2 * MANY)
    assert statistics.tails_p(noise) > 1e-4
    assert statistics.tails_p(noise[np.abs(noise) < 3]) < CHANCE
    assert statistics.tails_p(np.where(np.abs(noise) > 2.5, 1.3 * noise, noise)) < CHANCE


@pytest.mark.parametrize("rate", [0.1, 0.4, 1.0])
def test_draws_of_two_rounds_and_two_attempts_are_independent(rate: float) -> None:
    """Both samplers, and every unit at rate 1: asked for with the same numbers, by generators of their own."""
    units, draws = 200, 30
    rounds = []
    for _ in range(3):
        drawn = np.zeros((draws, units))
        for place, one in enumerate(poisson_draws(units, rate, draws, fresh_generator(TEST))):
            drawn[place, one.numpy()] = 1
        rounds.append(drawn)
    for first, second in ((0, 1), (1, 2), (0, 2)):
        assert again_p(rounds[first], rounds[second], rate) > CHANCE
    assert rate == 1 or again_p(rounds[0], rounds[0], rate) < CHANCE
    assert rate == 1 or again_p(rounds[0], rounds[0][::-1], rate) < CHANCE


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_the_step_draws_anew_in_every_round(rate: float) -> None:
    """Row i has the features e_i, so that the update tells who was drawn."""
    units, rounds = 60, 40
    inputs, target = {"features": torch.eye(units)}, -torch.ones(units)
    law = plan(sampling_rate=rate, noise_multiplier=SILENT)
    drawn = np.array(
        [(moved(Linear(units), inputs, target, torch.arange(units), law).numpy() > 0.01) for _ in range(rounds)]
    ).astype(float)
    # Neighbouring rounds in pairs that share no round, so that the pairs are independent.
    assert again_p(drawn[1:-1:2], drawn[2::2], rate) > CHANCE
    assert again_p(drawn[::2], drawn[1::2], rate) > CHANCE
    # Given the first round, each of its units is in each other round with the rate.
    first = drawn[1:, drawn[0].astype(bool)]
    law, shared = stats.binom(first.size, rate), int(first.sum())
    assert statistics.two_sided(float(law.cdf(shared)), float(law.sf(shared - 1))) > CHANCE
    kept = np.repeat(drawn[[drawn.sum(1).argmax()]], rounds, axis=0)  # a round that drew next to nobody shows nothing
    assert again_p(kept[1:], kept[:-1], rate) < CHANCE
