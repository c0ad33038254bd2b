"""`two-tower` for items: what is known of an item meets what is known of who judges it, in one product.

A user has no parameters of its own. The user's part makes a vector of the items that the user judged before (Paterek
2007, *Improving regularized singular value decomposition for collaborative filtering*, section 3.7; Koren 2008,
*Factorization Meets the Neighborhood*), so the network serves users that nobody trained on.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.networks.kind import NetworkKind
from clients.shapes import Items, Shape

__all__ = ["TWO_TOWER", "TwoTowerOptions"]

#: Standard deviation of the numbers of an item at the start: products of small ones are a small step from nothing.
_START = 0.1


@dataclass(frozen=True, kw_only=True)
class TwoTowerOptions:
    """`two-tower` has no options: its width says how many numbers an item has."""


class _ItemPart(nn.Module):
    """The encoder: (n_rows, 1 + 2 earlier) -> (n_rows, width).

    The first half are the item's numbers as one to judge. The second half is the mean of other numbers of the earlier
    items, times what the user thought of each; its last number is the mean of these values alone.
    """

    def __init__(self, shape: Items, width: int) -> None:
        super().__init__()
        self.half, self.places, self.largest = width // 2, 1 + shape.earlier, shape.vocabulary
        self.items = nn.Embedding(shape.vocabulary + 1, width - 1, padding_idx=0)
        self.mean = nn.AdaptiveAvgPool1d(1)  # of (n_rows, n_places), row by row
        with torch.no_grad():
            self.items.weight.mul_(_START)

    def forward(self, x: Tensor) -> Tensor:
        # From [-1, 1] back to ids; what is no number becomes 0, and no row can ask for an item that is not there.
        ids = ((x[:, : self.places] + 1) * (self.largest / 2) + 0.5).long().clamp(0, self.largest)
        values = x[:, self.places :]
        numbers = self.items(ids)
        thought = (numbers[:, 1:, self.half :] * values.unsqueeze(2)).mean(1)
        return torch.cat((numbers[:, 0, : self.half], thought, self.mean(values)), 1)


class _UserPart(nn.Module):
    """The head: the user's vector, and its product with the item's; (n_rows, width) -> (n_rows, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.half = width // 2
        self.tower = nn.Linear(self.half, self.half)
        self.level = nn.Linear(self.half, 1)
        self.mean = nn.AdaptiveAvgPool1d(1)
        with torch.no_grad():
            self.level.weight.zero_()
            self.level.bias.zero_()

    def forward(self, encoded: Tensor) -> Tensor:
        user = encoded[:, self.half :]
        product = self.mean(encoded[:, : self.half] * self.tower(user))
        score: Tensor = product + self.level(user)
        return score


def _items(shape: Shape, width: int, options: TwoTowerOptions) -> nn.Module:
    del options
    assert isinstance(shape, Items)
    return _ItemPart(shape, width)


def _user(width: int, options: TwoTowerOptions) -> nn.Module:
    del options
    return _UserPart(width)


TWO_TOWER = NetworkKind(options=TwoTowerOptions, build=_items, shapes=(Items,), head=_user)
