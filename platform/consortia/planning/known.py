"""Keeps what planning found out about noise and networks: finding it takes seconds, reading it back milliseconds.

What is kept is only shown. A participant solves its own noise and checks its own network when it trains, and a run
settles its own secure sums, so that a file that somebody changed makes nobody add less noise or train what is refused.
The file lies in the user's cache folder; without such a folder, or with a damaged file or entry, all is found again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

import privacy
from consortia.learners import blocks
from consortia.terms import costs

__all__ = ["digest", "known", "passed", "shown"]


def known(plan: Sequence[object], solve: Callable[[], tuple[float, ...]], count: int) -> tuple[float, ...]:
    """Return the numbers of a plan, from an earlier command where that had the same plan.

    Parameters
    ----------
    plan : everything public that decides the numbers, as JSON has it.
    solve : called where nothing is kept yet.
    count : how many numbers these are; another number of them is a damaged entry.
    """
    key = json.dumps([_code(), *plan])
    file = Path(platformdirs.user_cache_dir("consortia")) / "plans.db"
    if (kept := _read(file, key, count)) is not None:
        return kept
    found = solve()
    _write(file, key, found)
    return found


def passed(plan: Sequence[object], check: Callable[[], None]) -> None:
    """Make a check that raises where it refuses, unless it passed in an earlier command with the same plan.

    Only a command that shows (`shown`) spares it: everywhere else it is made. A refusal is never kept.

    Parameters
    ----------
    plan : everything that decides whether it passes, the code included, as JSON has it.
    """

    def made() -> tuple[float, ...]:
        check()
        return (1.0,)

    if costs.remembered.get() is None:
        check()
    elif known(plan, made, 1) != (1.0,):
        check()  # a damaged entry: no other number says that it passed


@contextmanager
def shown() -> Iterator[None]:
    """Take the noise that scenarios are settled with from here, too: for a command that only shows, never for a run."""
    before = costs.remembered.set(lambda plan, solve: known(plan, lambda: (solve(),), 1)[0])
    try:
        yield
    finally:
        costs.remembered.reset(before)


@cache
def _code() -> str:
    """What decides the numbers besides the plan: the accountant's version and the code that calls it."""
    places = (Path(privacy.__file__).parent, Path(blocks.__file__).parent, Path(costs.__file__))
    return f"{version('dp-accounting')} {digest(places)}"


def digest(places: Iterable[Path]) -> str:
    """Return the SHA-256 of files, and of all Python files below folders."""
    sources = [file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    return hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()


def _read(file: Path, key: str, count: int) -> tuple[float, ...] | None:
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(file, timeout=1)) as link:
            row = link.execute("SELECT numbers FROM plans WHERE plan = ?", (key,)).fetchone()
        found = None if row is None else tuple(map(float, json.loads(row[0])))
    except (sqlite3.Error, ValueError, TypeError):
        return None  # another program's file, or a broken one: solve again
    fits = found is not None and len(found) == count and all(math.isfinite(each) and each >= 0 for each in found)
    return found if fits else None


def _write(file: Path, key: str, found: tuple[float, ...]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=1)) as link, link:
            link.execute("CREATE TABLE IF NOT EXISTS plans (plan TEXT PRIMARY KEY, numbers TEXT)")
            link.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (key, json.dumps(found)))
    except (OSError, sqlite3.Error):
        pass  # a container's read-only disk: the next command solves it again
