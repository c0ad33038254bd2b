"""CSV files as people's programs write them: each is read right, or refused with line and remedy."""

from __future__ import annotations

import gzip
import random
import re
from pathlib import Path

import pandas as pd
import pytest

from clients.dataset import prepare
from clients.errors import ClientError, QuarantineError, SchemaError, SourceError
from clients.hospital import CLIENT as HOSPITAL
from clients.linear import CLIENT as LINEAR
from clients.sources import parse_source, read
from clients.sources.csv_file import Dialect, sniffed

NAMES = [
    *("age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak", "slope", "ca", "thal"),
    "num",
]


def good(rows: int = 60) -> list[list[str]]:
    """Return rows (n, 14) of the hospital's public form, as text."""
    draw = random.Random(1)

    def row() -> list[str]:
        return [
            *(str(draw.randint(30, 77)), draw.choice("01"), draw.choice("1234"), str(draw.randint(94, 180))),
            *(str(draw.randint(130, 380)), draw.choice("01"), draw.choice("012"), str(draw.randint(80, 195))),
            *(draw.choice("01"), f"{draw.randint(0, 40) / 10}", draw.choice("123"), draw.choice("0123")),
            *(draw.choice("367"), draw.choice("01")),
        ]

    return [row() for _ in range(rows)]


def text_of(rows: list[list[str]], names: list[str] = NAMES, separator: str = ",") -> str:
    return "\n".join(separator.join(row) for row in [names, *rows]) + "\n"


def table(folder: Path, data: str | bytes, options: str = "", name: str = "rows.csv", threshold: float = 1.0):
    file = folder / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    source = parse_source(f"csv:{file}{options}", key="dataset.heart.source")
    frame = read(source, HOSPITAL, "va", key="dataset.heart.source")
    return prepare(HOSPITAL, frame, quarantine_threshold=threshold, where="dataset.heart")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return table(tmp_path_factory.mktemp("plain"), text_of(good()))


def changed(rows: list[list[str]], column: str, values: dict[str, str]) -> list[list[str]]:
    place = NAMES.index(column)
    return [[*row[:place], values.get(row[place], row[place]), *row[place + 1 :]] for row in rows]


def test_other_dialects_give_the_same_rows(tmp_path, plain):
    rows = good()
    commas = changed(rows, "oldpeak", {row[9]: row[9].replace(".", ",") for row in rows})
    upper = [name.upper() for name in NAMES]
    quoted = "\r\n".join(",".join(f'"{cell}"' for cell in row) for row in [NAMES, *rows])
    files = {
        "?separator=;&decimal=,": text_of(commas, separator=";"),
        "?separator=tab": text_of(rows, separator="\t"),
        "?encoding=utf-16": text_of(rows).encode("utf-16"),
        "?encoding=cp1252": text_of(rows).encode("cp1252"),
        "?comment=%23": "# exported\n" + text_of(rows).replace("\n", "\n# note\n", 1),
        "?header=3": "Export\nof a ward\n" + text_of(rows),
        "": text_of(rows, upper),
        '?quote="': quoted,
    }
    for options, data in files.items():
        assert table(tmp_path, data, options).row_ids == plain.row_ids, options
    assert table(tmp_path, b"\xef\xbb\xbf" + text_of(rows).encode()).row_ids == plain.row_ids
    packed = gzip.compress(text_of(rows).encode())
    assert table(tmp_path, packed, name="rows.csv.gz").row_ids == plain.row_ids


def test_a_folder_and_a_pattern_are_one_table(tmp_path, plain):
    rows = good()
    for number, part in enumerate((rows[:20], rows[20:])):
        (tmp_path / f"part-{number}.csv").write_text(text_of(part))
    for place in (tmp_path, tmp_path / "part-*.csv"):
        source = parse_source(f"csv:{place}")
        assert source.table is not None
        assert [file.name for file in source.table.files()] == ["part-0.csv", "part-1.csv"]
        assert prepare(HOSPITAL, read(source, HOSPITAL, "va")).row_ids == plain.row_ids
    (tmp_path / "part-2.csv").write_text(text_of([row[::-1] for row in rows], NAMES[::-1]))
    with pytest.raises(SourceError, match=r"wanted the columns of part-0\.csv in each file, got others in part-2\.csv"):
        read(parse_source(f"csv:{tmp_path}"), HOSPITAL, "va")


