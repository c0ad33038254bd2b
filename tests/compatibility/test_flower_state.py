"""The SuperLink's state that Flower 1.41 left: today's SuperLink goes on with it; what a newer one left is refused.

`flower-1.41/state.sql` is what `consortia run linear --engine flower` left on the last commit with Flower 1.41, when
its SuperLink was started with `--database`: `sqlite3 state.db .dump` without the lines of Flower's log.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from own_homes import own_homes

from consortia.common.errors import RunFailedError
from consortia.engines import flower
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare

pytestmark = pytest.mark.end_to_end

STATE = Path(__file__).parent / "flower-1.41" / "state.sql"
ROUNDS = 2
OLD_NAMES = {"line-a", "line-b"}


class _OnOldState(flower.Federation):
    """The Flower engine, whose SuperLink goes on with a state that it finds, as in the containers."""

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        more = ("--database", str(_state(self.job))) if who == "superlink" else ()
        super()._spawn(who, command, *arguments, *more)


def _state(job: Job) -> Path:
    return job.folder.parent / "state.db"


def _text(job: Job) -> list[str]:
    with contextlib.closing(sqlite3.connect(_state(job))) as state:
        return list(state.iterdump())


def _rows(job: Job, question: str) -> list[tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(_state(job))) as state:
        return state.execute(question).fetchall()


@pytest.fixture
def prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Job, Options]]:
    """A job of two participants beside the old state."""
    own_homes("linear", tmp_path / "homes", monkeypatch, rounds=ROUNDS)
    options = Options(scenario="linear", rounds=ROUNDS, engine="flower", out=tmp_path / "runs")
    job = prepare(options)
    with contextlib.closing(sqlite3.connect(_state(job))) as state:
        state.executescript(STATE.read_text(encoding="utf-8"))
    monkeypatch.setattr(flower, "Federation", _OnOldState)
    return job, options


def test_a_run_on_the_state_that_the_last_flower_left(prepared: tuple[Job, Options]) -> None:
    job, options = prepared
    (revision,) = _rows(job, "SELECT version_num FROM alembic_version")
    old_runs, old_nodes = (set(_rows(job, f"SELECT {key}_id FROM {key}")) for key in ("run", "node"))
    assert (len(old_runs), len(old_nodes)) == (1, 2)

    done = execute(job, options)

    assert done.result["status"] == "completed"
    assert len(done.result["history"]) == ROUNDS
    assert not any(seat["failures"] for seat in done.result["participants"].values())
    assert _rows(job, "SELECT version_num FROM alembic_version") != [revision]
    assert old_runs < set(_rows(job, "SELECT run_id FROM run"))
    # The keys of this run are others, so those that were registered are revoked, and stay on the list.
    nodes = _rows(job, "SELECT node_id, name, status FROM node")
    assert {name for _, name, _ in nodes} == OLD_NAMES
    assert {status for node, _, status in nodes if (node,) in old_nodes} == {"unregistered"}
    assert len(nodes) == 4


def test_what_a_newer_flower_left_is_refused_and_stays_as_it_is(prepared: tuple[Job, Options]) -> None:
    job, options = prepared
    with contextlib.closing(sqlite3.connect(_state(job))) as state, state:
        state.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    before = _text(job)
    with pytest.raises(RunFailedError, match="the SuperLink did not come up"):
        execute(job, options)
    assert "CommandError" in (job.folder / "flower" / "superlink.log").read_text()  # alembic knows no such revision
    assert _text(job) == before
