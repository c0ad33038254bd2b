"""Secure sums between real processes: a SuperLink, SuperNodes, TLS, a forked process for each message."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from consortia.cli.budget import allow, init
from consortia.runner import Options, execute, prepare
from consortia.scenario import load_scenario

pytestmark = pytest.mark.end_to_end


def test_keys_attempts_and_outbox_survive_a_process_for_each_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = tmp_path / "homes"
    monkeypatch.setenv("CONSORTIA_HOME", str(homes))
    init("", scenario="secure-banks")
    names = [seat.name for seat in load_scenario("secure-banks").roster]
    for name in names:
        allow(name, "secure-banks", rounds=2)
    options = Options(scenario="secure-banks", rounds=2, engine="flower", out=tmp_path / "runs")
    result = execute(prepare(options), options).result
    assert result["status"] == "completed"
    assert [line["replies"] for line in result["history"]] == [sorted(names)] * 2
    for name in names:
        connection = sqlite3.connect(homes / name / "ledger.db")
        try:
            charged = connection.execute("SELECT state, count(*) FROM entries GROUP BY state").fetchall()
            attempts = connection.execute("SELECT round, attempt FROM secure_attempts ORDER BY round").fetchall()
            keys = connection.execute("SELECT count(*) FROM secure_runs").fetchone()
        finally:
            connection.close()
        assert charged == [("committed", 2)]
        assert attempts == [(1, 0), (2, 0)]
        assert keys == (0,)
