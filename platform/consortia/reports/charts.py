"""Draws plots as SVG: axes with units, intervals, readable without colour and on a phone.

Colours are classes of the page's style sheet (Okabe & Ito's palette, one for light and one for dark), so no plot has a
style of its own and a strict content security policy holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 10, 10, 40
#: Width of a letter, and by how many degrees names that do not fit side by side are turned.
_LETTER, _TILT = 7, 40
#: Height of a bar with the room below it.
_BAR = 20
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
class Bar:
    """A named value with its interval; one that is not `clear` is drawn grey."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    clear: bool = True


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], levels: Sequence[Level] = (), zero: bool = False
) -> Markup:
    """Return a plot of lines over rounds; with `zero`, the axis starts at 0. Empty where nothing is to be drawn."""
    drawn = [Line(line.name, _thinned(line.points)) for line in lines if line.points]
    if not drawn:
        return Markup("")
    xs = [point[0] for line in drawn for point in line.points]
    ys = [v for line in drawn for point in line.points for v in point[1:] if v is not None]
    ys += [level.value for level in levels] + ([0.0] if zero else [])
    scale = _Scale(min(xs), max(xs), *_padded(min(ys), max(ys), zero))
    parts = [_axes(scale, x_label, y_label), *(_level(scale, level) for level in levels)]
    for index, line in enumerate(drawn):
        parts.append(_line(scale, line, index % PALETTE))
    return _svg(title, "".join(parts)) + _legend([line.name for line in drawn])


def dot_chart(
    title: str,
    y_label: str,
    dots: Sequence[tuple[str, float, float | None, float | None]],
    levels: Sequence[Level] = (),
) -> Markup:
    """Return a plot of named values (name, value, low, high) beside horizontal lines."""
    if not dots:
        return Markup("")
    ys = [v for dot in dots for v in dot[1:] if v is not None] + [level.value for level in levels]
    # The levels' names stand left of the first dot, so that no interval runs through them.
    room = max((_LETTER * len(level.name) + 8 for level in levels), default=0)
    slot = (WIDTH - _LEFT - _RIGHT - room) / len(dots)
    first = -0.5 - room / slot
    scale = _Scale(first, len(dots) - 0.5, *_padded(min(ys), max(ys), zero=False))
    longest = _LETTER * max(len(dot[0]) for dot in dots)
    tilt = _TILT if longest > slot else 0
    parts = [
        _axes(scale, "", y_label, names=[dot[0] for dot in dots], tilt=tilt),
        *(_level(scale, level) for level in levels),
    ]
    for index, (_, value, low, high) in enumerate(dots):
        x = scale.x(index)
        if low is not None and high is not None:
            parts.append(f'<path class="line c0" d="M{x:.1f} {scale.y(low):.1f}V{scale.y(high):.1f}"/>')
        parts.append(f'<circle class="dot c0" cx="{x:.1f}" cy="{scale.y(value):.1f}" r="5"/>')
    below = longest * math.sin(math.radians(tilt))
    return _svg(title, "".join(parts), HEIGHT + math.ceil(max(0.0, below + 22 - _BOTTOM)))


