"""Describes the rows of an industry as data: columns, bounds, categories, identifiers, target.

Everything here is a function of one row and of public constants. Scaling by public bounds, imputing a public
constant and listing the categories beforehand cost no privacy budget; a mean, a median or a vocabulary taken
from the rows would be a release (design, invariant 5).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from clients import _labels, _values, shapes
from clients._checking import QuarantineReport, check_rows, named
from clients._declaring import column_problem
from clients._features import Compute, column_features, column_kinds, derived_feature
from clients._pandas import pd
from clients._target import Target
from clients.errors import SchemaError
from consortia_plugins.arguments import named_arguments

__all__ = ["Column", "Derived", "QuarantineReport", "Schema", "Target"]

Dtype = Literal["number", "integer", "category", "flag", "text"]
IdentifierRule = Literal["drop", "hash", "generalise"]


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the source.

    Parameters
    ----------
    name : str
        As in the source.
    dtype : {"number", "integer", "category", "flag", "text"}
        Text is never a feature.
    measure : str
        Unit of measure, such as "mmHg".
    low, high : float, optional
        Public bounds: a number is clamped to them and scaled to [-1, 1]. Needed for a numeric feature.
    valid_low : float
        The least that is physically possible. A row below is broken and quarantined; one that is only outside
        [low, high] is clamped.
    valid_high : float
        The most that is physically possible.
    categories : tuple of str
        All values that a category can take, in the order of the one-hot features.
    scores : tuple of float, optional
        For an ordered category: one public number in [-1, 1] for each of `categories`. The category is then
        one feature of that value instead of a one-hot, which for few rows and noisy gradients is one weight to
        learn instead of several. A missing value is 0 unless `impute` names a category.
    nullable : bool
        Whether a missing value is legal. It is imputed, and a feature of its own says so.
    missing_values : tuple of str
        Further spellings of "missing", such as "0" for a cholesterol.
    impute : float or str, optional
        The public constant for a missing value: the middle of the bounds, 0 for a flag or a score, and a
        category of its own unless this names one of the others.
    sensitive : bool
        Personal data of a special kind (health, origin, sex): shown by `describe`, for the reader's care.
    identifier : {None, "drop", "hash", "generalise"}
        Dropped; replaced by a keyed hash, which may serve as privacy unit and is never a feature; or
        replaced by `generalise` before anything else sees it.
    generalise : callable or float, optional
        str -> str on one value, or the width of a bin for a number (its lower edge stays).
    feature : bool
        Whether the model may see it. A column that it may not see is still checked, and still part of the
        row's content, which decides the split.
    required : bool
        Whether a source without this column is refused.
    """

    name: str
    dtype: Dtype
    measure: str = ""
    low: float | None = None
    high: float | None = None
    valid_low: float = -math.inf
    valid_high: float = math.inf
    categories: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    nullable: bool = False
    missing_values: tuple[str, ...] = ()
    impute: float | str | None = None
    sensitive: bool = False
    identifier: IdentifierRule | None = None
    generalise: Callable[[str], str] | float | None = None
    feature: bool = True
    required: bool = True

    def __post_init__(self) -> None:
        problem = column_problem(self)
        if problem:
            raise SchemaError(f"column {self.name!r}: {problem}")

    @property
    def is_feature(self) -> bool:
        """Whether the model sees it: never text, never a dropped or hashed identifier."""
        return self.feature and self.dtype != "text" and self.identifier not in {"drop", "hash"}


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Derived:
    """A feature computed from one row by public knowledge, such as power = torque x speed.

    `function` gets a frame of the schema's feature columns only, in their own units (NaN where missing), and
    returns a series. It must treat each row alone; `check_client` holds it to that. A result that is not
    finite becomes the middle of the bounds.
    """

    name: str
    low: float
    high: float
    function: Callable[[pd.DataFrame], pd.Series[Any]]
    measure: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise SchemaError(f"derived {self.name!r}: wanted finite low < high, got {self.low}, {self.high}")


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Schema:
    """The columns of an industry, in their public form. `select` sets `selected` and the two switches.

    `shape` says that the features are an image or a sequence (`clients.shapes`, `clients.arrays`).
    """

    name: str
    version: int
    columns: tuple[Column, ...]
    target: Target
    derived: tuple[Derived, ...] = ()
    unit: str = "record"
    selected: tuple[str, ...] = ()
    indicators: bool = True
    drop_first: bool = False
    shape: shapes.Shape | None = None

    def __post_init__(self) -> None:
        names = [c.name for c in self.columns] + [d.name for d in self.derived] + [self.target.name]
        if self.target.kind == "multilabel":  # a source may have a column for each
            names += self.target.classes
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise SchemaError(f"schema {self.name!r}: names used twice: {twice}")
        if self.unit != "record" and self.unit not in [c.name for c in self.columns]:
            raise SchemaError(f"schema {self.name!r}: unit {self.unit!r} is neither 'record' nor a column")
        if self.target.within and self.target.within not in [c.name for c in self.columns if c.is_feature]:
            raise SchemaError(
                f"schema {self.name!r}: target.within: wanted a column that is a feature, got {self.target.within!r}"
            )
        for name in self.selected:
            if name not in self.feature_columns:
                close = difflib.get_close_matches(name, self.feature_columns, 1)
                raise SchemaError(
                    f"schema {self.name!r}: columns names {name!r}, which is not a feature; "
                    + (f"did you mean {close[0]!r}? " if close else "")
                    + f"wanted some of {', '.join(self.feature_columns)}"
                )
        wrong = shapes.problem(self.shape, self.feature_kinds) if self._plan() else "no column is a feature"
        if wrong:
            raise SchemaError(f"schema {self.name!r}: {wrong}")

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Names that a contract may list under `columns`: feature columns, then derived ones."""
        return (*(c.name for c in self.columns if c.is_feature), *(d.name for d in self.derived))

    def select(self, columns: tuple[str, ...] = (), *, indicators: bool = True, drop_first: bool = False) -> Schema:
        """The same rows and checks, with features of these columns only (all when empty).

        `indicators=False` gives no feature for "was missing"; `drop_first` leaves out the first category
        of a one-hot, as a model with an intercept may.
        """
        return replace(self, selected=tuple(columns), indicators=indicators, drop_first=drop_first)

    def column(self, name: str) -> Column:
        """The column of that name, or a SchemaError that lists those there are."""
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(c.name for c in self.columns)
        raise SchemaError(f"schema {self.name!r}: no column {name!r}; there are {known}")

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name per feature, such as "age", "chol is missing", "cp=2"."""
        return tuple(name for name, _ in self._plan())

    @property
    def feature_kinds(self) -> tuple[str, ...]:
        """What each feature is: "number" or "score" in [-1, 1], or "category" (of a one-hot), "flag", "missing"."""
        return tuple(kind for _, kinds in self.feature_groups for kind in kinds)

    @property
    def feature_groups(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """Each column that the model sees: its name, and what its features are (`feature_kinds`), in their order."""
        columns = tuple((c.name, tuple(column_kinds(c, self.indicators, self.drop_first))) for c in self._seen())
        derived = (d.name for d in self.derived if not self.selected or d.name in self.selected)
        return (*columns, *((name, ("number",)) for name in derived))

    @property
    def one_hots(self) -> int:
        """How many columns are one-hot: a row has one 1 in each of them."""
        return sum(c.dtype == "category" and not c.scores for c in self._seen())

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self._plan())

    def check(
        self, frame: pd.DataFrame, *, key: bytes = _values.DEMO_KEY, where: str = "the source"
    ) -> tuple[pd.DataFrame, QuarantineReport]:
        """Type the rows, set the broken ones apart, and take the identifiers away.

        Parameters
        ----------
        frame : DataFrame (n_rows, any columns)
            As read; columns that the schema does not name are ignored.
        key : bytes
            The participant's own secret for identifiers that are hashed.
        where : str
            What errors call the source.

        Returns
        -------
        DataFrame (n_kept, n_columns)
            Typed; float64 for numbers, integers and flags, text for the rest; the index is kept. Dropped
            identifiers are gone, hashed ones are pseudonyms.
        QuarantineReport
            Counts by column and rule, no values.

        Raises
        ------
        SchemaError
            A required column is missing, or a column holds nothing of its type.
        """
        return check_rows(self, frame, key=key, where=where)

    def named(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The frame with this schema's names where a column differs in case, white space or Unicode form alone."""
        return named(self, frame)

    def features(self, frame: pd.DataFrame) -> NDArray[np.float32]:
        """Features (n_rows, width) in [-1, 1] of a frame that `check` returned; row by row."""
        visible = frame[[c.name for c in self.columns if c.is_feature and c.name in frame]]
        derived = {d.name: d.function(visible) for d in self.derived if not self.selected or d.name in self.selected}
        features = np.empty((len(frame), self.width), dtype=np.float32)
        for place, (_, compute) in enumerate(self._plan()):
            features[:, place] = compute(visible, derived)
        return features

    def labels(self, frame: pd.DataFrame) -> NDArray[Any]:
        """Target (n_rows,): float32 0/1 for binary, int64 codes of classes or of labels, float32 in its own unit."""
        values = frame[self.target.name]
        if self.target.kind == "multilabel":
            return _labels.codes(self.target, values)
        if self.target.kind == "regression":
            return values.to_numpy(np.float32, copy=True)
        codes = values.map({name: code for code, name in enumerate(self.target.classes)}).to_numpy(np.int64, copy=True)
        return codes if self.target.kind == "multiclass" else codes.astype(np.float32)

    def strata(self, frame: pd.DataFrame) -> NDArray[np.int64] | None:
        """A number (n_rows,) for the value of `target.within` in each row; None where all rows are compared.

        The numbers stand for values and not for an order: those of two frames do not agree.
        """
        if not self.target.within:
            return None
        column = self.column(self.target.within)
        if column.categories:
            place = {name: number for number, name in enumerate(column.categories)}
            return np.array(frame[column.name].map(place).fillna(len(place)), dtype=np.int64)
        return np.unique(frame[column.name].to_numpy(np.float64), return_inverse=True)[1].astype(np.int64)

    def describe(self) -> dict[str, Any]:
        """The schema as JSON-able data, for a person and for the record."""
        return {
            "name": self.name,
            "version": self.version,
            "unit": self.unit,
            "columns": [_describe(c) for c in self.columns],
            "derived": [{k: getattr(d, k) for k in ("name", "low", "high", "measure")} for d in self.derived],
            "target": {
                "name": self.target.name,
                "kind": self.target.kind,
                "classes": list(self.target.classes),
                "measure": self.target.measure,
            },
            "features": list(self.feature_names),
        }

    def _seen(self) -> list[Column]:
        """The columns that give features."""
        return [c for c in self.columns if c.is_feature and (not self.selected or c.name in self.selected)]

    def _plan(self) -> list[tuple[str, Compute]]:
        """Each feature's name and how it is computed from a checked frame and the derived columns."""
        plan: list[tuple[str, Compute]] = []
        for column in self._seen():
            plan += column_features(column, self.indicators, self.drop_first)
        for derived in self.derived:
            if not self.selected or derived.name in self.selected:
                plan.append((derived.name, derived_feature(derived)))
        return plan


def _describe(column: Column) -> dict[str, Any]:
    names = ("name", "dtype", "measure", "low", "high", "nullable", "sensitive", "identifier", "required")
    return {
        **{k: getattr(column, k) for k in names},
        "categories": list(column.categories),
        "scores": list(column.scores),
        "feature": column.is_feature,
    }
