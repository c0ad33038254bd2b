"""The clipped sum without noise: each unit counts once, by at most C, over all parameters jointly."""

from __future__ import annotations

import pytest
import torch
from noise_contexts import TEST
from torch import Tensor, nn

from privacy.randomness import fresh_generator
from privacy.secure_sum.gradient import clipped_sum


class Scale(nn.Module):
    """A linear model without bias on the table `x`."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.layer(inputs["x"])
        return out[:, 0]


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return output * target  # its gradient is target x (x, 1), whatever the weights


def _sum(x: list[list[float]], y: list[float], units: list[int], clip: float = 100.0, rate: float = 1.0) -> Tensor:
    inputs = {"x": torch.tensor(x, dtype=torch.float32).reshape(-1, 2)}
    index = torch.tensor(units, dtype=torch.int64)
    made = clipped_sum(
        Scale(), inputs, torch.tensor(y, dtype=torch.float32), index, max(units, default=-1) + 1, _loss,
        sampling_rate=rate, clip=clip, generator=fresh_generator(TEST),
    )  # fmt: skip
    assert list(made.by_name) == ["layer.weight", "layer.bias"]
    return torch.cat([tensor.flatten() for tensor in made.by_name.values()])


def test_sums_by_hand() -> None:
    # Rows (1, 2) and (3, 4) with weights 1 and 2: (1, 2, 1) + 2 (3, 4, 1) = (7, 10, 3).
    total = _sum([[1, 2], [3, 4]], [1, 2], [0, 1])
    assert torch.equal(total, torch.tensor([7, 10, 3], dtype=torch.float64))


def test_a_unit_is_clipped_once_over_all_its_rows_and_parameters() -> None:
    # Unit 0 sums to (3, 4, 2) - norm sqrt(29); unit 1 is (0, 0, .5), below the clip of 1.
    total = _sum([[1, 2], [2, 2], [0, 0]], [1, 1, 0.5], [0, 0, 1], clip=1.0)
    wanted = torch.tensor([3, 4, 2], dtype=torch.float64) / 29**0.5 + torch.tensor([0, 0, 0.5], dtype=torch.float64)
    assert torch.allclose(total, wanted, atol=2e-3)
    alone = _sum([[1, 2], [2, 2]], [1, 1], [0, 0], clip=1.0)
    assert 1 - 3e-3 < float(alone.norm()) <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_a_unit_that_is_not_finite_adds_nothing(bad: float) -> None:
    total = _sum([[1, 0], [bad, bad]], [1, 1e30], [0, 1], clip=1.0)
    alone = _sum([[1, 0]], [1], [0], clip=1.0)
    assert total.isfinite().all()
    assert torch.equal(total, alone) or float((total - alone).norm()) <= 1  # 3e38 is clipped, not dropped, in float64


def test_an_empty_draw_and_an_empty_table_are_zeros() -> None:
    assert not _sum([[1, 2]], [1], [0], rate=1e-12).any()
    assert not _sum([], [], []).any()


def test_pieces_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from privacy.secure_sum import gradient

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 2, generator=generator).tolist()
    units = [i // 3 for i in range(50)]
    whole = _sum(x, [1.0] * 50, units, clip=1.0)
    monkeypatch.setattr(gradient, "PHYSICAL_ROWS", 7)
    assert torch.allclose(_sum(x, [1.0] * 50, units, clip=1.0), whole, atol=1e-12)


def test_a_draw_is_poisson_with_the_public_rate() -> None:
    sizes = [float(_sum([[0, 0]] * 400, [1.0] * 400, list(range(400)), rate=0.25)[2]) for _ in range(30)]
    mean = sum(sizes) / len(sizes)
    # 30 draws of Binomial(400, .25): mean 100, deviation of the mean sqrt(75 / 30) = 1.6.
    assert 92 < mean < 108
    assert len(set(sizes)) > 5
