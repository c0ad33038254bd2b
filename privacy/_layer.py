"""One layer's part of book-keeping: its share of the norms, then of the clipped sum (`privacy.bookkeeping`)."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn

from privacy._one_row import made_up_rows, same_bits
from privacy._rows import Memory
from privacy._units import Units, unit_squares

_BLOCK: Final = 1024  # terms in one product of a sum
_KERNEL: Final = 16  # widths that matrix kernels like: multiples of float32s in a register
_NOTHING: Final = torch.empty(0)


def samplers() -> dict[type[nn.Module], Any]:
    """Return Opacus' rules for the gradients of single rows, by layer; a stack of dense layers asks for none."""
    from opacus.grad_sample import GradSampleModule

    rules: dict[type[nn.Module], Any] = GradSampleModule.GRAD_SAMPLERS
    return rules


class Layer:
    """One layer's part of a pass: its share of every unit's squared norm, then of the clipped sum."""

    def __init__(self, layer: nn.Module, views: Mapping[nn.Parameter, Tensor]) -> None:
        self.layer = layer
        self.views = views
        self.kind = next(layer.parameters()).dtype
        self.linear = isinstance(layer, nn.Linear)
        #: Rows that samplers see at once: those of a pass, 0 for all.
        self.together = 0
        self._memory = Memory()
        self._tiny = torch.finfo(self.kind).tiny * 2.0**24
        parameters = dict(layer.named_parameters(recurse=False))
        self.weight, self.bias = (
            views[parameters[name]] if name in parameters and parameters[name].requires_grad else None
            for name in ("weight", "bias")
        )
        self.forget()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep input and output of every call; an attribute costs a third of what a forward hook does."""
        forward = self.layer.forward

        def keep(inputs: Tensor) -> Tensor:
            output: Tensor = forward(inputs)
            self.inputs, self.output = inputs, output
            return output

        self.layer.forward = keep
        try:
            yield
        finally:
            del self.layer.forward
            self.forget()

    def forget(self) -> None:
        self.output = self.inputs = self.delta = _NOTHING
        self.samples: dict[nn.Parameter, Tensor] | None = None

    def receive(self, delta: Tensor | None) -> None:
        """Take the gradient of the output; mixed precision ends here, in the parameters' own type."""
        self.delta = torch.zeros_like(self.output) if delta is None else delta
        if self.delta.dtype != self.kind:
            self.delta = self.delta.to(self.kind)
        self.inputs = self.inputs.detach()
        if self.inputs.dtype != self.kind and self.inputs.is_floating_point():
            self.inputs = self.inputs.to(self.kind)

    def add_squares(self, squares: Tensor, rows: int, units: Units | None) -> Tensor | None:
        """Add the squared norms (n_units,) and return T (n_units,) where a unit's gradient is a sum by definition.

        `units` is None where each of the `rows` rows is a unit.
        """
        if not self.linear:
            if units is not None and isinstance(self.layer, nn.Embedding):
                return self._add_looked_up(squares, rows, units)
            self.samples = {p: sample[:rows] for p, sample in self._row_gradients().items()}
            if units is not None:
                terms = units.sum(_norms(self.samples))
                self.samples = {parameter: units.sum(sample) for parameter, sample in self.samples.items()}
            squares.add_(_norms(self.samples).square_())
            return None if units is None else terms
        if units is None and self.inputs.dim() == 2:
            # `_tiny`: what squares lose by underflow is put back, so that no product hides behind a norm of zero.
            deltas = self._squares(self.delta)[:rows].add_(self._tiny * self.delta.shape[1])
            if self.weight is None:
                squares.add_(deltas)
                return None
            inputs = self._squares(self.inputs)[:rows]
            squares.addcmul_(deltas, inputs.add_((self.bias is not None) + self._tiny * self.inputs.shape[1]))
            return None
        groups = (units or Units(torch.arange(rows), rows)).groups()
        terms = torch.zeros_like(squares)
        for group in groups:
            at, absent, shape = group.rows.flatten(), group.absent, group.rows.shape
            a, d = (part.index_select(0, at).double() for part in (self.inputs, self.delta))
            if absent is not None:  # padding repeats a row of the unit, so its input may be what that row's is
                d.masked_fill_(absent.view(-1, *[1] * (d.dim() - 1)), 0)
            a, d = (part.view(shape[0], -1, part.shape[-1]) for part in (a, d))
            found, sums = unit_squares(a, d, self.weight is not None, self.bias is not None)
            many = len(group.units)
            squares.index_add_(0, group.units, found[:many].clamp_(min=0).to(squares))
            terms.index_add_(0, group.units, sums[:many].to(terms))
        return terms

    def _add_looked_up(self, squares: Tensor, rows: int, units: Units) -> Tensor:
        """`add_squares` of an embedding: what its unit's rows looked up is added up where it was looked up.

        No gradient of a row is made: a unit's is as large as the table, and a row's would be, too. Each unit's terms
        are added in their own order, whoever else is there.
        """
        at, delta = self.inputs[:rows].reshape(rows, -1), self.delta[:rows].reshape(rows, -1, self.delta.shape[-1])
        padding = self.layer.padding_idx
        if isinstance(padding, int):
            delta = delta * torch.ne(at, padding).unsqueeze(-1)
        table = self.layer.weight
        assert isinstance(table, nn.Parameter)
        sums = delta.new_zeros(units.count * len(table), table.shape[1])
        sums.index_add_(0, (units.place.unsqueeze(1) * len(table) + at).flatten(), delta.flatten(0, 1))
        self.samples = {table: sums.view(units.count, *table.shape)}
        squares.add_(_norms(self.samples).square_())
        return units.sum(torch.linalg.vector_norm(delta, dim=2).sum(1))

    def _squares(self, rows: Tensor) -> Tensor:
        """(n, width) -> (n,), the squared norm of each row."""
        products = self._memory.like(("products", rows.shape[1]), (len(rows), rows.shape[1]), rows)
        return torch.mul(rows, rows, out=products).sum(1)

    def _row_gradients(self) -> dict[nn.Parameter, Tensor]:
        delta = self.delta
        if isinstance(self.layer, nn.Embedding) and self.layer.padding_idx is not None:
            delta = delta * (self.inputs != self.layer.padding_idx).unsqueeze(-1)
        # As many rows as a pass has, in which each was found to get the same bits at every place: what else was drawn
        # decides on no kernel.
        size, sampler = self.together or len(delta), samplers()[type(self.layer)]
        cut = zip(torch.split(self.inputs, size), torch.split(delta, size), strict=True)
        pieces: list[dict[nn.Parameter, Tensor]] = [sampler(self.layer, [inputs], part) for inputs, part in cut]
        whole = {p: [piece[p] for piece in pieces] for p in pieces[0] if p.requires_grad}
        return {p: torch.cat(parts) if len(parts) > 1 else parts[0] for p, parts in whole.items()}

    def mute(self, broken: Tensor, units: Units | None) -> None:
        """Take units out of the sum: those whose gradient is not finite."""
        rows = (broken if units is None else broken[units.place]).nonzero().flatten()
        self.delta = self.delta.clone()
        self.delta[rows] = 0
        if self.inputs.is_floating_point():
            self.inputs = self.inputs.clone()
            self.inputs[rows] = 0
        for sample in (self.samples or {}).values():
            sample[broken] = 0

    def add(self, factors: Tensor, rows: int, units: Units | None) -> None:
        """Add this layer's part of ``sum_u factors[u] x gradient[u]``."""
        if self.samples is not None:
            for parameter, sample in self.samples.items():
                self.views[parameter].view(-1).addmv_(sample.flatten(1).mT, factors)
            return
        delta, inputs = self.delta[:rows], self.inputs[:rows]
        if units is None and delta.dim() == 2:
            if self.bias is not None:
                self.bias.addmv_(delta.mT, factors)
            if self.weight is not None:
                scaled = self._memory.like(("scaled", 0), (len(self.delta), delta.shape[1]), delta)[:rows]
                torch.mul(delta, factors.unsqueeze(1), out=scaled)
                _add_product(self.weight, scaled, inputs)
            return
        by_row = factors if units is None else factors[units.place]
        by_row = by_row.repeat_interleave(delta[0].numel() // delta.shape[-1])
        # Terms may cancel: see the guarantees.
        scaled = delta.flatten(0, -2).double() * by_row.double().unsqueeze(1)
        inputs = inputs.flatten(0, -2).double()
        for d, a in zip(torch.split(scaled, _BLOCK), torch.split(inputs, _BLOCK), strict=True):
            if self.bias is not None:
                self.bias += d.sum(0).to(self.kind)
            if self.weight is not None:
                self.weight += (d.mT @ a).to(self.kind)


def _norms(samples: Mapping[nn.Parameter, Tensor]) -> Tensor:
    """Norms (n,) over all parameters of gradients (n, *parameter.shape)."""
    squares = [torch.linalg.vecdot(flat, flat) for flat in (sample.flatten(1) for sample in samples.values())]
    return torch.stack(squares).sum(0).sqrt_()


def _add_product(weight: Tensor, delta: Tensor, inputs: Tensor) -> None:
    """Add ``delta^T inputs`` to `weight`, with the operand outside whose width matrix kernels like (1.7 times)."""
    if inputs.shape[1] % _KERNEL and not delta.shape[1] % _KERNEL and len(inputs) >= _KERNEL**2:
        weight += (inputs.mT @ delta).mT
    else:
        weight.addmm_(delta.mT, inputs)


def steady_layer(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether rows of random numbers, and random gradients of what comes out, get the same bits at another place."""
    if not inputs.is_floating_point():
        return True

    def both(tables: dict[str, Tensor]) -> list[Tensor]:
        with torch.enable_grad():
            rows = tables["rows"].clone().requires_grad_()
            output: Tensor = type(layer).forward(layer, rows)
            (back,) = torch.autograd.grad((output * tables["gradient"]).sum(), rows)
        return [output.detach(), back]

    shapes = {"rows": inputs, "gradient": type(layer).forward(layer, inputs).detach()}
    return same_bits(both, made_up_rows(len(inputs), shapes))
