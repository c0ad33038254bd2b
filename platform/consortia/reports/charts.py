"""Draws plots that fill their page: lines over rounds as SVG, and rows in which every dot carries its name.

Places from left to right are per cent and heights are pixels, so a plot is as wide as its page and its words have one
size on a phone, a desktop and paper. Colours are classes of the page's style sheet (Okabe & Ito's palette, one for
light and one for dark), so no plot has a style of its own and a strict content security policy holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from consortia.reports.rows_chart import Bar, bar_chart, dot_chart, gauge
from consortia.reports.scale import short, ticks

__all__ = ["Bar", "Level", "Line", "Spot", "bar_chart", "dot_chart", "gauge", "line_chart", "ticks"]

#: Of the plot inside its axes, and the room above (the name of the upright axis) and below it.
HEIGHT, _ABOVE, _BELOW = 200, 26, 40
#: The lines of a plot lie in a picture of this width, which is stretched.
_STRETCH = 1000
#: Between two names at the end of lines; no more lines than fit have their names there.
LETTERING = 14
_MOST_NAMES = 14
#: Letters of the longest name that has room at the end of its line, by the class of the plot.
_ROOM = ((8, "r1"), (14, "r2"), (22, "r3"))
#: More points than pixels tell nothing.
_MOST_POINTS = 120
PALETTE = 7

#: (x, y, low, high), with low = high = None where there is no interval.
Spot = tuple[float, float, float | None, float | None]


@dataclass(frozen=True)
class Line:
    """One line."""

    name: str
    points: Sequence[Spot]


@dataclass(frozen=True)
class Level:
    """A horizontal line with a name."""

    name: str
    value: float


@dataclass(frozen=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        """In per cent of the plot's width."""
        return 100 * ((value - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5)

    def y(self, value: float) -> float:
        """In pixels from the top of the plot."""
        return HEIGHT * (1 - (value - self.y0) / (self.y1 - self.y0))


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], levels: Sequence[Level] = (), zero: bool = False
) -> Markup:
    """Return a plot of lines over rounds; with `zero`, the axis starts at 0. Empty where nothing is to be drawn.

    Several lines have their names at their ends, and below the plot where the page is narrow or they are many.
    """
    drawn = [Line(line.name, _thinned(line.points)) for line in lines if line.points]
    if not drawn:
        return Markup("")
    xs = [point[0] for line in drawn for point in line.points]
    ys = [v for line in drawn for point in line.points for v in point[1:] if v is not None]
    ys += [level.value for level in levels] + ([0.0] if zero else [])
    scale = _Scale(min(xs), max(xs), *_padded(min(ys), max(ys), zero))
    names: list[tuple[str, float, int | None]] = []
    if len(drawn) > 1:
        names = [(line.name, scale.y(line.points[-1][1]), index % PALETTE) for index, line in enumerate(drawn)]
    names += [(level.name, scale.y(level.value), None) for level in levels]
    longest = max((len(name) for name, *_ in names), default=0)
    room = next((kind for letters, kind in _ROOM if longest <= letters), "") if names else "r0"
    if len(names) > _MOST_NAMES:
        room = ""
    parts = [
        _axes(scale, x_label, y_label, whole=all(x == round(x) for x in xs)),
        _drawings(scale, drawn, levels),
        _dots(scale, drawn),
    ]
    if room != "r0" and room:
        ends = [(line.points[-1][0], line.points[-1][1]) for line in drawn] if len(drawn) > 1 else []
        parts.append(_ends(names, [scale.x(x) for x, _ in ends]))
    head = Markup(
        '<div class="plot {}"><svg class="chart" width="100%" height="{}" role="img" aria-label="{}">'
    ).format(room or "r0", HEIGHT + _ABOVE + _BELOW, title)
    inside = f'<svg class="inside" x="0" y="{_ABOVE}" width="100%" height="{HEIGHT}">{"".join(parts)}</svg>'
    whole = head + Markup(inside) + Markup("</svg></div>")  # noqa: S704 - numbers, our own words, names escaped below
    return whole + _legend(names, always=not room)


def _padded(low: float, high: float, zero: bool) -> tuple[float, float]:
    room = (high - low) * 0.08 or max(abs(high), 1e-6) * 0.1
    return (0.0 if zero and low >= 0 else low - room), high + room


