"""Reads Excel workbooks (.xlsx, .xlsm), by pandas and `openpyxl` (consortia[excel])."""

from __future__ import annotations

import datetime
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clients.sources.table import ManyFiles, WrongRowsError
from clients.sources.tables import together

__all__ = ["Excel"]

#: A sheet may hold these, and its stored values do not show them. A workbook without either is read once.
_ODD: Final = re.compile(rb"<f[ >/]|<mergeCell ")


@dataclass(frozen=True, kw_only=True)
class Excel(ManyFiles):
    """One sheet of a workbook, or of each workbook of a folder or a pattern.

    A cell counts as it is stored, not as it is shown: the number 7 in the format 000007 is 7. A date without a time is
    2024-01-31. Rows without any value are no rows.

    Parameters
    ----------
    sheet : str
        Its name; it may be left out where the workbook has one sheet.
    header : int
        The line with the names of the columns, counted from 1.
    """

    sheet: str = ""
    header: int = 1
    form = "excel:PATH?sheet=NAME&header=1"
    wanted = "an Excel workbook (.xlsx, .xlsm) with that sheet"
    endings = (".xlsx", ".xlsm")

    def __post_init__(self) -> None:
        if self.header < 1:
            raise ValueError("option header: wanted the line of the header, 1 or more, got less")

    def files(self) -> tuple[Path, ...]:
        """See `TableSource.files`; without the `~$…` that Excel leaves beside a workbook that is open."""
        return tuple(path for path in super().files() if not path.name.startswith("~$"))

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        paths = self.paths()
        import openpyxl  # noqa: F401 - pandas raises without its name where it is not installed

        return together([(path, self._named(path) if len(paths) > 1 else self._one(path)) for path in paths])

    def _named(self, path: Path) -> pd.DataFrame:
        try:
            return self._one(path)
        except WrongRowsError as error:
            raise WrongRowsError(f"{path.name}: {error}") from None

    def _one(self, path: Path) -> pd.DataFrame:
        with pd.ExcelFile(path, engine="openpyxl") as book:
            if not self.sheet and len(book.sheet_names) > 1:
                raise WrongRowsError(f"wanted sheet=NAME, since the workbook has {len(book.sheet_names)} sheets")
            sheet = str(self.sheet or book.sheet_names[0])
            if sheet not in book.sheet_names:
                raise WrongRowsError("wanted the name of one of the workbook's sheets, got another; correct sheet=")
            cells = pd.read_excel(book, sheet_name=sheet, header=None, dtype=object, na_filter=False)
        _refuse_what_is_not_stored(path, sheet, self.header)
        if len(cells) < self.header:
            raise WrongRowsError(f"wanted the names of the columns in line {self.header}, got fewer lines")
        names = ["" if _blank(cell) else str(_plain(cell)).strip() for cell in cells.iloc[self.header - 1]]
        rows = cells.iloc[self.header :].map(_plain)
        filled = ~rows.map(_blank)
        kept = [place for place, name in enumerate(names) if name or filled.iloc[:, place].any()]
        if unnamed := [place + 1 for place in kept if not names[place]]:
            raise WrongRowsError(
                f"wanted a name for each column, got none for column {unnamed[0]} of {len(names)} in line {self.header}"
            )
        frame = rows.loc[filled.any(axis=1), :].iloc[:, kept].reset_index(drop=True)
        frame.columns = pd.Index([names[place] for place in kept])
        return frame


def _blank(cell: Any) -> bool:
    return cell is None or cell == "" or bool(pd.isna(cell))


def _plain(cell: Any) -> Any:
    """Return one cell: a date without a time stays a date, whatever the other cells of its column are."""
    if isinstance(cell, datetime.datetime) and cell.time() == datetime.time():
        return cell.date()
    return cell


def _refuse_what_is_not_stored(path: Path, sheet: str, header: int) -> None:
    """Refuse formulas without a stored result, and cells that are joined below the header: they would read as blank.

    Raises
    ------
    WrongRowsError
        With the line of the first one.
    """
    with zipfile.ZipFile(path) as archive:
        places = [name for name in archive.namelist() if name.startswith("xl/worksheets/") and name.endswith(".xml")]
        if not any(_ODD.search(archive.read(name)) for name in places):
            return
    import openpyxl

    formulas = openpyxl.load_workbook(path)[sheet]
    joined = [area.max_row for area in formulas.merged_cells.ranges if area.max_row > header]
    if joined:
        raise WrongRowsError(f"wanted no joined cells below the header, got some in line {min(joined)}; split them")
    values = openpyxl.load_workbook(path, data_only=True)[sheet]
    for asked, stored in zip(formulas.iter_rows(), values.iter_rows(), strict=True):
        for formula, value in zip(asked, stored, strict=True):
            # The type "n" without a value is none at all; an empty text as the result has the type of a text.
            if formula.data_type == "f" and value.value is None and value.data_type == "n":
                raise WrongRowsError(
                    f"wanted the result of each formula, got one without in line {formula.row}; "
                    "open the workbook in Excel or LibreOffice and save it"
                )
