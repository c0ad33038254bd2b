"""DuckDB files: exact values, nothing but the file, nothing written."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from clients._values import texts
from clients.errors import SourceError
from clients.sources import parse_source, read_table


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("duck") / "rows.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TYPE ward AS ENUM ('a', 'b')")
        connection.execute("CREATE TABLE rows (big BIGINT, exact DECIMAL(9, 2), ward ward, day DATE, yes BOOLEAN)")
        connection.execute(
            "INSERT INTO rows VALUES (9007199254740993, 0.10, 'b', '2024-01-02', true), (NULL, NULL, NULL, NULL, NULL)"
        )
    (path.parent / "other.csv").write_text("big\n1\n")
    return path


def test_each_type_is_its_text_to_the_last_digit(file: Path) -> None:
    frame = read_table(parse_source(f"duckdb:{file}?query=SELECT *, sum(big) OVER () AS total FROM rows"))
    read = {name: list(texts(frame[name])) for name in frame}
    assert read == {
        "big": ["9007199254740993", None],
        "exact": ["0.10", None],
        "ward": ["b", None],
        "day": ["2024-01-02", None],
        "yes": ["1", None],
        "total": ["9007199254740993"] * 2,
    }


def test_a_repeated_column_is_refused(file: Path) -> None:
    with pytest.raises(SourceError, match="wanted each column once, got 1 twice"):
        read_table(parse_source(f"duckdb:{file}?query=SELECT big, day AS big FROM rows"))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '{folder}/other.csv'",  # no lifetime budget would know of these rows
        "SELECT * FROM read_text('/etc/hostname')",
        "COPY rows TO '{folder}/copy.csv'",
        "ATTACH '{folder}/new.duckdb'",
        "DELETE FROM rows",
        "SET enable_external_access = true",
        "SELECT * FROM held",  # a Python variable
        "SELECT nothing FROM rows",
    ],
)
def test_a_query_reads_the_file_and_nothing_else(file: Path, query: str) -> None:
    held = read_table(parse_source(f"duckdb:{file}?table=rows"))
    with pytest.raises(SourceError, match=r"wanted a DuckDB file that answers the query .*; got ") as caught:
        read_table(parse_source(f"duckdb:{file}?query={query.format(folder=file.parent)}"))
    assert "nothing" not in str(caught.value)
    assert {path.name for path in file.parent.iterdir()} == {"rows.duckdb", "other.csv"}
    assert len(held) == 2


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="wanted a file that exists"):
        read_table(parse_source(f"duckdb:{tmp_path}/no.duckdb?table=rows"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rest", ["", "a.duckdb", "a.duckdb?table=a; DROP", "a.duckdb?tables=a"])
def test_a_misspelt_line_names_the_form(rest: str) -> None:
    with pytest.raises(SourceError, match=r"wanted duckdb:PATH\?query=SELECT…, duckdb:PATH\?table=NAME"):
        parse_source(f"duckdb:{rest}")
