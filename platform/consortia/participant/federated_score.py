"""The score that a participant's federated model gives, as whatever stacks it with another model asks for it."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from clients.dataset import Table

__all__ = ["FederatedScore"]


class FederatedScore(Protocol):
    """A federated model at home.

    Attributes
    ----------
    held_out : float64 (n_rows,) or (n_rows, n_classes), or None
        Scores of one's own training rows by models that did not see their unit; None where `score` did not see own
        rows without noise, so that it serves for them, too.
    """

    held_out: NDArray[np.float64] | None

    def score(self, table: Table) -> NDArray[np.float64]:
        """Return probabilities (n_rows,) or (n_rows, n_classes), or values in the target's unit (n_rows,)."""
        ...
