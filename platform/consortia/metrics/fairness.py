"""How a released model treats groups: post-processing of noisy histograms of score by class and group, at no cost.

Every interval is a 95 % one and counts the noise and the sampling (`from_histograms`). A comparison is of one group
with all others together, whose noise is other noise: MOVER (Zou & Donner, "Construction of confidence limits about
effect measures", Stat. Med. 2008). A unit with rows on both sides ties them; the intervals of both sides take each of
its rows as often as a unit may have rows, which covers that. Comparisons are corrected for their number (Bonferroni):
they hold all together at 95 %.

Guarantee: which groups are shown follows from the noisy counts alone (`shown`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients.schema import Target
from consortia.metrics.from_histograms import CalibrationPoint, Estimate, auc, calibration, ratio
from consortia.metrics.score_bins import centres, edges

__all__ = ["MEASURES", "Difference", "Fairness", "Group", "fairness", "shown"]

#: Of a group: ranking, the share called positive, the same among positives and negatives, and positives beyond what
#: the scores say.
MEASURES: Final = ("auc", "positive_rate", "true_positive_rate", "false_positive_rate", "calibration_gap")
_Z: Final = 1.96
#: A group with fewer noisy rows, or with fewer than this many deviations of their noise, is not shown.
_LEAST_ROWS, _LEAST_DEVIATIONS = 30.0, 3.0
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """One group. `rows` is noisy; without `measures` it is not shown, since the noisy rows are too few."""

    name: str
    rows: Estimate
    measures: dict[str, Estimate]
    calibration: tuple[CalibrationPoint, ...]


@dataclass(frozen=True)
class Difference:
    """A measure of a group less that of all other groups together; the interval holds for all comparisons at once."""

    group: str
    measure: str
    value: float | None
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """What the interval says, in words."""
        return "differs" if self.low > 0 or self.high < 0 else "cannot be told apart"


@dataclass(frozen=True)
class Fairness:
    """Groups and their differences; `threshold` is the score from which on a row is called positive."""

    threshold: float
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return {
            "threshold": self.threshold,
            "groups": [asdict(one) for one in self.groups],
            "differences": [{**asdict(one), "verdict": one.verdict} for one in self.differences],
        }


def shown(counts: Array, deviation: float) -> bool:
    """Return whether a group is shown, by its noisy counts (2, n_bins)."""
    noise = deviation * math.sqrt(counts.size)
    return float(counts.sum()) >= max(_LEAST_ROWS, _LEAST_DEVIATIONS * noise)


def fairness(
    target: Target,
    names: Sequence[str],
    counts: Array,
    deviation: float,
    rows_per_unit: int = 1,
    threshold: float = 0.5,
) -> Fairness:
    """Return what noisy histograms say of each group.

    Parameters
    ----------
    counts : array (n_groups, 2, n_bins)
        As released: group by class by score bin.
    deviation : float
        Standard deviation of the noise in a cell.
    rows_per_unit : int
        At most as many rows has a unit.
    threshold : float
        A row is called positive from this score on; the nearest edge of a bin is taken.
    """
    counts = np.asarray(counts, dtype=np.float64)
    inner = edges(target, counts.shape[2])[1:-1]
    place = int(np.argmin(np.abs(inner - threshold))) + 1  # the first bin that is called positive
    room = _Z * deviation * math.sqrt(counts[0].size)
    groups = []
    for name, own in zip(names, counts, strict=True):
        rows = float(own.sum())
        seen = shown(own, deviation)
        groups.append(
            Group(
                name,
                Estimate(rows, rows - room, rows + room),
                _measures(target, own, deviation, rows_per_unit, place, _Z) if seen else {},
                tuple(calibration(target, own, deviation, rows_per_unit)) if seen else (),
            )
        )
    told = [number for number, group in enumerate(groups) if group.measures]
    # Of two groups each comparison is the other's mirror image.
    first = told[:1] if len(told) == 2 else told if len(told) > 2 else []
    z = _corrected(len(first) * len(MEASURES))
    differences: list[Difference] = []
    for number in first:
        others = [other for other in told if other != number]
        one = _measures(target, counts[number], deviation, rows_per_unit, place, z)
        rest = _measures(target, counts[others].sum(0), deviation * math.sqrt(len(others)), rows_per_unit, place, z)
        differences += [_difference(groups[number].name, name, one[name], rest[name]) for name in MEASURES]
    return Fairness(float(inner[place - 1]), tuple(groups), tuple(differences))


def _corrected(comparisons: int) -> float:
    """Return the two-sided normal quantile at which so many intervals hold together at 95 %."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(1 - 0.025 / max(comparisons, 1))


def _measures(
    target: Target, counts: Array, deviation: float, rows_per_unit: int, place: int, z: float
) -> dict[str, Estimate]:
    """Return every measure of one histogram (2, n_bins)."""
    bins = counts.shape[1]
    called = (np.arange(bins) >= place).astype(np.float64)
    middle = centres(target, bins)

    def share(lines: Array, values: Array, low: float = 0.0) -> Estimate:
        return ratio(lines, values, deviation, rows_per_unit, (low, 1.0), z)

    return {
        "auc": auc(counts, deviation, rows_per_unit, z),
        "positive_rate": share(counts, np.vstack([called, called])),
        "true_positive_rate": share(counts[1:], called[None]),
        "false_positive_rate": share(counts[:1], called[None]),
        "calibration_gap": share(counts, np.vstack([-middle, 1 - middle]), -1.0),
    }


def _difference(group: str, measure: str, one: Estimate, rest: Estimate) -> Difference:
    widest = 2.0 if measure == "calibration_gap" else 1.0
    if one.value is None or rest.value is None:
        return Difference(group, measure, None, -widest, widest)
    value = one.value - rest.value
    low = value - math.hypot(one.value - one.low, rest.high - rest.value)
    high = value + math.hypot(one.high - one.value, rest.value - rest.low)
    return Difference(group, measure, value, max(low, -widest), min(high, widest))
