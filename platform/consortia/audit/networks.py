"""Networks for the neighbour games: some keep rows apart, and some mix them.

What mixes rows must be refused or be bounded all the same; the neighbour game asks for nothing else. The first nine
are made of layers whose rules are known, so they train as they are deployed; the others train row by row. Some mix
rows only where the check by examples does not look: huge rows, many rows, many calls, gradients alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from clients import networks
from clients.networks.lora import adapt, freeze
from clients.shapes import Image, Items, Sequence, Shape

#: Numbers that a row holds before it takes its shape.
FEATURES = 8
#: No example of `privacy.dp_sgd.check_module` has a number as large, as many rows, or as many calls.
HUGE, _MANY, _CALLS = 1e5, 8, 32


def LOSS(output: Tensor, y: Tensor) -> Tensor:  # noqa: N802 - a constant that happens to be a function
    """Return the logistic loss of each row."""
    return functional.binary_cross_entropy_with_logits(output.squeeze(-1), y.to(output.dtype), reduction="none")


Body = Callable[[Any, Tensor], Tensor]


def net(body: Body, **parts: nn.Module) -> nn.Module:
    """Return a module that applies `body` to itself and the one input tensor (n_rows, ...).

    Each has a class of its own: a function among its attributes would make any composition an unknown one.
    """

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
            """Return the logits (n_rows, 1)."""
            return body(self, inputs["x"])

    return Net()


def stack(*layers: nn.Module) -> nn.Module:
    """Return a network of layers one after the other."""
    return net(lambda net, x: net.layers(x), layers=nn.Sequential(*layers))


@dataclass(frozen=True)
class Network:
    """A network.

    Attributes
    ----------
    make : what builds it.
    shape : of a row that it takes.
    tokens : whether a row is of whole numbers below 20.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (FEATURES,)
    tokens: bool = False

    def inputs(self, x: Tensor) -> dict[str, Tensor]:
        """Return rows (n_rows, 8) as it takes them."""
        if self.tokens:
            return {"x": x.nan_to_num(0.0, 0.0, 0.0).abs().mul(7).clamp(max=19).to(torch.int64)}
        return {"x": x.view(-1, *self.shape)}


def _flat(layer: nn.Module, width: int) -> nn.Module:
    return net(lambda net, x: net.head(torch.tanh(net.layer(x)).flatten(1)), layer=layer, head=nn.Linear(width, 1))


def _last(layer: nn.Module, width: int) -> nn.Module:
    return net(lambda net, x: net.head(net.layer(x)[0][:, -1]), layer=layer, head=nn.Linear(width, 1))


def _embedding(padding: int | None) -> nn.Module:
    layer = nn.Embedding(20, 6, padding_idx=padding)
    return net(lambda net, x: net.head(torch.tanh(net.layer(x).mean(1))), layer=layer, head=nn.Linear(6, 1))


def _attention() -> nn.Module:
    layer = nn.MultiheadAttention(2, 1, batch_first=True)
    return net(lambda net, x: net.head(net.layer(x, x, x)[0].mean(1)), layer=layer, head=nn.Linear(2, 1))


def _norms() -> nn.Module:
    layers = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4))
    return _flat(layers, 16)


def _dense(body: Body) -> Network:
    return Network(lambda: net(body, layer=nn.Linear(8, 8), head=nn.Linear(8, 1)))


def _twice(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(torch.tanh(net.layer(torch.tanh(net.layer(x)))))
    return out


def _held(module: nn.Module, pattern: str) -> nn.Module:
    freeze(module, [pattern])
    return module


def _adapted(module: nn.Module, pattern: str) -> nn.Module:
    """Return the network with adapters of rank 2 on the dense layers of that name."""
    adapt(module, [pattern], rank=2, scale=0.5, generator=torch.Generator().manual_seed(0))
    return module


def _mixing(mix: Body) -> Network:
    """Return a network that does something with its rows first."""
    return _dense(lambda net, x: net.head(torch.tanh(net.layer(mix(net, x)))))


def _lag(_: Any, x: Tensor) -> Tensor:
    return x - torch.cat([torch.zeros_like(x[:1]), x[:-1]])


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0, keepdim=True)


def _is_huge(x: Tensor) -> bool:
    return bool((x.abs() > HUGE).any())


def _flip(_: Any, x: Tensor) -> Tensor:
    return -x if bool((x.abs() > 5).any()) else x


def _remember(net: Any, x: Tensor) -> Tensor:
    """Turn the sign of all rows after a huge one."""
    before = getattr(net, "turned", False)
    net.turned = before or _is_huge(x)
    return -x if before else x


def _tire(net: Any, x: Tensor) -> Tensor:
    """Turn the sign of all rows after many calls."""
    net.calls = getattr(net, "calls", 0) + 1
    return -x if net.calls > _CALLS else x