def _thinned(points: Sequence[Spot]) -> list[Spot]:
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def apart(places: Sequence[float], least: float = LETTERING) -> list[float]:
    """Return places as near to the given ones as they can be, in their order, inside the plot, `least` apart."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    # Groups of names that touch are moved together, so that a crowd stays around its middle.
    groups: list[list[float]] = []
    for index in order:
        groups.append([places[index], 1])
        while len(groups) > 1 and groups[-1][0] - groups[-2][0] < least * (groups[-1][1] + groups[-2][1]) / 2:
            middle, count = groups.pop()
            before, others = groups.pop()
            groups.append([(middle * count + before * others) / (count + others), count + others])
    found = [middle + least * (k - (count - 1) / 2) for middle, count in groups for k in range(int(count))]
    for k, place in enumerate(found):
        found[k] = max(place, found[k - 1] + least if k else 0.0)
    for k in reversed(range(len(found))):
        found[k] = min(found[k], found[k + 1] - least if k + 1 < len(found) else float(HEIGHT))
    result = [0.0] * len(places)
    for index, place in zip(order, found, strict=True):
        result[index] = place
    return result


def _axes(scale: _Scale, x_label: str, y_label: str, *, whole: bool) -> str:
    parts = [f'<text x="-50" y="-12">{escape(y_label)}</text>']
    for value in ticks(scale.y0, scale.y1):
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="0" x2="100%" y1="{HEIGHT}" y2="{HEIGHT}"/>')
    for value in _marks(scale, whole):
        x = scale.x(value)
        parts.append(f'<text x="{x:.2f}%" y="{HEIGHT + 16}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<text x="50%" y="{HEIGHT + 34}" text-anchor="middle">{escape(x_label)}</text>')
    return "".join(parts)


def _marks(scale: _Scale, whole: bool) -> list[float]:
    """Return the marks of the lower axis; there is no half a round."""
    if scale.x1 <= scale.x0:
        return [scale.x0]
    return [value for value in ticks(scale.x0, scale.x1, 6) if not whole or value == round(value)]


def _drawings(scale: _Scale, lines: Sequence[Line], levels: Sequence[Level]) -> str:
    """Return lines, bands and levels in a picture that is stretched from side to side; strokes are not."""

    def at(x: float, y: float) -> str:
        return f"{scale.x(x) * _STRETCH / 100:.1f} {scale.y(y):.1f}"

    parts = []
    for level in levels:
        y = scale.y(level.value)
        parts.append(f'<path class="level" d="M0 {y:.1f}H{_STRETCH}"/>')
    for index, line in enumerate(lines):
        kind = f"c{index % PALETTE}"
        if band := [(p[0], p[2], p[3]) for p in line.points if p[2] is not None and p[3] is not None]:
            upper, lower = [at(x, high) for x, _, high in band], [at(x, low) for x, low, _ in reversed(band)]
            shape = "L".join(upper + lower)
            closed = f'class="band {kind}" d="M{shape}Z"' if len(band) > 1 else f'class="line {kind}" d="M{shape}"'
            parts.append(f"<path {closed}/>")
        path = "L".join(at(point[0], point[1]) for point in line.points)
        parts.append(f'<path class="line {kind}" d="M{path}"/>')
    head = f'<svg width="100%" height="{HEIGHT}" viewBox="0 0 {_STRETCH} {HEIGHT}" preserveAspectRatio="none">'
    return f"{head}{''.join(parts)}</svg>"


def _dots(scale: _Scale, lines: Sequence[Line]) -> str:
    return "".join(
        f'<circle class="dot c{index % PALETTE}" cx="{scale.x(x):.2f}%" cy="{scale.y(y):.1f}" r="3"/>'
        for index, line in enumerate(lines)
        if len(line.points) <= 30
        for x, y, *_ in line.points
    )


def _ends(names: Sequence[tuple[str, float, int | None]], xs: Sequence[float]) -> str:
    """Return the names at the right, none over another, with a thin line from where their line ends before it."""
    parts = []
    for number, ((name, y, colour), place) in enumerate(zip(names, apart([y for _, y, _ in names]), strict=True)):
        kind = "level-name" if colour is None else f"end-name e{colour}"
        if colour is not None and number < len(xs):
            parts.append(
                f'<line class="lead" x1="{xs[number]:.2f}%" y1="{y:.1f}" x2="100%" y2="{y:.1f}"/>'
                f'<svg class="key-dot" x="100%" y="{place - 4:.1f}" width="14" height="8">'
                f'<circle class="dot c{colour}" cx="10" cy="4" r="3"/></svg>'
            )
        parts.append(f'<text class="{kind}" x="100%" dx="16" y="{place + 4:.1f}">{escape(name)}</text>')
    return "".join(parts)


def _legend(names: Sequence[tuple[str, float, int | None]], *, always: bool) -> Markup:
    if not names:
        return Markup("")
    sample = Markup('<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="{}" d="M0 4H24"/></svg>')
    keys = (
        Markup("<li>{}{}</li>").format(sample.format("level" if colour is None else f"line c{colour}"), name)
        for name, _, colour in names
    )
    return Markup('<ul class="legend{}">{}</ul>').format("" if always else " narrow-only", Markup("").join(keys))
