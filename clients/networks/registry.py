"""Finds kinds of networks by name, reads their options, and builds encoders."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from clients.errors import ModelError
from clients.networks.kind import NetworkKind
from consortia_plugins import Seam
from consortia_plugins.options import make

if TYPE_CHECKING:
    from torch import nn

    from clients.shapes import Shape

__all__ = ["GROUP", "NAMES", "OWN", "encoder", "get", "head", "names", "read_options"]

GROUP: Final = "consortia.networks"
#: How a contract begins the name of an installed kind.
OWN: Final = "torch:"
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "cnn": "clients.networks.convolutional:CNN",
        "tcn": "clients.networks.convolutional:TCN",
        "gru": "clients.networks.recurrent:GRU",
        "lstm": "clients.networks.recurrent:LSTM",
        "transformer": "clients.networks.attention:TRANSFORMER",
        "two-tower": "clients.networks.towers:TWO_TOWER",
    }
)
#: The built-in ones.
NAMES: Final = tuple(_BUILT_IN)


def _check(name: str, found: Any) -> NetworkKind:
    del name
    if not isinstance(found, NetworkKind):
        raise ValueError(f"wanted a clients.networks.NetworkKind, got {type(found).__name__}")
    kind: Any = found.options
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind) or not kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError("options: wanted a class with @dataclass(frozen=True), got another")
    return found


_kinds = Seam(GROUP, "network", _check, built_in=lambda: _BUILT_IN, unknown=ModelError, broken=ModelError)


def names() -> tuple[str, ...]:
    """Return every kind as a contract names it; nothing is imported for it."""
    return (*NAMES, *(f"{OWN}{name}" for name in _kinds.installed() if name not in _BUILT_IN))


def get(kind: str) -> NetworkKind:
    """Return the kind that a contract names: a built-in one, or `torch:NAME` for an installed one.

    Raises
    ------
    ModelError
        Nobody knows it, or its package is broken.
    """
    own, name = kind.startswith(OWN), kind.removeprefix(OWN)
    if own == (name in _BUILT_IN) or (not own and name in _kinds.installed()):
        raise ModelError(
            f"kind: wanted one of linear, mlp, {', '.join(names())}, got {kind!r}; correct the name, or install the "
            "package that brings it; after a new entry point run `pip install -e` again"
        )
    return _kinds.get(name, "kind")


def read_options(kind: str, options: Mapping[str, Any]) -> Any:
    """Return the kind's own options, typed and checked.

    Raises
    ------
    ModelError, ValueError
        Nobody knows the kind; an option is unknown, missing or of a wrong type.
    """
    return make(get(kind).options, options, kind)


def encoder(kind: str, options: Mapping[str, Any], shape: Shape | None, width: int) -> nn.Module:
    """Return a module from features (n_rows, n_features) to (n_rows, width): into the shape, then the network.

    Raises
    ------
    ModelError
        The kind does not take rows of that shape; options that do not fit.
    """
    from torch import nn

    found = get(kind)
    if shape is None or not isinstance(shape, found.shapes):
        wanted = " or ".join(one.__name__.lower() for one in found.shapes)
        got = "a table" if shape is None else f"{type(shape).__name__.lower()}"
        raise ModelError(
            f"model: kind {kind!r}: wanted a client whose rows are {wanted}, got {got}; take mlp or linear"
        )
    try:
        chosen = read_options(kind, options)
    except ValueError as error:
        raise ModelError(f"model: {error}") from None
    return nn.Sequential(nn.Unflatten(1, shape.sizes), found.build(shape, width, chosen))


def head(kind: str, options: Mapping[str, Any], width: int, outputs: int) -> nn.Module | None:
    """Return the kind's own head, from (n_rows, width) to (n_rows, 1); None where it takes the client's.

    Raises
    ------
    ModelError
        The target needs several numbers a row.
    """
    found = get(kind)
    if found.head is None:
        return None
    if outputs != 1:
        raise ModelError(f"model: kind {kind!r}: wanted a target of one number a row, got one of {outputs}; take mlp")
    return found.head(width, read_options(kind, options))
