"""Prints tables and sentences that fit the terminal: what is too wide goes below, and no line ends within a number, an
id, or between a sign and its number."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ["folded", "groups", "print_fitting", "print_text"]

#: Columns of words, which stand on the left.
_WORDS = frozenset({"participant", "metric", "verdict", "rows", "data set", "run", "what", "unit", "state"})

#: Spaces at which no line ends: behind ε, δ, σ and N_eff, around `=`, between numbers of "1 of 4" and before "x".
_HELD: Final = re.compile(r"(?<=[εδσ=≤]) (?=\S)|(?<=N_eff) (?=\d)| (?=[=x] )|(?<=\d) (?=of [\d∞])|(?<=\d of) (?=[\d∞])")
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"


def folded(text: str, width: int) -> str:
    """Return a text in lines of at most `width`; further lines are as far in as the first."""
    indent = " " * (len(text) - len(text.lstrip(" ")))
    held = _HELD.sub(_NO_BREAK, text)
    lines = textwrap.wrap(held, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace(_NO_BREAK, " ")


def print_text(console: Console, text: str, style: str | None = None) -> None:
    """Print a text, in which nothing is markup, in lines that end between words."""
    console.print(folded(text, console.width), style=style, highlight=False, markup=False, soft_wrap=True)


def groups(width: int, headings: Sequence[str], rows: Sequence[Sequence[str]], gap: int = 2) -> list[list[int]]:
    """Return which columns each table has, so that it is at most `width` wide; the first column is in every one.

    Parameters
    ----------
    gap : int
        Between two columns.
    """
    wide = [
        max([max(map(cell_len, heading.split())), *(cell_len(row[place]) for row in rows)]) + gap
        for place, heading in enumerate(headings)
    ]
    found: list[list[int]] = [[]]
    for place in range(1, len(headings)):
        if found[-1] and sum(wide[each] for each in [0, *found[-1], place]) + 1 > width:
            found.append([])
        found[-1].append(place)
    return [[0, *group] for group in found]


def print_fitting(
    console: Console,
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str | None = None,
) -> None:
    """Print one table, or several below each other where it would be too wide."""
    gap = 2 if len(groups(console.width, headings, rows)) == 1 else 1
    for number, places in enumerate(groups(console.width, headings, rows, gap)):
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, gap - 1, 0, 0), title=title if not number else None
        )
        for place in places:
            left = headings[place] in _WORDS
            # Headings may go over two lines, cells may not.
            table.add_column(
                headings[place], justify="left" if left else "right", min_width=_widest(place, rows), vertical="bottom"
            )
        for row in rows:
            table.add_row(*(row[place] for place in places))
        console.print(table)


def _widest(place: int, rows: Sequence[Sequence[str]]) -> int:
    return max((cell_len(row[place]) for row in rows), default=0)
