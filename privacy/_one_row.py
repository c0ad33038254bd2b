"""Runs any module as a function of one row, so that rows cannot influence each other.

Formal guarantees
-----------------
* The module is called with one row at a time: under ``torch.func.vmap``, where its code sees one row and torch makes
  the batch, or row by row where vmap has no rule. A module that mixes the rows of a batch has nothing to mix.
* Each call meets the module as it was (a copy that shares the trained parameters alone): attributes and buffers that
  it writes are forgotten, so nothing of one row reaches the next. Random numbers of torch's global generator are the
  same for every row.
* A row on which the module raises has a gradient that is not a number, so its unit adds nothing (`RowEngine`): an error
  of one row neither stops a step nor changes a bit of another row's gradient.
* vmap runs with one fixed number of rows, which the module and public numbers set, and in which `same_bits` has found
  each row to get the same bits at every place.

Assumed: the module's code reads and writes nothing but its arguments, its own attributes and torch's generator. A
module that keeps state in a global variable, in a closure of a function or in an object that refuses to be copied is
not found out.
"""

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from privacy._composition import fresh_copy
from privacy._rows import Loss, filled, row_losses
from privacy.errors import PlanError

#: Rows under one vmap; of small modules up to `_MANY`, since there each call of a kernel costs more than its rows.
TOGETHER: Final = 32
_MANY, _SMALL = 512, 2**14
#: What somebody's own module may raise at a row.
Failure: Final = (Exception, SystemExit)
_Tables = Mapping[str, Tensor]


class OneRow:
    """`module` as a function of one row of named tables.

    Parameters
    ----------
    module : takes the dict of named tensors, each (1, ...), and returns outputs (1, ...).
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._together: dict[tuple[str, int], int] = {}
        self._most = _MANY if sum(p.numel() for p in module.parameters()) <= _SMALL else TOGETHER

    def outputs(self, inputs: _Tables) -> Tensor:
        """Return the outputs of all rows (n_rows, ...)."""

        def one(module: nn.Module, _: dict[str, Tensor], row: dict[str, Tensor]) -> Tensor:
            output: Tensor = module(_single(row))
            return output[0]

        return torch.cat(self._each("outputs", one, {}, inputs))

    def gradients(self, inputs: _Tables, target: Tensor, loss: Loss, together: int = TOGETHER) -> dict[str, Tensor]:
        """Return each row's gradient of its loss by name: (n_rows, *parameter.shape); NaN for a row that raises.

        Parameters
        ----------
        together : public number of rows that are expected in a call; it alone and the module set the rows of a pass.
        """
        trained = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

        def one(module: nn.Module, parameters: dict[str, Tensor], row: dict[str, Tensor]) -> dict[str, Tensor]:
            wanted = row[_TARGET].unsqueeze(0)
            table = _single({name: tensor for name, tensor in row.items() if name != _TARGET})

            def value(parameters: dict[str, Tensor]) -> Tensor:
                called = _Called(module, parameters)
                return row_losses(called, table, wanted, loss)[0]

            found: dict[str, Tensor] = grad(value)(parameters)
            return found

        tables = {**inputs, _TARGET: target}
        try:
            pieces = self._each("gradients", one, trained, tables, together)
        except Failure:  # of some row: each by itself, so that the others' gradients are what they were
            pieces = self._survivors(one, trained, tables, together)
        return {name: torch.cat([piece[name] for piece in pieces]) for name in trained}

    def _survivors(
        self, one: Callable[..., Any], trained: dict[str, Tensor], tables: _Tables, together: int
    ) -> list[Any]:
        """Return the gradients of each row for itself, made as those of all rows; NaN of a row that raises."""
        found = []
        for row in range(len(tables[_TARGET])):
            try:
                alone = {name: tensor[row : row + 1] for name, tensor in tables.items()}
                (piece,) = self._each("gradients", one, trained, alone, together)
            except Failure:
                piece = {name: torch.full_like(p, torch.nan).unsqueeze(0) for name, p in trained.items()}
            found.append(piece)
        return found

    def _each(
        self,
        what: str,
        one: Callable[..., Any],
        parameters: dict[str, Tensor],
        tables: _Tables,
        together: int = TOGETHER,
    ) -> list[Any]:
        rows = len(next(iter(tables.values())))
        if size := self._size(what, one, parameters, tables, together):
            pieces = []
            for start in range(0, rows, size):
                piece = {name: tensor[start : start + size] for name, tensor in tables.items()}
                whole = {name: filled(tensor, size) for name, tensor in piece.items()}
                pieces.append(_cut(self._vmapped(one, parameters, whole), min(size, rows - start)))
            return pieces
        return [
            _stacked(self._alone(one, parameters, {name: tensor[row] for name, tensor in tables.items()}))
            for row in range(rows)
        ]

    def _copy(self, parameters: dict[str, Tensor]) -> nn.Module:
        """A copy for one call; where nothing is trained, its parameters are copies, too."""
        return fresh_copy(self.module) if parameters else copy.deepcopy(self.module)

    def _vmapped(self, one: Callable[..., Any], parameters: dict[str, Tensor], tables: dict[str, Tensor]) -> Any:
        module = self._copy(parameters)
        return vmap(lambda row: one(module, parameters, row), randomness="error")(tables)

    def _alone(self, one: Callable[..., Any], parameters: dict[str, Tensor], row: dict[str, Tensor]) -> Any:
        with _same_random_numbers():
            return one(self._copy(parameters), parameters, row)

    def _size(
        self, what: str, one: Callable[..., Any], parameters: dict[str, Tensor], tables: _Tables, together: int
    ) -> int:
        """Return the rows of a pass: so many that vmap takes this module and gives each row the same bits wherever it
        stands, found on made-up rows; 0 where each row has to go alone."""
        if (what, together) not in self._together:
            passes = math.ceil(together / self._most)
            wanted = max(TOGETHER, TOGETHER * math.ceil(together / passes / TOGETHER))
            sizes = dict.fromkeys((wanted, TOGETHER))
            fits = (size for size in sizes if self._steady(one, parameters, tables, size))
            self._together[what, together] = next(fits, 0)
        return self._together[what, together]

    def _steady(self, one: Callable[..., Any], parameters: dict[str, Tensor], tables: _Tables, size: int) -> bool:
        rows = made_up_rows(size, tables)
        if _own_functions(self.module, rows):
            return False
        try:
            return same_bits(lambda tables: _leaves(self._vmapped(one, parameters, tables)), rows)
        except Exception:  # noqa: BLE001 (no rule under vmap, or code that asks what a value is: row by row then)
            return False


_TARGET: Final = "\0target"


class _Called(nn.Module):
    """`module` with other parameters: what `functional_call` makes of it."""

    def __init__(self, module: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self._call = lambda inputs: functional_call(module, parameters, (inputs,))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        output: Tensor = self._call(inputs)  # type: ignore[no-untyped-call]
        return output


def made_up_rows(count: int, tables: _Tables) -> dict[str, Tensor]:
    """Return `count` rows of the tables' shapes and types, the same on every call; whole numbers are 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn((count, *tensor.shape[1:]), generator=generator).to(tensor)
        if tensor.is_floating_point()
        else torch.randint(0, 2, (count, *tensor.shape[1:]), generator=generator).to(tensor)
        for name, tensor in tables.items()
    }


