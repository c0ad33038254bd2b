"""Describes a kind of network as one value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from clients.shapes import Shape

__all__ = ["NetworkKind"]


@dataclass(frozen=True, kw_only=True)
class NetworkKind:
    """A kind of network.

    Parameters
    ----------
    options : type
        A frozen dataclass; its fields are the options of a contract, with their types and defaults.
    build : callable
        (shape, width, options) -> module from rows (n_rows, *shape.sizes) to (n_rows, width). It initialises itself in
        torch's way. Rows must not mix: no BatchNorm, no dropout.
    shapes : tuple of type
        Shapes that it takes: `Image`, `Items`, `Sequence` (`clients.shapes`).
    head : callable, optional
        (width, options) -> module from what `build`'s gives to one number a row, (n_rows, 1), instead of the client's
        head. The network then has one width, and no trunk.
    """

    options: type[Any]
    build: Callable[[Shape, int, Any], nn.Module]
    shapes: tuple[type[Any], ...]
    head: Callable[[int, Any], nn.Module] | None = None
