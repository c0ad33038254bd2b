"""`transformer` for sequences: a small encoder (Vaswani et al. 2017) with its norms in front of each part."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clients.networks.kind import NetworkKind
from clients.shapes import Sequence, Shape

__all__ = ["TRANSFORMER", "TransformerOptions"]

#: Added to the score of a step that is not there: exp of it is zero, and it is finite where no step is there.
_ABSENT = -1e4


@dataclass(frozen=True, kw_only=True)
class TransformerOptions:
    """Options of `transformer`: `state` numbers a step, `heads` that divide it, `layers`, and `hidden` in each."""

    state: int = 16
    heads: int = 2
    layers: int = 1
    hidden: int = 32

    def __post_init__(self) -> None:
        for name in ("state", "heads", "layers", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"options.{name}: wanted a whole number >= 1, got {getattr(self, name)}")
        if self.state % self.heads:
            raise ValueError(f"options.heads: wanted a divisor of state = {self.state}, got {self.heads}")


class _Layer(nn.Module):
    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        state = options.state
        self.heads = options.heads
        self.norm0, self.norm1 = nn.LayerNorm(state), nn.LayerNorm(state)
        self.queries, self.keys, self.values = (nn.Linear(state, state) for _ in range(3))
        self.mixed = nn.Linear(state, state)
        self.dense = nn.Sequential(nn.Linear(state, options.hidden), nn.GELU(), nn.Linear(options.hidden, state))

    def forward(self, x: Tensor, absent: Tensor) -> Tensor:
        """Steps (n_rows, length, state) and what their scores get added (n_rows, length) -> the same shape."""
        y = self.norm0(x)
        rows, length, state = y.shape
        queries, keys, values = (
            part(y).reshape(rows, length, self.heads, state // self.heads).transpose(1, 2)
            for part in (self.queries, self.keys, self.values)
        )
        scores = queries @ keys.transpose(2, 3) / math.sqrt(state // self.heads) + absent[:, None, None, :]
        seen = (scores.softmax(3) @ values).transpose(1, 2).reshape(rows, length, state)
        x = x + self.mixed(seen)
        out: Tensor = x + self.dense(self.norm1(x))
        return out


class _Transformer(nn.Module):
    def __init__(self, shape: Sequence, width: int, options: TransformerOptions) -> None:
        super().__init__()
        self.mask = shape.mask
        self.inputs = nn.Linear(shape.channels - shape.mask, options.state)
        self.places = nn.Parameter(torch.randn(shape.length, options.state) * 0.1)
        self.layers = nn.ModuleList(_Layer(options) for _ in range(options.layers))
        self.norm = nn.LayerNorm(options.state)
        self.outputs = nn.Linear(options.state, width)

    def forward(self, x: Tensor) -> Tensor:
        """Steps (n_rows, channels, length) -> (n_rows, width), the mean over the steps that are there."""
        there = x[:, -1] if self.mask else torch.ones_like(x[:, 0])
        absent = (1 - there) * _ABSENT
        steps = self.inputs((x[:, :-1] if self.mask else x).transpose(1, 2)) + self.places
        for layer in self.layers:
            steps = layer(steps, absent)
        weights = there / there.sum(1, keepdim=True).clamp(min=1)
        mean = (self.norm(steps) * weights.unsqueeze(2)).sum(1)
        return torch.tanh(self.outputs(mean))


def _transformer(shape: Shape, width: int, options: TransformerOptions) -> nn.Module:
    assert isinstance(shape, Sequence)
    return _Transformer(shape, width, options)


TRANSFORMER = NetworkKind(options=TransformerOptions, build=_transformer, shapes=(Sequence,))
