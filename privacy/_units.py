"""Norms of units' gradients, each from the unit's own rows alone.

Formal guarantees
-----------------
* A unit with k rows is padded to the next power of two, its *class*, and computed with others of that class. Class and
  layer sizes choose the formula; how many rows any other unit has chooses nothing.
* A unit gets the same bits whichever and however many others of its class are there: that was found for the number of
  units that is computed at once (`_steady`), else units are computed in one fixed number. Kernels are assumed to have
  no paths that depend on values.
"""

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import torch
from torch import Tensor

#: What squares lose by underflow is put back. Inputs beyond 1e60 make a unit one that is not finite: products with
#: them may matter where the squares of the other factor have vanished.
_TINY: Final = 2.0**-998
_HUGE: Final = 1e120
_LEAST: Final = 8  # units that are computed together at least
_MOST: Final = 1 << 14  # rows of one group
#: (units, k, f, h, weight, bias) -> whether each unit gets there the same bits as among `_LEAST` units.
_found_steady: dict[tuple[int, int, int, int, bool, bool], bool] = {}


class Group(NamedTuple):
    """Some units of one class.

    Attributes
    ----------
    units : int64 (n,), their numbers in the draw.
    rows : int64 (m, k), their rows in the draw for m >= n units; padding repeats a row of the unit, or a unit.
    absent : bool (m, k), where padding is, or None where a unit needs none.
    """

    units: Tensor
    rows: Tensor
    absent: Tensor | None


class Units:
    """Which unit each row of a draw belongs to.

    Parameters
    ----------
    place : int64 (n_rows,), each row's unit in 0..units-1.
    """

    def __init__(self, place: Tensor, units: int) -> None:
        self.place, self.count = place, units
        self._counts = torch.bincount(place, minlength=units)
        self._order = torch.argsort(place, stable=True)
        self._first = torch.cumsum(self._counts, 0) - self._counts
        self._groups: list[Group] | None = None

    def sum(self, rows: Tensor) -> Tensor:
        """(n_rows, ...) -> (n_units, ...), each unit's rows in their order."""
        return rows.new_zeros((self.count, *rows.shape[1:])).index_add_(0, self.place, rows)

    def groups(self) -> list[Group]:
        """Return the units with rows, in groups of one class and one shape."""
        if self._groups is None:
            self._groups = list(self._made())
        return self._groups

    def _made(self) -> Iterator[Group]:
        if not len(self.place):
            return
        # bit_length of k - 1 is the exponent of the next power of two; frexp gives it exactly up to 2^53.
        classes = torch.frexp((self._counts - 1).clamp_(min=0).double()).exponent
        for exponent in torch.unique(classes[self._counts > 0]).tolist():
            width = 2 ** int(exponent)
            members = ((classes == exponent) & (self._counts > 0)).nonzero().flatten()
            for units in torch.split(members, max(_LEAST, _MOST // width)):
                column = torch.arange(width)
                counts = self._counts[units].unsqueeze(1)
                at = self._order[self._first[units].unsqueeze(1) + torch.minimum(column, counts - 1)]
                absent = column >= counts
                step = max(_LEAST, 1 << max(0, len(units).bit_length() - 4))
                if missing := -len(units) % step:
                    at = torch.cat([at, at[:1].expand(missing, width)])
                    absent = torch.cat([absent, absent[:1].expand(missing, width)])
                yield Group(units, at, absent if width > 2 else None)  # powers of two above 2 alone hold padding


def unit_squares(inputs: Tensor, delta: Tensor, weight: bool, bias: bool) -> tuple[Tensor, Tensor]:
    """`linear_squares` of a multiple of `_LEAST` units, with the same bits for each in any company."""
    units, k, f = inputs.shape
    shape = (units, k, f, delta.shape[2], weight, bias)
    if shape not in _found_steady:
        _found_steady[shape] = _steady(*shape)
    if _found_steady[shape]:
        return linear_squares(inputs, delta, weight, bias)
    pieces = zip(torch.split(inputs, _LEAST), torch.split(delta, _LEAST), strict=True)
    squares, terms = zip(*(linear_squares(a, d, weight, bias) for a, d in pieces), strict=True)
    return torch.cat(squares), torch.cat(terms)


def _steady(units: int, k: int, f: int, h: int, weight: bool, bias: bool) -> bool:
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(units, k, f, generator=generator, dtype=torch.float64)
    d = torch.randn(units, k, h, generator=generator, dtype=torch.float64)
    whole = linear_squares(a, d, weight, bias)
    a, d = a.roll(3, 0), d.roll(3, 0)
    pieces = zip(torch.split(a, _LEAST), torch.split(d, _LEAST), strict=True)
    found = zip(*(linear_squares(one, other, weight, bias) for one, other in pieces), strict=True)
    return all(torch.equal(x, torch.cat(y).roll(-3, 0)) for x, y in zip(whole, found, strict=True))


def linear_squares(inputs: Tensor, delta: Tensor, weight: bool, bias: bool) -> tuple[Tensor, Tensor]:
    """Return the squared norm of each unit's gradient in a dense layer, and the sum of its terms' norms.

    Parameters
    ----------
    inputs, delta : (n_units, k, f) and (n_units, k, h), what came in and the gradients of what came out; absent terms
        are zeros. The gradient is the sum over k of the outer products of the two (and of `delta` for the bias).

    Returns
    -------
    squares, terms : float64 (n_units,).
        Below, u = 2^-53 and T is `terms`. A square is off by at most (k^2 + f + h) u T^2: the products' rounding, of
        terms whose absolute values add up to T^2 at most (Cauchy and Schwarz; Higham 2002, sec. 3.1).
    """
    inputs, delta = inputs.double(), delta.double()
    length = torch.linalg.vecdot(inputs, inputs) if weight else inputs.new_zeros(inputs.shape[:2])
    own = torch.linalg.vecdot(delta, delta).add_(_TINY * delta.shape[2])
    own.mul_(length.add_(bias + _TINY * inputs.shape[2]))
    terms = own.sqrt().sum(1)
    k, f, h = inputs.shape[1], inputs.shape[2], delta.shape[2]
    if k == 1:
        return own.squeeze(1), terms
    if 2 * k * k <= f * h:
        products = torch.bmm(inputs, inputs.mT) if weight else inputs.new_zeros(len(inputs), k, k)
        products = products.add_(1) if bias else products
        found = torch.linalg.vecdot(products.flatten(1), torch.bmm(delta, delta.mT).flatten(1))
        return found.masked_fill(length.amax(1) > _HUGE, math.inf), terms
    squares = torch.zeros(len(inputs), dtype=torch.float64)
    if weight:
        gradient = torch.bmm(delta.mT, inputs).flatten(1)
        squares += torch.linalg.vecdot(gradient, gradient)
    if bias:
        gradient = delta.sum(1)
        squares += torch.linalg.vecdot(gradient, gradient)
    return squares.masked_fill(length.amax(1) > _HUGE, math.inf), terms
