"""Workbooks as people keep them: sheets, titles above the header, dates, formulas, joined cells, blank lines."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pytest
from openpyxl.workbook import Workbook

from clients.errors import SourceError
from clients.sources import parse_source, read_table

SECRET = "Lovelace-4711"


def book(path: Path, change: Callable[[Workbook], Any] = lambda made: None) -> Path:
    """Three columns of two rows on a sheet `Rows`, saved as `path`."""
    made = openpyxl.Workbook()
    sheet = made.active
    sheet.title = "Rows"
    for line in (["id", "born", "dose"], ["007", datetime.datetime(1990, 1, 2), 7], ["8", None, 2.5]):
        sheet.append(line)
    change(made)
    made.save(path)
    return path


def rows(source: str) -> list[list[Any]]:
    return read_table(parse_source(source)).to_numpy().tolist()


def refusal(source: str) -> str:
    with pytest.raises(SourceError) as caught:
        read_table(parse_source(source))
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_date_is_a_date_and_a_time_stays(tmp_path: Path) -> None:
    noon = datetime.datetime(2024, 1, 2, 12, 30)
    file = book(tmp_path / "a.xlsx", lambda made: made["Rows"].append(["9", noon, True]))
    born = read_table(parse_source(f"excel:{file}"))["born"]
    assert [str(value) for value in born] == ["1990-01-02", "", "2024-01-02 12:30:00"]


def test_titles_blank_lines_and_blank_columns_are_no_rows(tmp_path: Path) -> None:
    def around(made: Workbook) -> None:
        sheet = made["Rows"]
        sheet.insert_rows(1, 2)
        sheet["A1"] = SECRET
        sheet.merge_cells("A1:C1")
        sheet.insert_rows(5)
        sheet.insert_cols(2)
        sheet["H20"].number_format = "0.00"

    file = book(tmp_path / "a.xlsx", around)
    frame = read_table(parse_source(f"excel:{file}?header=3"))
    assert list(frame.columns) == ["id", "born", "dose"]
    assert frame["id"].tolist() == ["007", "8"]
    assert frame["dose"].tolist() == [7, 2.5]


def test_a_sheet_is_named_where_there_are_several(tmp_path: Path) -> None:
    file = book(tmp_path / "a.xlsx", lambda made: made.create_sheet(SECRET))
    assert "wanted sheet=NAME, since the workbook has 2 sheets" in refusal(f"excel:{file}")
    assert "wanted the name of one of the workbook's sheets" in refusal(f"excel:{file}?sheet=rows")
    assert "wanted the names of the columns in line 1, got fewer" in refusal(f"excel:{file}?sheet={SECRET}")
    assert rows(f"excel:{file}?sheet=Rows")[0][0] == "007"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.__setitem__("C3", "=C2*2"), "wanted the result of each formula, got one without in line 3"),
        (lambda s: s.merge_cells("B2:B3"), "wanted no joined cells below the header, got some in line 3; split them"),
        (lambda s: s.__setitem__("D2", SECRET), "got none for column 4 of 4 in line 1"),
        (lambda s: s.__setitem__("B1", "id"), "wanted each column once, got 1 twice"),
    ],
)
def test_what_would_be_lost_in_silence_is_refused(tmp_path: Path, change: Callable[[Any], Any], told: str) -> None:
    file = book(tmp_path / "a.xlsx", lambda made: change(made["Rows"]))
    assert told in refusal(f"excel:{file}")


def test_a_formula_with_a_stored_result_is_its_result(tmp_path: Path) -> None:
    file = book(tmp_path / "a.xlsx", lambda made: made["Rows"].__setitem__("C3", "=C2*2"))
    for stored, wanted in ((b"<v>14</v>", 14), (b"<v></v>", "")):
        kind = b"" if wanted else b' t="str"'
        assert rows(f"excel:{_with_result(file, stored, kind)}")[1][2] == wanted


def _with_result(file: Path, stored: bytes, kind: bytes) -> Path:
    """A copy in which the formula has a result, as Excel writes it."""
    import zipfile

    copy = file.with_name("b.xlsx")
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(copy, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("sheet1.xml"):
                assert b"<f>C2*2</f><v />" in data or b"<f>C2*2</f><v></v>" in data
                for empty in (b"<v />", b"<v></v>"):
                    data = data.replace(b"<f>C2*2</f>" + empty, b"<f>C2*2</f>" + stored)
                data = data.replace(b'<c r="C3"', b'<c r="C3"' + kind)
            new.writestr(name, data)
    return copy


def test_a_folder_is_its_workbooks_one_below_the_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        book(tmp_path / f"{name}.xlsx")
    (tmp_path / "~$b.xlsx").write_bytes(b"open in Excel")
    assert [row[0] for row in rows(f"excel:{tmp_path}?sheet=Rows")] == ["007", "8"] * 2
    assert len(rows(f"excel:{tmp_path}/*.xlsx")) == 4
    book(tmp_path / "c.xlsx", lambda made: made["Rows"].__setitem__("A1", "number"))
    assert "wanted the columns of a.xlsx in each file, got others in c.xlsx" in refusal(f"excel:{tmp_path}")


def test_what_is_no_workbook_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text(SECRET)
    assert "wanted an Excel workbook (.xlsx, .xlsm) with that sheet; got" in refusal(f"excel:{tmp_path}/a.xlsx")
    assert "wanted a file that exists" in refusal(f"excel:{tmp_path}/b.xlsx")
    with pytest.raises(SourceError, match="option header: wanted the line of the header, 1 or more, got less"):
        parse_source("excel:a.xlsx?header=0")
