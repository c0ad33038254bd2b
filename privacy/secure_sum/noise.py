"""One member's share of the noise: a rounded Gaussian from a cryptographic stream.

Box & Muller 1958, *A Note on the Generation of Random Normal Deviates*, on AES-256-CTR under a key from fresh entropy
and the attempt's context, made for this call alone. 53-bit uniforms: values reach 8.5 standard deviations.
"""

import math
from typing import Final

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_key

__all__ = ["LEAST_STD", "rounded_gaussian"]

#: In steps: below, a sum of rounded Gaussians is no longer accounted as a Gaussian.
LEAST_STD: Final = 8.0
_CHUNK: Final = 1 << 15  # fits the cache


def rounded_gaussian(count: int, std: float, context: NoiseContext) -> NDArray[np.int64]:
    """Return `count` independent whole numbers round(N(0, std^2)), under a key bound to `context`.

    Raises
    ------
    PlanError
        When `std` is below 8 steps.
    """
    if not (math.isfinite(std) and std >= LEAST_STD):
        raise PlanError(f"std: wanted at least {LEAST_STD:g} steps, got {std!r}")
    stream = Cipher(algorithms.AES(fresh_key(context)), modes.CTR(bytes(16))).encryptor()
    out = np.empty(count, dtype=np.int64)
    half = _CHUNK // 2
    zeros, pair, square = bytes(8 * _CHUNK), np.empty(_CHUNK), np.empty(half)
    for start in range(0, count, _CHUNK):
        words = np.frombuffer(stream.update(zeros), dtype="<u8") >> np.uint64(11)
        radius, angle = words[:half].astype(np.float64), words[half:].astype(np.float64)
        radius += 1.0
        radius *= 2.0**-53
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        radius *= std
        # With t = tan(angle / 2): cosine (1 - t^2) / (1 + t^2) and sine 2 t / (1 + t^2), half the time of both.
        angle *= math.pi * 2.0**-53
        angle -= math.pi / 2
        np.tan(angle, out=angle)
        np.multiply(angle, angle, out=square)
        np.subtract(1.0, square, out=pair[:half])
        np.multiply(angle, 2.0, out=pair[half:])
        square += 1.0
        radius /= square
        pair[:half] *= radius
        pair[half:] *= radius
        np.rint(pair, out=pair)
        out[start : start + _CHUNK] = pair[: count - start]
    return out
