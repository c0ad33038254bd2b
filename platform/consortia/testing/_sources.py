"""`check_source`: the conformance suite of sources of rows."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from clients import source_registry
from clients._values import texts
from clients.errors import SourceError
from clients.masking import masked
from clients.sources import Source, TableSource, read_table
from consortia.common.errors import ArgumentError
from consortia.testing._suite import SuiteError, leaves_the_process_as_it_is, require, run_checks
from consortia_plugins.arguments import named_arguments

#: Stores rows in a folder and returns what stands behind `NAME:` in a policy.
Write = Callable[[Path, pd.DataFrame], str]
#: Texts that a reader likes to take for something else.
_TEXTS: Final = ("007", "1e5", "TRUE", "2024-01-02", "ä, 'q'; x", "No", "12.50", "Infinity")
_PLANTED: Final = "Lovelace-4711"
_PASSWORD: Final = "hunter2-0815"  # noqa: S105 - planted, to be looked for


def rows() -> pd.DataFrame:
    """Return the rows that a source is asked for: text, numbers, whole numbers, and blanks among them."""
    count = len(_TEXTS)
    return pd.DataFrame(
        {
            "visits": [2**40 + n for n in range(count)],
            "patient_id": [f"{n:06}" for n in range(7, 7 + count)],
            "ward": ["a", None, "b", "a", "b", "a", "b", None],
            "remark": list(_TEXTS),
            "pressure": [*(round(0.1 + n / 3, 12) for n in range(count - 1)), None],
        }
    )


@dataclass
class Case:
    """A source under test."""

    kind: type[TableSource]
    write: Write

    @property
    def name(self) -> str:
        """The word before the colon."""
        return self.kind.form.partition(":")[0]

    @contextmanager
    def stored(self, frame: pd.DataFrame) -> Iterator[tuple[TableSource, Path]]:
        """Yield the source of the rows, stored in a folder of its own."""
        with tempfile.TemporaryDirectory() as folder:
            text = self.write(Path(folder), frame)
            yield self.kind.parse(text), Path(folder)

    def read(self, source: TableSource) -> pd.DataFrame:
        """Return the rows as a participant reads them."""
        return read_table(Source(kind=self.name, table=source), key="source")

    def error(self, source: TableSource) -> str | None:
        """Return what a participant is told of a source that cannot be read; None for one that can."""
        try:
            self.read(source)
        except SourceError as error:
            return str(error)
        return None


def is_a_source(case: Case) -> None:
    """A frozen dataclass with `form`, `wanted` and `read`, as the registry asks for."""
    try:
        source_registry.check(case.name, case.kind)
    except ValueError as error:
        raise AssertionError(str(error)) from error


def keeps_rows_and_columns_in_order(case: Case) -> None:
    """Every row once, every column under its own name."""
    with case.stored(rows()) as (source, _):
        found = case.read(source)
    require(list(found.columns) == list(rows().columns), f"wanted {list(rows().columns)}, got {list(found.columns)}")
    require(len(found) == len(rows()), f"wanted {len(rows())} rows, got {len(found)}")


def keeps_text_as_it_is(case: Case) -> None:
    """Leading zeros of an identifier, numbers in text, words that look like true, false, a date or nothing."""
    for column in ("patient_id", "remark"):
        _same_text(case, column)


def keeps_numbers_and_blanks(case: Case) -> None:
    """Numbers to twelve digits; a blank cell is blank, and is neither 0 nor a word."""
    for column in ("pressure", "visits", "ward"):
        _same_text(case, column)


def _same_text(case: Case, column: str) -> None:
    """Compare what the schema reads: a number is the same as text, float, int or Decimal."""
    with case.stored(rows()) as (source, _):
        found = case.read(source)
    require(column in found, f"column {column} is missing")
    require(len(found) == len(rows()), f"wanted {len(rows())} rows, got {len(found)}")
    for wanted, got in zip(texts(rows()[column]), texts(found[column]), strict=True):
        require(wanted == got, f"{column}: wanted {wanted!r}, got {got!r}")


def reads_the_same_twice_and_changes_nothing(case: Case) -> None:
    """Files stay as they are, none is added, and the process is left as it was."""
    with case.stored(rows()) as (source, folder):
        before = _hashes(folder)
        with leaves_the_process_as_it_is():
            first, second = (case.read(source) for _ in range(2))
        after = _hashes(folder)
    require(first.equals(second), "read again, it gave other rows")
    require(set(after) <= set(before), f"reading wrote {', '.join(sorted(set(after) - set(before)))}")
    require(before == after, "reading changed a file")


def a_source_without_rows_is_refused(case: Case) -> None:
    """Column names alone are no rows, and no row is made of them."""
    with case.stored(rows().iloc[:0]) as (source, _):
        told = case.error(source)
    require(told is not None, "wanted an empty table to be refused, got rows")


def what_is_not_there_is_one_sentence(case: Case) -> None:
    """Nothing is made where nothing is."""
    with case.stored(rows()) as (source, folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            path.unlink()
        if not files:
            return  # not kept in files
        told = case.error(source)
        left = [path.name for path in folder.rglob("*") if path.is_file()]
    require(told is not None, "wanted a sentence about a file that is not there, got rows")
    require("\n" not in str(told), "wanted one line about a file that is not there, got more")
    require(not left, f"reading what is not there wrote {', '.join(left)}")


def no_error_quotes_a_row(case: Case) -> None:
    """Files that are cut, mixed up or replaced: whatever is raised, its sentence has no value of a row."""
    for what, damage in _DAMAGES.items():
        with case.stored(rows().assign(ward=_PLANTED)) as (source, folder):
            for path in folder.rglob("*"):
                if path.is_file():
                    path.write_bytes(damage(path.read_bytes()))
            try:
                told = case.error(source)
            except Exception as error:
                raise AssertionError(f"{what}: {type(error).__name__} instead of a sentence") from error
        require(told is None or _PLANTED not in told, f"{what}: the error quotes a value of a row")
        require(told is None or "\n" not in told, f"{what}: wanted one line, got more")


_DAMAGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "half a file": lambda data: data[: len(data) // 2],
    "a file with foreign bytes": lambda data: data[:40] + b"\xff\xfe\x00" + _PLANTED.encode() + data[40:],
    "a file of another kind": lambda _: b"a,b\n" + _PLANTED.encode() + b"," + _PLANTED.encode() + b",3,4,5\n",
    "an empty file": lambda _: b"",
}


def options_are_strict(case: Case) -> None:
    """An option that there is not, or of another type, is refused; the sentence names no value, which may be secret."""
    options = [each.name for each in dataclasses.fields(case.kind) if each.init and each.name != "location"]
    with case.stored(rows()) as (source, _):
        given = {name: getattr(source, name) for name in options}
    for wrong in (f"place?{_PASSWORD}=1", f"place?{_PASSWORD}", ""):
        told = _refusal(case, wrong)
        if told is None:
            # Without options the whole text is the place.
            require(not options or "=" not in wrong, "wanted an unknown option to be refused, got a source")
            require(bool(wrong), "wanted a source without a place to be refused, got one")
        require(told is None or _PASSWORD not in told, "an error quotes the text of a source, which may be a password")
    for name, value in given.items():
        if isinstance(value, bool | int | float):
            told = _refusal(case, f"place?{name}={_PASSWORD}")
            require(told is not None, f"option {name}: wanted {type(value).__name__} only, got a text through")
            require(_PASSWORD not in str(told), f"option {name}: its error quotes the value")


def _refusal(case: Case, text: str) -> str | None:
    try:
        case.kind.parse(text)
    except ValueError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"parse raised {type(error).__name__}; wanted ValueError with one sentence") from error
    return None


def no_text_shows_a_password(case: Case) -> None:
    """Neither the source's text nor its repr, wherever a password stands in its line."""
    with case.stored(rows()) as (source, _):
        secret: dict[str, Any] = {"location": f"scheme://ada:{_PASSWORD}@host/x?password={_PASSWORD}"}
        for each in dataclasses.fields(case.kind):
            if each.init and masked(f"{each.name}=x") != f"{each.name}=x":
                secret[each.name] = _PASSWORD
        hidden = replace(source, **secret)
        for what, shown in (("text", str(Source(kind=case.name, table=hidden))), ("repr", repr(hidden))):
            require(
                _PASSWORD not in shown, f"its {what} shows a password; use field(repr=False), and mask what is shown"
            )


