"""Reads CSV files as people's programs write them, as text. What cannot be read is named by line, never by its text.

Every row must have as many cells as the header line: with fewer or more, which cell is whose would be a guess. Nothing
is dropped: what comes out are all rows, or one sentence.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clients import _values
from clients.sources.table import WrongRowsError

__all__ = ["Dialect", "read_csv", "sniffed"]

_NAMED: Final = {
    "tab": "\t",
    "space": " ",
    "semicolon": ";",
    "comma": ",",
    "pipe": "|",
    "none": "",
    "dot": ".",
    "nbsp": "\u00a0",
}
_MARKS: Final = (
    *((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")),
    *((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")),
)
_GZIP: Final = b"\x1f\x8b"
#: A zip archive, hence also a workbook; an old workbook.
_NO_TEXT: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
#: Excel can name the separator in a line of its own above the names.
_SEP: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
_SAMPLE: Final = 200
_LONGEST: Final = 100_000
#: Between groups of digits, where nothing else stands between digits: no-break spaces and apostrophes.
_GROUPS: Final = ("\u00a0", "\u202f", "'", "\u2019")
_PLAIN: Final = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a CSV file is written; each is an option of the source `csv:`.

    Parameters
    ----------
    separator, decimal, thousands, quote : str
        One character, or its name: tab, space, semicolon, comma, pipe, dot, nbsp (a no-break space); `thousands` and
        `quote` may be none.
    encoding : str
        As Python calls it: utf-8, latin-1, cp1252, utf-16.
    comment : str
        A line that begins with it is no row.
    header : int
        Which line holds the names of the columns; what stands above it is skipped.
    multiline : bool
        Whether a quoted cell may go over several lines. By default that is refused, for a quote that is never closed
        would swallow rows.
    """

    separator: str = ","
    decimal: str = "."
    thousands: str = ""
    quote: str = '"'
    encoding: str = "utf-8"
    comment: str = ""
    header: int = 1
    multiline: bool = False

    def __post_init__(self) -> None:
        for name, least in (("separator", 1), ("decimal", 1), ("thousands", 0), ("quote", 0)):
            value = _NAMED.get(getattr(self, name), getattr(self, name))
            if not least <= len(value) <= 1:
                raise ValueError(f"option {name}: wanted one character or one of {', '.join(_NAMED)}, got another text")
            object.__setattr__(self, name, value)
        if self.header < 1:
            raise ValueError("option header: wanted the line of the header, 1 or more, got less")
        if self.thousands == self.decimal:
            raise ValueError("option thousands: wanted another character than decimal, got the same")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(
                "option encoding: wanted utf-8, latin-1, cp1252, utf-16 or the like, got another"
            ) from None

    def options(self) -> str:
        """Return what differs from the defaults as a source has it, such as `?separator=;&decimal=,`."""
        spelled = {
            "\t": "tab",
            " ": "space",
            "\u00a0": "nbsp",
            "\u202f": "%E2%80%AF",
            "&": "%26",
            "#": "%23",
            "%": "%25",
            "?": "%3F",
        }
        default = Dialect()
        given = []
        for name in self.__dataclass_fields__:
            if (value := getattr(self, name)) != getattr(default, name):
                text = str(value).lower() if isinstance(value, bool) else str(value)
                given.append(f"{name}={spelled.get(text, text) or 'none'}")
        return "?" + "&".join(given) if given else ""


def read_csv(path: Path, dialect: Dialect | None = None) -> pd.DataFrame:
    """Return a CSV file's rows (n_rows, n_columns) as text: a leading zero stays, "" is an empty cell.

    Parameters
    ----------
    path : Path
        The file; what gzip packed is unpacked, whatever its name.

    Raises
    ------
    WrongRowsError
        One sentence with the line and the option that would help.
    OSError
        The file cannot be read.
    """
    dialect = dialect or Dialect()
    text = _decoded(_bytes(path), dialect)
    lines = text.count("\n")
    if dialect.comment:
        # An empty line in its place keeps the numbers of lines.
        text = re.sub(rf"(?m)^{re.escape(dialect.comment)}[^\r\n]*", "", text)
    names, body, first = _header(text, dialect)
    frame = _cells(body, names, first, dialect)
    if not dialect.multiline:
        _refuse_open_quotes(frame, first, lines)
    if names and names[-1] == "" and (frame.iloc[:, -1] == "").all():
        frame, names = frame.iloc[:, :-1], names[:-1]  # every line ends with a separator
    if "" in names:
        raise WrongRowsError(
            f"wanted a name for each column, got none for column {names.index('') + 1} of {len(names)}"
        )
    frame.columns = pd.Index(names)
    return _plain_numbers(frame, dialect)


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if data.startswith(_NO_TEXT):
        raise WrongRowsError("wanted text, got an archive or a workbook; unpack it, or read a workbook by excel:")
    if not data.startswith(_GZIP):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        raise WrongRowsError("wanted a whole file of gzip, got one that is cut or broken; copy it again") from None


