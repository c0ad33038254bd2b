"""Which rows a drawn unit brings, and the checks on the tables that training gets."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from privacy.errors import PlanError

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Rows:
    """The rows of one partition, by unit.

    Attributes
    ----------
    inputs : named tensors, each (n_rows, ...).
    target : (n_rows, ...).
    unit_index : int64 (n_rows,), values in 0..n_units-1.
    n_units : units in this partition (data dependent: stays at home).
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    unit_index: Tensor
    n_units: int

    def __post_init__(self) -> None:
        n = len(self.unit_index)
        if self.unit_index.dtype != torch.int64 or self.unit_index.dim() != 1:
            raise PlanError(
                f"unit_index: wanted int64 of shape (n_rows,), got {self.unit_index.dtype} "
                f"with {self.unit_index.dim()} dimensions"
            )
        for name, tensor in {**self.inputs, "target": self.target}.items():
            if tensor.dim() < 1 or len(tensor) != n:
                raise PlanError(f"{name}: wanted one entry for each row of unit_index, got another length")
        if n and (int(self.unit_index.min()) < 0 or int(self.unit_index.max()) >= self.n_units):
            raise PlanError("unit_index: wanted values in 0..n_units-1, got one outside")

    def of(self, units: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """All rows of the drawn `units`: inputs, target, and each row's position in `units`."""
        place = torch.full((self.n_units,), -1, dtype=torch.int64)
        place[units] = torch.arange(len(units))
        local = place[self.unit_index]
        rows = (local >= 0).nonzero().flatten()
        return {name: tensor[rows] for name, tensor in self.inputs.items()}, self.target[rows], local[rows]


def row_losses(module: nn.Module, inputs: dict[str, Tensor], target: Tensor, loss: Loss) -> Tensor:
    """Losses of shape (n_rows,); refuses a loss that already mixed the rows."""
    losses = loss(module(inputs), target)
    if losses.shape != (len(target),):
        raise PlanError(
            f"loss: wanted one value a row, shape ({len(target)},), got {tuple(losses.shape)}; "
            'use reduction="none" and sum over the outputs of a row'
        )
    return losses
