"""Private set intersection by blinded points of P-256, x coordinates only (Huberman, Franklin & Hogg 1999; Meadows
1986).

Each side raises a hash of every identifier to its secret power, a or b; (H^a)^b = (H^b)^a. The label owner sends its
blinded list in the order of its rows. A partner sends its own list blinded and shuffled. The label owner raises that
list to its power, in the same order. The partner raises the label owner's list to its own power and compares. The
partner learns "row number j is my record", and nothing about rows that it does not know. The label owner learns the
length of the partner's list.

P-256 has prime order, and OpenSSL refuses points that are not on it. So there are no small subgroups and no twist
(X25519 leaks one bit of every raw hash that way). The `cryptography` package computes powers and decompresses points.

Formal guarantees (decisional Diffie-Hellman in the random oracle model, semi-honest)
-------------------------------------------------------------------------------------
* Powers are new for each contract and batch, and the hash is bound to the context. So lists of two runs cannot be
  joined.
* A received list must have at most `cap` points, and each must be on the curve. Otherwise the whole list is refused.
* Every identifier is exactly one point, also with line breaks, null characters or lone surrogates. Two different texts
  are two points.

Not guaranteed: a side that puts guessed identifiers into its list learns which of them the other side has. The cap
limits this.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common.errors import PointsError

__all__ = [
    "POINT",
    "blind",
    "distinct",
    "hash_to_curve",
    "keyed",
    "match",
    "new_power",
    "raise_points",
    "shuffled",
]

#: Bytes of a point: its x coordinate.
POINT: Final = 32
_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_DH: Final = ec.ECDH()
#: From this size on other processes help. Threads cannot, because OpenSSL is called under the interpreter's lock.
_MANY: Final = 20_000
_CHUNK: Final = 10_000
Progress = Callable[[int, int], None]


def new_power() -> bytes:
    """Return a new secret power: 32 bytes, uniform in 1..order-1."""
    return (secrets.randbelow(_ORDER - 1) + 1).to_bytes(32, "big")


def keyed(identifier: str, key: bytes) -> str:
    """Return the identifier hashed with a trusted authority's key. Without the key nobody can guess identifiers."""
    return hmac.new(key, _bytes(identifier), hashlib.sha256).hexdigest()


def hash_to_curve(context: bytes, identifier: str) -> bytes:
    """Return the x coordinate of the identifier's point: the first of SHA-256(context, counter, identifier) on the
    curve.

    Its time depends on the identifier (two tries on average). It is computed at home, and only a power of it leaves.
    """
    return _hashed(context, identifier)[0]


def _bytes(identifier: str) -> bytes:
    """Return the identifier in UTF-8. A lone surrogate, which UTF-8 does not allow, is encoded anyway."""
    if not isinstance(identifier, str):
        raise PointsError(f"identifier: wanted text, got {type(identifier).__name__}")
    return identifier.encode("utf-8", "surrogatepass")


def _hashed(context: bytes, identifier: str) -> tuple[bytes, ec.EllipticCurvePublicKey]:
    body = hashlib.sha256(context).digest() + _bytes(identifier)
    for counter in range(256):
        x = hashlib.sha256(bytes([counter]) + body).digest()
        try:
            return x, ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x02" + x)
        except ValueError:
            continue
    raise PointsError("identifier: no point in 256 tries")  # pragma: no cover (probability 2^-256)


def blind(context: bytes, identifiers: Sequence[str], power: bytes, progress: Progress | None = None) -> bytes:
    """Return the identifiers' points raised to the power, in their order, `POINT` bytes each.

    Raises
    ------
    PointsError
        An identifier is not a text, or the power is not valid (`new_power`).
    """
    _check_power(power)
    for identifier in identifiers:
        if not isinstance(identifier, str):  # checked here, before another process is started
            raise PointsError(f"identifier: wanted text, got {type(identifier).__name__}")
    chunks = [list(identifiers[i : i + _CHUNK]) for i in range(0, len(identifiers), _CHUNK)]
    if len(identifiers) < _MANY:
        return b"".join(_blind_chunk(context, chunk, power) for chunk in chunks)
    # JSON in ASCII separates any texts unambiguously.
    jobs = (("blind", context.hex(), json.dumps(chunk).encode("ascii")) for chunk in chunks)
    return b"".join(_in_processes(jobs, power, len(chunks), progress))


