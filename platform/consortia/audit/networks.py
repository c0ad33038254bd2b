"""Networks for the neighbour games: some keep rows apart, and some mix them.

What mixes rows must be refused or be bounded all the same; the neighbour game asks for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def LOSS(output: Tensor, y: Tensor) -> Tensor:  # noqa: N802 - a constant that happens to be a function
    """Return the logistic loss of each row."""
    return functional.binary_cross_entropy_with_logits(output.squeeze(-1), y.to(output.dtype), reduction="none")


class _Net(nn.Module):
    """Apply `body` to itself and the one input tensor (n_rows, 8); a copy applies it to the copy's own layers."""

    def __init__(self, body: Callable[[Any, Tensor], Tensor], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._body = body

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the logits (n_rows, 1)."""
        return self._body(self, inputs["x"])


def stack(*layers: nn.Module) -> nn.Module:
    """Return a network of layers one after the other."""
    return _Net(lambda net, x: net.layers(x), layers=nn.Sequential(*layers))


def _sequence(layer: nn.Module, width: int) -> nn.Module:
    return _Net(lambda net, x: net.head(net.layer(x.view(-1, 4, 2))[0][:, -1]), layer=layer, head=nn.Linear(width, 1))


def _convolution(layer: nn.Module, shape: tuple[int, ...], width: int) -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net.head(torch.tanh(net.layer(x.view(-1, *shape))).flatten(1))
        return out

    return _Net(body, layer=layer, head=nn.Linear(width, 1))


def _embedding(padding: int | None) -> nn.Module:
    layer = nn.Embedding(20, 6, padding_idx=padding)
    return _Net(lambda net, x: net.head(torch.tanh(net.layer(x).mean(1))), layer=layer, head=nn.Linear(6, 1))


def _attention() -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        steps = x.view(-1, 4, 2)
        out: Tensor = net.head(net.layer(steps, steps, steps)[0].mean(1))
        return out

    return _Net(body, layer=nn.MultiheadAttention(2, 1, batch_first=True), head=nn.Linear(2, 1))


def _norms() -> nn.Module:
    def body(net: Any, x: Tensor) -> Tensor:
        out: Tensor = net.head(torch.tanh(net.norm(net.layer(x.view(-1, 4, 2)))).flatten(1))
        return out

    return _Net(body, layer=nn.Linear(2, 4), norm=nn.LayerNorm(4), head=nn.Linear(16, 1))


def _dense(body: Callable[[Any, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: _Net(body, layer=nn.Linear(8, 8), head=nn.Linear(8, 1))


def _twice(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(torch.tanh(net.layer(torch.tanh(net.layer(x)))))
    return out


def _mixing(mix: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return _dense(lambda net, x: net.head(torch.tanh(net.layer(mix(x)))))


def _lag(x: Tensor) -> Tensor:
    return x - torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _flip(x: Tensor) -> Tensor:
    return -x if bool((x.abs() > 5).any()) else x


#: By name. Those whose name begins with "embedding" take whole numbers below 20.
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "linear": lambda: stack(nn.Linear(8, 1)),
    "linear without bias": lambda: stack(nn.Linear(8, 1, bias=False)),
    "mlp": lambda: stack(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)),
    "deep mlp": lambda: stack(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1)),
    "layer norm": lambda: stack(nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1)),
    "group norm": lambda: stack(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 1)),
    "norms in three dimensions": _norms,
    "convolution": lambda: _convolution(nn.Conv1d(2, 4, 3, padding=1), (2, 4), 16),
    "convolution in two dimensions": lambda: _convolution(nn.Conv2d(2, 3, 2), (2, 2, 2), 3),
    "gru": lambda: _sequence(nn.GRU(2, 5, batch_first=True), 5),
    "lstm": lambda: _sequence(nn.LSTM(2, 4, batch_first=True), 4),
    "attention": _attention,
    "embedding": lambda: _embedding(None),
    "embedding with padding": lambda: _embedding(0),
    "a layer called twice": _dense(_twice),
    "lag": _mixing(_lag),
    "cumulative sum": _mixing(lambda x: x.cumsum(0)),
    "less the mean": _mixing(lambda x: x - x.mean(0, keepdim=True)),
    "all change with one": _mixing(_flip),
}