def test_parquet_partitioned_and_with_a_column_twice(tmp_path, plain):
    import pyarrow as pa
    from pyarrow import parquet

    frame = pd.DataFrame(good(), columns=NAMES)
    frame.to_parquet(tmp_path / "parts", partition_cols=["cp"])
    source = parse_source(f"parquet:{tmp_path}/parts")
    assert source.table is not None
    assert len(source.table.files()) == 4
    assert sorted(prepare(HOSPITAL, read(source, HOSPITAL, "va")).row_ids) == sorted(plain.row_ids)
    columns = [pa.array(frame[name]) for name in [*NAMES, "age"]]
    parquet.write_table(pa.table(columns, names=[*NAMES, "age"]), tmp_path / "twice.parquet")
    with pytest.raises(SchemaError, match="wanted each column once, got 'age' more than once"):
        prepare(HOSPITAL, read(parse_source(f"parquet:{tmp_path}/twice.parquet"), HOSPITAL, "va"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.replace("\n", ",SECRET\n", 9).replace(",SECRET", "", 8), "got 15 in line 9; correct the line"),
        (lambda t: t.replace(",", ";"), "got one name and 13 of ';'; add separator=; to the source"),
        (lambda t: t.replace("age", "num", 1), "'num' more than once"),
        (lambda t: t.encode() + "Müller,1\n".encode("latin-1"), "in line 62; add encoding=latin-1"),
        (lambda t: t.encode("utf-16"), "add encoding=utf-16 to the source"),
        (lambda t: t.replace("\n", '\n"', 2).replace('"', "", 1), "got 1 in line 3"),
        (lambda t: "", "the names of the columns, got none"),
        (lambda t: t.replace("age,", ",", 1), "got none for column 1 of 14"),
    ],
)
def test_what_cannot_be_read_is_named_by_line_never_by_its_text(tmp_path, change, said):
    with pytest.raises(ClientError, match=said) as caught:
        table(tmp_path, change(text_of(good())))
    assert "SECRET" not in str(caught.value)
    assert "ller" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_everything_that_pandas_reads_as_missing_is_missing(tmp_path):
    from pandas._libs.parsers import STR_NA_VALUES

    from clients._values import BLANK

    assert set(STR_NA_VALUES) | {"?"} == BLANK


def test_1_0_is_no_number_and_1_5_none_where_decimals_are_commas(tmp_path):
    rows = good(30)
    assert table(tmp_path, text_of(changed(rows, "oldpeak", {rows[0][9]: "1_0"}))).quarantine.rows_kept < 30
    with pytest.raises(SchemaError, match="column 'oldpeak': wanted a number"):
        table(tmp_path, text_of(rows, separator=";"), "?separator=;&decimal=,")


@pytest.mark.parametrize(("column", "values"), [("exang", {"0": "2"}), ("sex", {"0": "M", "1": "F"})])
def test_a_code_that_nobody_mapped_is_refused_with_the_line_that_mends_it(tmp_path, column, values):
    rows = changed(good(), column, values)
    with pytest.raises(ClientError, match=f"column '{column}'"):
        table(tmp_path, text_of(rows), threshold=0.9)
    few = [row if number < 18 else old for number, (row, old) in enumerate(zip(rows, good(), strict=True))]
    with pytest.raises(
        QuarantineError, match=rf"column '{column}': \d+ of 60 rows have one spelling.*mapping\.{column}"
    ):
        table(tmp_path, text_of(changed(few, column, {"M": "2", "F": "1"})), threshold=0.9)


