"""Reads rows from one line of a policy. Whatever fails is one sentence without a value."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

import pandas as pd

from clients import source_registry
from clients._seeded import numpy_generator
from clients.errors import ClientError, SourceError
from clients.industry import IndustryClient
from clients.masking import masked
from clients.sources.table import TableSource, WrongRowsError

__all__ = ["Source", "numpy_generator", "parse_source", "public_folder", "read", "read_table"]

#: The place of a public data set that an installed package brings.
INSTALLED: Final = "installed"
_SYNTHETIC: Final = re.compile(r"^(?P<rows>\d*)(?:\?seed=(?P<seed>\d+))?$")
_PLACEBO: Final = re.compile(r"^(?P<seed>\d+):(?P<rest>(?:public|synthetic):.*)$", re.DOTALL)
#: The extra that brings a driver.
_EXTRAS: Final = {
    "psycopg": "consortia[postgres]",
    "openpyxl": "consortia[excel]",
    "duckdb": "consortia[duckdb]",
}
#: Beginnings that an error repeats; whatever else stands there may be a password.
_SCHEMES: Final = frozenset(
    {
        *source_registry.RESERVED,
        *("file", "http", "https", "s3", "postgresql", "postgres", "mysql", "sqlite", "xlsx", "json", "tsv"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A parsed source. Its text form shows no database's URL, and no secret in a path."""

    kind: str
    location: str = field(default="", repr=False)
    table: TableSource | None = field(default=None, repr=False)
    rows: int | None = None
    seed: int | None = None
    placebo: int | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the rows are made up, which every output has to say."""
        return self.kind == "synthetic"

    def __str__(self) -> str:
        if self.kind == "synthetic":
            return f"synthetic:{self.rows or ''}" + ("" if self.seed is None else f"?seed={self.seed}")
        return f"{self.kind}:{masked(self.location) if self.table is None else self.table.shown()}"


def parse_source(text: str, *, key: str = "source") -> Source:
    """Read one line of a policy.

    Parameters
    ----------
    key : str
        The policy's key, for the error, such as "dataset.heart.source".

    Raises
    ------
    SourceError
        It is none of the forms, or the package that brings it is broken.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "placebo" and (match := _PLACEBO.match(rest)):
        return replace(parse_source(match["rest"], key=key), placebo=int(match["seed"]))
    if scheme == "public" and rest:
        return Source(kind=scheme, location=rest)
    if scheme == "synthetic" and (match := _SYNTHETIC.match(rest)):
        rows = int(match["rows"]) if match["rows"] else None
        if rows == 0:
            raise SourceError(f"{key}: wanted at least 1 synthetic row, got 0")
        return Source(kind="synthetic", rows=rows, seed=int(match["seed"]) if match["seed"] else None)
    if colon and scheme in source_registry.names():
        return Source(kind=scheme, table=_parse_table(scheme, rest, key))
    # Only a scheme that is well known is repeated: anything else may be a password.
    known = {*_SCHEMES, *source_registry.names()}
    got = f"{scheme}{colon}…" if colon and scheme.lower() in known else "something else"
    raise SourceError(
        f"{key}: wanted one of {source_registry.forms()}; got {got}. Correct it, or install the package that reads it."
    )


def _parse_table(scheme: str, text: str, key: str) -> TableSource:
    try:
        kind = source_registry.get(scheme)
    except SourceError as error:
        raise SourceError(f"{key}: {error}") from error
    try:
        return kind.parse(text)
    except ValueError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - of a class that is not ours, whose text may hold a password
        problem = type(error).__name__
    raise SourceError(f"{key}: wanted {kind.form}; {problem}")


