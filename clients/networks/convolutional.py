"""`cnn` for images and sequences, `tcn` for sequences: convolutions, whose per-row gradients have closed forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from clients.errors import ModelError
from clients.networks.kind import NetworkKind
from clients.shapes import Image, Sequence, Shape

__all__ = ["CNN", "TCN", "CnnOptions", "TcnOptions"]


@dataclass(frozen=True, kw_only=True)
class CnnOptions:
    """Options of `cnn`.

    Parameters
    ----------
    channels : tuple of int
        Channels of each convolution; as many blocks of convolution, norm, activation and pooling.
    kernel : int
        Width of the kernels, odd; what a convolution gives has its input's size.
    pool : int
        Average pooling of each block; 1 is none.
    norm : bool
        A GroupNorm of one group after every convolution.
    activation : {"tanh", "relu"}
        Bounded activations keep per-row gradients small, which clipping and noise reward.
    """

    channels: tuple[int, ...] = (8, 16)
    kernel: int = 3
    pool: int = 2
    norm: bool = False
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        _check_convolution(self.channels, self.kernel)
        if self.pool < 1:
            raise ValueError(f"options.pool: wanted a whole number >= 1, got {self.pool}")


@dataclass(frozen=True, kw_only=True)
class TcnOptions:
    """Options of `tcn`: as those of `cnn`, with two convolutions a block and dilations 1, 2, 4 … block by block."""

    channels: tuple[int, ...] = (16, 16)
    kernel: int = 3
    norm: bool = False
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        _check_convolution(self.channels, self.kernel)


def _check_convolution(channels: tuple[int, ...], kernel: int) -> None:
    if not channels or min(channels) < 1:
        raise ValueError(f"options.channels: wanted whole numbers >= 1, got {list(channels)}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"options.kernel: wanted an odd number, got {kernel}")


def _activation(name: str) -> nn.Module:
    return nn.Tanh() if name == "tanh" else nn.ReLU()


def _cnn(shape: Shape, width: int, options: CnnOptions) -> nn.Module:
    flat = isinstance(shape, Sequence)
    convolution, pooling = (nn.Conv1d, nn.AvgPool1d) if flat else (nn.Conv2d, nn.AvgPool2d)
    before, *left = shape.sizes
    net = nn.Sequential()
    for number, channels in enumerate(options.channels):
        net.add_module(f"conv{number}", convolution(before, channels, options.kernel, padding=options.kernel // 2))
        if options.norm:
            net.add_module(f"norm{number}", nn.GroupNorm(1, channels))
        net.add_module(f"act{number}", _activation(options.activation))
        if options.pool > 1:
            net.add_module(f"pool{number}", pooling(options.pool))
        left = [size // options.pool for size in left]
        before = channels
    if min(left) < 1:
        raise ModelError(
            f"model: cnn: wanted at most as many blocks as pooling by {options.pool} leaves something of "
            f"{shape.sizes[1:]}, got {len(options.channels)}; take fewer channels or pool = 1"
        )
    for size in left:
        before *= size
    net.add_module("flat", nn.Flatten(1))
    net.add_module("dense", nn.Linear(before, width))
    net.add_module("act", _activation(options.activation))
    return net


class _Block(nn.Module):
    """Two dilated convolutions and a way past them (Bai, Kolter and Koltun 2018, section 3.3).

    Theirs is causal. Here a row is judged by all of its steps, so a step may see later ones.
    """

    def __init__(self, before: int, channels: int, dilation: int, options: TcnOptions) -> None:
        super().__init__()
        padding = dilation * (options.kernel // 2)
        layers = nn.Sequential()
        for number, inputs in enumerate((before, channels)):
            layers.add_module(
                f"conv{number}", nn.Conv1d(inputs, channels, options.kernel, padding=padding, dilation=dilation)
            )
            if options.norm:
                layers.add_module(f"norm{number}", nn.GroupNorm(1, channels))
            layers.add_module(f"act{number}", _activation(options.activation))
        self.layers = layers
        self.past = nn.Identity() if before == channels else nn.Conv1d(before, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x) + self.past(x)
        return out


def _tcn(shape: Shape, width: int, options: TcnOptions) -> nn.Module:
    net = nn.Sequential()
    before = shape.sizes[0]
    for number, channels in enumerate(options.channels):
        net.add_module(f"block{number}", _Block(before, channels, 2**number, options))
        before = channels
    net.add_module("pool", nn.AdaptiveAvgPool1d(1))
    net.add_module("flat", nn.Flatten(1))
    net.add_module("dense", nn.Linear(before, width))
    net.add_module("act", _activation(options.activation))
    return net


CNN = NetworkKind(options=CnnOptions, build=_cnn, shapes=(Image, Sequence))
TCN = NetworkKind(options=TcnOptions, build=_tcn, shapes=(Sequence,))
