"""Describes which columns each organisation holds about the same persons or machines.

A *case* is one population; a *holding* is what one organisation knows of it: columns with public bounds, identifiers,
and at most one of the holdings has the label. A holding has no rows of its own to learn alone from, which is why it
is no `IndustryClient`.
"""

from __future__ import annotations

import importlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from clients import _values
from clients._pandas import pd
from clients._seeded import numpy_generator
from clients.errors import SchemaError, SourceError, UnknownClientError
from clients.schema import Column, QuarantineReport, Schema, Target

if TYPE_CHECKING:
    from clients.sources import Source

__all__ = ["CASES", "NEW", "Case", "Encoded", "Holding", "get", "holdings_of", "normalise"]

CASES = ("cards", "customers", "heart", "machines")
CHUNK = 50_000
#: What a case's synthesiser adds to a holding's name for persons who are new to it.
NEW = ":new"
#: A schema asks for a target; a partner has none, so every row gets this constant, which is never a feature.
_NONE = Target(name="(no label)", kind="regression")


@dataclass(frozen=True, eq=False, repr=False)
class Encoded:
    """A holding's rows, ready to match and to learn from. They stay at home.

    Attributes
    ----------
    ids : tuple of str (n,)
        Normalised identifiers, each once.
    features : float32 (n, width)
        In [-1, 1] by public bounds.
    labels : int64 (n,)
        Codes of the classes, -1 where there is none.
    rows_without_id, rows_twice : int
        What could not be matched: counts that stay at home.
    quarantine : QuarantineReport
        Rows that break the schema, and rows whose label is no class: those stay, without a label.
    """

    ids: tuple[str, ...]
    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows_without_id: int = 0
    rows_twice: int = 0
    quarantine: QuarantineReport = field(default_factory=lambda: QuarantineReport(0, 0))
    synthetic: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Encoded({len(self)} rows, {self.features.shape[1]} features)"


