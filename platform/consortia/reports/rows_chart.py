"""Draws named values as rows: the name, its dot or bar with the interval, and the numbers; one axis below them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from markupsafe import Markup, escape

from consortia.reports.scale import short, ticks

__all__ = ["Bar", "Named", "bar_chart", "dot_chart", "gauge"]

#: Height of a row in pixels.
_ROW = 26
_MIDDLE = _ROW // 2

#: (name, value, low, high)
Dot = tuple[str, float, float | None, float | None]


class Named(Protocol):
    """A value of the axis with a name."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def value(self) -> float:
        """Where it is."""
        ...


@dataclass(frozen=True)
class Bar:
    """A named value with its interval; one that is not `clear` is drawn grey."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    clear: bool = True


def plain(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.3g}"


def dot_chart(
    title: str,
    x_label: str,
    dots: Sequence[Dot],
    levels: Sequence[Named] = (),
    *,
    kinds: Sequence[str] = (),
    text: Callable[[float], str] = plain,
) -> Markup:
    """Return rows of named values (name, value, low, high), with broken lines for `levels`. Empty without dots.

    Parameters
    ----------
    kinds : sequence of str
        Of the dots, one a dot: `clearly` is filled, `perhaps` is a ring, `not` is a square; the word stands in the row.
    text : function
        Writes a value.
    """
    if not dots:
        return Markup("")
    values = [v for dot in dots for v in dot[1:] if v is not None] + [level.value for level in levels]
    at, low, high = _across(min(values), max(values))
    lines = "".join(
        f'<line class="level" x1="{at(level.value):.2f}%" x2="{at(level.value):.2f}%" y1="0" y2="{_ROW}"/>'
        for level in levels
    )
    rows = []
    for number, (name, value, least, most) in enumerate(dots):
        kind = kinds[number] if kinds else ""
        parts = [lines]
        if least is not None and most is not None:
            parts.append(_interval(f"line ends {kind}", at(least), at(most)))
        parts.append(_mark(kind, at(value)))
        rows.append(_row(name, "".join(parts), text, value, least, most, kind))
    named = "".join(f"<li>{_BROKEN}{escape(level.name)}</li>" for level in levels)
    key = f'<ul class="legend">{named}</ul>' if levels else ""
    return _rows(title, rows, _axis(at, low, high, x_label), key)


def bar_chart(title: str, x_label: str, bars: Sequence[Bar]) -> Markup:
    """Return rows of bars from 0 on, each with its interval. Empty where there are none."""
    if not bars:
        return Markup("")
    values = [v for bar in bars for v in (0.0, bar.value, bar.low, bar.high) if v is not None]
    at, low, high = _across(min(values), max(values))
    rows = []
    for bar in bars:
        start, end = sorted((at(0.0), at(bar.value)))
        kind = "c0" if bar.clear else "unclear"
        parts = [
            f'<line class="grid" x1="{at(0.0):.2f}%" x2="{at(0.0):.2f}%" y1="0" y2="{_ROW}"/>',
            f'<rect class="bar {kind}" x="{start:.2f}%" y="5" width="{end - start:.2f}%" height="{_ROW - 10}"/>',
        ]
        if bar.low is not None and bar.high is not None:
            parts.append(_interval("line ends", at(bar.low), at(bar.high)))
        rows.append(_row(bar.name, "".join(parts), plain, bar.value, bar.low, bar.high, ""))
    return _rows(title, rows, _axis(at, low, high, x_label), "")


def gauge(spent: float, budget: float | None, text: str, state: str = "") -> Markup:
    """Return a bar of how much of a budget is spent; without a budget, an empty one.

    Parameters
    ----------
    state : str
        `soon` where the budget is about to end, `over` where it was exceeded; spending what was planned is neither.
    """
    share = 0.0 if not budget else max(0.0, min(1.0, spent / budget))
    if budget and spent > budget * (1 + 1e-6):
        state = "over"
    return Markup(
        '<svg class="gauge" width="100%" height="12" role="img" aria-label="{}">'
        '<rect class="track" x="0" y="0.5" width="100%" height="11" rx="3"/>'
        '<rect class="fill {}" x="0" y="0.5" width="{}%" height="11" rx="3"/></svg>'
    ).format(text, state, f"{100 * share:.1f}")


_BROKEN = '<svg class="key" viewBox="0 0 24 8" aria-hidden="true"><path class="level" d="M0 4H24"/></svg>'


def _interval(kind: str, start: float, end: float) -> str:
    return f'<line class="{kind}" x1="{start:.2f}%" x2="{end:.2f}%" y1="{_MIDDLE}" y2="{_MIDDLE}"/>'


def _across(low: float, high: float) -> tuple[Callable[[float], float], float, float]:
    """Return a function from values to per cent of the width, and the ends of the axis."""
    room = (high - low) * 0.06 or max(abs(high), 1e-6) * 0.1
    low, high = low - (room if low else 0.0), high + (room if high or not low else 0.0)
    return (lambda value: 100 * (value - low) / (high - low)), low, high


def _mark(kind: str, x: float) -> str:
    if kind == "not":
        return (
            f'<svg x="{x:.2f}%" y="{_MIDDLE - 5}" width="10" height="10" class="inside">'
            '<rect class="dot not" x="-5" y="0" width="10" height="10"/></svg>'
        )
    return f'<circle class="dot {kind or "c0"}" cx="{x:.2f}%" cy="{_MIDDLE}" r="5"/>'


def _row(
    name: str,
    drawing: str,
    text: Callable[[float], str],
    value: float,
    low: float | None,
    high: float | None,
    kind: str,
) -> str:
    interval = "" if low is None or high is None else f' <span class="ends">[{text(low)}, {text(high)}]</span>'
    word = f' <b class="{kind}">{kind}</b>' if kind else ""
    return (
        f'<span class="name">{escape(name)}</span><svg class="track-row" width="100%" height="{_ROW}">{drawing}</svg>'
        f'<span class="value">{text(value)}{interval}{word}</span>'
    )


def _axis(at: Callable[[float], float], low: float, high: float, x_label: str) -> str:
    marks = "".join(
        f'<line class="axis" x1="{at(v):.2f}%" x2="{at(v):.2f}%" y1="0" y2="4"/>'
        f'<text x="{at(v):.2f}%" y="17" text-anchor="middle">{short(v)}</text>'
        for v in ticks(low, high, 4)
    )
    return (
        f'<span></span><svg class="chart axis-row" width="100%" height="38"><line class="axis" x1="0" x2="100%" '
        f'y1="0" y2="0"/>{marks}<text x="50%" y="34" text-anchor="middle">{escape(x_label)}</text></svg><span></span>'
    )


def _rows(title: str, rows: Sequence[str], axis: str, key: str) -> Markup:
    head = Markup('<div class="rows" role="group" aria-label="{}">').format(title)
    return head + Markup("".join(rows) + axis + "</div>" + key)  # noqa: S704 - numbers, our own words, names escaped
