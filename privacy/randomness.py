"""Makes generators: from fresh entropy for noise and draws, from a seed for everything else.

Formal guarantees
-----------------
* A key is HKDF-SHA256 (RFC 5869) of 32 bytes of ``os.urandom`` with the `NoiseContext` as its info: 256 bits of
  entropy, all of which enter the key. Poisson draws and secure noise are AES-256-CTR under it.
* A machine that was restored from a snapshot may get the same 32 bytes twice. The context (purpose; run, round and
  hash of the incoming model and contract; attempt; head of the ledger) is then another one, or the release is the
  answer to the very same message: never another model, attempt or ledger with the same noise.
* torch's CPU generator keeps only the low 32 bits of a *seed* (``manual_seed(5)`` equals ``manual_seed(5 + 2**32)``),
  so that an observer could try all of them and subtract the noise; here all 19,968 bits of the Mersenne Twister's
  state come from a second key of the same derivation.
* A generator never comes from, or touches, a global one, and refuses to be used in a process other than the
  one that made it: a forked worker would repeat its parent's noise bit by bit.

What remains when entropy repeats: the same message answered twice by one snapshot *with its ledger* gets the same
noise, on the same sum when the rows are the same (which tells nothing new, and is what the outbox would have sent). If
the rows changed in between, the difference of two such answers is exact; a coordinator's anchor refuses the restored
ledger (`consortia.participant.ledger_witness`), but only if a reply has left since. Entropy that an attacker *knows*
protects nothing, for the context is public.

Not guaranteed: the Mersenne Twister is no cryptographic generator, and Gaussian noise in floating point
leaks in its low bits (Mironov 2012). `privacy.secure_noise` has neither fault and is the default when deployed.
"""

import functools
import hashlib
import itertools
import os
import threading
import time
from typing import Any, Final

import numpy as np
import torch
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from privacy.errors import PlanError
from privacy.noise_context import NoiseContext

__all__ = [
    "FreshNoise",
    "KeyStream",
    "check_usable",
    "fresh_generator",
    "fresh_key",
    "numpy_generator",
    "seeded_generator",
]

_ENTROPY: Final = 32  # bytes asked of the operating system for each key
_PROTOCOL: Final = b"consortia-noise/1"
_ZEROS: Final = memoryview(bytes(1 << 20))  # what is encrypted
_WORDS: Final = 624  # of 32 bits: the state of MT19937
_STATE_AT: Final = 3  # in torch's saved state, as 64-bit words: seed; left and seeded; next; then the state


def _fill(generator: torch.Generator, entropy: bytes) -> None:
    """Set all 624 words of `generator`'s state (the layout is checked by a test against a plain seed)."""
    saved = _seeded().copy()
    saved.view(np.uint64)[_STATE_AT : _STATE_AT + _WORDS] = np.frombuffer(entropy, dtype="<u4")
    generator.set_state(torch.from_numpy(saved))


@functools.cache
def _seeded() -> NDArray[np.uint8]:
    """Return the state of a generator that was just seeded; nobody may change it."""
    return torch.Generator().manual_seed(0).get_state().numpy()


_uses = itertools.count()


def _unbound() -> NoiseContext:
    """Return a context for noise that answers no message (experiments, tests): another one at every call."""
    return NoiseContext(purpose="unbound", message=str(time.time_ns()), attempt=next(_uses), ledger="")


def _derive(context: NoiseContext, length: int) -> bytes:
    if not isinstance(context, NoiseContext):
        raise PlanError(
            f"context: wanted the NoiseContext of a release, got {type(context).__name__}; "
            "without it a restored machine could repeat its noise for another model"
        )
    return HKDF(hashes.SHA256(), length, salt=_PROTOCOL, info=context.encoded()).derive(os.urandom(_ENTROPY))


def _zeros(count: int) -> Any:
    return _ZEROS[:count] if count <= len(_ZEROS) else bytes(count)