def read(source: Source, client: IndustryClient, site: str, seed: int = 0, *, key: str = "source") -> pd.DataFrame:
    """The source's rows (n_rows, any columns), as text or in the source's own types.

    Parameters
    ----------
    site : str
        Which part of the public data, or which site's habits the synthetic rows have.
    seed : int
        Of synthetic rows, unless the source names its own.
    key : str
        The policy's key, for errors.

    Returns
    -------
    DataFrame
        `attrs["synthetic"]` says whether the rows are made up.

    Raises
    ------
    SourceError
        Missing, unreadable or empty. SchemaError for a site that the client does not have.
    """
    if source.kind in {"public", "synthetic"}:
        client.check_site(site)
    if source.table is not None:
        frame = _read_table(source, key)
    elif source.kind == "synthetic":
        generator = numpy_generator(client.name, site, seed if source.seed is None else source.seed)
        frame = client.synthesise(generator, source.rows or client.default_rows, site)
    else:
        frame = _guarded(source, key, "the public data set's own format", lambda: _read_public(source, client, site))
    if frame.empty:
        raise SourceError(f"{key}: {source}: wanted rows, got none")
    frame.attrs["synthetic"] = source.synthetic
    return frame


def read_table(source: Source, *, key: str = "source") -> pd.DataFrame:
    """A table of the owner's own (a built-in source, or what a package reads); SourceError as `read`.

    A column that is there twice is refused, too; `read` leaves that to the schema, which knows what it may name.
    """
    frame = _read_table(source, key)
    if not frame.columns.is_unique:
        twice = int(frame.columns.duplicated().sum())
        raise SourceError(f"{key}: {source}: wanted each column once, got {twice} twice. Rename or drop it.")
    return frame


def _read_table(source: Source, key: str) -> pd.DataFrame:
    table = source.table
    if table is None:
        raise SourceError(f"{key}: wanted one of {', '.join(source_registry.names())}; got {source.kind}")
    frame = _guarded(source, key, table.wanted, lambda: _frame(table))
    if frame.empty:
        raise SourceError(f"{key}: {source}: wanted rows, got none")
    return frame


def _frame(table: TableSource) -> pd.DataFrame:
    found: object = table.read()
    if not isinstance(found, pd.DataFrame):
        raise WrongRowsError(f"{type(table).__name__}.read: wanted a pandas DataFrame, got {type(found).__name__}")
    if not all(isinstance(name, str) for name in found.columns):
        # The names are not told: without a header line they are values of the first row.
        raise WrongRowsError("wanted columns with a name each; got others")
    return found.reset_index(drop=True)


def _guarded(source: Source, key: str, wanted: str, load: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Turn what files and drivers raise into one sentence. Their own texts may quote rows or passwords."""
    problem = ""
    try:
        return load()
    except ClientError:
        raise
    except WrongRowsError as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "wanted a file that exists, found none"
    except ImportError as error:
        extra = _EXTRAS.get(error.name or "")
        problem = f"wanted the driver {error.name!r}; install it" + (f": pip install '{extra}'" if extra else "")
    except PermissionError:
        problem = "wanted a file that this process may read"
    except Exception as error:  # noqa: BLE001 - whatever a driver raises ends here, by its kind only
        problem = f"wanted {wanted}; got {type(error).__name__}"
    raise SourceError(f"{key}: {source}: {problem}. Correct `{key}` in the policy.") from None


def public_folder(source: Source, client: IndustryClient) -> Path | None:
    """The folder with the industry's public data set: its own, or one above it, which `--data` names; else None.

    `public:installed` is the folder of the package that brings it, where the industry names one.
    """
    if source.location == INSTALLED and client.installed:
        return Path(str(files(client.installed)))
    folder = Path(source.location).expanduser()
    tried = (folder / client.dataset, folder / client.name / client.dataset)
    return next((candidate for candidate in tried if candidate.is_dir()), None)


def _read_public(source: Source, client: IndustryClient, site: str) -> pd.DataFrame:
    folder = public_folder(source, client)
    if folder is None:
        raise WrongRowsError(f"wanted a folder {client.dataset} or {client.name}/{client.dataset} in it")
    return client.read(folder, site)
