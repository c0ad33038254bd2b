"""Whether sites differ in a column: differences of shares and means, each with an interval that holds for all at once.

A site is compared with the others together (with two sites, once). Under equal distributions each difference has mean
0; its variance is that of the noise plus that of who was sampled, which is bounded from above: a unit's part of a cell
lies in [0, 1], so its variance is at most p (1 - p) at the least favourable p of both sides, and that of a mean is
taken at the upper end of its own interval. With m differences over all columns and sites the intervals have the level
1 - .05 / m (Bonferroni): under equal sites, the chance that any column says *differ* is about 5 % at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from consortia.learners.statistics.estimates import CONFIDENT, Line, Released, ratio, variance_of
from consortia.learners.statistics.layout import Layout, StatedColumn

__all__ = ["LEVEL", "Verdict", "sites_differ"]

#: Chance that any column at all says *differ* of equal sites.
LEVEL: Final = 0.05
#: A site counts where its number of units is so many times its noise.
_SEEN: Final = 6.0
#: Fewest units on either side: with fewer, a normal is no law of a share.
_FEWEST: Final = 10.0
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Verdict:
    """What is said of one column.

    Attributes
    ----------
    differ : whether the interval of any difference is off 0; None where the noise leaves no site to compare.
    site, what : of the difference that is farthest from 0 for its interval.
    difference, low, high : that one: the site less the others, with its corrected interval.
    """

    differ: bool | None
    site: str = ""
    what: str = ""
    difference: float = 0.0
    low: float = 0.0
    high: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able data."""
        return dict(vars(self))


@dataclass(frozen=True)
class _Difference:
    column: str
    site: str
    what: str
    value: float
    deviation: float


def sites_differ(layout: Layout, pairs: Mapping[str, tuple[Released, Released]]) -> dict[str, Verdict]:
    """Return the verdict on each column, the target included.

    Parameters
    ----------
    pairs : by site, what it released and what the others did, together.
    """
    from scipy.stats import norm  # not at the top: whoever reads a contract needs it not

    seen = {name: pair for name, pair in pairs.items() if all(_enough(side) for side in pair)}
    found = [one for name, pair in seen.items() for one in _differences(layout, name, *pair)]
    level = float(norm.isf(LEVEL / (2 * max(1, len(found)))))
    out = {}
    for column in [*(c.name for c in layout.stated), *([layout.target] if layout.classes else [])]:
        mine = [one for one in found if one.column == column]
        if not mine:
            out[column] = Verdict(None)
            continue
        worst = max(mine, key=lambda one: abs(one.value) / one.deviation)
        room, scale = level * worst.deviation, _scale(layout, worst)
        low, high = (worst.value - room) * scale, (worst.value + room) * scale
        out[column] = Verdict(not low <= 0 <= high, worst.site, worst.what, worst.value * scale, low, high)
    return out


def _enough(side: Released) -> bool:
    units = side.count(side.units)
    assert units.value is not None
    return units.value > _FEWEST and units.value > _SEEN * (units.high - units.value) / CONFIDENT


def _differences(layout: Layout, site: str, one: Released, rest: Released) -> Iterator[_Difference]:
    for column in layout.stated:
        labels = [*column.labels, *(["missing"] if column.missing is not None else [])]
        for number, label in enumerate(labels):
            yield _of_shares(column.name, site, label, one, rest, one.cell(column, number))
        if column.kind == "number" and (found := _of_means(column, site, one, rest)) is not None:
            yield found
    for code, label in enumerate(layout.classes[1:] if len(layout.classes) == 2 else layout.classes):
        line = one.in_class(code + (len(layout.classes) == 2))
        yield _of_shares(layout.target, site, label, one, rest, line)


def _of_shares(column: str, site: str, label: str, one: Released, rest: Released, line: Line) -> _Difference:
    sides = [(side, side.at(line), side.at(side.units)) for side in (one, rest)]
    shares = [min(max(above / below, 0.0), 1.0) for _, above, below in sides]
    p = min(max((0.5, *shares) if min(shares) < 0.5 < max(shares) else shares, key=lambda s: s * (1 - s)), 1.0)
    noise = sum(_noise(side, line, side.units, above / below) for side, above, below in sides)
    chance = sum(p * (1 - p) / below for _, _, below in sides)
    difference = sides[0][1] / sides[0][2] - sides[1][1] / sides[1][2]
    return _Difference(column, site, f"share of {label}", difference, math.sqrt(noise + chance + _TINY))


def _of_means(column: StatedColumn, site: str, one: Released, rest: Released) -> _Difference | None:
    above, below = one.moment(column, 0), one.present(column)
    values, variances, counts = [], [], []
    noise = 0.0
    for side in (one, rest):
        mean = ratio(side, above, below, low=-1.0, high=1.0)
        present = side.count(below)
        if mean.value is None or present.value is None or present.value < _FEWEST or 2 * present.low < present.value:
            return None
        values.append(mean.value)
        variances.append(variance_of(side, column).high)
        counts.append(present.value)
        noise += _noise(side, above, below, mean.value)
    chance = sum(max(variances) / count for count in counts)
    return _Difference(column.name, site, "mean", values[0] - values[1], math.sqrt(noise + chance + _TINY))


def _noise(side: Released, above: Line, below: Line, value: float) -> float:
    """Return the variance of a ratio that the noise makes (delta method)."""
    spread = above.dot(above) - 2 * value * above.dot(below) + value * value * below.dot(below)
    return side.deviation**2 * spread / side.at(below) ** 2


def _scale(layout: Layout, one: _Difference) -> float:
    """Return the factor into a mean's own unit."""
    if one.what != "mean":
        return 1.0
    column = next(column for column in layout.stated if column.name == one.column)
    return (column.high - column.low) / 2
