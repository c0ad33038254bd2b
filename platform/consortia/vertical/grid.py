"""The public grid of a partner's scores: what can be said of them before anything is fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MISSING", "Floats", "Grid"]

Floats = NDArray[np.float64]
#: The code of a row that the partner does not know.
MISSING: Final = 255


@dataclass(frozen=True)
class Grid:
    """The public grid of a score: 64 values evenly over [-bound, bound] (6 bits)."""

    bound: float
    levels: int = 64

    @classmethod
    def for_epsilon(cls, epsilon: float) -> Grid:
        """Return the grid for labels under randomised response with `epsilon` (infinite: without noise)."""
        return cls(6.0 if math.isinf(epsilon) else epsilon + 0.5)

    @property
    def step(self) -> float:
        """Distance of neighbouring values."""
        return 2 * self.bound / (self.levels - 1)

    def encode(self, logits: Floats) -> NDArray[np.uint8]:
        """Return the nearest codes; what lies outside is clipped."""
        return np.round((np.clip(logits, -self.bound, self.bound) + self.bound) / self.step).astype(np.uint8)

    def decode(self, codes: NDArray[np.uint8]) -> Floats:
        """Return the values; NaN for `MISSING`."""
        values = codes.astype(np.float64) * self.step - self.bound
        return np.where(codes == MISSING, np.nan, values)
