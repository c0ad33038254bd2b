"""A source that a package brings: read like a built-in one, refused with a sentence, one lifetime with its likes."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from packages import Packages

from clients.dataset import prepare
from clients.errors import SourceError
from clients.hospital import CLIENT
from clients.linear import CLIENT as LINE
from clients.sources import parse_source, read
from consortia.common.errors import RefusedError
from consortia.participant.lifetimes import check_sources
from consortia.terms.policy import load_policy

KEY = "dataset.heart.source"
EXCEL = """
from dataclasses import dataclass
import pandas as pd
from clients.sources import FileSource

@dataclass(frozen=True, kw_only=True)
class Excel(FileSource):
    form = "workbook:PATH?sheet=NAME"
    wanted = "an Excel workbook with that sheet"
    sheet: str
    skip: int = 0

    def read(self):
        return pd.read_excel(self.path(), self.sheet, skiprows=self.skip, dtype=str, keep_default_na=False)
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    return Packages(tmp_path / "site", monkeypatch)


@pytest.fixture
def excel(packages: Packages) -> Packages:
    packages.install("partner", "[consortia.sources]\nworkbook = partner_excel:Excel\n", partner_excel=EXCEL)
    return packages


def book(path: Path, rows: int = 40) -> Path:
    frame = read(parse_source(f"synthetic:{rows}?seed=1"), CLIENT, "va")
    with pd.ExcelWriter(path) as writer:
        frame.to_excel(writer, sheet_name="Year 24", index=False)
        frame.iloc[:0].to_excel(writer, sheet_name="empty", index=False)
    return path


def refused(text: str) -> str:
    with pytest.raises(SourceError) as caught:
        read(parse_source(text, key=KEY), CLIENT, "va", key=KEY)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_installed_source_gives_the_same_table(excel: Packages, tmp_path: Path) -> None:
    file = book(tmp_path / "heart.xlsx")
    assert "partner_excel" not in sys.modules
    source = parse_source(f"workbook:{file}?sheet=Year%2024&skip=0")
    assert str(source) == f"workbook:{file}"
    found = prepare(CLIENT, read(source, CLIENT, "va"))
    wanted = prepare(CLIENT, read(parse_source("synthetic:40?seed=1"), CLIENT, "va"))
    assert found.inputs["features"].equal(wanted.inputs["features"])
    assert found.target.equal(wanted.target)
    assert not found.synthetic


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("workbook:{file}", "wanted workbook:PATH?sheet=NAME; option sheet: wanted a value, got none"),
        ("workbook:{file}?sheet=Year 24&skip=SECRET", "option skip: wanted a whole number, got something else"),
        ("workbook:{file}?sheet=Year 24&SECRET=1", "options: wanted each of sheet, skip once, got another one"),
        ("workbook:", "a place is missing behind the colon"),
        ("workbook:{file}.no?sheet=a", "heart.xlsx.no: wanted a file that exists, found none"),
        ("workbook:{file}?sheet=SECRET", "heart.xlsx: wanted an Excel workbook with that sheet; got ValueError"),
        ("workbook:{file}?sheet=empty", "heart.xlsx: wanted rows, got none"),
        (
            "workboo:SECRET",
            "wanted one of csv:PATH … parquet:PATH, … workbook:…; got something else. Correct it, or",
        ),
        ("Workbook:SECRET", "workbook:…; got Workbook:…. Correct it"),
    ],
)
def test_what_cannot_be_read_is_one_sentence_without_a_value(
    excel: Packages, tmp_path: Path, text: str, told: str
) -> None:
    said = refused(text.format(file=book(tmp_path / "heart.xlsx", 3)))
    assert said.startswith(f"{KEY}: ")
    assert all(part in said for part in told.split(" … ")), said
    assert "SECRET" not in said


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("import pandas as pd", "import a_library_that_is_not_there"), "ModuleNotFoundError"),
        (("Excel(FileSource)", "Excel"), "wanted a subclass of clients.sources.TableSource, got 'Excel'"),
        (("frozen=True", "frozen=False"), "cannot be loaded"),
        (("workbook:PATH", "xlsx:PATH"), "Excel.form: wanted a text that begins with 'workbook:', got 'xlsx:PATH"),
        (("wanted = ", "wants = "), "Excel.wanted: wanted what one is told"),
        (("def read", "def load"), "wanted Excel.read, got none"),
    ],
)
def test_a_broken_package_is_named_with_the_policys_key(
    packages: Packages, tmp_path: Path, change: tuple[str, str], told: str
) -> None:
    code = EXCEL.replace(*change)
    packages.install("partner", "[consortia.sources]\nworkbook = partner_excel:Excel\n", partner_excel=code)
    said = refused("workbook:SECRET?sheet=a")
    assert said.startswith(f"{KEY}: source 'workbook' of partner")
    assert told in said
    assert "SECRET" not in said
    (tmp_path / "line.csv").write_text("x,y\n0.5,3.5\n")
    assert len(read(parse_source(f"csv:{tmp_path}/line.csv"), LINE, "a")) == 1


@pytest.mark.parametrize(
    ("result", "told"),
    [
        ("[[1, 2]]", "Excel.read: wanted a pandas DataFrame, got list"),
        ("pd.DataFrame([['SECRET', 1]])", "wanted columns with a name each; got others"),
    ],
)
def test_what_is_no_table_is_one_sentence(packages: Packages, result: str, told: str) -> None:
    code = EXCEL[: EXCEL.index("return")] + f"return {result}\n"
    packages.install("partner", "[consortia.sources]\nworkbook = partner_excel:Excel\n", partner_excel=code)
    said = refused("workbook:x?sheet=a")
    assert told in said
    assert "SECRET" not in said


def test_two_data_sets_of_one_workbook_have_one_lifetime(excel: Packages, site: Any, tmp_path: Path) -> None:
    file = book(tmp_path / "heart.xlsx", 3)
    (tmp_path / "link.xlsx").symlink_to(file)
    own = site.scenario.participant(site.name).dataset

    def offer(copy: str) -> None:
        one = {"source": f"workbook:{file}?sheet=a"}
        site.policy(lambda p: p["dataset"].update({own: p["dataset"][own] | one, "copy": p["dataset"][own] | one}))
        site.policy(lambda p: p["dataset"]["copy"].update(source=copy))

    def check() -> None:
        policy = load_policy(site.home.policy, simulation=True)
        check_sources(policy, own, policy.dataset[own].source, ())

    for copy in (f"workbook:{file}?sheet=b", f"workbook:{tmp_path}/link.xlsx?sheet=a"):
        offer(copy)
        with pytest.raises(RefusedError, match=r"got the source of dataset\.copy; one person has one lifetime"):
            check()
    offer(f"workbook:{book(tmp_path / 'other.xlsx', 4)}?sheet=a")
    check()


def test_a_broken_package_of_another_data_set_stops_no_run(
    packages: Packages, site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    packages.install("partner", "[consortia.sources]\nworkbook = partner_excel:Excel\n", partner_excel="1 / 0")
    own = site.scenario.participant(site.name).dataset
    site.policy(lambda p: p["dataset"].update(other=p["dataset"][own] | {"source": "workbook:/x?sheet=a"}))
    assert site.ask(1).header["status"] == "OK"
    site.policy(lambda p: p["dataset"][own].update(source="workbook:/y?sheet=a"))
    with caplog.at_level(logging.ERROR):
        assert site.ask(2).header["code"] == "PARTICIPANT_ERROR"
    assert "source 'workbook' of partner cannot be loaded from 'partner_excel:Excel': ZeroDivisionError" in caplog.text
