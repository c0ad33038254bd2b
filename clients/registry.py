"""Which industries there are: each file of this package that is not part of the seam, and installed partners.

A partner's wheel names its client in the group `consortia.clients`:

    [project.entry-points."consortia.clients"]
    insurer = "partner_package.insurer:CLIENT"
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from clients.errors import ClientLoadError, UnknownClientError

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
        "metrics",
        "models",
        "registry",
        "schema",
        "sources",
        "spec",
        "tables",
    }
)
_held: dict[str, IndustryClient] = {}


def names() -> tuple[str, ...]:
    """Every known industry in alphabetical order; nothing is imported for it."""
    return tuple(sorted({*_built_in(), *_partners(), *_held}))


def hold(client: IndustryClient) -> None:
    """Make a client known to this process alone, as a simulation on somebody's own tables does.

    Raises
    ------
    ClientLoadError
        Another client has its name.
    """
    if client.name in {*_built_in(), *_partners()} or _held.setdefault(client.name, client) != client:
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
    from clients.industry import IndustryClient

    if name in _held:
        return _held[name]
    found = _partners().get(name, [])
    if name in _built_in():
        if found:
            raise ClientLoadError(f"client {name!r} is built in, and {_whose(found)} brings another of that name")
        client = importlib.import_module(f"clients.{name}").CLIENT
    elif not found:
        raise UnknownClientError(f"client: wanted one of {', '.join(names())}; got {name!r}")
    elif len(found) > 1:
        raise ClientLoadError(f"client {name!r}: {_whose(found)} all bring one; uninstall all but one")
    else:
        try:
            client = found[0].load()
        except Exception as error:
            raise ClientLoadError(
                f"client {name!r} of {_whose(found)} cannot be loaded from {found[0].value!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
    if not isinstance(client, IndustryClient) or client.name != name:
        got = f"one named {client.name!r}" if isinstance(client, IndustryClient) else type(client).__name__
        raise ClientLoadError(f"client {name!r}: wanted an IndustryClient of that name, got {got}")
    return client


@lru_cache(maxsize=1)
def _built_in() -> frozenset[str]:
    modules = {module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)])}
    return frozenset(name for name in modules - SEAM if not name.startswith("_"))


def _partners() -> dict[str, list[EntryPoint]]:
    return _scan(tuple(sys.path))


@lru_cache(maxsize=4)
def _scan(_: tuple[str, ...]) -> dict[str, list[EntryPoint]]:
    """Look through every installed package: 8 ms, so once for each path that this process had."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _whose(points: list[EntryPoint]) -> str:
    return ", ".join(sorted(p.dist.name if p.dist else p.value for p in points))
