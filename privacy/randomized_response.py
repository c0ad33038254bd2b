"""Randomised response over a public set of values: pure epsilon for each value, whatever is done with it afterwards.

Warner 1965, *Randomized Response*; k values: Kairouz, Bonawitz & Ramage 2016, *Discrete Distribution Estimation under
Local Privacy*. A value is kept with probability e^eps / (e^eps + k - 1), otherwise it becomes one of the k - 1
others with
equal probability, so that for values v, v' and every output the probabilities differ by at most the factor e^eps.

Formal guarantees
-----------------
* The bits come from a key stream of the attempt (`privacy.randomness`), 64 for each decision. The probability to keep
  is rounded down, so that the factor is at most e^eps; the choice among the others is uniform to within 2^-56.
* Outputs are drawn independently for each value, never from the other rows.

Not guaranteed: the *columns* of a row, and what others' rows say about this one.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError

__all__ = ["keep_probability", "respond"]

Entropy = Callable[[int], bytes]
_SAFETY: Final = 1 - 1e-12  # far above the rounding of exp, far below what a statistic sees


def keep_probability(epsilon: float, classes: int) -> float:
    """Probability that a value is reported as it is; 1 for an infinite epsilon (non-private)."""
    if not epsilon > 0:
        raise PlanError(f"epsilon: wanted a number > 0, got {epsilon!r}")
    if classes < 2:
        raise PlanError(f"classes: wanted 2 or more, got {classes!r}")
    return 1.0 if math.isinf(epsilon) else 1 / (1 + (classes - 1) * math.exp(-epsilon))


def respond(values: NDArray[Any], classes: int, epsilon: float, *, entropy: Entropy) -> NDArray[np.uint8]:
    """Pass every value once through randomised response.

    Parameters
    ----------
    values : integer array (n,)
        In 0..classes-1.
    classes : int
        At most 256; a public constant.
    epsilon : float
        Of one value; infinite returns the values as they are, which is non-private.
    entropy : callable
        Number of bytes -> bytes: the `bytes` of a `KeyStream` made for this release. Anything else is for tests and
        benchmarks, and claims no epsilon.

    Returns
    -------
    uint8 array (n,)
    """
    keep = keep_probability(epsilon, classes)
    original = np.asarray(values)
    if classes > 256 or (original.size and (original.min() < 0 or original.max() >= classes)):
        raise PlanError(f"values: wanted whole numbers in 0..{classes - 1}, got one outside")
    original = original.astype(np.uint8)
    if math.isinf(epsilon):
        return original
    count = len(original)
    threshold = np.uint64(int(keep * _SAFETY * 2**64))
    kept = np.frombuffer(entropy(8 * count), dtype="<u8") < threshold
    step = np.frombuffer(entropy(8 * count), dtype="<u8") % np.uint64(classes - 1) + np.uint64(1)
    other = (original + step) % np.uint64(classes)
    return np.where(kept, original, other).astype(np.uint8)
