"""Reads a participant's rows: from CSV, Parquet, a database, public data, or a synthetic generator.

A source is one line of text in the participant's own policy:

    csv:/data/heart.csv        parquet:/data/heart.parquet
    sql:postgresql+psycopg://user:secret@host/db?query=SELECT * FROM heart
    sql:sqlite:////data/heart.db?table=heart
    public:/data/hospital      synthetic:400?seed=7

What stands after `query=` is taken as it is, to the end of the line. `placebo:SEED:` before `public:` or `synthetic:`
asks for labels drawn from the schema's public prior instead of the rows' own (a simulation's control, never data).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from clients.errors import ClientError, SourceError
from clients.industry import IndustryClient
from clients.masking import masked

__all__ = ["Source", "numpy_generator", "parse_source", "public_folder", "read", "read_csv", "read_table"]

Kind = Literal["csv", "parquet", "sql", "public", "synthetic"]
FORMS = "csv:PATH, parquet:PATH, sql:URL?query=SELECT…, sql:URL?table=NAME, public:FOLDER, synthetic:ROWS?seed=N"
_SQL = re.compile(r"^(?P<url>.+?)[?&](?P<what>query|table)=(?P<text>.+)$", re.DOTALL)
_SYNTHETIC = re.compile(r"^(?P<rows>\d*)(?:\?seed=(?P<seed>\d+))?$")
_PLACEBO = re.compile(r"^(?P<seed>\d+):(?P<rest>(?:public|synthetic):.*)$", re.DOTALL)
_SCHEMES = frozenset(
    {"csv", "parquet", "sql", "public", "synthetic", "placebo", "file", "http", "https", "s3", "postgresql", "postgres"}
    | {"mysql", "sqlite", "xlsx", "json", "tsv"}
)
_IDENTIFIER = re.compile(r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?$")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A parsed source. Its text form shows no database's URL, and no secret in a path."""

    kind: Kind
    location: str = field(default="", repr=False)
    query: str = field(default="", repr=False)
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
        return "sql:(a database)" if self.kind == "sql" else masked(f"{self.kind}:{self.location}")


def parse_source(text: str, *, key: str = "source") -> Source:
    """Read one line of a policy.

    Parameters
    ----------
    key : str
        The policy's key, for the error, such as "dataset.heart.source".

    Raises
    ------
    SourceError
        It is none of the forms.
    """
    scheme, colon, rest = text.partition(":")
    if scheme == "placebo" and (match := _PLACEBO.match(rest)):
        return replace(parse_source(match["rest"], key=key), placebo=int(match["seed"]))
    if scheme in {"csv", "parquet", "public"} and rest:
        return Source(kind=scheme, location=rest)  # type: ignore[arg-type]
    if scheme == "sql" and (match := _SQL.match(rest)):
        query = match["text"]
        if match["what"] == "table":
            if not _IDENTIFIER.match(query):
                raise SourceError(f"{key}: table: wanted a plain name or schema.name. Use query= for anything else.")
            query = f"SELECT * FROM {query}"  # noqa: S608 - a plain name, checked above
        return Source(kind="sql", location=match["url"], query=query)
    if scheme == "synthetic" and (match := _SYNTHETIC.match(rest)):
        rows = int(match["rows"]) if match["rows"] else None
        if rows == 0:
            raise SourceError(f"{key}: wanted at least 1 synthetic row, got 0")
        return Source(kind="synthetic", rows=rows, seed=int(match["seed"]) if match["seed"] else None)
    # Only a scheme that is well known is repeated: anything else may be a password.
    got = f"{scheme}{colon}…" if colon and scheme.lower() in _SCHEMES else "something else"
    raise SourceError(f"{key}: wanted one of {FORMS}; got {got}")


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
    if source.kind in _TABLES:
        frame = read_table(source, key=key)
    elif source.kind == "synthetic":
        generator = numpy_generator(client.name, site, seed if source.seed is None else source.seed)
        frame = client.synthesise(generator, source.rows or client.default_rows, site)
    else:
        frame = _guarded(source, key, lambda: _read_public(source, client, site))
    if frame.empty:
        raise SourceError(f"{key}: {source}: wanted rows, got none")
    frame.attrs["synthetic"] = source.synthetic
    return frame


