"""Makes named tensors with privacy units from checked rows, and splits them by a keyed hash."""

from __future__ import annotations

import hmac
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients._checking import QuarantineReport, blank_to_none
from clients._groups import Grouping
from clients._values import DEMO_KEY, digests, pseudonym, text
from clients.errors import QuarantineError, SchemaError
from clients.industry import IndustryClient, effective_schema
from clients.schema import Schema

__all__ = ["QuarantineReport", "Table", "assign", "mark", "prepare"]

RECORD = "record"


@dataclass(frozen=True, eq=False, repr=False)
class Table:
    """The rows of one participant, ready for training. It stays at home.

    Attributes
    ----------
    inputs : dict of str to Tensor
        {"features": float32 (n_rows, n_features)}; further names are for clients of other modes.
    target : Tensor (n_rows,)
        float32 for binary (0/1) and regression (own unit), int64 for multiclass.
    unit_ids : tuple of str (n_units,)
        Keyed hashes of the privacy units.
    unit_index : LongTensor (n_rows,)
        Which unit each row belongs to.
    row_ids, split_keys : tuple of str (n_rows,)
        A pseudonym for each row, and what decides its side of the split: its unit, or its content.
    rows_capped : int
        Rows left out because their unit had more than `max_rows_per_unit`.
    marks : ndarray of uint64 (n_rows, 2), optional
        Keyed hashes of each row's content and of its unit, by which two data sets are compared at home; None for
        synthetic rows, which are nobody's.
    groups : ndarray of int64 (n_rows,), optional
        The public group of each row, where a run measures by group; -1 for none.
    strata : LongTensor (n_rows,), optional
        Which value of `Target.within` each row has; None where all rows are compared with one another.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    feature_names: tuple[str, ...]
    unit_ids: tuple[str, ...]
    unit_index: Tensor
    row_ids: tuple[str, ...]
    split_keys: tuple[str, ...]
    quarantine: QuarantineReport
    synthetic: bool = False
    rows_capped: int = 0
    marks: NDArray[np.uint64] | None = None
    groups: NDArray[np.int64] | None = None
    strata: Tensor | None = None

    def __len__(self) -> int:
        return len(self.row_ids)

    def __repr__(self) -> str:
        # Without this a log line with a table in it would print rows.
        return f"Table({len(self)} rows, {self.n_units} units, {len(self.feature_names)} features)"

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.row_ids)

    @property
    def n_units(self) -> int:
        """Number of privacy units that hold these rows."""
        return len(self.unit_ids)

    @property
    def measured(self) -> NDArray[Any]:
        """What a metric compares scores with: the target (n_rows,), or beside its strata (n_rows, 2)."""
        target = np.asarray(self.target)
        return target if self.strata is None else np.column_stack([target, np.asarray(self.strata)])

    def take(self, rows: NDArray[Any] | Sequence[int] | Tensor) -> Table:
        """These rows (a mask (n_rows,) or positions), in their order; units are numbered anew."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise ValueError(f"rows: wanted a mask of shape ({len(self)},), got {chosen.shape}")
            chosen = np.flatnonzero(chosen)
        chosen = chosen.astype(np.int64)
        index = torch.from_numpy(chosen)
        kept, unit_index = _number([self.unit_ids[u] for u in self.unit_index[index].tolist()])
        return replace(
            self,
            inputs={name: tensor[index] for name, tensor in self.inputs.items()},
            target=self.target[index],
            unit_ids=kept,
            unit_index=unit_index,
            row_ids=tuple(self.row_ids[i] for i in chosen),
            split_keys=tuple(self.split_keys[i] for i in chosen),
            marks=None if self.marks is None else self.marks[chosen],
            groups=None if self.groups is None else self.groups[chosen],
            strata=None if self.strata is None else self.strata[index],
        )