def _wide(data: bytes) -> str:
    """UTF-16 without a mark, by the zero bytes of plain letters; empty for anything else."""
    head = data[:200]
    odd, even = head[1::2].count(0), head[::2].count(0)
    if max(odd, even) * 3 < len(head):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _decoded(data: bytes, dialect: Dialect) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark) and codecs.lookup(dialect.encoding).name != encoding:
            raise WrongRowsError(f"wanted {dialect.encoding}, got {encoding}; add encoding={encoding} to the source")
    try:
        text = data.decode(dialect.encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        told = "add encoding=latin-1 (or cp1252, as Excel saves it) to the source"
        if codecs.lookup(dialect.encoding).name != "utf-8" and _decodes(data, "utf-8"):
            told = "take encoding= out of the source, for it is utf-8"
        raise WrongRowsError(f"wanted text in {dialect.encoding}, got other bytes in line {line}; {told}") from None
    if (place := text.find("\0")) >= 0:
        wide = _wide(data)
        told = f"add encoding={wide} to the source" if wide else "copy the file again, or take it out"
        raise WrongRowsError(f"wanted text, got a zero byte in line {text.count(chr(10), 0, place) + 1}; {told}")
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _header(text: str, dialect: Dialect) -> tuple[list[str], str, int]:
    """Return the names, what stands below them, and the number of its first line."""
    rest, number = text, 0
    while rest:
        line, _, rest = rest.partition("\n")
        number += 1
        if number >= dialect.header and line.strip():
            break
    else:
        raise WrongRowsError(
            "wanted a line with the names of the columns, got none (the file is empty, or ends before header=)"
        )
    if _SEP.fullmatch(line):
        raise WrongRowsError(
            f"wanted the names of the columns in line {number}, got Excel's line of the separator; add "
            f"header={number + 1} to the source"
        )
    quoting: Any = csv.QUOTE_MINIMAL if dialect.quote else csv.QUOTE_NONE
    try:
        names = next(csv.reader([line], delimiter=dialect.separator, quotechar=dialect.quote or None, quoting=quoting))
    except (csv.Error, StopIteration):
        raise WrongRowsError(
            f"wanted the names of the columns in line {number}, got a line that cannot be read"
        ) from None
    if len(names) == 1 and (better := _separator(line)) not in {None, dialect.separator}:
        spelled = "tab" if better == "\t" else better
        raise WrongRowsError(
            f"wanted names of columns separated by {dialect.separator!r} in line {number}, got one name and "
            f"{line.count(str(better))} of {spelled!r}; add separator={spelled} to the source (`consortia data map` "
            "proposes the options)"
        )
    return [name.strip() for name in names], rest, number + 1


def _cells(body: str, names: list[str], first: int, dialect: Dialect) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv as arrow

    places = [f"c{number}" for number in range(len(names))]
    wrong: list[tuple[int, int]] = []

    def note(row: Any) -> str:
        wrong.append((row.number or 0, row.actual_columns))
        return "error"

    if not body.strip("\n"):
        return pd.DataFrame({place: pd.Series([], dtype=str) for place in places})
    try:
        table = arrow.read_csv(
            io.BytesIO(body.encode("utf-8", "surrogatepass")),
            read_options=arrow.ReadOptions(column_names=places, use_threads=False, block_size=1 << 24),
            parse_options=arrow.ParseOptions(
                delimiter=dialect.separator,
                quote_char=dialect.quote or False,
                newlines_in_values=True,
                invalid_row_handler=note,
                ignore_empty_lines=len(names) > 1,
            ),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(places, pa.string()), strings_can_be_null=False, check_utf8=False
            ),
        )
    except pa.ArrowInvalid:
        if not wrong:
            raise WrongRowsError(
                "wanted rows of cells, got a file that cannot be read; is a quote never closed?"
            ) from None
        row, cells = wrong[0]
        line = _line_of(body, row, first, ignore_empty=len(names) > 1)
        raise WrongRowsError(
            f"wanted {len(names)} cells in each line, as in the header, got {cells} in line {line}; correct the line, "
            "or the options separator, quote and comment of the source"
        ) from None
    frame: pd.DataFrame = table.to_pandas()
    return frame


def _line_of(body: str, row: int, first: int, *, ignore_empty: bool) -> int:
    """The line of the file in which the row of that number, from 1 on, stands; rows before it have one line each."""
    seen = 0
    for offset, line in enumerate(body.split("\n")):
        seen += bool(line) or not ignore_empty
        if seen == row:
            return first + offset
    return first


