"""Lets the audit and the tests see what noise is added to. Nobody else uses it.

Every mechanism tells here, right where it adds noise, the number it adds it to and the deviation of what it adds. That
is the one place in which a sum stands without noise, so it is not written, logged or kept: without an `observing` block
around it in the same thread `tell` does nothing, and the block's notes are gone with the block.

Formal guarantees
-----------------
* Nobody observes but a caller in this process and this context: no message, policy, environment variable or file turns
  it on. Whoever can open a block holds the rows already.
* What a mechanism releases does not depend on it: `tell` copies, returns nothing, and draws no random number.
* `tests/privacy/test_observation.py` holds the list of modules that may open a block.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["Note", "observed", "observing", "tell"]

Law = Literal["gaussian", "laplace"]


@dataclass(frozen=True)
class Note:
    """One addition of noise.

    Attributes
    ----------
    where : the mechanism.
    exact : float64 (d,), the sum as it was computed.
    noised : float64 (d,), what the noise was added to: `exact`, or what a public grid made of it.
    deviation : the scale of the noise in each coordinate, in the unit of the sum: a standard deviation, or Laplace's b.
    law : of the noise.
    noise : float64 (d,), the noise itself where the mechanism tells it: a share that leaves under a mask only.
    """

    where: str
    exact: NDArray[np.float64]
    noised: NDArray[np.float64]
    deviation: float
    law: Law
    noise: NDArray[np.float64] | None = None


_notes: Final[ContextVar[list[Note] | None]] = ContextVar("privacy_notes", default=None)


@contextmanager
def observing() -> Iterator[list[Note]]:
    """Collect what mechanisms tell in this block, in order."""
    notes: list[Note] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def tell(
    where: str, exact: Any, *, deviation: float, noised: Any = None, law: Law = "gaussian", noise: Any = None
) -> None:
    """Note what noise is about to be added to; nothing where nobody observes.

    Parameters
    ----------
    exact, noised, noise : arrays or tensors on the CPU, copied and flattened; `noised` is `exact` where it is left out.
    """
    notes = _notes.get()
    if notes is None:
        return
    base = exact if noised is None else noised
    notes.append(Note(where, _copy(exact), _copy(base), float(deviation), law, None if noise is None else _copy(noise)))


def _copy(values: Any) -> NDArray[np.float64]:
    return np.array(np.asarray(values), dtype=np.float64).ravel()


def observed() -> bool:
    """Whether somebody observes, for a mechanism that would have to copy something first."""
    return _notes.get() is not None
