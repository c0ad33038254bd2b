"""Collects the rows of drawn units, and checks the tables of a training call."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from privacy.errors import PlanError

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


#: The rows of a pass are a multiple of this number, so that no row meets the kernels that matrix libraries keep for a
#: remainder.
MULTIPLE: Final = 32
#: Where rows lie last in memory, kernels for float64 take twelve at a time.
OF_BOTH: Final = 48


def pass_rows(expected: float, multiple: int = MULTIPLE) -> int:
    """Return the rows of every pass where `expected` units are drawn on average: most draws fit in one."""
    wanted = min(max(1, math.ceil(expected + 2 * math.sqrt(expected))), 8160)
    step = max(multiple, (1 << max(0, wanted.bit_length() - 5)) // multiple * multiple)
    return -(-wanted // step) * step


def filled(tensor: Tensor, rows: int) -> Tensor:
    """Return `tensor` with `rows` rows: missing rows repeat the first one, which the module is sure to accept."""
    missing = rows - tensor.shape[0]
    return torch.cat([tensor, tensor[:1].expand(missing, *tensor.shape[1:])]) if missing else tensor


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: where kernels split the rows among threads depends on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Memory:
    """Tensors that are written again in every pass: fresh ones cost as much as the products (pages, caches)."""

    def __init__(self) -> None:
        self._kept: dict[Any, Tensor] = {}

    def like(self, name: Any, shape: tuple[int, ...], kind: Tensor) -> Tensor:
        """Return the tensor of that name and shape, of the type of `kind`; what it holds is old."""
        found = self._kept.get(name)
        if found is None or found.shape != shape or found.dtype != kind.dtype:
            found = self._kept[name] = kind.new_empty(shape)
        return found

    def picked(self, name: str | None, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return those rows of a table."""
        out = self.like((name,), (rows.shape[0], *tensor.shape[1:]), tensor)
        return torch.index_select(tensor, 0, rows, out=out)


class Draw(NamedTuple):
    """Rows of some drawn units.

    Attributes
    ----------
    inputs, target : their rows, (n_rows, ...); rows after the n_rows ones of `place` are padding and count nowhere.
    place : int64 (n_rows,), each row's unit in 0..units-1; without meaning where `single`.
    units : how many.
    single : whether a unit is one row by definition, in the units' order. Never a property of the data: what one
        unit adds must not depend on how many rows another one has.
    together : rows of every pass, a public number: a pass of another size may round a row differently.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    place: Tensor
    units: int
    single: bool
    together: int = 288


@dataclass(frozen=True)
class Rows:
    """The rows of one partition, by unit.

    Attributes
    ----------
    inputs : named tensors, each (n_rows, ...).
    target : (n_rows, ...).
    unit_index : int64 (n_rows,), values in 0..n_units-1.
    n_units : units in this partition (data dependent: stays at home).
    single : whether a unit is one row by definition (the policy's unit is "record"): a public constant.
    expected : public number of units in a draw; it sets how many rows are passed at once.
    """

    inputs: Mapping[str, Tensor]
    target: Tensor
    unit_index: Tensor
    n_units: int
    single: bool = False
    expected: float = 224.0
    _counts: Tensor = field(init=False, repr=False)
    _first: Tensor = field(init=False, repr=False)
    _order: Tensor = field(init=False, repr=False)
    _in_order: bool = field(init=False, repr=False)
    _together: int = field(init=False, repr=False)

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

        counts = torch.bincount(self.unit_index, minlength=self.n_units)
        if self.single and not (n == self.n_units and bool((counts == 1).all())):
            raise PlanError("unit_index: wanted one row for each unit, since the unit is a record; got another number")
        order = torch.argsort(self.unit_index, stable=True)
        object.__setattr__(self, "_counts", counts)
        object.__setattr__(self, "_together", pass_rows(self.expected, OF_BOTH))
        object.__setattr__(self, "_first", torch.cumsum(counts, 0) - counts)
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_in_order", bool((order == torch.arange(n)).all()))

    def draws(self, units: Tensor, at_most: int, memory: Memory | None = None) -> Iterator[Draw]:
        """Yield all rows of the drawn `units`, in pieces of whole units of about `at_most` rows.

        Pieces are for memory alone: their sums are added up before any noise. A draw without units is one piece.
        With a `memory` the next piece is written over the last one.
        """
        if self.single:
            if len(units) <= at_most:
                yield self._piece(units, memory)
            else:
                for piece in torch.split(units, at_most):
                    yield self._piece(piece, memory)
            return
        rows = self._counts[units]
        if not len(units) or int(rows.sum()) <= at_most:
            yield self._piece(units, memory)
            return
        start, held = 0, 0
        for end, count in enumerate(rows.tolist()):
            if held and held + count > at_most:
                yield self._piece(units[start:end], memory)
                start, held = end, 0
            held += count
        yield self._piece(units[start:], memory)

    def doubled(self) -> "Rows":
        """Return the same rows with real numbers in float64."""

        def double(tensor: Tensor) -> Tensor:
            return tensor.double() if tensor.is_floating_point() else tensor

        inputs = {name: double(tensor) for name, tensor in self.inputs.items()}
        return Rows(inputs, double(self.target), self.unit_index, self.n_units, self.single, self.expected)

    def check_size(self, units: Tensor, most: int) -> None:
        """Refuse a draw of more than `most` rows."""
        if (len(units) if self.single else int(self._counts[units].sum())) > most:
            raise PlanError(f"secure noise: its rounding is proved for draws of at most {most} rows; lower the rate")

    def _piece(self, units: Tensor, memory: Memory | None) -> Draw:
        if self.single:
            rows = place = units if self._in_order else self._order[units]
        else:
            counts = self._counts[units]
            place = torch.repeat_interleave(torch.arange(len(units)), counts)
            within = torch.arange(len(place)) - (torch.cumsum(counts, 0) - counts)[place]
            rows = self._order[self._first[units][place] + within]
        # Padding repeats a row that is there, since it must be one that the module takes.
        together = self._together
        memory = memory or Memory()
        padded = memory.like("rows", (rows.shape[0] + -rows.shape[0] % together,), rows)
        into = padded.numpy()  # the quicker way to write a few numbers
        into[: rows.shape[0]] = rows.numpy()
        into[rows.shape[0] :] = 0
        inputs = {name: memory.picked(name, tensor, padded) for name, tensor in self.inputs.items()}
        target = memory.picked(None, self.target, padded)  # no table is called so
        return Draw(inputs, target, place, len(units), self.single, together)


def row_losses(module: nn.Module, inputs: dict[str, Tensor], target: Tensor, loss: Loss) -> Tensor:
    """Losses of shape (n_rows,); refuses a loss that already mixed the rows."""
    return checked(loss(module(inputs), target), target)


def checked(losses: Tensor, target: Tensor) -> Tensor:
    """Return the losses if they are one a row."""
    if losses.shape != target.shape[:1]:
        raise PlanError(
            f"loss: wanted one value a row, shape ({len(target)},), got {tuple(losses.shape)}; "
            'use reduction="none" and sum over the outputs of a row'
        )
    return losses
