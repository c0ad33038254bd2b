"""Reads CSV, Parquet and SQL, the built-in sources of an owner's rows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import pandas as pd

from clients.sources.table import FileSource, TableSource

__all__ = ["Csv", "Parquet", "Sql", "read_csv"]

_SQL: Final = re.compile(r"^(?P<url>.+?)[?&](?P<what>query|table)=(?P<text>.+)$", re.DOTALL)
_IDENTIFIER: Final = re.compile(r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?$")


@dataclass(frozen=True, kw_only=True)
class Csv(FileSource):
    """One CSV file with the columns of the industry's schema."""

    form = "csv:PATH"
    wanted = "UTF-8 text, comma separated, with a header line and no row longer than it"

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        return read_csv(self.path())


@dataclass(frozen=True, kw_only=True)
class Parquet(FileSource):
    """One Parquet file."""

    form = "parquet:PATH"
    wanted = "a Parquet file"

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        return pd.read_parquet(self.path())


@dataclass(frozen=True, kw_only=True)
class Sql(TableSource):
    """The result of a query, or a table; `location` is an address of SQLAlchemy.

    What stands after `query=` is taken as it is, to the end of the line.
    """

    query: str = field(repr=False)
    form = "sql:URL?query=SELECT…, sql:URL?table=NAME"
    wanted = "a database that answers the query (check the URL, the query, and that it runs)"

    @classmethod
    def parse(cls, text: str) -> Self:
        """See `TableSource.parse`."""
        match = _SQL.match(text)
        if match is None:
            raise ValueError("a query or a table is missing")
        query = match["text"]
        if match["what"] == "table":
            if not _IDENTIFIER.match(query):
                raise ValueError("table: wanted a plain name or schema.name. Use query= for anything else.")
            query = f"SELECT * FROM {query}"  # noqa: S608 - a plain name, checked above
        return cls(location=match["url"], query=query)

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        import sqlalchemy

        url = sqlalchemy.make_url(self.location)
        if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).is_file():
            # SQLite makes an empty database where there is none.
            raise FileNotFoundError(url.database)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            # Without parameters no placeholder is read into the owner's query (LIKE 'a%'). Nothing is committed.
            result = connection.execution_options(no_parameters=True).exec_driver_sql(self.query)
            frame = pd.DataFrame.from_records([tuple(row) for row in result], columns=list(result.keys()))
        engine.dispose()
        return frame

    def identity(self) -> tuple[str, ...]:
        """Return where and what is asked; who asks makes no difference."""
        import sqlalchemy

        query = " ".join(self.query.split()).rstrip("; ").casefold()
        try:
            url = sqlalchemy.make_url(self.location)
        except (sqlalchemy.exc.ArgumentError, ValueError):
            return (self.location, query)
        database = url.database or ""
        if url.get_backend_name() == "sqlite":
            database = str(Path(database).resolve())
        return (url.get_backend_name(), (url.host or "").casefold(), str(url.port or ""), database, query)

    def shown(self) -> str:
        """See `TableSource.shown`."""
        return "(a database)"


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
