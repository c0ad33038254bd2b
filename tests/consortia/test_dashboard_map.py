"""The map of a consortium: who shares what with whom under which ε, drawn and in words."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dashboard_pages import TOKEN, signed

from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.run_page import share_chart
from consortia.dashboard.share_map import ShareMap, share_map
from consortia.reports.live_runs import LiveParticipant, Run
from consortia.terms.scenario import load_scenario


def run_of(folder: Path, scenario: str, *events: dict[str, Any]) -> Run:
    folder.mkdir(parents=True)
    (folder / "scenario.json").write_text(load_scenario(scenario, settle=False).to_json())
    lines = [{"time": 1.0 + n, "round": 1, "participant": None, **event} for n, event in enumerate(events)]
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = Run(folder)
    run.refresh()
    return run


def nodes(drawn: ShareMap) -> list[str]:
    """What the lines of the drawing lead to."""
    plain = re.sub(r"<a .*?</a>", "", str(drawn.drawing))
    return re.findall(r">([^<>]+)</text>", plain)


def test_everybody_is_a_link_with_name_share_epsilon_and_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [line.name for line in load_scenario("banks-network").roster]
    refused = {"state": "REFUSED", "bytes": {"sent": 0, "received": 0}}
    run = run_of(
        tmp_path / "run",
        "banks-network",
        {"event": "start", "rounds": 20, "done": 0},
        *({"event": "asked", "participant": name} for name in names[:4]),
        {"event": "heard", "participant": names[0]},
        {"event": "failure", "participant": names[1], "code": "NO_REPLY"},
        {"event": "round", "seconds": 1.0, "replies": names[:1], "members": {names[2]: refused}},
    )
    monkeypatch.setattr("consortia.reports.live_runs.time.time", lambda: 10.0)
    drawn = share_map(run)
    said = dict(re.findall(r'aria-label="([^":]+): ([^"]+)"', str(drawn.drawing)))
    states = ("answered", "not heard", "refused", "waited for", "not heard")
    assert said == {name: f"update · ε 3 · {state}" for name, state in zip(names, states, strict=True)}
    assert all(f'href="/runs/run/{name}"' in drawn.drawing for name in names)
    assert nodes(drawn) == ["bank", "model", "5 share it"]
    others = "used-car, furniture, radio-tv and other"
    assert drawn.sentences[0] == (
        f"new-car (bank) shares update with {others}, by way of the coordinator, which sees each noisy release, under "
        "ε 3 a run at δ 1e-05, adding or removing one unit; answered."
    )


@pytest.mark.parametrize(
    ("scenario", "wanted"),
    [
        ("shared-trunk", ["hospital", "bank", "factory", "everybody"]),
        ("cross-industry", ["hospital", "bank", "factory"]),
        ("shared-heart", ["matched rows"]),
    ],
)
def test_what_is_made_together(tmp_path: Path, scenario: str, wanted: list[str]) -> None:
    drawn = share_map(run_of(tmp_path / "run", scenario))
    assert nodes(drawn)[::3] == wanted
    first = drawn.sentences[0]
    assert ("bank-a" in first) is (scenario == "shared-trunk")  # hospitals share with banks by the trunk alone
    if scenario == "cross-industry":
        assert "sees sums of all of them only" in first


def test_of_a_crowd_the_first_are_drawn(tmp_path: Path) -> None:
    drawn = share_map(run_of(tmp_path / "run", "smart-home"))
    assert len(drawn.sentences) == str(drawn.drawing).count("<a ") == 10
    assert drawn.rest is not None


def test_the_overview_draws_the_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_of(tmp_path / "on", "linear", {"event": "start", "rounds": 2, "done": 0})
    over = {"event": "end", "status": "completed", "reason": ""}
    run_of(tmp_path / "over", "banks-network", {"event": "start", "rounds": 1, "done": 0, "time": 5.0}, over)
    monkeypatch.setattr("consortia.reports.live_runs.time.time", lambda: 10.0)
    text = signed(build(CoordinatorView(tmp_path, None), TOKEN), "/").text
    assert 'href="/runs/on/line-a"' in text
    assert 'href="/runs/over/new-car"' not in text


def test_shares_that_lie_over_each_other_are_one_line_with_a_name_for_all() -> None:
    """Nine lines on one another told nothing, and some had the same colour."""

    class Alike:
        def curve(self, run: Run, participant: LiveParticipant) -> tuple[list[Any], bool]:
            least = 0.5 if participant.roster.industry == "hospital" else 0.2
            return [(n, (participant.budget or 0) * part, None, None) for n, part in ((1, least), (2, 1.0))], True

    scenario = load_scenario("cross-industry", settle=False)
    people = {one.name: LiveParticipant(one) for one in scenario.roster}
    run: Any = SimpleNamespace(participants=people, scenario=scenario, total=20)
    caption, drawn = share_chart(run, Alike())  # type: ignore[arg-type]
    assert re.findall(r'class="end-name[^>]*>([^<]+)<', str(drawn)) == ["hospital", "bank, factory"]
    assert "(one line each)" in caption
    assert "all its messages are sent" not in caption
    for one in people.values():
        if one.roster.industry == "hospital":
            one.contributed = [1, 2]
    assert "where the line of hospital ends, all its messages are sent" in share_chart(run, Alike())[0]  # type: ignore[arg-type]
    run.participants = {name: one for name, one in people.items() if one.roster.industry == "bank"}
    assert "the same for everybody" in share_chart(run, Alike())[0]  # type: ignore[arg-type]