def same_bits(run: Callable[[dict[str, Tensor]], list[Tensor]], rows: dict[str, Tensor]) -> bool:
    """Whether each of the rows gives the same bits at another place of the same pass.

    Kernels choose their order of additions by shapes and places, never by values, so made-up rows tell for all. What is
    not a number is never the same.
    """
    turned = {name: tensor.roll(5, 0) for name, tensor in rows.items()}
    return all(torch.equal(a.roll(5, 0), b) for a, b in zip(run(rows), run(turned), strict=True))


def _own_functions(module: nn.Module, rows: _Tables) -> bool:
    """Whether a pass calls an `autograd.Function` that is not torch's: under vmap it may be handed all rows."""
    table = {name: t[:1].clone().requires_grad_(t.is_floating_point()) for name, t in rows.items() if name != _TARGET}
    with torch.enable_grad():
        try:
            output = fresh_copy(module)(table)
        except Exception:  # noqa: BLE001 (what a module of somebody's own raises: then it is taken row by row)
            return True
    seen: set[Any] = set()
    left: list[Any] = [output.grad_fn] if isinstance(output, Tensor) else []
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return True
        left += [one for one, _ in node.next_functions]
    return False


def _single(row: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.unsqueeze(0) for name, tensor in row.items()}


def _leaves(value: Any) -> list[Tensor]:
    return list(value.values()) if isinstance(value, dict) else [value]


def _cut(value: Any, rows: int) -> Any:
    return {name: tensor[:rows] for name, tensor in value.items()} if isinstance(value, dict) else value[:rows]


def _stacked(value: Any) -> Any:
    return _single(value) if isinstance(value, dict) else value.unsqueeze(0)


@contextmanager
def _same_random_numbers() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def check_parameters(module: nn.Module, versions: Mapping[str, int]) -> None:
    """Refuse a module that wrote to its own parameters in a pass (`nn.Embedding` with `max_norm` does).

    Parameters
    ----------
    versions : what `parameter_versions` gave before.
    """
    for name, version in parameter_versions(module).items():
        if version != versions[name]:
            raise PlanError(f"parameter {name}: changed by a pass; leave out what writes to it (max_norm, say)")


def parameter_versions(module: nn.Module) -> dict[str, int]:
    """Return how often each parameter was written to."""
    return {name: parameter._version for name, parameter in module.named_parameters()}
