"""What a client predicts: its kind, its classes or labels, its public bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from clients import _labels, _values
from clients.errors import SchemaError
from consortia_plugins.arguments import named_arguments

__all__ = ["Target"]


@named_arguments(SchemaError)
@dataclass(frozen=True, kw_only=True)
class Target:
    """What is predicted.

    Parameters
    ----------
    name : str
        Its column.
    kind : {"binary", "multiclass", "multilabel", "regression", "anomaly"}
        Of a binary target the second class is the positive one. Of an anomaly, too: there, rows of the first class
        alone train a network that restores them, no label is learned, and those of other rows only measure it. Of
        several labels each is there or not, whatever the others are.
    classes : tuple of str
        In the order of their codes. Of several labels, these (`clients._labels` says how a source spells them).
    mapping : mapping
        From the source's value to a class; empty when the source holds the classes themselves. Of several labels "" is
        none of them.
    low, high : float, optional
        Public bounds of a regression target. With them the model learns on [-1, 1], predictions come back in
        the target's own unit, and a row outside is quarantined. Without them it is learned as it is.
    prior : tuple of float
        Published share of each class, of nobody's rows in particular: what placebo labels are drawn from. Empty: equal
        shares; of several labels, each in half of the rows.
    within : str
        A column of the schema: metrics of order, such as `concordance`, compare only rows with one value of it. Empty:
        all rows with one another.
    """

    name: str
    kind: Literal["binary", "multiclass", "multilabel", "regression", "anomaly"]
    classes: tuple[str, ...] = ()
    mapping: Mapping[str, str] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    measure: str = ""
    prior: tuple[float, ...] = ()
    within: str = ""

    def __post_init__(self) -> None:
        several = self.kind == "multilabel"
        whole = not self.prior or (max(self.prior) <= 1 if several else math.isclose(sum(self.prior), 1))
        if self.prior and (len(self.prior) != len(self.classes) or min(self.prior) < 0 or not whole):
            raise SchemaError(
                f"target {self.name!r}: prior: wanted a share for each class, "
                f"{'at most one' if several else 'one in sum'}, got {self.prior}"
            )
        if several and (wrong := _labels.problem(self.classes)):
            raise SchemaError(f"target {self.name!r}: {wrong}")
        two = len(self.classes) == 2
        wanted = {"binary": two, "anomaly": two, "multiclass": len(self.classes) >= 3, "multilabel": several}
        if not wanted.get(self.kind, not self.classes):
            raise SchemaError(
                f"target {self.name!r}: wanted 2 classes for binary and anomaly, 3 or more for multiclass, none for "
                f"regression; got {len(self.classes)} for {self.kind}"
            )
        if lost := [each for each in (*self.classes, *self.mapping) if _values.text(each) is None]:
            raise SchemaError(
                f"target {self.name!r}: wanted classes that are no spelling of a missing value, got {lost[0]!r}; call "
                "it otherwise"
            )
        if strange := sorted(set(self.mapping.values()) - {*self.classes, *([""] if several else [])}):
            raise SchemaError(f"target {self.name!r}: mapping leads to {strange}, wanted {self.classes}")
        if (self.low is None) != (self.high is None) or (
            self.low is not None and self.high is not None and not self.low < self.high
        ):
            raise SchemaError(f"target {self.name!r}: wanted low < high or neither")

    @property
    def outputs(self) -> int:
        """How many numbers the head gives for a row."""
        return len(self.classes) if self.kind in {"multiclass", "multilabel"} else 1

    @property
    def scale(self) -> tuple[float, float]:
        """(middle, half width) of a regression target; (0, 1) without bounds."""
        if self.low is None or self.high is None:
            return 0.0, 1.0
        return (self.low + self.high) / 2, (self.high - self.low) / 2
