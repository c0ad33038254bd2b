"""Exact Poisson sampling by unit: the law that the accounting of DP-SGD assumes."""

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from consortia_plugins.arguments import named_arguments
from privacy.errors import PlanError
from privacy.randomness import FreshNoise, KeyStream

__all__ = ["poisson_draws", "poisson_sample"]


#: Below this rate it is quicker to draw the gaps between the drawn units than a word for every unit.
_RARE: Final = 0.25

#: Units that are expected in draws made together.
_TOGETHER: Final = 1 << 14


def _by_unit(n_units: int, rate: float, stream: KeyStream) -> NDArray[np.int64]:
    return np.flatnonzero(stream.words(n_units) < np.uint64(int(rate * 2**64)))


def _by_gaps(n_units: int, rate: float, stream: KeyStream) -> NDArray[np.int64]:
    """Draw the units between two drawn ones: geometric, floor(log u / log(1 - rate)) for uniform u in (0, 1].

    Work grows with the units drawn, not with all of them. A gap of g or more has probability (1 - rate)^g up to
    the rounding of a logarithm, a factor 1 +- g x 2^-50.
    """
    pieces: list[NDArray[np.int64]] = []
    last = -1
    while last < n_units:
        expected = rate * (n_units - last)
        count = int(expected + 4 * math.sqrt(expected)) + 8
        uniform = (stream.words(count).astype(np.float64) + 1) * 2.0**-64
        gaps = np.minimum(np.log(uniform) / math.log1p(-rate), n_units).astype(np.int64)
        places = last + np.cumsum(gaps + 1)
        pieces.append(places)
        last = int(places[-1])
    places = np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
    return places[: np.searchsorted(places, n_units)]


@named_arguments(PlanError)
def poisson_sample(n_units: int, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Draw each unit independently with probability `rate`.

    The size of a draw is Binomial(n_units, rate): it may be 0, and no draw is ever cut to a batch size. A fresh
    generator draws from its cryptographic key stream, with a rate exact to a factor 1 +- 2^-48; a seeded one has 53
    bits (float32 would round the rate to 2^-24).

    Parameters
    ----------
    n_units : number of units in the partition, >= 0.
    rate : public sampling rate in (0, 1].
    generator : private generator (`privacy.randomness.fresh_generator`).

    Returns
    -------
    Tensor of int64, shape (k,), ascending unit indices.
    """
    if n_units < 0:
        raise PlanError(f"n_units: wanted >= 0, got {n_units}")
    if not 0 < rate <= 1:
        raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {rate!r}")
    if isinstance(generator, FreshNoise):
        if rate == 1:
            return torch.arange(n_units)
        drawn = _by_gaps(n_units, rate, generator.stream) if rate < _RARE else _by_unit(n_units, rate, generator.stream)
        return torch.from_numpy(drawn)
    return (torch.rand(n_units, generator=generator, dtype=torch.float64) < rate).nonzero().flatten()


def poisson_draws(n_units: int, rate: float, draws: int, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield `draws` independent ones of `poisson_sample`.

    Units one after the other, draw after draw, are one sequence of independent trials: from the key stream of a fresh
    generator many draws of it are made at once, by their gaps. A seeded generator draws when asked, one by one.
    """
    if not (isinstance(generator, FreshNoise) and 0 < rate < _RARE and n_units > 0):
        for _ in range(draws):
            yield poisson_sample(n_units, rate, generator)
        return
    together = max(1, min(draws, int(_TOGETHER / (rate * n_units + 1))))
    for done in range(0, draws, together):
        count = min(together, draws - done)
        places = _by_gaps(count * n_units, rate, generator.stream)
        starts = np.arange(count + 1) * n_units
        bounds = np.searchsorted(places, starts).tolist()
        for start, low, high in zip(starts.tolist(), bounds, bounds[1:], strict=False):
            generator.check()
            yield torch.from_numpy(places[low:high] - start)
