"""Other scenarios as containers, two rounds each. cross-industry-network is in test_federation.py.

shared-customers is in test_vertical_engines.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from federation import Federation, engine

from consortia.terms.scenario import load_scenario

pytestmark = pytest.mark.containers


@pytest.mark.parametrize(
    "name",
    [
        "cross-industry",
        "hospitals-network",
        "banks-network",
        "factories-network",
        "secure-banks-network",
        "shared-trunk",
    ],
)
def test_two_rounds_to_the_table(name: str, tmp_path: Path) -> None:
    if reason := engine():
        pytest.skip(reason)
    federation = Federation.of(name, tmp_path)
    federation.env["CONSORTIA_ROUNDS"] = "2"
    try:
        done = federation.up()
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (record,) = federation.records()
        assert (record["status"], record["rounds"]) == ("completed", 2)
        assert all(participant["rounds_contributed"] == 2 for participant in record["participants"].values())
        for participant in load_scenario(name).roster:
            assert (tmp_path / "homes" / participant.name / "runs" / record["run_id"] / "receipt.json").is_file()
    finally:
        federation.down()
