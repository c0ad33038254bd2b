"""Generators: from the operating system's entropy for noise and draws, from a seed for everything else.

Formal guarantees
-----------------
* A `FreshNoise` carries 19,968 bits of entropy. torch's CPU generator keeps only the low 32 bits of a
  *seed* (``manual_seed(5)`` equals ``manual_seed(5 + 2**32)``), so that an observer could try all of them
  and subtract the noise; here the whole Mersenne-Twister state is filled from ``os.urandom`` instead.
* It never comes from, or touches, a global generator, and refuses to be used in a process other than the
  one that made it: a forked worker would repeat its parent's noise bit by bit.

Not guaranteed: the Mersenne Twister is no cryptographic generator, and Gaussian noise in floating point
leaks in its low bits (Mironov 2012). `privacy.secure_noise` has neither fault and is the default when deployed.
"""

import hashlib
import os
from typing import Any, Final

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import PlanError

__all__ = [
    "FreshNoise",
    "KeyStream",
    "check_usable",
    "fresh_generator",
    "fresh_key",
    "numpy_generator",
    "seeded_generator",
]

_WORDS: Final = 624  # of 32 bits: the state of MT19937
_STATE_AT: Final = 3  # in torch's saved state, as 64-bit words: seed; left and seeded; next; then the state


def _fill(generator: torch.Generator, entropy: bytes) -> None:
    """Set all 624 words of `generator`'s state (the layout is checked by a test against a plain seed)."""
    generator.manual_seed(0)
    saved = generator.get_state().numpy().copy()
    saved.view(np.uint64)[_STATE_AT : _STATE_AT + _WORDS] = np.frombuffer(entropy, dtype="<u4")
    generator.set_state(torch.from_numpy(saved))


class KeyStream:
    """AES-256-CTR under a key from the operating system, for one attempt in one process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit words; refuse in a process other than the one that made the stream."""
        if os.getpid() != self._pid:
            raise PlanError(
                "generator: wanted one made in this process, got one inherited over a fork, which would "
                "repeat its parent's noise; call fresh_generator() after the fork"
            )
        return np.frombuffer(self._stream.update(bytes(8 * count)), dtype="<u8")

    def __reduce__(self) -> Any:
        raise PlanError("generator: a fresh generator cannot be copied or sent; call fresh_generator() there")


class FreshNoise(torch.Generator):
    """A private CPU generator filled from the operating system's entropy when it is made.

    `stream` is its cryptographic twin: Poisson draws and secure noise come from there.

    Make one for every attempt, after any fork. `check` refuses it in any other process.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "FreshNoise":
        return super().__new__(cls)

    def __init__(self) -> None:
        self._pid = os.getpid()
        self.stream = KeyStream()
        _fill(self, os.urandom(4 * _WORDS))

    def check(self) -> None:
        """Raise PlanError when this process is not the one that made the generator."""
        if os.getpid() != self._pid:
            raise PlanError(
                "generator: wanted one made in this process, got one inherited over a fork, which would "
                "repeat its parent's noise; call fresh_generator() after the fork"
            )

    def __reduce__(self) -> Any:
        raise PlanError("generator: a fresh generator cannot be copied or sent; call fresh_generator() there")


def fresh_generator() -> FreshNoise:
    """Return a new generator for claimed DP: noise and Poisson draws of one attempt."""
    return FreshNoise()


def fresh_key() -> bytes:
    """Return 32 bytes of the operating system's entropy: the key of one stream, for one use in one process."""
    return os.urandom(32)


def check_usable(generator: torch.Generator) -> None:
    """Refuse anything that is no private CPU generator, and a fresh one that was inherited over a fork."""
    if not isinstance(generator, torch.Generator) or generator is torch.default_generator:
        raise PlanError("generator: wanted fresh_generator(), got a global or no generator")
    if generator.device.type != "cpu":
        raise PlanError(f"generator: wanted one on the CPU, got {generator.device}")
    if isinstance(generator, FreshNoise):
        generator.check()


def _digest(parts: tuple[str | int, ...], length: int) -> bytes:
    # Length-prefixed and typed, so that ("ab", 1) and ("a", "b1") or ("1",) and (1,) never collide.
    body = b"".join(f"{type(part).__name__}:{len(str(part).encode())}:".encode() + str(part).encode() for part in parts)
    return hashlib.shake_256(hashlib.sha256(body).digest()).digest(length)


def seeded_generator(*parts: str | int) -> torch.Generator:
    """Return a reproducible generator: initialisation, synthetic rows, simulation. Never for claimed DP."""
    generator = torch.Generator()
    _fill(generator, _digest(parts, 4 * _WORDS))
    return generator


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """Return the NumPy twin of `seeded_generator` (another stream)."""
    return np.random.default_rng(int.from_bytes(_digest(("numpy", *parts), 32), "big"))
