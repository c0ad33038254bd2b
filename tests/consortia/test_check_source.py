"""Every source passes `check_source`, and a broken one fails the check that is named after what it breaks."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from clients.errors import SourceError
from clients.sources import FileSource, TableSource
from clients.sources.duckdb_file import DuckDb
from clients.sources.tables import Csv, Parquet, Sql, read_csv
from clients.sources.workbook import Excel
from consortia.testing import SourceCheckError, check_source
from consortia.testing._sources import _CHECKS


def to_csv(folder: Path, frame: pd.DataFrame) -> str:
    frame.to_csv(folder / "rows.csv", index=False)
    return str(folder / "rows.csv")


def to_parquet(folder: Path, frame: pd.DataFrame) -> str:
    frame.to_parquet(folder / "rows.parquet")
    return str(folder / "rows.parquet")


def to_sqlite(folder: Path, frame: pd.DataFrame) -> str:
    connection = sqlite3.connect(folder / "rows.db")
    frame.to_sql("rows", connection, index=False)
    connection.close()
    return f"sqlite:///{folder}/rows.db?table=rows"


def to_excel(folder: Path, frame: pd.DataFrame) -> str:
    with pd.ExcelWriter(folder / "rows.xlsx") as book:
        frame.iloc[::-1].to_excel(book, sheet_name="Old", index=False)
        frame.to_excel(book, sheet_name="Rows", index=False)
    return f"{folder}/rows.xlsx?sheet=Rows"


def to_duckdb(folder: Path, frame: pd.DataFrame) -> str:
    with duckdb.connect(folder / "rows.duckdb") as connection:
        connection.register("given", frame)
        connection.execute("CREATE TABLE rows AS SELECT * FROM given")
    return f"{folder}/rows.duckdb?table=rows"


WRITERS = [(Csv, to_csv), (Parquet, to_parquet), (Sql, to_sqlite), (Excel, to_excel), (DuckDb, to_duckdb)]


@pytest.mark.parametrize(("kind", "write"), WRITERS)
def test_every_source_holds_its_promises(kind: type[TableSource], write: Any) -> None:
    assert check_source(kind, write) == tuple(_CHECKS)


def with_read(change: Callable[[Any], pd.DataFrame]) -> type[TableSource]:
    """A CSV file, read in another way."""

    @dataclass(frozen=True, kw_only=True)
    class Broken(Csv):
        def read(self) -> pd.DataFrame:
            return change(self)

    return Broken


def with_methods(**changes: Any) -> type[TableSource]:
    """A CSV file with other parts."""
    return dataclass(frozen=True, kw_only=True)(type("Broken", (Csv,), {"__module__": __name__, **changes}))


def then(change: Callable[[pd.DataFrame], pd.DataFrame]) -> type[TableSource]:
    return with_read(lambda self: change(read_csv(self.path())))


def _leaves_a_copy(self):
    frame = read_csv(self.path())
    frame.to_csv(self.path().with_name("cache.csv"))
    return frame


def _shuffles(self):
    return read_csv(self.path()).sample(frac=1, random_state=np.random.randint(2**31))


def _changes_the_environment(self):
    os.environ["SOURCES_READ"] = os.environ.get("SOURCES_READ", "") + "1"
    return read_csv(self.path())


def _makes_a_file(self):
    path = Path(self.location)
    path.touch()
    return read_csv(path)


def _made_up(self):
    return read_csv(Path(self.location)) if Path(self.location).is_file() else pd.DataFrame({"a": [1]})


def _quotes(self):
    text = self.path().read_bytes()
    try:
        return pd.read_csv(self.path(), dtype=str, keep_default_na=False)
    except Exception as error:
        raise SourceError(f"cannot read {text[-60:]!r}") from error


@dataclass(frozen=True, kw_only=True)
class _Loose(Csv):
    """Takes any option, and options of any type."""

    skip: int = 0

    @classmethod
    def parse(cls, text):
        location, _, query = text.partition("?")
        if not location:
            raise ValueError("a place is missing")
        return cls(location=location, skip=query.partition("=")[2] or 0)


@dataclass(frozen=True, kw_only=True)
class _Tells(Csv):
    """Quotes the option that it does not know."""

    skip: int = 0

    @classmethod
    def parse(cls, text):
        if "?" in text and not text.rpartition("?")[2].startswith("skip="):
            raise ValueError(f"no option {text}")
        return super().parse(text)


@dataclass(frozen=True, kw_only=True)
class _Shows(Csv):
    password: str = ""


@dataclass(frozen=True, kw_only=True)
class _Remote(FileSource):
    """Kept nowhere that it names, and everywhere the same."""

    form = "csv:PATH"
    wanted = "rows"
    hidden: str = field(default="", repr=False)

    def read(self) -> pd.DataFrame:
        return read_csv(self.path())

    def files(self):
        return ()

    def identity(self):
        return ("one",)


MUTANTS: dict[str, list[Callable[[], type[TableSource]]]] = {
    "is_a_source": [
        lambda: with_methods(form="PATH"),
        lambda: with_methods(wanted=""),
        lambda: type("Broken", (Csv,), {}),
    ],
    "keeps_rows_and_columns_in_order": [
        lambda: then(lambda frame: frame.drop_duplicates("ward")),
        lambda: then(lambda frame: frame[sorted(frame)]),
        lambda: then(lambda frame: frame.rename(columns=str.upper)),
    ],
    "keeps_text_as_it_is": [
        lambda: with_read(lambda self: pd.read_csv(self.path()).astype({"patient_id": str})),
        lambda: then(lambda frame: frame.assign(patient_id=frame["patient_id"].str.lstrip("0"))),
        lambda: then(lambda frame: frame.assign(remark=frame["remark"].str.lower())),
    ],
    "keeps_numbers_and_blanks": [
        lambda: then(lambda frame: frame.assign(pressure=pd.to_numeric(frame["pressure"]).round(3))),
        lambda: then(lambda frame: frame.assign(pressure=pd.to_numeric(frame["pressure"]).fillna(0))),
        lambda: then(lambda frame: frame.assign(ward=frame["ward"].replace("", "unknown"))),
        lambda: then(lambda frame: frame.assign(visits=frame["visits"].astype(np.float32))),
    ],
    "reads_the_same_twice_and_changes_nothing": [
        lambda: with_read(_leaves_a_copy),
        lambda: with_read(_shuffles),
        lambda: with_read(_changes_the_environment),
    ],
    "a_source_without_rows_is_refused": [
        lambda: with_read(lambda self: pd.read_csv(self.path(), header=None, names=list("abcde"), dtype=str)),
    ],
    "what_is_not_there_is_one_sentence": [lambda: with_read(_made_up), lambda: with_read(_makes_a_file)],
    "no_error_quotes_a_row": [lambda: with_read(_quotes)],
    "options_are_strict": [lambda: _Loose, lambda: _Tells],
    "no_text_shows_a_password": [lambda: _Shows, lambda: with_methods(shown=lambda self: self.location)],
    "one_place_is_one_source": [
        lambda: _Remote,
        lambda: with_methods(files=lambda self: (Path("/etc/hostname"),)),
        lambda: with_methods(files=lambda self: (Path(self.location + ".other"),)),
    ],
}


@pytest.mark.parametrize(
    ("check", "mutant"),
    [
        pytest.param(check, mutant, id=f"{check}-{n}")
        for check, mutants in MUTANTS.items()
        for n, mutant in enumerate(mutants)
    ],
)
def test_the_named_check_rejects_the_mutant(
    check: str, mutant: Callable[[], type[TableSource]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES_READ", "")  # one of them writes into it
    with pytest.raises(SourceCheckError) as caught:
        check_source(mutant(), to_csv)
    assert check in caught.value.failures
    assert f"  {check}: " in str(caught.value)


def test_every_check_has_a_mutant() -> None:
    assert set(MUTANTS) == set(_CHECKS)