def prepare(
    client: IndustryClient,
    frame: pd.DataFrame,
    *,
    unit: str = RECORD,
    max_rows_per_unit: int | None = None,
    filter: str | None = None,
    columns: Sequence[str] = (),
    grouping: Grouping | None = None,
    key: bytes = DEMO_KEY,
    quarantine_threshold: float = 0.2,
    where: str = "the source",
) -> Table:
    """Check, hide, cap and turn into tensors, each row by itself.

    Parameters
    ----------
    frame : DataFrame
        As a source gave it.
    unit : str
        "record", or the column whose value says whose row it is: a hashed identifier of the schema.
    max_rows_per_unit : int, optional
        A unit with more rows keeps those whose hashes are smallest: a choice that no other unit can change.
    filter, columns
        See `effective_schema`. They choose rows and features, never the split: keys come from the whole row.
    grouping : Grouping, optional
        By which public groups the rows will be measured.
    key : bytes
        The participant's secret for hashed identifiers and row ids. The default is public.
    quarantine_threshold : float
        Refuse when a larger share of the rows is broken.
    where : str
        What errors call the source.

    Raises
    ------
    SchemaError, QuarantineError
        A wrong column; too many broken rows, or no row left.
    """
    if max_rows_per_unit is not None and max_rows_per_unit < 1:
        raise ValueError(f"max_rows_per_unit: wanted >= 1, got {max_rows_per_unit}")
    view = effective_schema(client, filter=filter, columns=tuple(columns))
    synthetic = bool(frame.attrs.get("synthetic", False))
    frame = client.schema.named(frame.reset_index(drop=True))
    good, report = client.schema.check(frame, key=key, where=where)
    if unit != RECORD:
        good, report = _with_unit(client.schema, good, report, unit, where)
    if report.spellings and quarantine_threshold < 1:
        raise QuarantineError(_unmapped(report, where))
    if report.share > quarantine_threshold:
        raise QuarantineError(
            f"{where}: {report}. Wanted at most {quarantine_threshold:.0%} broken rows: correct the source "
            "or raise quarantine_threshold in the policy."
        )
    if filter:
        stays = client.filters[filter].rows(blank_to_none(frame)).to_numpy(bool)
        good = good[stays[good.index.to_numpy()]]
    if good.empty:
        raise QuarantineError(f"{where}: no row is left of {report.rows_read}. {report}.")
    content = _content(client.schema, good, key)
    rows = _distinct(content)
    if unit == RECORD:
        # Equal rows are different units with one split key: one more copy adds a unit and moves no other unit.
        units, split_keys = rows, content
    else:
        units = split_keys = [pseudonym(key, "unit", unit, str(value)) for value in good[unit]]
    kept = _within_cap(units, rows, max_rows_per_unit)
    unit_ids, unit_index = _number([units[i] for i in kept])
    good = good.iloc[kept]
    strata = client.schema.strata(good)
    return Table(
        inputs={"features": torch.from_numpy(view.features(good))},
        target=torch.from_numpy(client.schema.labels(good)),
        feature_names=view.feature_names,
        unit_ids=unit_ids,
        unit_index=unit_index,
        row_ids=tuple(rows[i] for i in kept),
        split_keys=tuple(split_keys[i] for i in kept),
        quarantine=report,
        synthetic=synthetic,
        rows_capped=len(rows) - len(kept),
        marks=None if synthetic else _marks(client.schema, good, key, None if unit == RECORD else frame[unit]),
        groups=None if grouping is None else grouping.codes(client.schema, good),
        strata=None if strata is None else torch.from_numpy(strata),
    )


def assign(split_keys: Sequence[str], key: bytes, fractions: Mapping[str, float]) -> NDArray[np.str_]:
    """The part ("train", "validation", "test") of each key: a keyed hash, so that no row depends on another.

    Parameters
    ----------
    key : bytes
        Fixed per data set; not empty.
    fractions : mapping
        Share of each part; they add up to 1.

    Returns
    -------
    ndarray of str (n_keys,)
    """
    shares = np.array(list(fractions.values()), dtype=np.float64)
    if not key:
        raise ValueError("key: wanted bytes of the data set's own, got none")
    if not len(shares) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-9:
        raise ValueError(f"fractions: wanted shares >= 0 that add up to 1, got {dict(fractions)}")
    edges = np.cumsum(shares)[:-1]
    digests = [hmac.digest(key, split_key.encode(), "sha256") for split_key in split_keys]
    points = np.array([int.from_bytes(d[:8], "big") / 2**64 for d in digests], dtype=np.float64)
    return np.array(list(fractions), dtype=np.str_)[np.searchsorted(edges, points, side="right")]


