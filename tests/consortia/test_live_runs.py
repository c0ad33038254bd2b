"""The event file says what happens while it happens; what is read from it is released and public values only."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from dashboard_pages import reply

from consortia.common.errors import RunFailedError
from consortia.common.logs import JsonLines, about, one_message
from consortia.coordinator import rounds as coordinator
from consortia.coordinator.checkpoint import Checkpoint, save
from consortia.coordinator.event_file import FILE
from consortia.coordinator.rounds import Coordinator
from consortia.messages.exchange import Answer
from consortia.reports.live_runs import Run, Runs
from consortia.terms.scenario import Scenario, load_scenario

PLANTED = "Ada-Lovelace-4711"


@pytest.fixture
def scenario() -> Scenario:
    return load_scenario("banks-network").with_overrides(rounds=2)


def _folder(tmp_path: Path, scenario: Scenario) -> Path:
    folder = tmp_path / "run-1"
    folder.mkdir()
    (folder / "scenario.json").write_text(scenario.to_json())
    return folder


def test_a_run_is_seen_while_it_goes_on(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)
    first, *others = (participant.name for participant in scenario.roster)
    waited: list[set[str]] = []

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        for name, data in envelopes.items():
            run = Run(folder)
            run.refresh()
            assert run.status == "running"
            waited.append(
                {participant.name for participant in run.participants.values() if participant.waited_since is not None}
            )
            yield (
                Answer(name, None, "NO_REPLY")
                if (kind, name) == ("train", first)
                else Answer(name, reply(data, scenario))
            )

    Coordinator(scenario, "run-1", folder, exchange).run()
    assert waited[0] == {first, *others}  # before the first answer everybody is waited for
    assert waited[1] == set(others)  # the first one is known to have failed while the others are still at work
    assert waited[2] == set(others[1:])  # an answer ends the waiting too
    run = Run(folder)
    run.refresh()
    assert (run.status, run.done, run.total, run.left) == ("completed", 2, 2, None)
    silent, heard = run.participants[first], run.participants[others[0]]
    assert (silent.contributed, heard.contributed) == ([], [1, 2])
    assert silent.failures == 2
    assert heard.budget == 3.0
    # Two updates and the closing evaluation were asked for and answered.
    assert [number for number, _ in heard.seconds] == [1, 2, 3]
    assert 0 < heard.sent[0][1] < heard.sent[1][1] < heard.sent[2][1]
    assert run.event(silent, 0) is None
    event = run.event(heard, 2)
    assert event is not None
    assert (event.noise_multiplier, event.steps) == (1.5, 2 * scenario.contract.industries["bank"].local_steps)


@pytest.mark.parametrize("last", [1, 2])
@pytest.mark.parametrize("where", ["before the checkpoint", "after the checkpoint"])
def test_a_round_is_told_of_once_wherever_the_coordinator_dies(
    where: str, last: int, tmp_path: Path, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _folder(tmp_path, scenario)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        yield from (Answer(name, reply(data, scenario)) for name, data in envelopes.items())

    def dies(to: Path, state: Checkpoint, **values: Any) -> None:
        if state.round < last or where == "after the checkpoint":
            save(to, state, **values)
        if state.round == last:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(coordinator, "save", dies)
        with pytest.raises(KeyboardInterrupt):
            Coordinator(scenario, "run-1", folder, exchange).run()
    with (folder / FILE).open("a") as file:
        file.write('{"event": "asked", "ti')  # and its last line was cut
    Coordinator(scenario, "run-1", folder, exchange).run(resume=True)
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    assert [line["round"] for line in lines if line["event"] == "round"] == [1, 2]
    run = Run(folder)
    run.refresh()
    assert all(participant.contributed == [1, 2] for participant in run.participants.values())


def test_what_is_played_again_counts_once(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        yield from (Answer(name, reply(data, scenario)) for name, data in envelopes.items())

    for _ in range(2):  # from the start, as a vertical run goes on
        (folder / FILE).rename(folder / "before") if (folder / FILE).is_file() else (folder / "before").touch()
        Coordinator(scenario, "run-1", folder, exchange).run()
        (folder / FILE).write_bytes((folder / "before").read_bytes() + (folder / FILE).read_bytes())
    run = Run(folder)
    run.refresh()
    assert run.done == 2
    assert all(participant.contributed == [1, 2] for participant in run.participants.values())
    assert all([number for number, _ in participant.sent] == [1, 2, 3] for participant in run.participants.values())


def test_every_line_has_run_round_and_participant(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        yield from (Answer(name, reply(data, scenario)) for name, data in envelopes.items())

    Coordinator(scenario, "run-1", folder, exchange).run()
    lines = [json.loads(line) for line in (folder / FILE).read_text().splitlines()]
    for line in lines:
        assert line["run"] == "run-1"
        assert {"time", "event", "round", "participant"} <= line.keys()
        assert (line["participant"] is None) == (line["event"] in {"start", "round", "end"})
        assert (line["round"] is None) == (line["event"] in {"start", "end"})


def test_what_a_participant_wrote_into_a_failure_is_not_shown(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        yield from (Answer(name, reply(data, scenario, kind=PLANTED)) for name, data in envelopes.items())

    with pytest.raises(RunFailedError):
        Coordinator(scenario, "run-1", folder, exchange).run()
    run = Run(folder)
    run.refresh()
    assert run.status == "failed"
    assert {failure.code for failure in run.failures} == {"BAD_REPLY"}
    assert PLANTED in (folder / FILE).read_text()
    assert PLANTED not in repr((run.failures, run.participants, run.reason))


def test_half_a_line_is_read_when_it_is_whole_and_a_broken_one_is_skipped(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)
    run = Run(folder)
    assert run.status == "prepared"
    line = json.dumps({"event": "start", "time": time.time(), "run": "run-1", "round": None, "participant": None})
    (folder / FILE).write_text(line[:20])
    assert not run.refresh()
    (folder / FILE).write_text(line + "\nbroken {\n")
    assert run.refresh()
    assert run.status == "running"
    (folder / FILE).write_text("")
    run.refresh()
    assert run.status == "prepared"


def test_a_run_without_a_sign_of_life_has_stopped(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)
    (folder / FILE).write_text(json.dumps({"event": "start", "time": time.time() - 1e5}) + "\n")
    (run,) = Runs(tmp_path).refresh()
    assert run.status == "stopped"


def test_a_folder_that_is_no_run_is_named(tmp_path: Path, scenario: Scenario) -> None:
    _folder(tmp_path, scenario)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "scenario.json").write_text("{}")
    runs = Runs(tmp_path)
    assert [run.id for run in runs.refresh()] == ["run-1"]
    assert runs.unreadable == ["other"]
    assert runs.get("../run-1") is None


def test_a_participants_log_is_json_with_run_round_and_participant() -> None:
    record = logging.LogRecord("consortia.participant", logging.WARNING, "", 0, "%s: refused", ("bank-a",), None)
    record.exc_info = (ValueError, ValueError(PLANTED), None)
    lines = JsonLines("bank-a")
    with one_message():
        about("run-1", 3)
        line = json.loads(lines.format(record))
    assert (line["run"], line["round"], line["participant"]) == ("run-1", 3, "bank-a")
    assert line["message"] == "bank-a: refused"
    assert PLANTED not in str(line)
    assert json.loads(lines.format(record))["run"] is None  # the next message starts without


def test_a_broken_line_among_many_costs_itself_alone(tmp_path: Path, scenario: Scenario) -> None:
    folder = _folder(tmp_path, scenario)
    name = scenario.roster[0].name
    line = {"event": "failure", "time": 1.0, "run": "run-1", "participant": name, "code": "NO_REPLY"}
    lines = [json.dumps({**line, "round": number}) for number in range(1, 601)]
    for place in (250, 400):
        lines[place] = lines[place][:40]
    lines[500] += f", {lines[500]}"  # two where one should be
    (folder / FILE).write_text("\n".join([*lines, lines[0][:30]]))
    run = Run(folder)
    run.refresh()
    assert [one.round for one in run.failures] == [n for n in range(1, 601) if n not in {251, 401, 501}]


def test_only_the_run_that_is_asked_for_is_read_and_none_outside_the_folder(tmp_path: Path, scenario: Scenario) -> None:
    for parent in (tmp_path / "runs", tmp_path / "runs" / "other", tmp_path):
        parent.mkdir(exist_ok=True)
        _folder(parent, scenario)
    (tmp_path / "scenario.json").write_text(scenario.to_json())
    runs = Runs(tmp_path / "runs")
    assert runs.get("..") is None
    assert runs.get(".") is None
    assert runs.get("other/run-1") is None
    assert runs.get("nobody") is None
    assert runs.get("run-1") is not None
    assert list(runs.known) == ["run-1"]
