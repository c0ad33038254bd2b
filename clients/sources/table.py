"""Defines a source of rows: a frozen value, read strictly from one line of a policy, that gives a pandas frame.

    excel:/data/heart.xlsx?sheet=2024      name : location ? option=value & option=value

The options are the fields of the value, by their types. What is written into a class of one's own:

    @dataclass(frozen=True, kw_only=True)
    class Excel(FileSource):
        form = "excel:PATH?sheet=NAME"
        wanted = "an Excel workbook with that sheet, the names of the columns in its first line"
        sheet: str

        def read(self) -> pd.DataFrame: ...
"""

from __future__ import annotations

import dataclasses
import typing
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self
from urllib.parse import unquote

import pandas as pd
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from clients.masking import masked

__all__ = ["FileSource", "ManyFiles", "TableSource", "WrongRowsError"]

#: What files of rows are called.
_ROWS = (
    *(".csv", ".tsv", ".txt", ".dat", ".data", ".gz", ".bz2", ".xz", ".zst", ".zip", ".parquet", ".parq", ".pq"),
    *(".xlsx", ".xlsm", ".xls", ".ods", ".ndjson"),
)
_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class WrongRowsError(Exception):
    """Rows cannot be read. The text is the platform's own, without any value, hence safe to show."""


@dataclass(frozen=True, kw_only=True)
class TableSource(ABC):
    """Rows of an owner's own.

    Parameters
    ----------
    location : str
        What stands behind name and colon; it may hold a password, so nothing prints it.

    Attributes
    ----------
    form : str
        How it is written in a policy, such as "excel:PATH?sheet=NAME"; the name comes first.
    wanted : str
        What cannot be read is told that this was wanted.
    """

    location: str = field(repr=False)
    form: ClassVar[str] = ""
    wanted: ClassVar[str] = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value of `location?option=value&…`, strictly; `%3F` and the like are read in values.

        Raises
        ------
        ValueError
            One sentence without any value, which may be a password.
        """
        options = {each.name: each for each in dataclasses.fields(cls) if each.init and each.name != "location"}
        location, query = text, ""
        if options and "=" in text.rpartition("?")[2] and "?" in text:
            location, _, query = text.rpartition("?")
        if not location:
            raise ValueError("a place is missing behind the colon")
        given: dict[str, object] = {}
        for part in query.split("&") if query else ():
            key, _, value = part.partition("=")
            if key not in options or key in given:
                raise ValueError(f"options: wanted each of {', '.join(options)} once, got another one")
            given[key] = _read(cls, key, unquote(value))
        for key, each in options.items():
            without = each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
            if key not in given and without:
                raise ValueError(f"option {key}: wanted a value, got none")
        return cls(location=location, **given)

    @abstractmethod
    def read(self) -> pd.DataFrame:
        """Return all rows, as text or in the source's own types; nothing is changed, and nothing is written.

        Raises
        ------
        Exception
            Whatever files and drivers raise: its kind is told, never its text, which may quote a row. The text of a
            `clients.errors.SourceError` is told, so it must hold no value.
        """

    def files(self) -> tuple[Path, ...]:
        """Return the files that it reads: two data sets of one file share one lifetime budget."""
        return ()

    def identity(self) -> tuple[str, ...]:
        """Return what says that two sources without files are one; who asks makes no difference."""
        return tuple(repr(getattr(self, each.name)) for each in dataclasses.fields(self))

    def shown(self) -> str:
        """Return what may be printed behind name and colon."""
        return "…"


@dataclass(frozen=True, kw_only=True)
class FileSource(TableSource):
    """A source that is one file, `location`."""

    def path(self) -> Path:
        """Return the file; FileNotFoundError without one."""
        path = Path(self.location).expanduser()
        if not path.is_file():
            raise FileNotFoundError(self.location)
        return path

    def files(self) -> tuple[Path, ...]:
        """See `TableSource.files`."""
        return (Path(self.location).expanduser(),)

    def shown(self) -> str:
        """See `TableSource.shown`."""
        return masked(self.location)


@dataclass(frozen=True, kw_only=True)
class ManyFiles(FileSource):
    """A source that is one file, all files of a folder, or those of a pattern such as `/data/*.csv`.

    Attributes
    ----------
    endings : tuple of str
        Of the files of a folder.
    """

    endings: ClassVar[tuple[str, ...]] = ()

    def paths(self) -> tuple[Path, ...]:
        """Return the files in alphabetical order; FileNotFoundError without one."""
        if not (found := self.files()):
            raise FileNotFoundError(self.location)
        self.refuse_others(Path(self.location).expanduser().glob("*"))
        return found

    def refuse_others(self, there: Iterable[Path]) -> None:
        """WrongRowsError where a folder has another file that may hold rows: they would be left out unseen."""
        if not Path(self.location).expanduser().is_dir():
            return
        others = sorted(
            each.name
            for each in there
            if each.name.lower().endswith(_ROWS)
            and not each.name.lower().endswith(self.endings)
            and not each.name.startswith((".", "~"))
            and each.is_file()
        )
        if others:
            raise WrongRowsError(
                f"wanted files *{', *'.join(self.endings)} alone in the folder, got {len(others)} that are not read "
                f"({others[0]}); move them away, or name a pattern such as *{self.endings[0]}"
            )

    def files(self) -> tuple[Path, ...]:
        """See `TableSource.files`."""
        place = Path(self.location).expanduser()
        if place.is_dir():
            return tuple(
                sorted(each for each in place.iterdir() if each.name.lower().endswith(self.endings) and each.is_file())
            )
        if place.exists() or not set("*?[") & set(place.name):
            return (place,) if place.is_file() else ()
        return tuple(sorted(each for each in place.parent.glob(place.name) if each.is_file()))


def _read(kind: type[TableSource], key: str, text: str) -> object:
    try:
        wanted = typing.get_type_hints(kind)[key]
        adapter = TypeAdapter[object](wanted)
    except (NameError, PydanticUserError):
        raise ValueError(f"option {key}: wanted a type that pydantic reads in {kind.__name__}, got another") from None
    try:
        return adapter.validate_strings(text)
    except ValidationError:
        words = _WORDS.get(wanted, str(wanted).replace("typing.", ""))
        raise ValueError(f"option {key}: wanted {words}, got something else") from None
