"""Keeps what planning found out about the noise of a budget: solving it takes seconds, reading it back milliseconds.

What is kept is only shown. A participant solves its own noise when it trains, and a run settles its own secure sums, so
that a file that somebody changed makes nobody add less of it. The file lies in the user's cache folder; without such a
folder, or with a damaged file or entry, everything is solved again.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

import privacy
from consortia.learners import blocks
from consortia.terms import costs

__all__ = ["known", "shown"]


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
    folders = (Path(privacy.__file__).parent, Path(blocks.__file__).parent)
    sources = [*sorted(file for folder in folders for file in folder.rglob("*.py")), Path(costs.__file__)]
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources))
    return f"{version('dp-accounting')} {digest.hexdigest()}"


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