def one_place_is_one_source(case: Case) -> None:
    """The same line twice is one source, and another place another one: two data sets of one source share a budget."""
    with case.stored(rows()) as (source, folder), case.stored(rows().iloc[::-1]) as (other, _):
        again = replace(source)
        require(_place(source) == _place(again), "the same source twice has two identities")
        require(_place(source) != _place(other), "two places have one identity")
        for path in source.files():
            require(path.is_file(), f"files: {path.name} is not there")
        written = [path for path in folder.rglob("*") if path.is_file()]
        if source.files() and written:
            known = {path.resolve() for path in source.files()}
            require(known <= {path.resolve() for path in written}, "files: wanted the files that it reads, got others")


def _place(source: TableSource) -> tuple[Any, ...]:
    files = source.files()
    return tuple(path.resolve() for path in files) if files else source.identity()


def _hashes(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


_CHECKS = {
    check.__name__: check
    for check in (
        is_a_source,
        keeps_rows_and_columns_in_order,
        keeps_text_as_it_is,
        keeps_numbers_and_blanks,
        reads_the_same_twice_and_changes_nothing,
        a_source_without_rows_is_refused,
        what_is_not_there_is_one_sentence,
        no_error_quotes_a_row,
        options_are_strict,
        no_text_shows_a_password,
        one_place_is_one_source,
    )
}


class SourceCheckError(SuiteError):
    """The source breaks at least one promise. `failures` maps each failed check to what it saw."""


@named_arguments(ArgumentError)
def check_source(kind: type[TableSource], write: Write) -> tuple[str, ...]:
    """Hold a source of rows to the promises of the seam (`clients.sources.TableSource`).

    What it cannot see: a source that keeps its rows elsewhere than in the folder is not damaged, and a driver that
    prints by itself.

    Returns the names of the checks and raises `SourceCheckError`, both as every suite of `consortia.testing` does.

    Parameters
    ----------
    write : callable
        (folder, frame) -> text: stores the frame, in the folder where it is kept in files, and returns what stands
        behind `NAME:` in a policy. A blank cell is None or NaN.
    """
    return run_checks(_CHECKS, Case(kind, write), SourceCheckError, f"source {kind.__name__}")