def read_table(source: Source, *, key: str = "source") -> pd.DataFrame:
    """A table of the owner's own (csv, parquet, sql); SourceError as `read`."""
    if source.kind not in _TABLES:
        raise SourceError(f"{key}: wanted csv, parquet or sql; got {source.kind}")
    frame = _guarded(source, key, lambda: _TABLES[source.kind](source))
    if frame.empty:
        raise SourceError(f"{key}: {source}: wanted rows, got none")
    return frame


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """A generator seeded by the SHA-256 of its parts: for synthetic rows, never for noise."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


class _WrongSourceError(Exception):
    """A problem whose text is ours, hence safe to show."""


_WANTED = {
    "csv": "wanted UTF-8 text, comma separated, with a header line and no row longer than it",
    "parquet": "wanted a Parquet file",
    "sql": "wanted a database that answers the query (check the URL, the query, and that it runs)",
    "public": "wanted the public data set's own format",
}


def _guarded(source: Source, key: str, load: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Turn what files and drivers raise into one sentence. Their own texts may quote rows or passwords."""
    problem = ""
    try:
        return load()
    except ClientError:
        raise
    except _WrongSourceError as error:
        problem = str(error)
    except FileNotFoundError:
        problem = "wanted a file that exists, found none"
    except ImportError as error:
        problem = f"wanted the driver {error.name!r}; install it (consortia[postgres] brings psycopg)"
    except PermissionError:
        problem = "wanted a file that this process may read"
    except Exception as error:  # noqa: BLE001 - whatever a driver raises ends here, by its kind only
        problem = f"{_WANTED[source.kind]}; got {type(error).__name__}"
    raise SourceError(f"{key}: {source}: {problem}. Correct `{key}` in the policy.") from None


def read_csv(path: Path) -> pd.DataFrame:
    """A CSV file as text: a leading zero of an identifier stays, and the schema alone says what is missing.

    Raises
    ------
    Exception
        Whatever pandas and the file system raise; its text may hold a row. ParserError, too, when a row has more cells
        than the header line: which of them is whose would be a guess.
    """
    # pandas cuts the first row to the header's length, or shifts every row by one; without a header it refuses.
    pd.read_csv(path, header=None, nrows=2, dtype=str, encoding="utf-8-sig")
    return pd.read_csv(path, dtype=str, index_col=False, keep_default_na=False, encoding="utf-8-sig")


def _read_csv(source: Source) -> pd.DataFrame:
    return read_csv(_file(source))


def _read_parquet(source: Source) -> pd.DataFrame:
    return pd.read_parquet(_file(source))


def _file(source: Source) -> Path:
    path = Path(source.location).expanduser()
    if not path.is_file():
        raise FileNotFoundError(source.location)
    return path


def _read_sql(source: Source) -> pd.DataFrame:
    import sqlalchemy

    url = sqlalchemy.make_url(source.location)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
        # SQLite makes an empty database where there is none.
        raise FileNotFoundError(url.database)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        # Without parameters no placeholder is read into the owner's query (LIKE 'a%'). Nothing is committed.
        result = connection.execution_options(no_parameters=True).exec_driver_sql(source.query)
        frame = pd.DataFrame.from_records([tuple(row) for row in result], columns=list(result.keys()))
    engine.dispose()
    return frame


def public_folder(source: Source, client: IndustryClient) -> Path | None:
    """The folder with the industry's public data set: its own, or one above it, which `--data` names; else None."""
    folder = Path(source.location).expanduser()
    tried = (folder / client.dataset, folder / client.name / client.dataset)
    return next((candidate for candidate in tried if candidate.is_dir()), None)


def _read_public(source: Source, client: IndustryClient, site: str) -> pd.DataFrame:
    folder = public_folder(source, client)
    if folder is None:
        raise _WrongSourceError(f"wanted a folder {client.dataset} or {client.name}/{client.dataset} in it")
    return client.read(folder, site)


_TABLES: dict[str, Callable[[Source], pd.DataFrame]] = {"csv": _read_csv, "parquet": _read_parquet, "sql": _read_sql}
