"""Prints tables that fit the terminal: what is too wide is put below, and no number or id goes over two lines."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

__all__ = ["groups", "print_fitting"]

#: Columns of words, which stand on the left.
_WORDS = frozenset({"participant", "metric", "verdict", "rows", "data set", "run", "what", "unit", "state"})


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
