"""What of a target is summed: its deviation from a public expectation, in one or more directions.

Binary: y - p for the public share p of the positive class. Several classes: the one-hot less the public shares, in an
orthonormal basis of the contrasts (what is left of the classes' space without its constant). Regression: y - y0 on the
public scale [-1, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from clients.schema import Target

__all__ = ["Outcome", "outcome_of"]

#: Probabilities of a linear model are cut off here.
_LEAST: Final = 0.002
#: Of a regression's residual on [-1, 1], where a contract says nothing.
_RESIDUAL: Final = 0.1


@dataclass(frozen=True)
class Outcome:
    """A target with its public expectation.

    Attributes
    ----------
    kind : "binary", "multiclass" or "regression".
    expected : the share of the positive class; the share of every class; or y0 on the public scale.
    middle, half : the public scale of a regression.
    residual : public guess of a regression's residual variance on that scale.
    """

    kind: str
    expected: tuple[float, ...]
    middle: float = 0.0
    half: float = 1.0
    residual: float = _RESIDUAL

    @property
    def directions(self) -> int:
        """k: how many numbers of a row are summed with its columns."""
        return max(1, len(self.expected) - 1)

    @property
    def sensitivity(self) -> float:
        """The longest deviation that a row can have, in L2 over all directions.

        Binary: the larger of p and 1 - p. Classes: max over k of ``|e_k - p|``; an orthonormal basis keeps lengths.
        Regression: 1 + |y0|, since the scaled target is cut off at [-1, 1].
        """
        if self.kind == "binary":
            return max(self.expected[0], 1 - self.expected[0])
        if self.kind == "regression":
            return 1 + abs(self.expected[0])
        squares = math.fsum(p * p for p in self.expected)
        return math.sqrt(max(squares - 2 * p + 1 for p in self.expected))

    @property
    def variances(self) -> tuple[float, ...]:
        """c: variance of a row's deviation in each direction, as the public expectation has it."""
        if self.kind == "binary":
            return (self.expected[0] * (1 - self.expected[0]),)
        if self.kind == "regression":
            return (self.residual,)
        shares, basis = torch.tensor(self.expected, dtype=torch.float64), self._basis
        means = shares @ basis
        return tuple((shares @ basis.square() - means.square()).tolist())

    @cached_property
    def _basis(self) -> Tensor:
        """Orthonormal contrasts (n_classes, directions), those of Helmert: each class against those before it."""
        count = len(self.expected)
        basis = torch.zeros(count, count - 1, dtype=torch.float64)
        for place in range(1, count):
            length = math.sqrt(place * (place + 1))
            basis[:place, place - 1] = 1 / length
            basis[place, place - 1] = -place / length
        return basis

    @property
    def readout(self) -> Tensor:
        """What a step of 1 in each direction adds to each output (directions, outputs), before cut-offs.

        Outputs are the positive class's probability, every class's, or a value in the target's own unit.
        """
        if self.kind == "multiclass":
            return self._basis.T
        return torch.tensor([[self.half if self.kind == "regression" else 1.0]], dtype=torch.float64)

    @property
    def start(self) -> Tensor:
        """The outputs (outputs,) where every direction is 0."""
        expected = torch.tensor(self.expected, dtype=torch.float64)
        return self.middle + self.half * expected if self.kind == "regression" else expected

    def deviations(self, target: Tensor) -> Tensor:
        """Return what is summed of each row (n_rows, directions), float64; `target` as a `Table` holds it."""
        if self.kind == "multiclass":
            shares = torch.tensor(self.expected, dtype=torch.float64)
            # A table by class: what a row gives does not go by the batch that it stands in.
            return ((torch.eye(len(shares), dtype=torch.float64) - shares) @ self._basis)[target.long()]
        y = target.double().unsqueeze(1)
        if self.kind == "regression":
            y = ((y - self.middle) / self.half).nan_to_num(0.0).clamp(-1, 1)
        return y - self.expected[0]

    def outputs(self, values: Tensor) -> Tensor:
        """Return a network's outputs (n_rows, outputs) of a linear model's values (n_rows, directions).

        These are logits whose sigmoid or softmax is the model's probability, or values on the public scale.
        """
        if self.kind == "regression":
            return values + self.expected[0]
        if self.kind == "binary":
            p = (values + self.expected[0]).clamp(_LEAST, 1 - _LEAST)
            return torch.log(p) - torch.log1p(-p)
        shares = torch.tensor(self.expected, dtype=torch.float64)
        return torch.log((values @ self._basis.T + shares).clamp(min=_LEAST))


def outcome_of(target: Target, expected: tuple[float, ...] = (), residual: float | None = None) -> Outcome:
    """Return the outcome of a target.

    Parameters
    ----------
    expected : tuple of float
        Share of the positive class (binary), of each class, or the usual value in the target's own unit. Without it
        the schema's published shares count, equal ones, or the middle of the bounds.
    residual : float, optional
        Residual variance of a regression in the target's own unit squared.

    Raises
    ------
    ValueError
        Naming what was wanted.
    """
    if target.kind == "regression":
        if target.low is None or target.high is None:
            raise ValueError("public bounds (low, high) of the target, since a sum needs a bound for each row")
        middle, half = target.scale
        if len(expected) > 1 or (expected and not target.low <= expected[0] <= target.high):
            raise ValueError(f"one usual value of the target between {target.low:g} and {target.high:g}")
        start = (expected[0] - middle) / half if expected else 0.0
        return Outcome("regression", (start,), middle, half, residual / half**2 if residual else _RESIDUAL)
    count = len(target.classes)
    if target.kind == "binary":
        share = expected or (target.prior[1:] if target.prior else (0.5,))
        if len(share) != 1 or not 0 < share[0] < 1:
            raise ValueError("the share of the positive class, between 0 and 1")
        return Outcome("binary", tuple(share))
    shares = expected or target.prior or (1 / count,) * count
    if len(shares) != count or min(shares) <= 0 or not math.isclose(math.fsum(shares), 1, abs_tol=1e-6):
        raise ValueError(f"a share > 0 for each of the {count} classes, one in sum")
    return Outcome("multiclass", tuple(shares))
