"""Clipped sums without per-row gradients: book-keeping (Bu et al. 2023, *DP Optimization at Small Cost*, Alg. 1).

One forward pass keeps every layer's input a, one backward pass the gradients d of every layer's *output*. A row's
gradient in a dense layer is the outer product of the two, so its norm is ``|d| |a|`` and the clipped sum over all
rows is one matrix product, ``(c d)^T a``; no gradient of a single row is ever made. Other layers (convolutions,
norms, embeddings) go through Opacus' own per-row samplers, layer by layer.

Formal guarantees
-----------------
* What a unit adds is ``c g``: g its summed gradient over all parameters jointly, and

      c = min(1, (1 - 2^-22) C / (m + 1e-6)),    m = |g| + 2^-10 T.

  T is the sum of the norms of the terms that g is a sum of, where a gradient is by definition such a sum (a unit of
  several rows, a dense layer at several positions); else 0. The choice goes by the policy's unit and by shapes.
  A unit whose m is not finite adds zero.
* *Never too short.* The rounding of |g| is below ``2^-22 |g| + 2^-14 T`` in float64 (`_units.linear_squares`, for
  layers of up to 2^24 weights), so ``|c g| <= C``.
* *A function of the unit alone, to the bit.* Every pass has one public number of rows, a multiple of 48, in which
  made-up rows were found to get the same bits at every place (`_steady`), else 48 rows or one; per-row samplers see as
  many at once; norms come from `_units`. So a unit more or less changes no other unit's d, a or c.
* *Rounding of the sum.* Terms of c g add up to at most 2^10 C, by T's part in m. Products hold up to 1024 of them
  and at most 1024 products are added, so a sum over up to 2^20 rows is off by at most 2^-12 C from that of the exact
  c g (Higham 2002, sec. 3.1, in any order): `secure_noise.SLACK` counts it twice. In float32 (simulations, without
  secure noise) units of one row are off by at most 2^-24 n^2 C for n units drawn, typically 2^-24 n C.
* Only modules that are known to treat each row by itself (`privacy._composition`) are trained this way; `supports`
  names the reason when one is not, and `privacy.dp_sgd` takes it as a function of one row.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import starmap
from typing import Any, Final

import torch
from torch import Tensor, nn

from privacy._composition import Composition, known
from privacy._conditions import with_made_up_parameters
from privacy._dense import DenseStack, dense_stack
from privacy._layer import Layer, steady_layer
from privacy._one_row import made_up_rows, same_bits
from privacy._rows import OF_BOTH, Draw, Loss, filled, row_losses
from privacy._units import Units
from privacy.errors import PlanError

__all__ = ["SHORTER", "TERMS", "BookKeeping", "supports"]

#: The two constants of the formula for c.
SHORTER: Final = 1 - 2.0**-22
TERMS: Final = 2.0**-10
_TARGET: Final = "\0target"
#: (structure, rows of a pass) -> whether each row gets there the same bits at every place.
_found_steady: dict[tuple[Any, ...], bool] = {}


def supports(module: nn.Module) -> str | None:
    """Return why book-keeping does not fit `module`, or None where it does."""
    found = known(module)
    return found if isinstance(found, str) else None


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Norms and sums are made in the parameters' type, whatever type the passes used."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class BookKeeping:
    """Clipped sums of one module, into one flat buffer.

    Parameters
    ----------
    module : one that `supports` accepts.
    parameters : its trainable parameters.
    steps : what `known` found of it, where that was asked for before.

    Attributes
    ----------
    total : (n_parameters,), the clipped sum so far.
    views : parameter -> its part of `total`.
    """

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter], steps: Composition | None = None) -> None:
        found = steps or known(module)
        if isinstance(found, str):
            raise PlanError(f"module: book-keeping does not fit it: {found}")
        self.root, self.module = module, found
        self.parameters = parameters
        self.total = torch.zeros(
            sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
        )
        parts = torch.split(self.total, [p.numel() for p in parameters])
        self.views = {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}
        self._layers = [
            Layer(layer, self.views)
            for layer in self.module.layers
            if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self._taken = False
        self._stack = dense_stack(found)
        self._sizes: dict[int, int] = {}
        self._sums = [(layer.weight, layer.bias) for layer in self._layers if layer.weight is not None]

    def take(self) -> Tensor:
        """Return the clipped sum so far, good until the next `add`; that one starts from zero."""
        self._start()
        self._taken = True
        return self.total

    def _start(self) -> None:
        """Forget a sum that was taken: a copy for each step would cost as much as the noise of a large model."""
        if self._taken:
            self.total.zero_()
            self._taken = False

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep what the layers see, and forget it on the way out whatever happens."""
        with ExitStack() as stack:
            for layer in self._layers:
                stack.enter_context(layer.listening())
            yield

    def add(self, draw: Draw, loss: Loss, clip: float) -> Tensor:
        """Add the gradients of the drawn units, each clipped to L2 norm `clip`, to `total`.

        Returns
        -------
        The norms (n_units,) m of the guarantees; 0 for those that were not finite and add nothing.
        """
        rows = draw.place.shape[0]
        if not draw.units or not rows:
            return self.total.new_zeros(draw.units)
        stack = self._dense(draw.inputs)
        if draw.single and stack is not None:
            return self._add_dense(stack, draw, loss, clip)
        self._start()
        units = None if draw.single else Units(draw.place, draw.units)
        self._passes(draw, loss)
        with torch.no_grad(), _full_precision(self.total.device.type):
            norms = self._norms(draw.units, rows, units)
            if not math.isfinite(float(norms.sum())):
                broken = ~norms.isfinite()
                for layer in self._layers:
                    layer.mute(broken, units)
                norms = norms.masked_fill(broken, 0)
            factors = _factors(norms, clip, torch.empty_like(norms))
            for layer in self._layers:
                layer.add(factors, rows, units)
                layer.forget()
        return norms

    def _dense(self, inputs: Mapping[str, Tensor]) -> DenseStack | None:
        """Return the stack that passes without autograd, where the module is one and takes inputs of this form."""
        stack = self._stack
        if stack is None or torch.is_autocast_enabled("cpu") or not stack.takes(inputs):
            return None
        return stack

    def _add_dense(self, stack: DenseStack, draw: Draw, loss: Loss, clip: float) -> Tensor:
        """`add` where each row is a unit and all layers are dense: padding counts nowhere by its factors of zero."""
        rows, inputs, target, size = self._padded(draw, loss)
        pieces: list[Tensor] = []
        with torch.no_grad():
            for start in range(0, rows, size):
                if size < target.shape[0]:
                    piece = slice(start, start + size)
                    one = stack.run({name: t[piece] for name, t in inputs.items()}, target[piece], loss)
                else:
                    one = stack.run(inputs, target, loss)
                norms = one.measure()
                if not math.isfinite(float(norms.sum())):
                    one.mute()
                _factors(norms, clip, one.factors)
                if rows - start < size:
                    one.factors[rows - start :] = 0
                one.add(self._sums, 0.0 if self._taken else 1.0)
                self._taken = False
                pieces.append(norms[: rows - start].clone())
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    def _padded(self, draw: Draw, loss: Loss) -> tuple[int, dict[str, Tensor], Tensor, int]:
        """Return the draw's rows, the tables in whole passes, and the public number of rows of a pass."""
        rows = draw.target.shape[0] + -draw.target.shape[0] % draw.together
        inputs, target = {name: filled(tensor, rows) for name, tensor in draw.inputs.items()}, filled(draw.target, rows)
        size = self._size(draw.together, inputs, target, loss)
        if rows % size:
            rows += -rows % size
            inputs = {name: filled(tensor, rows) for name, tensor in inputs.items()}
            target = filled(target, rows)
        return draw.place.shape[0], inputs, target, size

    def _passes(self, draw: Draw, loss: Loss) -> None:
        """Run all rows through the module, every pass with the same public number of rows."""
        _, inputs, target, size = self._padded(draw, loss)
        rows = target.shape[0]
        for layer in self._layers:
            layer.together = size
        if rows == size:
            self._pass(inputs, target, loss)
            return
        pieces: list[list[tuple[Tensor, Tensor]]] = [[] for _ in self._layers]
        for start in range(0, rows, size):
            piece = slice(start, start + size)
            self._pass({name: tensor[piece] for name, tensor in inputs.items()}, target[piece], loss)
            for layer, kept in zip(self._layers, pieces, strict=True):
                kept.append((layer.inputs.clone(), layer.delta.clone()))
        for layer, kept in zip(self._layers, pieces, strict=True):
            layer.inputs, layer.delta = (torch.cat(parts) for parts in zip(*kept, strict=True))

    def _pass(self, inputs: dict[str, Tensor], target: Tensor, loss: Loss) -> None:
        layers = self._layers
        if (stack := self._dense(inputs)) is not None:
            with torch.no_grad():
                seen = stack.run(inputs, target, loss).seen()
            for layer, one in zip(layers, seen, strict=True):
                layer.inputs, layer.delta = one
            return
        losses = row_losses(self.module, inputs, target, loss)
        outputs = [layer.output for layer in layers]
        deltas = torch.autograd.grad(losses.sum(), outputs, allow_unused=True)
        for layer, delta in zip(layers, deltas, strict=True):
            layer.receive(delta)

    def _size(self, rows: int, inputs: Mapping[str, Tensor], target: Tensor, loss: Loss) -> int:
        """Return how many rows to pass at once: `rows`, or 48, or one, the first in which no place matters."""
        size = self._sizes.get(rows)
        if size is None:
            tables = {**inputs, _TARGET: target}
            shapes = tuple((name, tuple(t.shape[1:]), str(t.dtype)) for name, t in tables.items())
            kind = (*_structure(self.root), self.module.signature, shapes, getattr(loss, "__code__", loss))
            kind = (*kind, self.total.device.type)
            kind = (*kind, torch.is_autocast_enabled(self.total.device.type), torch.get_num_threads())
            size = 1
            for tried in dict.fromkeys((rows, OF_BOTH)):
                if (*kind, tried) not in _found_steady:
                    _found_steady[*kind, tried] = self._steady(tried, tables, loss)
                if _found_steady[*kind, tried]:
                    size = tried
                    break
            self._sizes[rows] = size
        return size

    def _steady(self, rows: int, tables: Mapping[str, Tensor], loss: Loss) -> bool:
        """Whether a pass of made-up `rows` rows gives each the same bits at another place."""
        twin = self._copied()
        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        probe = BookKeeping(twin, trained, self.module.of(twin))
        made = made_up_rows(rows, tables)
        with probe.attached():
            same = same_bits(lambda those: probe._seen(those, loss), made)
        # Each layer by itself, too: what stands before it may send it zeros for made-up rows.
        inputs = {name: tensor for name, tensor in made.items() if name != _TARGET}
        if (stack := probe._dense(inputs)) is not None:
            return same and stack.steady(rows)
        return same and all(starmap(steady_layer, probe.module.inputs(inputs)))

    def _copied(self) -> nn.Module:
        """A copy with made-up parameters, without what listens to the layers (closures would be copied with it)."""
        kept = [(layer.layer, layer.layer.__dict__.pop("forward", None)) for layer in self._layers]
        try:
            return with_made_up_parameters(self.root)
        finally:
            for layer, forward in kept:
                if forward is not None:
                    layer.forward = forward

    def _seen(self, tables: Mapping[str, Tensor], loss: Loss) -> list[Tensor]:
        """Return what the layers see of the rows in one pass, and each row's share of the norms."""
        target, inputs = tables[_TARGET], {name: tensor for name, tensor in tables.items() if name != _TARGET}
        seen: list[Tensor] = []
        if (stack := self._dense(inputs)) is not None:
            with torch.no_grad():
                one = stack.run(inputs, target, loss)
                seen = [tensor.clone() for pair in one.seen() for tensor in pair]
                return [*seen, one.measure().clone()]
        self._pass(inputs, target, loss)
        with torch.no_grad():
            for layer in self._layers:
                squares = layer.delta.new_zeros(len(target))
                layer.add_squares(squares, len(target), None)
                seen += [layer.inputs, layer.delta, squares, *(layer.samples or {}).values()]
                layer.forget()
        return seen

    def _norms(self, count: int, rows: int, units: Units | None) -> Tensor:
        squares = self.total.new_zeros(count)
        hidden: Tensor | None = None
        for layer in self._layers:
            terms = layer.add_squares(squares, rows, units)
            if terms is not None:
                hidden = terms.square_() if hidden is None else hidden.addcmul_(terms, terms)
        norms = squares.sqrt_()
        return norms if hidden is None else norms.add_(hidden.sqrt_(), alpha=TERMS)


def _factors(norms: Tensor, clip: float, out: Tensor) -> Tensor:
    """Write the c of the guarantees to `out` (n_units,)."""
    return torch.add(norms, 1e-6, out=out).reciprocal_().mul_(clip * SHORTER).clamp_(max=1.0)


def _structure(module: nn.Module) -> tuple[Any, ...]:
    """What decides on the kernels of a pass: layers, sizes and types."""
    layers = [(name, type(layer).__name__, layer.extra_repr()) for name, layer in module.named_modules()]
    return (*layers, *((str(p.dtype), p.requires_grad) for p in module.parameters()))