def bar_chart(title: str, x_label: str, bars: Sequence[Bar]) -> Markup:
    """Return horizontal bars from 0 on, one below the other, each with its interval. Empty where there are none."""
    if not bars:
        return Markup("")
    ends = [v for bar in bars for v in (0.0, bar.value, bar.low, bar.high) if v is not None]
    left = min(WIDTH // 2, 12 + _LETTER * max(len(bar.name) for bar in bars))
    low, high = min(ends), max(ends) * 1.05 or 1.0
    if low < 0:
        low *= 1.05
    bottom = _TOP + _BAR * len(bars)

    def x(value: float) -> float:
        return left + (WIDTH - _RIGHT - left) * (value - low) / (high - low)

    parts = []
    for value in ticks(low, high, 4):
        parts.append(f'<path class="grid" d="M{x(value):.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{x(value):.1f}" y="{bottom + 15}" text-anchor="middle">{_short(value)}</text>')
    for index, bar in enumerate(bars):
        y, kind = _TOP + _BAR * index, "c0" if bar.clear else "unclear"
        start, end = sorted((x(0.0), x(bar.value)))
        name = bar.name if len(bar.name) * _LETTER <= left - 8 else bar.name[: left // _LETTER - 2] + "…"
        parts.append(f'<text x="{left - 6}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
        parts.append(
            f'<rect class="bar {kind}" x="{start:.1f}" y="{y + 3}" width="{end - start:.1f}" height="{_BAR - 8}"/>'
        )
        if bar.low is not None and bar.high is not None:
            parts.append(f'<path class="line ends" d="M{x(bar.low):.1f} {y + 9}H{x(bar.high):.1f}"/>')
    parts.append(f'<path class="axis" d="M{x(0.0):.1f} {_TOP}V{bottom}"/>')
    parts.append(f'<text x="{(left + WIDTH) / 2}" y="{bottom + 33}" text-anchor="middle">{escape(x_label)}</text>')
    return _svg(title, "".join(parts), bottom + _BOTTOM)


def gauge(spent: float, budget: float | None, text: str) -> Markup:
    """Return a bar of how much of a budget is spent; without a budget, an empty one."""
    share = 0.0 if not budget else max(0.0, min(1.0, spent / budget))
    return Markup(
        '<svg class="gauge" viewBox="0 0 120 12" width="120" height="12" role="img" aria-label="{}">'
        '<rect class="track" x="0.5" y="0.5" width="119" height="11" rx="3"/>'
        '<rect class="{}" x="0.5" y="0.5" width="{}" height="11" rx="3"/></svg>'
    ).format(text, "fill full" if share > 0.999 else "fill", f"{119 * share:.1f}")


@dataclass(frozen=True)
class _Scale:
    x0: float
    x1: float
    y0: float
    y1: float

    def x(self, value: float) -> float:
        wide = WIDTH - _LEFT - _RIGHT
        return _LEFT + wide * ((value - self.x0) / (self.x1 - self.x0) if self.x1 > self.x0 else 0.5)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * (value - self.y0) / (self.y1 - self.y0)


def _padded(low: float, high: float, zero: bool) -> tuple[float, float]:
    room = (high - low) * 0.08 or max(abs(high), 1e-6) * 0.1
    return (0.0 if zero and low >= 0 else low - room), high + room


def _thinned(points: Sequence[Spot]) -> list[Spot]:
    step = max(1, math.ceil(len(points) / _MOST_POINTS))
    kept = list(points[::step])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Return round numbers within [low, high], at most `most` steps apart."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _level(scale: _Scale, level: Level) -> str:
    y, end = scale.y(level.value), WIDTH - _RIGHT
    return (
        f'<line class="level" x1="{_LEFT}" x2="{end}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="level-name" x="{_LEFT + 4}" y="{y - 4:.1f}">{escape(level.name)}</text>'
    )


def _axes(scale: _Scale, x_label: str, y_label: str, names: Sequence[str] = (), tilt: int = 0) -> str:
    bottom = HEIGHT - _BOTTOM
    parts = [f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}"/>']
    for value in ticks(scale.y0, scale.y1):
        y = scale.y(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    whole = [v for v in ticks(scale.x0, scale.x1, 6) if v == round(v)] if scale.x1 > scale.x0 else [scale.x0]
    marks = [(float(i), n) for i, n in enumerate(names)] or [(value, _short(value)) for value in whole]
    for v, m in marks:
        x, anchor = scale.x(v), "end" if tilt else "middle"
        turned = f' transform="rotate({-tilt} {x:.1f} {bottom + 15})"' if tilt else ""
        parts.append(f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="{anchor}"{turned}>{escape(m)}</text>')
    middle, turned = (_LEFT + WIDTH - _RIGHT) / 2, f"translate(12 {(_TOP + bottom) / 2}) rotate(-90)"
    parts.append(f'<text x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">{escape(x_label)}</text>')
    parts.append(f'<text transform="{turned}" text-anchor="middle">{escape(y_label)}</text>')
    return "".join(parts)


def _line(scale: _Scale, line: Line, colour: int) -> str:
    parts = []
    if band := [(p[0], p[2], p[3]) for p in line.points if p[2] is not None and p[3] is not None]:
        upper = [f"{scale.x(x):.1f} {scale.y(high):.1f}" for x, _, high in band]
        lower = [f"{scale.x(x):.1f} {scale.y(low):.1f}" for x, low, _ in reversed(band)]
        if len(band) == 1:
            parts.append(f'<path class="line c{colour}" d="M{upper[0]}L{lower[0]}"/>')
        else:
            parts.append(f'<path class="band c{colour}" d="M{"L".join(upper + lower)}Z"/>')
    places = [(scale.x(point[0]), scale.y(point[1])) for point in line.points]
    parts.append(f'<path class="line c{colour}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y in places)}"/>')
    if len(places) <= 30:
        parts += [f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places]
    return "".join(parts)


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{round(value, 10):g}"


def _svg(title: str, body: str, height: int = HEIGHT) -> Markup:
    head = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(WIDTH, height, title)
    return head + Markup(body) + Markup("</svg>")  # noqa: S704 - numbers, our own words, and names escaped above


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup("")
    sample = Markup('<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="line c{}" d="M0 4H24"/></svg>')
    keys = (Markup("<li>{}{}</li>").format(sample.format(i % PALETTE), name) for i, name in enumerate(names))
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))