def _unmapped(report: QuarantineReport, where: str) -> str:
    name, spelling = max(report.spellings.items(), key=lambda item: item[1].rows)
    return (
        f"{where}: column {name!r}: {spelling.rows} of {report.rows_read} rows have one spelling that the schema "
        f"lacks: a code; they would all be lost. In the policy, {spelling.line}. `consortia data map` shows the line."
    )


def _with_unit(
    schema: Schema, good: pd.DataFrame, report: QuarantineReport, unit: str, where: str
) -> tuple[pd.DataFrame, QuarantineReport]:
    """Set rows apart that do not say whose they are."""
    column = schema.column(unit)
    if column.identifier != "hash":
        raise SchemaError(f"unit: wanted 'record' or a hashed identifier of schema {schema.name!r}, got {unit!r}")
    if unit not in good:
        raise SchemaError(f"{where}: column {unit!r} is missing, which the policy names as the privacy unit")
    missing = good[unit].isna()
    if not missing.any():
        return good, report
    reasons = {**report.reasons, f"{unit}: missing": int(missing.sum())}
    kept = good[~missing]
    return kept, replace(report, rows_kept=len(kept), reasons=reasons)


def _content(schema: Schema, good: pd.DataFrame, key: bytes) -> list[str]:
    """A keyed hash of each row's canonical content: the schema's columns in their order, never its place."""
    names = [c.name for c in schema.columns if c.name in good] + [schema.target.name]
    hashes = digests(key, ("row", *names), [good[name] for name in names], _canonical)
    return [digest.hex()[:32] for digest in hashes]


def _canonical(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    # Zero has two signs, and both mean the same.
    return f"={value + 0.0!r}" if isinstance(value, float) else f"={value}"


def mark(key: bytes, *parts: str) -> int:
    """A keyed hash of 64 bits (HMAC-SHA256): nobody without the participant's key can try out values."""
    return int(pseudonym(key, "mark", *parts)[:16], 16)


def _marks(schema: Schema, good: pd.DataFrame, key: bytes, unit: pd.Series[Any] | None) -> NDArray[np.uint64]:
    """See `Table.marks`. What may differ between two copies of a row is not in them: optional columns, identifiers,
    the file's kind, digits beyond the sixth. A unit is its value, whatever its column is called.
    """
    names = [c.name for c in schema.columns if c.required and c.name in good] + [schema.target.name]
    hashes = digests(key, ("mark", "row", *names), [good[name] for name in names], _rounded)
    rows = np.frombuffer(b"".join(digest[:8] for digest in hashes), dtype=">u8").astype(np.uint64)
    units = rows if unit is None else [mark(key, "unit", str(text(unit[i]))) for i in good.index]
    return np.array([rows, units], dtype=np.uint64).T


def _rounded(value: object) -> str:
    return f"{value + 0.0:.6g}" if isinstance(value, float) else str(value)


def _distinct(content: list[str]) -> list[str]:
    """Number equal contents from 0. Which of two equal rows is the first makes no difference to anyone."""
    seen: dict[str, int] = {}
    numbered = []
    for each in content:
        number = seen.get(each, 0)
        numbered.append(f"{each}-{number}")
        seen[each] = number + 1
    return numbered


def _within_cap(units: list[str], rows: list[str], cap: int | None) -> list[int]:
    """Positions that stay, in their order, when each unit keeps its `cap` smallest row hashes."""
    if cap is None:
        return list(range(len(units)))
    taken: Counter[str] = Counter()
    kept = []
    for i in sorted(range(len(units)), key=rows.__getitem__):
        if taken[units[i]] < cap:
            kept.append(i)
        taken[units[i]] += 1
    return sorted(kept)


def _number(units: list[str]) -> tuple[tuple[str, ...], Tensor]:
    """Units in order of first appearance, and each row's place among them."""
    place: dict[str, int] = {}
    index = [place.setdefault(u, len(place)) for u in units]
    return tuple(place), torch.tensor(index, dtype=torch.int64)
