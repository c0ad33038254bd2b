"""Finds the industries: files of this package, and installed packages of partners.

A partner's wheel names its client in the group `consortia.clients`:

    [project.entry-points."consortia.clients"]
    insurer = "partner_package.insurer:CLIENT"
"""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.errors import ClientLoadError, UnknownClientError
from consortia_plugins import Seam

if TYPE_CHECKING:
    from clients.industry import IndustryClient

__all__ = ["GROUP", "get", "hold", "names"]

GROUP = "consortia.clients"
SEAM = frozenset(
    {
        "dataset",
        "errors",
        "holdings",
        "industry",
        "masking",
        "metric_registry",
        "metrics",
        "models",
        "registry",
        "schema",
        "source_registry",
        "sources",
        "spec",
        "tables",
    }
)
_held: dict[str, IndustryClient] = {}


def names() -> tuple[str, ...]:
    """Every known industry in alphabetical order; nothing is imported for it."""
    return tuple(sorted({*_clients.names(), *_held}))


def hold(client: IndustryClient) -> None:
    """Make a client known to this process alone, as a simulation on somebody's own tables does.

    Raises
    ------
    ClientLoadError
        Another client has its name.
    """
    if client.name in _clients.names() or _held.setdefault(client.name, client) != client:
        raise ClientLoadError(f"client {client.name!r}: wanted a name that no other client has, got one that is taken")


def get(name: str) -> IndustryClient:
    """The client of that name.

    Raises
    ------
    UnknownClientError
        There is none; the message lists those there are.
    ClientLoadError
        A partner's package is broken, two of them claim the name, or one claims a built-in's.
    """
    return _held[name] if name in _held else _clients.get(name)


@lru_cache(maxsize=1)
def _built_in() -> Mapping[str, str]:
    modules = sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]))
    return {name: f"clients.{name}:CLIENT" for name in modules if name not in SEAM and not name.startswith("_")}


def _check(name: str, found: Any) -> IndustryClient:
    from clients.industry import IndustryClient

    if not isinstance(found, IndustryClient):
        raise ValueError(f"wanted an IndustryClient of that name, got {type(found).__name__}")
    if found.name != name:
        raise ValueError(f"wanted an IndustryClient of that name, got one named {found.name!r}")
    return found


_clients = Seam(GROUP, "client", _check, built_in=_built_in, unknown=UnknownClientError, broken=ClientLoadError)
