"""Finds the industries: files of this package and of folders `clients/`, and installed packages of partners.

A file `NAME.toml` is a client without Python (`clients.declared`). It is looked for in this package, in the folders of
`$CONSORTIA_CLIENTS` and in `clients/` of the working directory; none of them is a place to import from.

A partner's wheel names its client in the group `consortia.clients`:

    [project.entry-points."consortia.clients"]
    insurer = "partner_package.insurer:CLIENT"
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clients.errors import ClientLoadError, UnknownClientError
from consortia_plugins import Seam

if TYPE_CHECKING:
    from clients.industry import IndustryClient

__all__ = ["FOLDERS", "GROUP", "built_in", "file_of", "folders", "get", "hold", "names"]

GROUP = "consortia.clients"
#: Names further folders with clients' files, separated as in PATH.
FOLDERS = "CONSORTIA_CLIENTS"
SEAM = frozenset(
    {
        "arrays",
        "dataset",
        "declared",
        "errors",
        "expressions",
        "holdings",
        "industry",
        "inferring",
        "invented",
        "mapping",
        "mapping_rules",
        "masking",
        "measures",
        "metric_registry",
        "metrics",
        "models",
        "networks",
        "proposing",
        "public_data",
        "registry",
        "schema",
        "shapes",
        "source_registry",
        "sources",
        "spec",
        "tables",
    }
)
_held: dict[str, IndustryClient] = {}


def names() -> tuple[str, ...]:
    """Every known industry in alphabetical order; nothing is imported for it."""
    return tuple(sorted({*_clients.names(), *_held, *_files()}))


def built_in() -> frozenset[str]:
    """The industries of this package that are in Python; nothing is imported for it."""
    return frozenset(_clients.built_in())


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
        A file or a partner's package is broken, two of them claim the name, or one claims a built-in's.
    """
    if name in _held:
        return _held[name]
    return _clients.get(name) if (file := file_of(name)) is None else _declared(file)


def folders() -> tuple[Path, ...]:
    """The folders with clients' files, each once: this package, those of `$CONSORTIA_CLIENTS`, and `clients/` here."""
    named = [Path(each) for each in os.environ.get(FOLDERS, "").split(os.pathsep) if each]
    every = [Path(__file__).parent, *named, Path("clients")]
    return tuple(dict.fromkeys(folder.resolve() for folder in every if folder.is_dir()))


def file_of(name: str) -> Path | None:
    """The file of a client without Python, or None.

    Raises
    ------
    ClientLoadError
        Two folders have different ones, or a client in Python has the name.
    """
    found = _files().get(name, ())
    if not found:
        return None
    alike = len({file.read_bytes() for file in found}) == 1  # the image and a kit may hold the same one
    if not alike or name in _clients.names():
        where = [str(file) for file in found] + (["a client in Python"] if name in _clients.names() else [])
        raise ClientLoadError(
            f"client {name!r}: wanted one of that name, got {' and '.join(where)}; remove all but one"
        )
    return found[0]


def _files() -> dict[str, tuple[Path, ...]]:
    found: dict[str, tuple[Path, ...]] = {}
    for folder in folders():
        for file in sorted(folder.glob("*.toml")):
            found[file.stem] = (*found.get(file.stem, ()), file)
    return found


def _declared(file: Path) -> IndustryClient:
    from clients.declared import load

    return load(file)


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
