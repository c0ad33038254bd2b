"""A module that raises on one row: its unit adds nothing, and the others add what they added, to the bit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from privacy._engines import RowEngine
from privacy._rows import Draw


class Fails(nn.Module):
    """It raises on a row that holds 9; `by_value` asks what the row is, which no `vmap` takes."""

    def __init__(self, kind: type[BaseException], *, by_value: bool) -> None:
        super().__init__()
        self.first, self._kind, self._by_value = nn.Linear(3, 1), kind, by_value

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        x = inputs["x"]
        if self._by_value and bool((x == 9).any()):
            raise self._kind(f"the row {x.tolist()}")
        if not self._by_value:  # whose error comes from torch, for all rows of a pass together
            x = x + 0 * torch.linalg.cholesky(torch.eye(3) * (5 - x.amax())).sum()
        found: Tensor = self.first(x).squeeze(1)
        return found


def _sum(module: nn.Module, x: Tensor, units: list[int]) -> Tensor:
    engine = RowEngine(module, list(module.parameters()))
    target, place = torch.arange(len(x)).float(), torch.tensor(units)
    norms = engine.add(Draw({"x": x}, target, place, 3, single=False), lambda a, b: (a - b) ** 2, 1.0)
    assert norms.isfinite().all()
    return engine.take()


@pytest.mark.parametrize(
    ("kind", "by_value"), [(ValueError, True), (SystemExit, True), (torch.linalg.LinAlgError, False)]
)
def test_a_unit_with_a_row_that_fails_adds_nothing(kind: type[BaseException], by_value: bool) -> None:
    torch.manual_seed(0)
    module = Fails(kind, by_value=by_value)
    x, units = torch.randn(6, 3), [0, 0, 1, 1, 2, 2]
    gone = x.clone()
    gone[2:4] = torch.nan  # a unit whose gradient is no number is left out, which is tested elsewhere
    failing = x.clone()
    failing[3, 1] = 9
    assert torch.equal(_sum(module, failing, units), _sum(module, gone, units))
    assert not torch.equal(_sum(module, failing, units), _sum(module, x, units))
