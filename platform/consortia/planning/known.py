"""Keeps what planning found out about the noise of a budget: solving it takes seconds, reading it back milliseconds.

What is kept is only shown. A participant solves its own noise when it trains, so that a file that somebody changed
makes nobody add less of it. The file lies in the user's cache folder; without such a folder nothing is kept.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs

import privacy
from consortia.terms import costs
from consortia.terms.contract import Contract, planned_rounds
from consortia.terms.contract_fields import IndustryTerms
from privacy.events import Event

__all__ = ["known"]


def known(
    contract: Contract,
    rules: IndustryTerms,
    budget: tuple[float, float],
    besides: tuple[Event, ...],
    solve: Callable[[], tuple[float, float]],
) -> tuple[float, float]:
    """Return noise multiplier and epsilon of a plan, from an earlier command where that had the same numbers.

    Parameters
    ----------
    budget : epsilon and delta of the whole run.
    besides : what else is released about the training units.
    solve : called where nothing is kept yet.
    """
    sums = contract.noisy_sums
    numbers = (*budget, rules.sampling_rate, rules.local_steps, planned_rounds(contract))
    others = [event.to_json() for event in besides]
    key = json.dumps([_code(), numbers, None if sums is None else repr(sums.shares), others])
    file = Path(platformdirs.user_cache_dir("consortia")) / "noise.db"
    if (kept := _read(file, key)) is not None:
        return kept
    found = solve()
    _write(file, key, found)
    return found


@cache
def _code() -> str:
    """What decides the numbers besides the plan: the accountant's version and the code that calls it."""
    sources = [*sorted(Path(privacy.__file__).parent.rglob("*.py")), Path(costs.__file__)]
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources))
    return f"{version('dp-accounting')} {digest.hexdigest()}"


def _read(file: Path, key: str) -> tuple[float, float] | None:
    if not file.is_file():
        return None
    try:
        with closing(sqlite3.connect(file, timeout=1)) as link:
            row = link.execute("SELECT sigma, epsilon FROM noise WHERE plan = ?", (key,)).fetchone()
    except sqlite3.Error:
        return None  # another program's file, or a broken one: solve again
    return None if row is None else (float(row[0]), float(row[1]))


def _write(file: Path, key: str, found: tuple[float, float]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=1)) as link, link:
            link.execute("CREATE TABLE IF NOT EXISTS noise (plan TEXT PRIMARY KEY, sigma REAL, epsilon REAL)")
            link.execute("INSERT OR REPLACE INTO noise VALUES (?, ?, ?)", (key, *found))
    except (OSError, sqlite3.Error):
        pass  # a container's read-only disk: the next command solves it again
