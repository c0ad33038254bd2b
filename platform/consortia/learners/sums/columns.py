"""Which columns are made of an industry's features: a function of the public schema, row by row.

A number in [-1, 1] also gives two Legendre polynomials, ``.5 P2(x)`` and ``.35 P3(x)``, and where there are at most ten
of them the products of pairs, times .35. Scores of ordered categories, one-hots and flags stay as they are. The factors
are the prior: a column that is scaled down gets a smaller part of the model, and adds less to a row's norm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import torch
from torch import Tensor

from clients.schema import Schema

__all__ = ["Columns", "columns_of", "columns_of_encoder"]

_SECOND: Final = 0.5
_THIRD: Final = 0.35
_PAIR: Final = 0.35
#: With more numbers the products would be most of the columns.
_MOST_PAIRED: Final = 10
#: What a number and its polynomials add to a squared norm, about; a 0/1 column that is 1 adds 1.
_OF_A_NUMBER: Final = 0.6
_INTERCEPT: Final = 0.5


@dataclass(frozen=True)
class Columns:
    """The columns of one industry.

    Attributes
    ----------
    numbers : positions of the features in [-1, 1] that get polynomials and products.
    binary : whether each feature is 0 or 1.
    ones : how many 0/1 features of a row are 1 at most, without indicators of a missing number.
    """

    numbers: tuple[int, ...]
    binary: tuple[bool, ...]
    ones: int

    @property
    def paired(self) -> bool:
        """Whether there are products of pairs."""
        return len(self.numbers) <= _MOST_PAIRED

    @property
    def features(self) -> int:
        """Number of features."""
        return len(self.binary)

    @property
    def width(self) -> int:
        """Number of columns, without the intercept."""
        count = len(self.numbers)
        return self.features + 2 * count + (count * (count - 1) // 2 if self.paired else 0)

    @property
    def size(self) -> int:
        """Number of columns with the intercept: the dimension of a model."""
        return self.width + 1

    @property
    def pair_factor(self) -> float:
        """By what the product of two numbers is scaled."""
        return _PAIR

    @property
    def origins(self) -> tuple[tuple[int, ...], ...]:
        """The features that each column is made of: one, or the two of a product."""
        own = [(feature,) for feature in (*range(self.features), *self.numbers, *self.numbers)]
        n = self.numbers
        return (*own, *((n[i], n[k]) for i in range(1, len(n)) for k in range(i) if self.paired))

    @cached_property
    def squared(self) -> Tensor:
        """Bool mask (width,) of the columns whose squares are released: those of 0/1 columns are the columns."""
        return torch.tensor([not one for one in self.binary] + [True] * (self.width - self.features))

    @property
    def first_size(self) -> int:
        """Numbers in message 1."""
        return self.width + int(self.squared.sum())

    @property
    def first_bound(self) -> float:
        """R0: to which norm a row of message 1, columns and squares together, is clipped."""
        return math.sqrt(2 * (self.ones + _OF_A_NUMBER * (len(self.binary) - sum(self.binary))) or 1.0)

    def expand(self, features: Tensor) -> Tensor:
        """Return the columns (n_rows, width), float64, of features (n_rows, n_features); each row by itself."""
        x = features.double()
        n = x[:, list(self.numbers)]
        parts = [x, _SECOND * (3 * n * n - 1) / 2, _THIRD * (5 * n * n * n - 3 * n) / 2]
        if self.paired:
            parts += [_PAIR * n[:, i : i + 1] * n[:, :i] for i in range(1, len(self.numbers))]
        return torch.cat(parts, dim=1)

    def encode(self, features: Tensor, centre: Tensor, radius: Tensor) -> Tensor:
        """Return rows (n_rows, size) of norm 1 at most: an intercept of 1/2 and the centred columns, over the radius.

        Parameters
        ----------
        centre : Tensor (width,)
        radius : Tensor ()
            Longer rows are clipped to it.
        """
        x = self.centred(features, centre)
        return x / torch.maximum(x.square().sum(dim=1, keepdim=True).sqrt(), radius)

    def centred(self, features: Tensor, centre: Tensor) -> Tensor:
        """Return an intercept of 1/2 and the columns less their centre (n_rows, size)."""
        x = self.expand(features) - centre
        return torch.cat([torch.full_like(x[:, :1], _INTERCEPT), x], dim=1)


def columns_of(schema: Schema) -> Columns:
    """Return the columns that a schema gives."""
    kinds = schema.feature_kinds
    return Columns(
        numbers=tuple(place for place, kind in enumerate(kinds) if kind == "number"),
        binary=tuple(kind in {"category", "flag", "missing"} for kind in kinds),
        ones=schema.one_hots + kinds.count("flag"),
    )


def columns_of_encoder(width: int) -> Columns:
    """Return the columns of a network's outputs: each as it is, without polynomials and products of its own."""
    return Columns(numbers=(), binary=(False,) * width, ones=0)