class KeyStream:
    """AES-256-CTR under a key of its own, for one use in one attempt in one process.

    Parameters
    ----------
    context : what the stream is for.
    key : 32 bytes that were derived for it already; by default they are derived here, from fresh entropy.
    """

    def __init__(self, context: NoiseContext, key: bytes | None = None) -> None:
        self._pid = os.getpid()
        key = fresh_key(context) if key is None else key
        #: What `privacy.secure_noise` drew for the next steps of this attempt.
        self.ahead: list[Any] = []
        self._lock = threading.Lock()  # the cipher refuses two threads at once
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def check(self) -> None:
        """Raise PlanError when this process is not the one that made the stream."""
        if os.getpid() != self._pid:
            raise PlanError(
                "generator: wanted one made in this process, got one inherited over a fork, which would "
                "repeat its parent's noise; call fresh_generator() after the fork"
            )

    def octets(self, count: int) -> NDArray[np.uint8]:
        """Return `count` uniform bytes; refuse in a process other than the one that made the stream."""
        self.check()
        out = np.empty(count, dtype=np.uint8)
        with self._lock:
            self._stream.update_into(_zeros(count), out.data)
        return out

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return `count` uniform 64-bit words."""
        return self.octets(8 * count).view("<u8")

    def bytes(self, count: int) -> bytes:
        """Return `count` uniform bytes, out of whole words of the stream."""
        return self.words(-(-count // 8)).tobytes()[:count]

    def __reduce__(self) -> Any:
        raise PlanError("generator: a fresh generator cannot be copied or sent; call fresh_generator() there")


class FreshNoise(torch.Generator):
    """A private CPU generator filled from fresh entropy and the release's context when it is made.

    `stream` is its cryptographic twin: Poisson draws and secure noise come from there.

    Make one for every attempt, after any fork. `check` refuses it in any other process.
    """

    def __new__(cls, *_args: Any, **_kwargs: Any) -> "FreshNoise":
        return super().__new__(cls)

    def __init__(self, context: NoiseContext | None = None) -> None:
        context = _unbound() if context is None else context
        keys = _derive(context, 64)
        self.stream = KeyStream(context, keys[:32])
        _fill(self, KeyStream(context, keys[32:]).bytes(4 * _WORDS))

    def check(self) -> None:
        """Raise PlanError when this process is not the one that made the generator."""
        self.stream.check()

    def __reduce__(self) -> Any:
        raise PlanError("generator: a fresh generator cannot be copied or sent; call fresh_generator() there")


def fresh_generator(context: NoiseContext | None = None) -> FreshNoise:
    """Return a new generator for claimed DP: noise and Poisson draws of one attempt, under a key bound to `context`.

    Without a context the key is bound to the time and a counter: for experiments. The product always binds it
    (`tests/privacy/test_noise_keys_are_bound.py` reads its source).
    """
    return FreshNoise(context)


def fresh_key(context: NoiseContext) -> bytes:
    """Return a 32-byte key from fresh entropy, bound to `context`: for one use in one process."""
    return _derive(context, 32)


def check_usable(generator: torch.Generator) -> None:
    """Refuse anything that is no private CPU generator, and a fresh one that was inherited over a fork."""
    if not isinstance(generator, torch.Generator) or generator is torch.default_generator:
        raise PlanError("generator: wanted fresh_generator(context), got a global or no generator")
    if generator.device.type != "cpu":
        raise PlanError(f"generator: wanted one on the CPU, got {generator.device}")
    if isinstance(generator, FreshNoise):
        generator.check()


def _digest(parts: tuple[str | int, ...], length: int) -> bytes:
    # Length-prefixed and typed, so that ("ab", 1) and ("a", "b1") or ("1",) and (1,) never collide.
    named = ((type(part).__name__, str(part)) for part in parts)
    body = "".join([f"{kind}:{len(text.encode())}:{text}" for kind, text in named]).encode()
    return hashlib.shake_256(hashlib.sha256(body).digest()).digest(length)


def seeded_generator(*parts: str | int) -> torch.Generator:
    """Return a reproducible generator: initialisation, synthetic rows, simulation. Never for claimed DP."""
    generator = torch.Generator()
    _fill(generator, _digest(parts, 4 * _WORDS))
    return generator


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """Return the NumPy twin of `seeded_generator` (another stream)."""
    return np.random.default_rng(int.from_bytes(_digest(("numpy", *parts), 32), "big"))