def test_sniffing(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_bytes("größe;wert\n1,5;1.000,25\n2,5;3,5\n".encode("cp1252"))
    assert sniffed(file) == Dialect(separator=";", decimal=",", thousands=".", encoding="cp1252")
    assert sniffed(file).options() == "?separator=;&decimal=,&thousands=.&encoding=cp1252"


def mutations():
    """Yield 200 mutated files: what a person, an editor or a spreadsheet does to a good one."""
    draw = random.Random(7)
    cells = ["", " ", "NA", "x", "-1", "1e400", "1,5", '"', '""', '"a', "'", "0x1", "1_0", "1e5", "\t", "\u00a0", "²"]
    for number in range(200):
        rows = good()
        kind = number % 8
        row, column = draw.randrange(60), draw.randrange(14)
        if kind == 0:
            rows[row][column] = draw.choice(cells)
        elif kind == 1:
            rows = changed(rows, NAMES[column], {rows[row][column]: draw.choice(cells)})
        elif kind == 2:
            del rows[row][column]
        elif kind == 3:
            rows[row].insert(column, draw.choice(cells))
        elif kind == 4:
            rows.insert(row, [draw.choice(["", " ", "#", "Total"])])
        elif kind == 5:
            rows[row][column] = draw.choice(['"', '"x', "x\n", "\r", "\x00", ";", "\ufeff"]) + rows[row][column]
        text = text_of(rows)
        if kind == 6:
            place = draw.randrange(len(text))
            text = text[:place] + draw.choice(['"', "\n", ",", ";", "\x1a", "é", "\r"]) + text[place + 1 :]
        if kind == 7:
            text = text[: draw.randrange(60, len(text))]
        yield number, text, len(re.findall(r"[^\n\r]+", text)) - 1


@pytest.mark.parametrize(
    "numbers", [range(0, 200, 25), pytest.param(range(200), marks=pytest.mark.end_to_end)], ids=["few", "all"]
)
def test_200_mutations_never_lose_more_than_they_report(tmp_path, plain, numbers):
    kept = set(plain.row_ids)
    refused = 0
    for number, text, lines in mutations():
        if number not in numbers:
            continue
        try:
            made = table(tmp_path, text)
        except ClientError:
            refused += 1
            continue
        report = made.quarantine
        # Every line of the file is a row that was read, and every good row that is gone was reported.
        assert report.rows_read == lines, number
        assert len(made) == report.rows_kept, number
        lost = 60 - len(kept & set(made.row_ids))
        altered = len(set(made.row_ids) - kept)  # a row with another legal value is another row, and not lost
        assert lost <= (report.rows_read - report.rows_kept) + altered + max(0, 60 - lines), number
    assert len(numbers) / 10 < refused < len(numbers) * 0.9


def test_a_number_keeps_its_digits_whatever_the_style(tmp_path):
    (tmp_path / "l.csv").write_text("x;y\n1.234.567,5;-0,25\n")
    frame = read(parse_source(f"csv:{tmp_path}/l.csv?separator=;&decimal=,&thousands=."), LINEAR, "a")
    assert frame.to_numpy().tolist() == [["1234567.5", "-0.25"]]


@pytest.mark.parametrize(
    ("text", "options", "cells"),
    [
        ("a;b\n1\u00a0234;0,5\n", "?separator=;&decimal=,&thousands=nbsp", ["1234", "0.5"]),
        ("a;b\n1\u202f234,5;x\n", "?separator=;&decimal=,&thousands=%E2%80%AF", ["1234.5", "x"]),
        ("a;b\n1'234.50;3\n", "?separator=;&thousands='", ["1234.50", "3"]),
        ('a,b\n"1,234.5",2\n', "?thousands=,", ["1234.5", "2"]),
        ("a;b\n0,532;7\n", "?separator=;&decimal=,", ["0.532", "7"]),
        # One thousand or one: nobody can tell, so it stays a text that is no number.
        ("a\tb\n12,345\t1,000\n", "?separator=tab", ["12,345", "1,000"]),
        ("a;b\n1.5;2,5\n", "?separator=;", ["1.5", "2,5"]),
        ("a;b\n030 123 456;O'Neill\n", "?separator=;", ["030 123 456", "O'Neill"]),
    ],
)
def test_groups_of_digits_are_proposed_where_they_are_no_other_number(tmp_path, text, options, cells):
    file = tmp_path / "rows.csv"
    file.write_text(text, encoding="utf-8")
    assert sniffed(file).options() == options
    frame = read(parse_source(f"csv:{file}{options}"), LINEAR, "a")
    assert frame.to_numpy().tolist() == [cells]


def test_what_is_no_text_and_what_is_cut_is_said_as_such(tmp_path):
    text = text_of(good())
    packed = gzip.compress(text.encode())
    for data, said in (
        (text.encode("utf-16-le"), "zero byte in line 1; add encoding=utf-16-le"),
        (text.encode("utf-16-be"), "zero byte in line 1; add encoding=utf-16-be"),
        (text.encode("utf-32"), "got utf-32; add encoding=utf-32"),
        (text.encode() + b"\0" * 9, "zero byte in line 62; copy the file again"),
        (b"PK\x03\x04" + b"\0" * 99, "got an archive or a workbook"),
        (packed[:-9], "a whole file of gzip, got one that is cut"),
        (b"sep=,\n" + text.encode(), "in line 1, got Excel's line of the separator; add header=2"),
    ):
        with pytest.raises(SourceError, match=said):
            table(tmp_path, data)
    with pytest.raises(SourceError, match="take encoding= out of the source, for it is utf-8"):
        table(tmp_path, text, "?encoding=utf-16")
    (tmp_path / "rows.csv").write_bytes(b"sep=;\r\na;b\r\n1,5;2\r\n")
    assert sniffed(tmp_path / "rows.csv").options() == "?separator=;&decimal=,&header=2"
    (tmp_path / "rows.csv").write_bytes("a;ü\n1;2\n".encode("utf-16-le"))
    assert sniffed(tmp_path / "rows.csv").encoding == "utf-16-le"


def test_gzip_is_known_by_its_bytes_not_by_the_name(tmp_path, plain):
    text = text_of(good())
    for name, data in (
        ("a.csv", gzip.compress(text.encode())),
        ("b.csv.gz", text),
        ("C.CSV.GZ", gzip.compress(text.encode())),
    ):
        assert table(tmp_path, data, name=name).row_ids == plain.row_ids


def test_no_file_of_a_folder_is_left_out_unseen(tmp_path, plain):
    import pyarrow as pa
    from pyarrow import parquet

    rows = good()
    (tmp_path / "one.csv").write_text(text_of(rows[:20]))
    (tmp_path / "TWO.CSV").write_text(text_of(rows[20:]))
    assert sorted(prepare(HOSPITAL, read(parse_source(f"csv:{tmp_path}"), HOSPITAL, "va")).row_ids) == sorted(
        plain.row_ids
    )
    (tmp_path / "three.parq").write_bytes(b"")
    (tmp_path / "README.md").write_text("of nobody")
    with pytest.raises(SourceError, match=r"alone in the folder, got 1 that are not read \(three\.parq\); .*\*\.csv"):
        read(parse_source(f"csv:{tmp_path}"), HOSPITAL, "va")
    assert len(read(parse_source(f"csv:{tmp_path}/*.csv"), HOSPITAL, "va")) == 20

    folder = tmp_path / "parts"
    folder.mkdir()
    whole = pa.Table.from_pandas(pd.DataFrame(rows, columns=NAMES))
    parquet.write_table(whole.slice(0, 30), folder / "a.parquet")
    for name, part, said in (
        # pyarrow would read it, and no lifetime budget would know of it.
        ("b.parq", whole, r"got 1 that are not read \(b\.parq\)"),
        ("_b.parquet", whole, "names that begin with _ or"),
        ("b.parquet", whole.drop(["ca"]), r"the columns of a\.parquet in each file, got others in b\.parquet"),
        ("b.parquet", whole.append_column("more", whole["ca"]), "others in b"),
        ("b.parquet", whole.append_column("ca", whole["ca"]), r"wanted each column once, got one twice in b\.parquet"),
    ):
        parquet.write_table(part, folder / name)
        with pytest.raises(SourceError, match=said):
            read(parse_source(f"parquet:{folder}"), HOSPITAL, "va")
        (folder / name).unlink()
    parquet.write_table(whole.slice(30).select(NAMES[::-1]), folder / "B.PARQUET")
    source = parse_source(f"parquet:{folder}")
    assert source.table is not None
    assert len(source.table.files()) == 2
    assert sorted(prepare(HOSPITAL, read(source, HOSPITAL, "va")).row_ids) == sorted(plain.row_ids)


@pytest.mark.parametrize("names", [[*NAMES, "AGE"], ["Age", *NAMES[1:], "AGE"], [*NAMES, " Num "]])
def test_a_column_twice_in_other_letters_is_refused_by_name(tmp_path, names):
    column = "num" if "AGE" not in names else "age"
    with pytest.raises(SchemaError, match=f"wanted column '{column}' once, got it 2 times in upper and lower case"):
        table(tmp_path, text_of([[*row, "0"] for row in good()], names))


@pytest.mark.parametrize(
    ("column", "change", "said"),
    [
        ("sex", {"0": "F", "1": "M"}.get, r'mapping\.sex\]: values = \{ "<what data row 1 says>" = "<one of 0, 1>" \}'),
        ("chol", lambda cell: f"{cell},5", "add decimal=, .* data row 1 has a comma"),
        ("chol", lambda cell: f"1\u00a0{cell}", "add thousands= to the source: data row 1 has groups of digits"),
        ("chol", lambda cell: "secret", r"mapping\.chol\]: missing ="),
    ],
)
def test_a_column_without_a_usable_value_is_refused_with_the_remedy(tmp_path, column, change, said):
    rows = changed(good(), column, {row[NAMES.index(column)]: change(row[NAMES.index(column)]) for row in good()})
    with pytest.raises(
        SchemaError, match=f"column '{column}': wanted .* without a single such value.*{said}"
    ) as caught:
        table(tmp_path, text_of(rows, separator=";"), "?separator=;")
    assert "secret" not in str(caught.value)
