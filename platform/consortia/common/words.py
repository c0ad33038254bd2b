"""Formats numbers and times for people."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping

from markupsafe import Markup, escape


def number(value: float | None, digits: int = 3) -> str:
    """Return a number, in powers of ten where it is large, or a dash for what is not known or was not released."""
    return "–" if value is None else f"{value:.{digits}{'f' if abs(value) < 1e7 else 'e'}}"


def epsilon_text(value: float | None) -> str:
    """Return an ε with three significant digits; a dash for what is not known."""
    return "–" if value is None else f"{value:.3g}"


def signed(value: float, digits: int = 3) -> str:
    """Return a difference."""
    return f"{'-' if value < 0 else '+'}{number(abs(value), digits)}"


def interval(gain: Mapping[str, float] | None) -> str:
    """Return a gain with its interval; three decimals and a sign show whether zero is inside."""
    return "–" if not gain else "{} [{}, {}]".format(*(signed(gain[key]) for key in ("value", "low", "high")))


def seconds(value: float | None) -> str:
    """Return a duration."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def when(value: float | None) -> str:
    """Return a time in UTC."""
    return "–" if value is None else f"{datetime.datetime.fromtimestamp(value, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def size(value: float | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def coded(text: str) -> Markup:
    """Return a sentence for a page, escaped, what stands in backticks as code."""
    parts = text.split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))


def public_count(count: int) -> int:
    """Return a number of units as one would make it public: rounded to its two leading digits."""
    step: int = 10 ** max(0, math.floor(math.log10(max(count, 1))) - 1)
    return max(1, round(count / step) * step)


def verdict(gain: Mapping[str, float] | None) -> str:
    """Return whether joining paid: "clearly", "perhaps", "not", or "unknown" where too few units say.

    Parameters
    ----------
    gain : mapping or None
        The net gain with its 95 % interval: `value`, `low`, `high`; positive is better.
    """
    if gain is None:
        return "unknown"
    if gain["value"] <= 0:
        return "not"
    return "clearly" if gain["low"] > 0 else "perhaps"