@dataclass(frozen=True, kw_only=True)
class Holding:
    """What one organisation knows of the persons of a case.

    Parameters
    ----------
    name, title : str
        The word in a roster, and the one for people.
    columns : tuple of Column
        The features, each with public bounds or categories.
    ids : tuple of str
        Columns that together name a person; joined in this order.
    target : Target, optional
        Only the holding that can own the label has one.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    ids: tuple[str, ...]
    target: Target | None = None

    @cached_property
    def schema(self) -> Schema:
        """The columns as a schema without a label."""
        return Schema(name=self.name, version=1, columns=self.columns, target=_NONE)

    def encode(self, frame: pd.DataFrame, ids: Sequence[str] = (), where: str = "the source") -> Encoded:
        """Check, encode and name the rows, `CHUNK` rows at a time.

        A row whose identifier is blank, or names a person that an earlier row names, cannot be matched and is left
        out; a row that breaks the schema is quarantined.

        Parameters
        ----------
        ids : sequence of str
            The owner's identifier columns; empty means the holding's own.

        Raises
        ------
        SchemaError
            A column is missing, or no row is left.
        """
        wanted = tuple(ids) or self.ids
        if absent := [name for name in wanted if name not in frame]:
            raise SchemaError(f"{where}: identifier column {', '.join(absent)} is missing; there are {list(frame)}")
        parts: list[tuple[list[str], NDArray[np.float32], NDArray[np.int64]]] = []
        seen: set[str] = set()
        reasons: Counter[str] = Counter()
        blank = twice = kept = 0
        for chunk in _chunks(frame):
            good, report = self.schema.check(chunk.assign(**{_NONE.name: 0}), where=where)
            labels, foreign = self._labels(chunk.loc[good.index])
            reasons.update(report.reasons)
            kept += report.rows_kept - int(foreign.sum())
            if foreign.any() and self.target is not None:
                reasons[f"{self.target.name}: not a class"] += int(foreign.sum())
            names = [normalise(*values) for values in chunk.loc[good.index, list(wanted)].itertuples(index=False)]
            keep = np.zeros(len(names), dtype=bool)
            for place, name in enumerate(names):
                keep[place] = bool(name) and name not in seen
                blank += not name
                twice += bool(name) and name in seen
                seen.add(name)
            parts.append(([name for name, k in zip(names, keep, strict=True) if k], self._x(good[keep]), labels[keep]))
        quarantine = QuarantineReport(len(frame), kept, dict(reasons))
        if not any(names for names, _, _ in parts):
            raise SchemaError(f"{where}: no row with an identifier is left of {len(frame)}; {quarantine}")
        return Encoded(
            ids=tuple(name for names, _, _ in parts for name in names),
            features=np.concatenate([x for _, x, _ in parts]),
            labels=np.concatenate([y for _, _, y in parts]),
            rows_without_id=blank,
            rows_twice=twice,
            quarantine=quarantine,
            synthetic=bool(frame.attrs.get("synthetic", False)),
        )

    def _x(self, good: pd.DataFrame) -> NDArray[np.float32]:
        return self.schema.features(good)

    def _labels(self, frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the codes, -1 where there is none, and where something stands that is no class."""
        target = self.target
        if target is None or target.name not in frame:
            return np.full(len(frame), -1, dtype=np.int64), np.zeros(len(frame), dtype=bool)
        codes = {name: code for code, name in enumerate(target.classes)}
        table = {raw: codes[name] for raw, name in target.mapping.items()} or codes
        texts = _values.texts(frame[target.name])
        found = np.array([table.get(text, -1) for text in texts], dtype=np.int64)
        return found, (found < 0) & texts.notna().to_numpy(bool)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One population and who knows what of it.

    Parameters
    ----------
    read : callable
        Folder of the public data -> frames by holding, or None for a case that has no public data.
    synthesise : callable
        (generator, persons) -> frames by holding: the same made-up persons everywhere, not all of them known to all.
    """

    name: str
    title: str
    holdings: Mapping[str, Holding]
    synthesise: Callable[[np.random.Generator, int], Mapping[str, pd.DataFrame]]
    read: Callable[[Path], Mapping[str, pd.DataFrame]] | None = None
    default_rows: int = 2000

    def holding(self, name: str) -> Holding:
        """The holding of that name, or a SchemaError that lists those there are."""
        if name not in self.holdings:
            raise SchemaError(f"case {self.name!r}: wanted one of {', '.join(self.holdings)}; got {name!r}")
        return self.holdings[name]

    def frame(self, source: Source, name: str, seed: int, *, new: bool = False) -> pd.DataFrame:
        """A holding's rows from its source; synthetic ones may be `new` persons of the same population."""
        self.holding(name)
        if source.kind == "synthetic":
            rng = numpy_generator("case", self.name, seed if source.seed is None else source.seed)
            frames = self.synthesise(rng, source.rows or self.default_rows)
            if new and name + NEW not in frames:
                raise SourceError(f"source: case {self.name!r} makes up no new persons; name a source of your own rows")
            frame = frames[name + NEW * new]
        elif source.kind == "public":
            if self.read is None:
                raise SourceError(
                    f"source: case {self.name!r} has no public data set; name a source of your own rows, or synthetic"
                )
            try:
                frame = self.read(Path(source.location))[name]
            except FileNotFoundError as error:
                raise SourceError(
                    f"source: wanted the public data of case {self.name!r} below {source.location}, found no "
                    f"{Path(error.filename or '').name}"
                ) from None
        else:
            from clients.sources import read_table

            frame = read_table(source)
        frame.attrs["synthetic"] = source.synthetic
        return frame


def get(name: str) -> Case:
    """The case of that name; UnknownClientError lists those there are."""
    if name not in CASES:
        raise UnknownClientError(f"case: wanted one of {', '.join(CASES)}; got {name!r}")
    case = importlib.import_module(f"clients.holdings.{name}").CASE
    assert isinstance(case, Case)
    return case


def holdings_of(
    titles: Mapping[str, str],
    columns: Mapping[str, tuple[Column, ...]],
    *,
    ids: tuple[str, ...],
    owner: str,
    target: Target,
) -> dict[str, Holding]:
    """Return the holdings of a case whose parts name persons alike; `owner` alone has the label."""
    return {
        name: Holding(name=name, title=titles[name], columns=known, ids=ids, target=target if name == owner else None)
        for name, known in columns.items()
    }


def normalise(*values: Any) -> str:
    """One public spelling of an identifier: NFKC, letters and digits only, upper case; parts joined by a bar.

    Both sides must use the same rule, or nothing matches. A missing part gives "", which is never matched.
    """
    parts = []
    for value in values:
        kept = "".join(c for c in unicodedata.normalize("NFKC", _values.text(_day(value)) or "") if c.isalnum()).upper()
        if not kept:
            return ""
        parts.append(kept)
    return "|".join(parts)


def _day(value: Any) -> Any:
    """A time at midnight as its day: a database's date and a Parquet file's are spelled alike."""
    return value.date() if isinstance(value, pd.Timestamp) and value == value.normalize() else value


def _chunks(frame: pd.DataFrame) -> Iterator[pd.DataFrame]:
    frame = frame.reset_index(drop=True)
    for start in range(0, max(len(frame), 1), CHUNK):
        yield frame.iloc[start : start + CHUNK]
