"""Secure sums between real processes: a SuperLink, SuperNodes, TLS, a forked process for each message."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
from own_homes import own_homes

from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.scenario import find_scenario

pytestmark = pytest.mark.end_to_end


def _mode_two(folder: Path) -> str:
    """Write secure-banks-network with drop-out recovery; return its path."""
    source = find_scenario("secure-banks-network")
    text = source.read_text(encoding="utf-8").replace("[contract.secure]", '[contract.secure]\nmode = "two"\ndrops = 1')
    file = folder / "secure-banks-network.toml"
    file.write_text(text, encoding="utf-8")
    shutil.copytree(source.parent / "policies" / source.stem, folder / "policies" / file.stem)
    return str(file)


@pytest.mark.long
def test_keys_attempts_views_and_outbox_survive_a_process_for_each_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mode two, whose messages and tables are those of mode one and more."""
    scenario = _mode_two(tmp_path)
    homes = tmp_path / "homes"
    names = own_homes(scenario, homes, monkeypatch, rounds=2)
    options = Options(scenario=scenario, rounds=2, engine="flower", out=tmp_path / "runs")
    result = execute(prepare(options), options).result
    assert result["status"] == "completed"
    assert [line["replies"] for line in result["history"]] == [sorted(names)] * 2
    for name in names:
        connection = sqlite3.connect(homes / name / "ledger.db")
        try:
            charged = connection.execute("SELECT state, count(*) FROM entries GROUP BY state").fetchall()
            attempts = connection.execute("SELECT round, attempt FROM secure_attempts ORDER BY round").fetchall()
            views = connection.execute("SELECT round, kind FROM secure_views ORDER BY round").fetchall()
            keys = connection.execute("SELECT count(*) FROM secure_runs").fetchone()
        finally:
            connection.close()
        assert charged == [("committed", 2)]
        assert attempts == [(1, 0), (2, 0)]
        assert views == [(1, "open"), (2, "open")]
        assert keys == (0,)
