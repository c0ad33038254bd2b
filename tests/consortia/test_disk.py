"""A disk that fills costs a named failure and nothing else.

The kernel itself says no: files of this process may not grow beyond a bound, which cuts a write short and then refuses
it as a full disk does. `test_faults.py` fills real file systems.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.common import disk
from consortia.common.console import friendly
from consortia.common.errors import RunFailedError, describe
from consortia.common.logs import OwnFile
from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from consortia.coordinator.event_file import FILE, EventFile
from consortia.coordinator.rounds import Coordinator
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.terms.scenario import load_scenario


@contextlib.contextmanager
def room(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_without_room_leaves_nothing_behind(tmp_path: Path) -> None:
    event = EventFile(tmp_path, "run-1")
    event("start", rounds=1)
    size = (tmp_path / FILE).stat().st_size
    with room(size + 50), pytest.raises(RunFailedError, match=r"no room on the disk .*--resume"):
        event("failure", round=1, detail="x" * 100)
    assert (tmp_path / FILE).stat().st_size == size
    event("end")  # there is room again
    assert [json.loads(line)["event"] for line in (tmp_path / FILE).read_text().splitlines()] == ["start", "end"]
    notes = tmp_path / "training.jsonl"
    with room(10), pytest.raises(OSError, match="too large"):
        disk.append_json(notes, {"round": 1, "seconds": 0.5})
    assert notes.read_bytes() == b""


def test_a_checkpoint_without_room_leaves_the_one_before(tmp_path: Path) -> None:
    def state(number: int) -> Checkpoint:
        return Checkpoint(number, {"*": {"w": torch.ones(500)}}, {}, {}, [{"round": number}])

    save(tmp_path, state(1))
    with room(1000), pytest.raises(RunFailedError, match="no room on the disk"):
        save(tmp_path, state(2))
    kept = load_latest(tmp_path)
    assert kept is not None
    assert kept.round == 1
    assert sorted(file.name for file in (tmp_path / "checkpoints").iterdir()) == [
        "history.jsonl",
        "round-000001.safetensors",
    ]


def test_a_run_whose_disk_fills_is_a_named_failure_and_resumes(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network").with_overrides(rounds=2)
    asked: list[str] = []

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        found = []
        for name, data in envelopes.items():
            message = decode(data)
            asked.append(message.header["round"])
            header = {key: message.header[key] for key in ("kind", "participant", "run", "round")}
            header |= {"status": "OK" if kind == "train" else "EVALUATED", "contract": scenario.contract.sha256()}
            header |= {"noise_multiplier": "1.5", "epsilon_budget": "1.0", "delta": "1e-05", "unit": "record"}
            tensors = message.tensors if kind == "train" else {}
            found.append(Answer(name, encode(Envelope({**header, "non_private": "false"}, tensors))))
        if kind == "train" and asked.count("2") == len(envelopes):  # the second round, the first time
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        return found

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(RunFailedError, match=r"no room on the disk .*make room, then go on with --resume"):
            Coordinator(scenario, "run-1", tmp_path, exchange).run()
        assert "no room on the disk" in disk.why_full(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert disk.why_full(tmp_path) == ""
    record = Coordinator(scenario, "run-1", tmp_path, exchange).run(resume=True)
    assert (record["status"], [line["round"] for line in record["history"]]) == ("completed", [1, 2])
    events = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert [event["round"] for event in events if event["event"] == "round"] == [1, 2]


@pytest.mark.end_to_end
def test_a_command_without_a_record_of_its_own_does_not_tell_an_earlier_ones(tmp_path: Path) -> None:
    options = Options(scenario="linear", rounds=2, out=tmp_path)
    first = execute(prepare(options), options)
    assert first.result["status"] == "completed"
    again = Options(scenario="", resume=first.job.folder)
    job = prepare(again)
    with room(1), pytest.raises(RunFailedError, match="no room on the disk"):
        execute(job, again)
    assert execute(job, again).result["status"] == "completed"


def test_an_attempt_that_failed_at_once_is_not_repeated_at_once(tmp_path: Path, monkeypatch: Any) -> None:
    scenario = load_scenario("banks-network").with_overrides(rounds=1)
    now, pauses = [0.0], []
    monkeypatch.setattr("consortia.coordinator.rounds.time.monotonic", lambda: now[0])
    monkeypatch.setattr("consortia.coordinator.rounds.time.sleep", pauses.append)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        now[0] += 0.5
        failed = {"status": "FAILED", "code": "PARTICIPANT_ERROR", "incident": "0"}
        return [Answer(name, encode(Envelope({**failed, "participant": name}))) for name in envelopes]

    with pytest.raises(RunFailedError, match="after 3 attempts"):
        Coordinator(scenario, "run-1", tmp_path, exchange).run()
    assert pauses == [0.0, 0.5, 1.0]  # 0.5 s, then twice that


def test_the_command_names_a_disk_without_room(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def write() -> None:
        (tmp_path / "result.json").write_bytes(bytes(100))

    with room(10), pytest.raises(BaseException, match="1"):  # typer's exit with its status
        friendly(write)()
    said = capsys.readouterr().err
    assert "failed: no room on the disk (File too large)" in said
    assert "Traceback" not in said
    with pytest.raises(BaseException, match="2"):
        friendly((tmp_path / "nothing").read_bytes)()
    assert f"error: {tmp_path / 'nothing'}: wanted a place that can be read" in capsys.readouterr().err


def test_the_log_at_home_names_a_full_disk_on_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Path("/dev/full").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space") as caught:
        file.write(b"x")
    said = describe(caught.value)
    assert said.startswith("OSError: No space left on device at test_the_log")
    handler = OwnFile(tmp_path / "participant.log", "bank-a")
    with room(10):
        handler.emit(logging.LogRecord("consortia.participant", logging.ERROR, "", 0, "incident 7: %s", (said,), None))
        handler.close()
    assert json.loads(capsys.readouterr().err)["message"] == f"incident 7: {said}"


def test_a_log_whose_folder_is_gone_goes_to_the_console(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handler = OwnFile(tmp_path / "gone" / "participant.log", "bank-a")
    handler.emit(logging.LogRecord("consortia.participant", logging.ERROR, "", 0, "incident %s", (7,), None))
    handler.close()
    assert json.loads(capsys.readouterr().err)["message"] == "incident 7"