class _Backwards(torch.autograd.Function):
    """The same rows; gradients less their mean where there are many."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        """Keep nothing."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        del ctx
        (gradient,) = gradients
        return _centred(gradient) if len(gradient) > _MANY else gradient


def _backwards(net: Any, x: Tensor) -> Tensor:
    out: Tensor = net.head(_Backwards.apply(torch.tanh(net.layer(x))))  # type: ignore[no-untyped-call]
    return out


def _kind(kind: str, shape: Shape, **options: Any) -> Network:
    """Return a kind of network that contracts name, with a head."""

    def make() -> nn.Module:
        body = networks.get(kind).build(shape, 3, networks.read_options(kind, options))
        return stack(body, nn.Linear(3, 1))

    return Network(make, shape.sizes)


def _autoencoder() -> nn.Module:
    """Return a network that restores its rows, and gives how far off it is."""
    layers = nn.Sequential(nn.Linear(8, 3), nn.Tanh(), nn.Linear(3, 8))

    def error(net: Any, x: Tensor) -> Tensor:
        away = net.layers(x) - x
        out: Tensor = net.mean(away * away)
        return out

    return net(error, layers=layers, mean=nn.AdaptiveAvgPool1d(1))


def _towers() -> nn.Module:
    """Return a network of items and users; seven of a row's numbers make an item and three earlier ones."""
    kind = networks.get("two-tower")
    options = kind.options()
    assert kind.head is not None
    parts = {"items": kind.build(Items(vocabulary=5, earlier=3), 4, options), "user": kind.head(4, options)}
    return net(lambda net, x: net.user(net.items(x[:, :7])), **parts)


_IMAGE, _STEPS = Image(channels=2, height=2, width=2), Sequence(length=4, channels=2, mask=True)

#: By name.
NETWORKS: Mapping[str, Network] = {
    "linear": Network(lambda: stack(nn.Linear(8, 1))),
    "linear without bias": Network(lambda: stack(nn.Linear(8, 1, bias=False))),
    "mlp": Network(lambda: stack(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))),
    "deep mlp": Network(lambda: stack(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 1))),
    "layer norm": Network(lambda: stack(nn.Linear(8, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 1))),
    "group norm": Network(lambda: stack(nn.Linear(8, 6), nn.GroupNorm(2, 6), nn.Tanh(), nn.Linear(6, 1))),
    "norms in three dimensions": Network(_norms, (4, 2)),
    "convolution": Network(lambda: _flat(nn.Conv1d(2, 4, 3, padding=1), 16), (2, 4)),
    "convolution in two dimensions": Network(lambda: _flat(nn.Conv2d(2, 3, 2), 3), (2, 2, 2)),
    "embedding": Network(lambda: _embedding(None), tokens=True),
    "embedding with padding": Network(lambda: _embedding(0), tokens=True),
    "gru": Network(lambda: _last(nn.GRU(2, 5, batch_first=True), 5), (4, 2)),
    "lstm": Network(lambda: _last(nn.LSTM(2, 4, batch_first=True), 4), (4, 2)),
    "attention": Network(_attention, (4, 2)),
    "kind cnn": _kind("cnn", _IMAGE, channels=[3], pool=1, norm=True),
    "kind tcn": _kind("tcn", _STEPS, channels=[3, 3], norm=True),
    "kind gru": _kind("gru", _STEPS, state=3),
    "kind lstm": _kind("lstm", _STEPS, state=3),
    "kind transformer": _kind("transformer", _STEPS, state=4, hidden=4),
    "kind autoencoder": Network(_autoencoder),
    "kind two-tower": Network(_towers),
    "a frozen layer": Network(lambda: _held(stack(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)), "layers.0.*")),
    "adapters": Network(lambda: _adapted(stack(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 1)), "layers.0")),
    "adapters on attention": Network(
        lambda: _adapted(_kind("transformer", _STEPS, state=4, hidden=4).make(), "*.layers.*"), _STEPS.sizes
    ),
    "a layer called twice": _dense(_twice),
    "lag": _mixing(_lag),
    "cumulative sum": _mixing(lambda _, x: x.cumsum(0)),
    "less the mean": _mixing(lambda _, x: _centred(x)),
    "all change with one": _mixing(_flip),
    "less the mean if one is huge": _mixing(lambda _, x: _centred(x) if _is_huge(x) else x),
    "less the mean of many": _mixing(lambda _, x: _centred(x) if len(x) > _MANY else x),
    "all change after a huge one": _mixing(_remember),
    "all change after many calls": _mixing(_tire),
    "gradients less the mean of many": _dense(_backwards),
}
#: Those of which no example shows that they mix rows.
HIDDEN = (
    "less the mean if one is huge",
    "less the mean of many",
    "all change after a huge one",
    "all change after many calls",
    "gradients less the mean of many",
)
