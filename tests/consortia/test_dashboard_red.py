"""What is planted in a participant's data appears in no page, log, metric or record outside that participant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from dashboard_pages import TOKEN, crawl
from typer.testing import CliRunner

from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.owner import OwnerView
from consortia.participant import local


@pytest.mark.end_to_end
def test_what_is_planted_at_a_participant_is_seen_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A real run: a name in one row of new-car, in every row of used-car, in an exception at furniture."""
    planted = "Lovelace-4711"
    line = "A11 6 A34 {purpose} {amount} A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 {label}"
    lines = [
        line.format(
            purpose=purpose,
            amount=planted if purpose == "A41" or (purpose, index) == ("A40", 7) else 1169 + index,
            label=1 + index % 2,
        )
        for purpose in ("A40", "A41", "A42", "A43", "A46")
        for index in range(40)
    ]
    folder = tmp_path / "data" / "bank" / "german_credit"
    folder.mkdir(parents=True)
    (folder / "german.data").write_text("\n".join(lines) + "\n")
    plain = local.train_round

    def train(*arguments: Any, **options: Any) -> Any:
        if options["participant"] == "furniture":
            raise ValueError(f"the balance of {planted}")
        return plain(*arguments, **options)

    monkeypatch.setattr(local, "train_round", train)
    arguments = [
        "run",
        "banks-network",
        "--rounds",
        "2",
        "--data",
        str(tmp_path / "data"),
        "--out",
        str(tmp_path / "runs"),
    ]
    result = CliRunner().invoke(APP, arguments)
    assert planted not in result.output
    assert planted not in caplog.text
    (run,) = (tmp_path / "runs").iterdir()
    codes = {json.loads(text)["participant"]: json.loads(text).get("code") for text in _failures(run)}
    assert codes == {"used-car": "PARTICIPANT_ERROR", "furniture": "PARTICIPANT_ERROR"}  # both were really met
    receipt = next((run / "participants" / "new-car" / "runs").glob("*/receipt.json"))
    assert sum(json.loads(receipt.read_text())["quarantine"]["reasons"].values()) == 1
    pages = crawl(build(CoordinatorView(tmp_path / "runs", None), TOKEN), f"/compare?run={run.name}")
    for other in ("radio-tv", "other"):
        home = OwnerView.of(run / "participants" / other, None)
        pages |= {f"{other}{path}": text for path, text in crawl(build(home, TOKEN)).items()}
    for path, text in pages.items():
        assert planted not in text, path
    for file in [*run.glob("*.json*"), *run.rglob("participant.log")]:  # not even in the logs that stay
        assert planted not in file.read_text(), file


def _failures(run: Path) -> list[str]:
    return [text for text in (run / "events.jsonl").read_text().splitlines() if '"event": "failure"' in text]
