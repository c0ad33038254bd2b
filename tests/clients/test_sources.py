"""Every built-in source gives the same rows, and one clear sentence when it cannot."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet

from clients._values import texts
from clients.bank import CLIENT as BANK
from clients.dataset import prepare
from clients.errors import ClientError, SchemaError, SourceError
from clients.hospital import CLIENT as HOSPITAL
from clients.linear import CLIENT as LINEAR
from clients.sources import numpy_generator, parse_source, read, read_table

KEY = "dataset.heart.source"


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    made = read(parse_source("synthetic:50?seed=1"), HOSPITAL, "va")
    made["patient_id"] = [f"00{i}" for i in range(50)]
    return made


def sqlite(path: Path, frame: pd.DataFrame) -> Path:
    with sqlite3.connect(path) as connection:
        frame.to_sql("heart", connection, index=False)
    connection.close()
    return path


def test_every_kind_of_source_gives_the_same_table(tmp_path, frame):
    frame.to_csv(tmp_path / "heart.csv", index=False)
    frame.to_parquet(tmp_path / "heart.parquet")
    database = sqlite(tmp_path / "heart.db", frame)
    frame.to_excel(tmp_path / "heart.xlsx", index=False)
    with duckdb.connect(tmp_path / "heart.duckdb") as connection:
        connection.register("given", frame)
        connection.execute("CREATE TABLE heart AS SELECT * FROM given")
    expected = prepare(HOSPITAL, frame)
    for text in (
        f"csv:{tmp_path}/heart.csv",
        f"parquet:{tmp_path}/heart.parquet",
        f"sql:sqlite:///{database}?table=heart",
        f"sql:sqlite:///{database}?query=SELECT * FROM heart WHERE age > 0 AND patient_id LIKE '0%'",
        f"excel:{tmp_path}/heart.xlsx",
        f"duckdb:{tmp_path}/heart.duckdb?table=heart",
        f"duckdb:{tmp_path}/heart.duckdb?query=FROM heart WHERE age > 0 AND patient_id LIKE '0%';",
    ):
        table = prepare(HOSPITAL, read(parse_source(text), HOSPITAL, "va"))
        assert table.row_ids == expected.row_ids, text
        assert table.split_keys == expected.split_keys, text
        assert torch.equal(table.inputs["features"], expected.inputs["features"]), text
        assert torch.equal(table.target, expected.target), text
        assert not table.synthetic


def test_a_leading_zero_of_an_identifier_stays(tmp_path, frame):
    frame.to_csv(tmp_path / "heart.csv", index=False)
    back = read(parse_source(f"csv:{tmp_path}/heart.csv"), HOSPITAL, "va")
    assert back["patient_id"][7] == "007"


def _written(folder, values):
    """The same rows in every kind of file that has types of its own."""
    (folder / "parts").mkdir(parents=True)
    held = pa.table({"id": pa.array(values, pa.int64()), "x": pa.array([0.5] * len(values))})
    parquet.write_table(held, folder / "parts" / "a.parquet")
    with duckdb.connect(str(folder / "a.duckdb")) as connection:
        connection.execute("CREATE TABLE p AS SELECT * FROM held")
    with sqlite3.connect(folder / "a.db") as connection:
        connection.execute("CREATE TABLE p (id, x REAL)")
        connection.executemany("INSERT INTO p VALUES (?, 0.5)", [(value,) for value in values])
    return folder


@pytest.mark.parametrize(
    "source",
    [
        "parquet:{}/parts/a.parquet",
        "parquet:{}/parts",
        "duckdb:{}/a.duckdb?table=p",
        "sql:sqlite:///{}/a.db?table=p",
    ],
)
def test_a_row_without_a_value_changes_no_other_row(tmp_path, source):
    """As floats, identifiers beyond 2^53 would be other ones: units would merge, and rows change their partition."""
    ids = [2**53 + 1, 2**53 + 2, -(2**60) - 1]
    for name, values in (("all", ids), ("one more", [*ids, None])):
        frame = read_table(parse_source(source.format(_written(tmp_path / name, values))))
        assert list(texts(frame["id"]))[:3] == [str(value) for value in ids]
        assert list(texts(frame["x"])) == ["0.5"] * len(values)


def test_a_database_of_loose_types_gives_each_value_by_itself(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE p (id)")
        connection.executemany("INSERT INTO p VALUES (?)", [(2**53 + 1,), (2.5,), ("x",), (None,)])
    frame = read_table(parse_source(f"sql:sqlite:///{tmp_path}/a.db?table=p"))
    assert list(texts(frame["id"])) == [str(2**53 + 1), "2.5", "x", None]


def test_an_index_that_pandas_wrote_is_no_column(tmp_path):
    pd.DataFrame({"x": [1.5, 2.5]}, index=pd.Index([7, 9], name="row")).to_parquet(tmp_path / "a.parquet")
    assert list(read_table(parse_source(f"parquet:{tmp_path}/a.parquet")).columns) == ["x"]


def test_csv_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "line.csv").write_text("x,y\n0.5,3.5\n", encoding="utf-8-sig")
    assert prepare(LINEAR, read(parse_source(f"csv:{tmp_path}/line.csv"), LINEAR, "a")).target.tolist() == [3.5]


def test_public_folder_is_the_industrys_or_the_one_above(tmp_path):
    folder = tmp_path / "linear" / "line"
    folder.mkdir(parents=True)
    (folder / "a.csv").write_text("x,y\n0.5,3.5\n")
    for text in (f"public:{tmp_path}", f"public:{tmp_path}/linear"):
        assert len(read(parse_source(text), LINEAR, "a")) == 1


def test_synthetic_rows_are_labelled_and_follow_seed_and_site():
    source = parse_source("synthetic:20")
    first = read(source, HOSPITAL, "va", 1)
    assert source.synthetic
    assert first.attrs["synthetic"] is True
    assert first.equals(read(source, HOSPITAL, "va", 1))
    assert not first.equals(read(source, HOSPITAL, "va", 2))
    assert not first.equals(read(source, HOSPITAL, "cleveland", 1))
    fixed = parse_source("synthetic:20?seed=1")
    assert first.equals(read(fixed, HOSPITAL, "va", 99))
    assert len(read(parse_source("synthetic:"), HOSPITAL, "va")) == HOSPITAL.default_rows


def test_a_generator_is_known_by_all_its_parts():
    def draw(*parts):
        return numpy_generator(*parts).integers(0, 2**62)

    assert draw("a", 1) == draw("a", 1)
    assert len({draw("a", 1), draw("a", 2), draw("a1"), draw("a", 1, ""), draw("b", 1)}) == 5


@pytest.mark.parametrize(
    "text",
    ["", "heart.csv", "csv:", "xml:a.xml", "sql:sqlite:///x.db", "synthetic:many", "synthetic:0", "synthetic:5?sed=1"],
)
def test_a_misspelt_source_names_the_policys_key_and_the_forms(text):
    with pytest.raises(SourceError, match=f"{KEY}: wanted"):
        parse_source(text, key=KEY)


def test_a_table_name_is_a_name():
    with pytest.raises(SourceError, match="table: wanted a plain name"):
        parse_source("sql:sqlite:///x.db?table=heart; DROP TABLE heart")


def fails(text: str, site: str = "va") -> str:
    with pytest.raises(SourceError) as caught:
        read(parse_source(text, key=KEY), HOSPITAL, site, key=KEY)
    message = str(caught.value)
    assert message.startswith(f"{KEY}: ")
    assert "\n" not in message
    assert caught.value.__cause__ is None
    return message


def test_a_missing_file_is_named(tmp_path):
    for text in (f"csv:{tmp_path}/no.csv", f"parquet:{tmp_path}/no.parquet"):
        assert f"{tmp_path}/no." in fails(text)
        assert "wanted a file that exists" in fails(text)
    assert "wanted a file that exists" in fails(f"sql:sqlite:///{tmp_path}/no.db?table=heart")
    assert not (tmp_path / "no.db").exists()
    assert "wanted a folder heart or hospital/heart" in fails(f"public:{tmp_path}")
    (tmp_path / "heart").mkdir()
    assert "wanted a file that exists" in fails(f"public:{tmp_path}")


def test_an_unreadable_file_is_named_by_the_kind_of_error_only(tmp_path):
    broken = tmp_path / "heart.csv"
    broken.write_bytes(b"age,sex\nSECRET\xff,1\n")
    assert "wanted text in utf-8, got other bytes in line 2; add encoding=latin-1" in fails(f"csv:{broken}")
    broken.write_text("age,sex\n1,2\n1,2,SECRET,4\n")
    assert "wanted 2 cells in each line, as in the header, got 4 in line 3" in fails(f"csv:{broken}")
    assert "SECRET" not in fails(f"csv:{broken}")
    assert "a Parquet file" in fails(f"parquet:{broken}")
    assert "wanted a database" in fails(f"sql:sqlite:///{broken}?table=heart")


def test_an_empty_source_is_refused(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("age,sex\n")
    assert "wanted a line with the names of the columns, got none" in fails(f"csv:{tmp_path}/empty.csv")
    assert "wanted rows, got none" in fails(f"csv:{tmp_path}/head.csv")


def test_a_wrong_query_is_named_without_the_databases_words(tmp_path, frame):
    database = sqlite(tmp_path / "heart.db", frame)
    message = fails(f"sql:sqlite:///{database}?query=SELECT nothing FROM heart")
    assert "check the URL, the query" in message
    assert "nothing" not in message


def test_a_password_is_never_shown():
    text = "sql:postgresql+psycopg://ada:SECRET@127.0.0.1:1/db?connect_timeout=1&query=SELECT 1"
    source = parse_source(text)
    assert source.table.query == "SELECT 1"
    assert source.table.location.endswith("connect_timeout=1")
    assert "SECRET" not in f"{source} {source!r} {fails(text)}"
    for wrong in ("sql:postgresql://ada:SECRET@host/db", "postgresql://ada:SECRET@host/db"):
        with pytest.raises(SourceError) as caught:
            parse_source(wrong)
        assert "SECRET" not in str(caught.value)


def test_a_missing_driver_is_named():
    assert "driver 'pymysql'; install it. Correct" in fails("sql:mysql+pymysql://host/db?query=SELECT 1")


@pytest.mark.parametrize(
    ("driver", "source", "extra"),
    [
        ("psycopg", "sql:postgresql+psycopg://host/db?query=SELECT 1", "postgres"),
        ("openpyxl", "excel:{file}", "excel"),
        ("duckdb", "duckdb:{file}?table=a", "duckdb"),
    ],
)
def test_a_driver_that_an_extra_brings_is_named_with_it(tmp_path, monkeypatch, driver, source, extra):
    (tmp_path / "file").touch()
    monkeypatch.setitem(sys.modules, driver, None)
    told = fails(source.format(file=tmp_path / "file"))
    assert f"wanted the driver {driver!r}; install it: pip install 'consortia[{extra}]'. Correct" in told


def test_a_site_that_is_none_is_named():
    for text in ("synthetic:5", "public:somewhere"):
        with pytest.raises(SchemaError, match=r"site: wanted one of new-car, .*; got 'mars'"):
            read(parse_source(text), BANK, "mars")


def test_another_industrys_rows_are_a_wrong_column(frame):
    with pytest.raises(ClientError, match=r"column 'account', 'duration'.* is missing"):
        prepare(BANK, frame)