def _refuse_open_quotes(frame: pd.DataFrame, first: int, lines: int) -> None:
    rows = [
        int(found.argmax())
        for name in frame.columns
        if lines and (found := frame[name].str.contains("\n", regex=False).to_numpy(bool)).any()
    ]
    if rows:
        raise WrongRowsError(
            f"wanted each row on one line, got a quoted cell that goes on after line {first + min(rows)}; close the "
            "quote there, add multiline=true if the cell has several lines, or quote=none if quotes mean nothing"
        )


def _plain_numbers(frame: pd.DataFrame, dialect: Dialect) -> pd.DataFrame:
    """Write numbers with a point and without groups; one in another style becomes unreadable, never another number."""
    if dialect.decimal == "." and not dialect.thousands:
        return frame
    rewrite = _rewriter(dialect)
    columns = []
    for place in range(frame.shape[1]):
        codes, distinct = pd.factorize(frame.iloc[:, place])
        changed = pd.Series([rewrite(value) for value in distinct], dtype=object)
        columns.append(changed.to_numpy()[codes] if len(distinct) else changed)
    made = pd.DataFrame(dict(enumerate(columns)), index=frame.index)
    made.columns = frame.columns
    return made


def _rewriter(dialect: Dialect) -> Callable[[str], str]:
    decimal, group = re.escape(dialect.decimal), re.escape(dialect.thousands)
    whole = rf"(?:\d{{1,3}}(?:{group}\d{{3}})+|\d+)" if group else r"\d+"
    number = re.compile(rf"\s*([+-]?{whole}(?:{decimal}\d*)?|[+-]?{decimal}\d+)([eE][+-]?\d+)?\s*")

    def rewrite(value: str) -> str:
        if number.fullmatch(value):
            value = value.replace(dialect.thousands, "") if dialect.thousands else value
            return value.replace(dialect.decimal, ".")
        # 1.5 where the decimal is a comma could mean one and a half or fifteen.
        return _values.UNREADABLE if dialect.decimal != "." and _PLAIN.fullmatch(value.strip()) else value

    return rewrite


def _separator(line: str) -> str | None:
    """The character that most likely separates the names in a header line."""
    counts = {mark: line.count(mark) for mark in (",", ";", "\t", "|")}
    best = max(counts, key=lambda mark: counts[mark])
    return best if counts[best] else None


def sniffed(path: Path) -> Dialect:
    """Guess how a CSV file is written, from its bytes and first lines; for a person to look at."""
    data = _bytes(path)
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "") or _wide(data)
    if not encoding:
        try:
            data.decode("utf-8")
            encoding = "utf-8"
        except UnicodeDecodeError:
            encoding = "cp1252" if _decodes(data, "cp1252") else "latin-1"
    text = data.decode(encoding, "replace").removeprefix("\ufeff")
    lines = [line for line in text.splitlines() if line.strip() and len(line) <= _LONGEST][:_SAMPLE]
    said = _SEP.fullmatch(lines[0]) if lines else None
    lines = lines[1:] if said else lines
    comment = "#" if lines and lines[0].startswith("#") else ""
    rows = [line for line in lines if not comment or not line.startswith(comment)]
    separator = said[1] if said else (_separator(rows[0]) if rows else None) or ","
    decimal, thousands = _style(rows[1:], separator)
    return Dialect(
        separator=separator,
        encoding=encoding,
        comment=comment,
        decimal=decimal,
        thousands=thousands,
        header=2 if said else 1,
    )


def _style(lines: list[str], separator: str) -> tuple[str, str]:
    """Guess decimal and thousands. 12,345 may be either number, so it alone does not make the comma a decimal."""
    cells = [cell.strip() for row in csv.reader(lines, delimiter=separator) for cell in row]

    marks = [mark for mark in _GROUPS if any(re.match(rf"[+-]?\d{{1,3}}{mark}\d{{3}}(?!\d)", cell) for cell in cells)]
    if len(marks) == 1:
        cells = [cell.replace(marks[0], "") for cell in cells]

    def some(pattern: str) -> bool:
        return any(re.fullmatch(pattern, cell) for cell in cells)

    points = some(r"[+-]?\d+\.\d+")
    grouped = some(r"[+-]?\d{1,3}(?:\.\d{3})+,\d+")
    commas = some(r"[+-]?(?:\d*,(?!\d{3}$)\d+|0\d*,\d+|\d{4,},\d+)")
    decimal = "," if grouped or (commas and not points) else "."
    if grouped or some(r"[+-]?\d{1,3}(?:,\d{3})+\.\d+"):
        return decimal, "." if grouped else ","
    return decimal, marks[0] if len(marks) == 1 else ""


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
