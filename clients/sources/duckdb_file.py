"""Reads DuckDB files, by the package `duckdb` (consortia[duckdb])."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import pandas as pd

from clients.sources.table import FileSource
from clients.sources.tables import Queried, from_arrow

__all__ = ["DuckDb"]

#: A query sees the file alone: no other file, which no lifetime budget would know of, no network, no Python variable.
#: Nothing is written either, so what does not fit in memory is an error and no temporary file.
_CONFINED: Final[dict[str, str | bool | int | float | list[str]]] = {
    "enable_external_access": False,
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,
    "temp_directory": "",
    "lock_configuration": True,
}


@dataclass(frozen=True, kw_only=True)
class DuckDb(Queried, FileSource):
    """The result of a query to a DuckDB file, or one of its tables; the file is opened to read only.

    What stands after `query=` is taken as it is, to the end of the line.
    Two data sets of one file share one lifetime budget, whatever they ask.
    """

    form = "duckdb:PATH?query=SELECT…, duckdb:PATH?table=NAME"
    wanted = "a DuckDB file that answers the query (check table or query, and that no other process writes the file)"

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        path = self.path()
        import duckdb

        with duckdb.connect(path, read_only=True, config=_CONFINED) as connection:
            return from_arrow(connection.sql(self.query).to_arrow_table())
