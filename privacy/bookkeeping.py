"""Clipped sums without per-row gradients: book-keeping (Bu et al. 2023, *DP Optimization at Small Cost*, Alg. 1).

One forward pass keeps every layer's input a, one backward pass the gradients d of every layer's *output*. A row's
gradient in a dense layer is the outer product of the two, so its norm is ``|d| |a|`` and the clipped sum over all
rows is one matrix product, ``(c d)^T a``; no gradient of a single row is ever made. Other layers (convolutions,
norms, embeddings that a unit reads more than once) go through Opacus' own per-row samplers, layer by layer.

Formal guarantees
-----------------
* What is added for a unit is ``c x (its summed gradient over all parameters jointly)`` with
  ``c = min(1, C / (norm + 1e-6))``, Opacus' factor; a unit whose norm is not finite adds zero.
* Where a unit has several rows (or a row several positions) a dense layer's norm comes from Gram matrices. Terms
  may cancel, so these are computed in float64 and a 2^-22th of the sum of the terms' norms is added: the norm is
  never below the true one by rounding, and the sum's own rounding stays within the clip.
* Nothing is silently left unclipped: `supports` names the reason when a module does not fit (a shared parameter, a
  layer that is called twice, a layer without a rule, in-place operations); then `privacy.dp_sgd` takes Opacus'
  hooks. A layer that is called another number of times than once while training stops the attempt.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Final

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from privacy._rows import Draw, Loss, row_losses
from privacy.errors import PlanError

__all__ = ["BookKeeping", "supports"]

_ROUNDING: Final = 2.0**-22
_KERNEL: Final = 16  # widths that matrix kernels like: multiples of float32s in a register
_NOTHING: Final = torch.empty(0)
_SAMPLERS: Final[Mapping[type[nn.Module], Any]] = GradSampleModule.GRAD_SAMPLERS
_OPACUS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.Embedding)


def supports(module: nn.Module) -> str | None:
    """Return why book-keeping does not fit `module`, or None where it does."""
    seen: set[int] = set()
    for name, layer in module.named_modules():
        if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks or "forward" in vars(layer):
            return f"{name}: has hooks of its own"
        if getattr(layer, "inplace", False):
            return f"{name}: works in place on a kept activation"
        own = [parameter for parameter in layer.parameters(recurse=False) if parameter.requires_grad]
        if not own:
            continue
        if type(layer) not in (nn.Linear, *_OPACUS):
            return f"{name}: no rule for {type(layer).__name__}"
        if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq or layer.sparse):
            return f"{name}: an embedding with max_norm, scale_grad_by_freq or sparse gradients"
        if any(id(parameter) in seen for parameter in own):
            return f"{name}: shares a parameter with another layer"
        seen |= {id(parameter) for parameter in own}
    return None


class _Layer:
    """One layer's part of a pass: its share of every unit's squared norm, then of the clipped sum."""

    def __init__(self, layer: nn.Module, views: Mapping[nn.Parameter, Tensor]) -> None:
        self.layer = layer
        self.views = views
        self.kind = next(layer.parameters()).dtype
        self.linear = isinstance(layer, nn.Linear)
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
            self.calls += 1
            self.inputs, self.output = inputs, output
            return output

        self.layer.forward = keep
        try:
            yield
        finally:
            del self.layer.forward
            self.forget()

    def forget(self) -> None:
        self.calls = 0
        self.inputs = self.output = self.delta = _NOTHING
        self.samples: dict[nn.Parameter, Tensor] | None = None

    def receive(self, delta: Tensor | None) -> None:
        """Take the gradient of the output; mixed precision ends here, in the parameters' own type."""
        self.delta = torch.zeros_like(self.output) if delta is None else delta
        if self.delta.dtype != self.kind:
            self.delta = self.delta.to(self.kind)
        self.inputs = self.inputs.detach()
        if self.inputs.is_floating_point() and self.inputs.dtype != self.kind:
            self.inputs = self.inputs.to(self.kind)

    def add_squares(self, squares: Tensor, units: "_Units") -> Tensor | None:
        """Add the squared norms (n_units,) and return what rounding may hide: the squared sum of the terms' norms."""
        if self.linear and units.single and self.inputs.dim() == 2:
            deltas = torch.linalg.vecdot(self.delta, self.delta)
            if self.weight is None:
                squares.add_(deltas)
                return None
            inputs = torch.linalg.vecdot(self.inputs, self.inputs)
            squares.addcmul_(deltas, inputs.add_(1) if self.bias is not None else inputs)
            return None
        if not self.linear or self._small(units):
            self.samples = self._unit_gradients(units)
            for sample in self.samples.values():
                squares.add_(sample.flatten(1).square().sum(1))
            return None
        a, d = units.pad(self.inputs.double()), units.pad(self.delta.double())
        products = torch.bmm(a, a.mT) if self.weight is not None else a.new_zeros(len(a), a.shape[1], a.shape[1])
        if self.bias is not None:
            products += 1
        squares.add_((products * torch.bmm(d, d.mT)).sum((1, 2)).clamp_(min=0))
        terms = products.diagonal(dim1=1, dim2=2) * d.square().sum(2)
        return terms.clamp_(min=0).sqrt().sum(1).square().to(self.kind)

    def _small(self, units: "_Units") -> bool:
        """Return whether making each unit's gradient is cheaper than a Gram matrix (Bu et al. 2022, sec. 3.3)."""
        positions = units.most * (self.inputs[0].numel() // self.inputs.shape[-1])
        return 2 * positions**2 > self.inputs.shape[-1] * self.delta.shape[-1]

    def _unit_gradients(self, units: "_Units") -> dict[nn.Parameter, Tensor]:
        if isinstance(self.layer, nn.Embedding) and self.layer.padding_idx is not None:
            self.delta = self.delta * (self.inputs != self.layer.padding_idx).unsqueeze(-1)
        rows: dict[nn.Parameter, Tensor] = _SAMPLERS[type(self.layer)](self.layer, [self.inputs], self.delta)
        return {parameter: units.sum(sample) for parameter, sample in rows.items() if parameter.requires_grad}

    def mute(self, broken: Tensor, units: "_Units") -> None:
        """Take units out of the sum: those whose gradient is not finite."""
        rows = broken if units.single else broken[units.place]
        self.delta = self.delta.clone()
        self.delta[rows] = 0
        if self.inputs.is_floating_point():
            self.inputs = self.inputs.clone()
            self.inputs[rows] = 0
        for sample in (self.samples or {}).values():
            sample[broken] = 0

    def add(self, factors: Tensor, units: "_Units") -> None:
        """Add this layer's part of ``sum_u factors[u] x gradient[u]``."""
        if self.samples is not None:
            for parameter, sample in self.samples.items():
                self.views[parameter].view(-1).addmv_(sample.flatten(1).mT, factors)
            return
        delta, inputs, by_row = self.delta, self.inputs, factors
        if not units.single or delta.dim() > 2:
            by_row = factors[units.place] if not units.single else factors
            by_row = by_row.repeat_interleave(delta[0].numel() // delta.shape[-1])
            # Terms of a unit may cancel: see the guarantees.
            delta, inputs, by_row = (delta.flatten(0, -2).double(), inputs.flatten(0, -2).double(), by_row.double())
        if delta.dtype != self.kind:
            if self.bias is not None:
                self.bias += (delta.mT @ by_row).to(self.kind)
            if self.weight is not None:
                self.weight += ((delta * by_row.unsqueeze(1)).mT @ inputs).to(self.kind)
            return
        if self.bias is not None:
            self.bias.addmv_(delta.mT, by_row)
        if self.weight is not None:
            _add_product(self.weight, delta * by_row.unsqueeze(1), inputs)


def _add_product(weight: Tensor, delta: Tensor, inputs: Tensor) -> None:
    """Add ``delta^T inputs`` to `weight`, with the operand outside whose width matrix kernels like (1.7 times)."""
    if inputs.shape[1] % _KERNEL and not delta.shape[1] % _KERNEL and len(inputs) >= _KERNEL**2:
        weight += (inputs.mT @ delta).mT
    else:
        weight.addmm_(delta.mT, inputs)


def _full_precision(device: str) -> AbstractContextManager[Any]:
    """Norms and sums are made in the parameters' type, whatever type the passes used."""
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _Units:
    """Which unit each row of a pass belongs to."""

    def __init__(self, draw: Draw) -> None:
        self.single, self.count, self.most = draw.single, draw.units, 1
        if draw.single:
            return
        self.place = place = draw.place
        order = torch.argsort(place, stable=True)
        rows = torch.bincount(place, minlength=draw.units)
        first = torch.cumsum(rows, 0) - rows
        rank = torch.empty_like(place)
        rank[order] = torch.arange(len(place), device=place.device) - first[place[order]]
        self.most = int(rows.max())
        self.slot = place * self.most + rank

    def pad(self, rows: Tensor) -> Tensor:
        """(n_rows, ..., f) -> (n_units, positions, f); rows that a unit lacks are zeros."""
        if self.single:
            return rows.flatten(1, -2) if rows.dim() > 2 else rows.unsqueeze(1)
        padded = rows.new_zeros((self.count * self.most, *rows.shape[1:]))
        padded[self.slot] = rows
        return padded.view(self.count, -1, rows.shape[-1])

    def sum(self, rows: Tensor) -> Tensor:
        """(n_rows, ...) -> (n_units, ...)."""
        if self.single:
            return rows
        return rows.new_zeros((self.count, *rows.shape[1:])).index_add_(0, self.place, rows)


class BookKeeping:
    """Clipped sums of one module, into one flat buffer.

    Parameters
    ----------
    module : one that `supports` accepts.
    parameters : its trainable parameters.

    Attributes
    ----------
    total : (n_parameters,), the clipped sum so far.
    views : parameter -> its part of `total`.
    """

    def __init__(self, module: nn.Module, parameters: list[nn.Parameter]) -> None:
        self.module = module
        self.parameters = parameters
        self.total = torch.zeros(
            sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device
        )
        parts = torch.split(self.total, [p.numel() for p in parameters])
        self.views = {p: part.view(p.shape) for p, part in zip(parameters, parts, strict=True)}
        self._layers = [
            _Layer(layer, self.views)
            for layer in module.modules()
            if any(p.requires_grad for p in layer.parameters(recurse=False))
        ]
        self._once = [1] * len(self._layers)
        self._taken = False

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
        The norms (n_units,) they had; 0 for those that were not finite and add nothing.
        """
        self._start()
        if not draw.units:
            return self.total.new_zeros(0)
        units = _Units(draw)
        self._pass(draw, loss)
        with torch.no_grad(), _full_precision(self.total.device.type):
            norms = self._norms(units)
            if not math.isfinite(float(norms.sum())):
                broken = ~norms.isfinite()
                for layer in self._layers:
                    layer.mute(broken, units)
                norms = norms.masked_fill(broken, 0)
            factors = (norms + 1e-6).reciprocal_().mul_(clip).clamp_(max=1.0)
            for layer in self._layers:
                layer.add(factors, units)
                layer.forget()
        return norms

    def _pass(self, draw: Draw, loss: Loss) -> None:
        layers = self._layers
        losses = row_losses(self.module, draw.inputs, draw.target, loss)
        if [layer.calls for layer in layers] != self._once:
            raise PlanError("module: wanted every layer to be called once in a pass; this attempt may not leave")
        outputs = [layer.output for layer in layers]
        deltas = torch.autograd.grad(losses, outputs, torch.ones_like(losses), allow_unused=True)
        for layer, delta in zip(layers, deltas, strict=True):
            layer.receive(delta)

    def _norms(self, units: "_Units") -> Tensor:
        squares = self.total.new_zeros(units.count)
        hidden: Tensor | None = None
        for layer in self._layers:
            terms = layer.add_squares(squares, units)
            if terms is not None:
                hidden = terms if hidden is None else hidden.add_(terms)
        norms = squares.sqrt_()
        return norms if hidden is None else norms + _ROUNDING * hidden.sqrt()
