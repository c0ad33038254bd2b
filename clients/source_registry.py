"""Finds the sources of an owner's rows by name: the built-in ones below, and those of installed packages.

A package names its class in the group `consortia.sources`:

    [project.entry-points."consortia.sources"]
    json = "partner_package.json_file:Json"
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from clients.errors import SourceError
from consortia_plugins import Seam

if TYPE_CHECKING:
    from clients.sources.table import TableSource

__all__ = ["GROUP", "NAMES", "RESERVED", "check", "forms", "get", "names"]

GROUP: Final = "consortia.sources"
#: The other sources: rows of an industry's own making, and a simulation's control.
RESERVED: Final = ("public", "synthetic", "placebo")
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "csv": "clients.sources.tables:Csv",
        "parquet": "clients.sources.tables:Parquet",
        "sql": "clients.sources.tables:Sql",
        "excel": "clients.sources.workbook:Excel",
        "duckdb": "clients.sources.duckdb_file:DuckDb",
        "fhir": "clients.sources.fhir:Fhir",
        "omop": "clients.sources.omop:Omop",
        "npz": "clients.sources.arrays:Npz",
        "png": "clients.sources.arrays:Png",
        # `consortia new source` adds its line above this one.
    }
)
#: The built-in ones.
NAMES: Final = tuple(_BUILT_IN)


def names() -> tuple[str, ...]:
    """Every known source of an owner's rows, built in or installed; nothing is imported for it."""
    return tuple(name for name in _sources.names() if name not in RESERVED)


def get(name: str) -> type[TableSource]:
    """The class of that name.

    Raises
    ------
    SourceError
        There is none, or the package that brings it is broken; the message names the package.
    """
    return _sources.get(name)


def forms() -> str:
    """How each source is written. An installed one has its name only: to say more, its package would be imported."""
    ours = [get(name).form for name in NAMES]
    return ", ".join([*ours, "public:FOLDER", "synthetic:ROWS?seed=N", *(f"{n}:…" for n in names() if n not in NAMES)])


def check(name: str, found: Any) -> type[TableSource]:
    """Return the class; ValueError with one sentence where it is no source of that name."""
    from clients.sources.table import TableSource

    if not isinstance(found, type) or not issubclass(found, TableSource):
        raise ValueError(f"wanted a subclass of clients.sources.TableSource, got {getattr(found, '__name__', found)!r}")
    own = found.__dict__.get("__dataclass_params__")
    if own is None or not own.frozen:
        raise ValueError(f"wanted @dataclass(frozen=True, kw_only=True) on {found.__name__}, got none")
    if lacking := sorted(getattr(found, "__abstractmethods__", ())):
        raise ValueError(f"wanted {found.__name__}.{lacking[0]}, got none")
    if not found.form.startswith(f"{name}:"):
        raise ValueError(f"{found.__name__}.form: wanted a text that begins with {name + ':'!r}, got {found.form!r}")
    if not found.wanted:
        raise ValueError(f"{found.__name__}.wanted: wanted what one is told that cannot be read, got none")
    return found


_sources = Seam(GROUP, "source", check, built_in=lambda: _BUILT_IN, unknown=SourceError, broken=SourceError)
