"""The rows that were set apart: reasons with shares, the one spelling behind them, and whether they are other rows.

All of this stays at home. A spelling is named by the first line that has it, never by its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from clients import _values
from clients._checking import QuarantineReport
from clients._labels import canonical, one_column
from clients._pandas import pd
from clients.schema import Schema

__all__ = ["Apart", "reasons_in_words", "set_apart"]

#: A difference is reported if its chance is below this, over all columns together.
_LEVEL: Final = 0.05
_FEWEST: Final = 10


@dataclass(frozen=True)
class Apart:
    """Rows that were set apart.

    Attributes
    ----------
    rows, share : how many.
    reasons : "column: rule" to a count.
    spellings : by column the mapping line that would mend it, where one spelling makes up its failures.
    bias : a sentence for each column in which these rows differ from the others.
    """

    rows: int
    share: float
    reasons: Mapping[str, int]
    rows_read: int
    spellings: dict[str, str] = field(default_factory=dict)
    bias: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """Return how many, and why."""
        told = reasons_in_words(self.reasons, self.rows_read)
        return f"{self.rows} of {self.rows_read} rows ({self.share:.1%})" + (f": {told}" if told else "")


def reasons_in_words(reasons: Mapping[str, int], rows_read: int, most: int = 6) -> str:
    """Return the most frequent reasons with their shares of the rows read."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    told = [f"{reason} {count} ({count / max(1, rows_read):.1%})" for reason, count in ordered[:most]]
    return "; ".join(told) + (f"; {len(ordered) - most} more reasons" if len(ordered) > most else "")


def set_apart(schema: Schema, frame: pd.DataFrame, report: QuarantineReport) -> Apart:
    """Look at the rows that a check of `frame`, as it was read, set apart."""
    broken = report.broken
    rows = int(broken.sum())
    if not rows:
        return Apart(0, 0.0, report.reasons, report.rows_read)
    return Apart(
        rows,
        rows / max(1, report.rows_read),
        report.reasons,
        report.rows_read,
        {column: spelling.line for column, spelling in report.spellings.items()},
        _bias(schema, frame, broken),
    )


def _bias(schema: Schema, frame: pd.DataFrame, broken: Any) -> list[str]:
    """Return a sentence for the target and each sensitive column in which the rows set apart differ from the others."""
    from scipy.stats import chi2_contingency

    looked = [schema.target.name, *(column.name for column in schema.columns if column.sensitive)]
    if schema.target.kind == "multilabel":
        frame = one_column(schema.target, frame)
    looked = [name for name in looked if name in frame]
    said = []
    for name in looked:
        cells = _cells(schema, name, frame[name])
        known = cells >= 0
        table = pd.crosstab(broken[known], cells[known]).to_numpy(np.float64)
        if table.shape[0] < 2 or table.shape[1] < 2 or table.sum(axis=1).min() < _FEWEST:
            continue
        if float(chi2_contingency(table).pvalue) < _LEVEL / len(looked):
            shares = table / table.sum(axis=1, keepdims=True)
            far = float(np.abs(shares[0] - shares[1]).max())
            said.append(f"they differ from the others in {name}: a share by up to {far:.0%} (chi-square, corrected)")
    return said


def _cells(schema: Schema, name: str, raw: pd.Series[Any]) -> Any:
    """Return a cell for each value, -1 where it has none: a class, a category, or a quarter of the numbers."""
    column = next((column for column in schema.columns if column.name == name), None)
    texts = _values.texts(raw, column.missing_values if column is not None else ())
    if column is None and schema.target.classes:
        mapping = schema.target.mapping
        if schema.target.kind == "multilabel":  # every set of labels is a cell
            sets = [canonical(schema.target, v) for v in texts]
            codes, _ = pd.factorize(pd.Series([None if v == _values.UNREADABLE else v for v in sets], dtype=object))
            return codes
        names = {label: code for code, label in enumerate(schema.target.classes)}
        return np.array([-1 if v is None else names.get(mapping.get(v, v), -1) for v in texts])
    if column is not None and column.categories:
        names = {label: code for code, label in enumerate(column.categories)}
        return np.array([-1 if v is None else names.get(v, -1) for v in texts])
    numbers = _values.numbers(texts, "flag" if column is not None and column.dtype == "flag" else "number").to_numpy()
    finite = np.isfinite(numbers)
    if not finite.any():
        return np.full(len(numbers), -1)
    cuts = np.unique(np.quantile(numbers[finite], [0.25, 0.5, 0.75]))
    return np.where(finite, np.searchsorted(cuts, np.where(finite, numbers, 0.0), side="left"), -1)
