"""Reads CSV, Parquet and SQL, built-in sources of an owner's rows."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from clients.sources.csv_file import Dialect, read_csv
from clients.sources.database import connected, identity_of
from clients.sources.table import ManyFiles, TableSource, WrongRowsError

__all__ = ["Csv", "Parquet", "Queried", "Sql", "from_arrow", "together"]

_SQL: Final = re.compile(r"^(?P<url>.+?)[?&](?P<what>query|table)=(?P<text>.+)$", re.DOTALL)
_IDENTIFIER: Final = re.compile(r"^[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?$")


@dataclass(frozen=True, kw_only=True)
class Csv(ManyFiles, Dialect):
    """CSV files: one, those of a folder or of a pattern, packed by gzip or not; options say how they are written."""

    form = "csv:PATH?separator=;&decimal=,&encoding=latin-1"
    wanted = "a CSV file with a header line"
    endings = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz")

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        paths = self.paths()
        return together([(path, _named(path, self) if len(paths) > 1 else read_csv(path, self)) for path in paths])


@dataclass(frozen=True, kw_only=True)
class Parquet(ManyFiles):
    """Parquet files: one, those of a pattern, or a folder, partitioned (`year=2024/part-0.parquet`) or not."""

    form = "parquet:PATH"
    wanted = "a Parquet file"
    endings = (".parquet",)

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        from pyarrow import parquet

        place = Path(self.location).expanduser()
        if place.is_dir():
            self._refuse_what_is_left_out(place)
            return _without_index(parquet.read_table(place))
        # `read_table` gives up on a name that is there twice; whose column it is must be said.
        return together([(path, _without_index(parquet.ParquetFile(path).read())) for path in self.paths()])

    def files(self) -> tuple[Path, ...]:
        """See `TableSource.files`; of a folder those of its partitions, too."""
        place = Path(self.location).expanduser()
        if not place.is_dir():
            return super().files()
        return tuple(sorted(each for each in place.rglob("*") if each.suffix.lower() == ".parquet" and each.is_file()))

    def _refuse_what_is_left_out(self, place: Path) -> None:
        """WrongRowsError where pyarrow would leave files or columns of a folder out, or read what `files` lacks."""
        from pyarrow import parquet

        self.refuse_others(place.rglob("*"))
        files = self.paths()
        hidden = [path for path in files if any(part[0] in "._" for part in path.relative_to(place).parts)]
        if hidden or (place / "_delta_log").exists():
            raise WrongRowsError(
                "wanted a folder whose Parquet files are all rows, got names that begin with _ or . (a table of Delta, "
                "an unfinished write?); export the rows into a folder of their own"
            )
        names = {path: parquet.read_schema(path).names for path in files}
        twice = [path.name for path, columns in names.items() if len(set(columns)) < len(columns)]
        if twice:
            raise WrongRowsError(f"wanted each column once, got one twice in {twice[0]}; rename or drop it")
        other = [path.name for path, columns in names.items() if set(columns) != set(names[files[0]])]
        if other:
            raise WrongRowsError(f"wanted the columns of {files[0].name} in each file, got others in {other[0]}")


def _without_index(table: Any) -> pd.DataFrame:
    """Return a table's rows without the columns that pandas wrote as an index."""
    index = {name for name in (table.schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}
    return from_arrow(table.select([place for place, name in enumerate(table.column_names) if name not in index]))


def _named(path: Path, dialect: Dialect) -> pd.DataFrame:
    """Return one of several files; what is wrong with it is said with its name."""
    try:
        return read_csv(path, dialect)
    except WrongRowsError as error:
        raise WrongRowsError(f"{path.name}: {error}") from None


def from_arrow(table: Any) -> pd.DataFrame:
    """Return an Arrow table's rows; a name that is there twice stays twice.

    A whole number beside blanks is exact: pandas would make the column one of floats, and a row without a value would
    change all identifiers beyond 2^53, hence units and splits of other rows.
    """
    columns = [column.to_pandas(integer_object_nulls=True) for column in table.columns]
    frame = pd.DataFrame(dict(enumerate(columns)))
    frame.columns = pd.Index(table.column_names)
    return frame


def _exact(values: list[Any]) -> pd.Series[Any]:
    """Return the values of a column unchanged: floats as floats, anything else as objects (see `from_arrow`)."""
    kinds = {type(value) for value in values}
    return pd.Series(values, dtype=np.float64 if kinds and kinds <= {float, type(None)} else object)


def together(frames: list[tuple[Path, pd.DataFrame]]) -> pd.DataFrame:
    """Return the rows of several files one below the other; WrongRowsError where their columns differ."""
    first, frame = frames[0]
    for path, other in frames[1:]:
        if list(other.columns) != list(frame.columns):
            raise WrongRowsError(f"wanted the columns of {first.name} in each file, got others in {path.name}")
    return frame if len(frames) == 1 else pd.concat([each for _, each in frames], ignore_index=True)


@dataclass(frozen=True, kw_only=True)
class Queried(TableSource):
    """The result of a query, or a table.

    What stands after `query=` is taken as it is, to the end of the line.
    """

    query: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value of `PLACE?query=SELECT…` or `PLACE?table=NAME`; ValueError for anything else."""
        match = _SQL.match(text)
        if match is None:
            raise ValueError("a query or a table is missing")
        query = match["text"]
        if match["what"] == "table":
            if not _IDENTIFIER.match(query):
                raise ValueError("table: wanted a plain name or schema.name. Use query= for anything else.")
            query = f"SELECT * FROM {query}"  # noqa: S608 - a plain name, checked above
        return cls(location=match["url"], query=query)


@dataclass(frozen=True, kw_only=True)
class Sql(Queried):
    """The result of a query to a database, or one of its tables; the address is one of SQLAlchemy.

    What stands after `query=` is taken as it is, to the end of the line.
    """

    form = "sql:URL?query=SELECT…, sql:URL?table=NAME"
    wanted = "a database that answers the query (check the URL, the query, and that it runs)"

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        with connected(self.location) as connection:
            # Without parameters no placeholder is read into the owner's query (LIKE 'a%').
            result = connection.execution_options(no_parameters=True).exec_driver_sql(self.query)
            names, rows = list(result.keys()), [tuple(row) for row in result]
        frame = pd.DataFrame({place: _exact([row[place] for row in rows]) for place in range(len(names))})
        frame.columns = pd.Index(names)
        return frame

    def identity(self) -> tuple[str, ...]:
        """Return where and what is asked; who asks makes no difference."""
        return identity_of(self.location, " ".join(self.query.split()).rstrip("; ").casefold())

    def shown(self) -> str:
        """See `TableSource.shown`."""
        return "(a database)"