def raise_points(points: bytes, power: bytes, cap: int, progress: Progress | None = None) -> bytes:
    """Return received points raised to the power, in their order.

    Raises
    ------
    PointsError
        There are more than `cap` points, the length is not a multiple of `POINT`, a point is not on the curve, or the
        power is not valid (`new_power`).
    """
    _check_power(power)
    count, rest = divmod(len(points), POINT)
    if rest or count > cap:
        raise PointsError(f"points: wanted at most {cap} of {POINT} bytes each, got {len(points)} bytes")
    chunks = [points[i : i + _CHUNK * POINT] for i in range(0, len(points), _CHUNK * POINT)]
    if count < _MANY:
        return b"".join(_raise_chunk(chunk, power) for chunk in chunks)
    return b"".join(_in_processes((("raise", "", chunk) for chunk in chunks), power, len(chunks), progress))


def distinct(points: bytes) -> bool:
    """Return whether every point is in the list only once. A repeated person would count as two."""
    places = range(0, len(points), POINT)
    return len({points[i : i + POINT] for i in places}) == len(places)


def shuffled(count: int) -> list[int]:
    """Return a secret random order of `count` items, from the operating system's entropy."""
    order = list(range(count))
    secrets.SystemRandom().shuffle(order)
    return order


def match(theirs: bytes, mine: bytes) -> list[int]:
    """Return for each row of the other side's twice-raised list its index in the own list, or -1.

    Parameters
    ----------
    theirs : bytes
        The label owner's list, raised by both sides, in its row order.
    mine : bytes
        The own list, raised by both sides, in the order in which it was sent.
    """
    place = {mine[i : i + POINT]: i // POINT for i in range(0, len(mine), POINT)}
    return [place.get(theirs[i : i + POINT], -1) for i in range(0, len(theirs), POINT)]


def _check_power(power: bytes) -> None:
    if not isinstance(power, bytes) or len(power) != 32 or not 0 < int.from_bytes(power, "big") < _ORDER:
        raise PointsError("power: wanted 32 bytes, a number from 1 to the curve's order - 1; make it with new_power()")


def _key(power: bytes) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(int.from_bytes(power, "big"), _CURVE)


def _blind_chunk(context: bytes, identifiers: Iterable[str], power: bytes) -> bytes:
    key = _key(power)
    return b"".join(key.exchange(_DH, _hashed(context, identifier)[1]) for identifier in identifiers)


def _raise_chunk(points: bytes, power: bytes) -> bytes:
    key = _key(power)
    parts = []
    for i in range(0, len(points), POINT):
        try:
            point = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, b"\x02" + points[i : i + POINT])
        except ValueError:
            raise PointsError("points: wanted x coordinates on P-256, got one that is not") from None
        parts.append(key.exchange(_DH, point))
    return b"".join(parts)


def _in_processes(
    jobs: Iterable[tuple[str, str, bytes]], power: bytes, total: int, progress: Progress | None
) -> list[bytes]:
    """Process the chunks in one process for each core. The secret power goes through a pipe, never through a command
    line."""

    def one(job: tuple[str, str, bytes]) -> bytes:
        what, context, body = job
        done = subprocess.run(  # noqa: S603 - our own module
            [sys.executable, "-P", "-m", "consortia.vertical.psi", what, context],
            input=power + body,
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        if done.returncode != 0:
            raise PointsError("points: a worker refused its chunk (not on the curve, or it could not start)")
        return done.stdout

    results = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for number, result in enumerate(pool.map(one, jobs), start=1):
            results.append(result)
            if progress is not None:
                progress(number, total)
    return results


def _worker(what: str, context: str) -> int:
    data = sys.stdin.buffer.read()
    power, body = data[:32], data[32:]
    try:
        if what == "blind":
            result = _blind_chunk(bytes.fromhex(context), json.loads(body), power)
        else:
            result = _raise_chunk(body, power)
    except ValueError:
        return 1
    sys.stdout.buffer.write(result)
    return 0


if __name__ == "__main__":
    sys.exit(_worker(*sys.argv[1:]))
