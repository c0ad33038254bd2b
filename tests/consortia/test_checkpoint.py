"""Checkpoints: the lines of rounds are added to a file, and a checkpoint says how much of it is its history."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.common.errors import InputError
from consortia.coordinator.checkpoint import Checkpoint, load, load_latest, save, to_bytes


def _state(number: int, mark: str = "") -> Checkpoint:
    history: list[dict[str, Any]] = [{"round": n, "seconds": 0.1 + n, "told": f"é{mark}"} for n in range(1, number + 1)]
    return Checkpoint(number, {"*": {"w": torch.full((3,), float(number))}}, {}, {}, history)


def _written(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        save(folder, _state(number))
    return folder / "checkpoints" / "history.jsonl"


def test_a_round_adds_its_own_line_and_both_kept_checkpoints_have_their_history(tmp_path: Path) -> None:
    lines = _written(tmp_path, 1, 2)
    before = lines.read_bytes()
    _written(tmp_path, 3)
    assert lines.read_bytes().startswith(before)
    assert lines.read_bytes().count(b"\n") == 3
    kept = [load(file) for file in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    assert [one.history for one in kept] == [_state(2).history, _state(3).history]


def test_what_a_checkpoint_weighs_does_not_grow_with_the_rounds(tmp_path: Path) -> None:
    _written(tmp_path, *range(1, 61))
    sizes = {file.stat().st_size for file in (tmp_path / "checkpoints").glob("*.safetensors")}
    assert max(sizes) < 500 < len(to_bytes(_state(60)))


def test_a_line_that_a_dead_coordinator_added_is_cut_off(tmp_path: Path) -> None:
    lines = _written(tmp_path, 1, 2)
    with lines.open("ab") as file:
        file.write(b'{"round": 3, "told": "of no checkpoint"}\n{"rou')
    state = load_latest(tmp_path)
    assert state is not None
    assert state.history == _state(2).history
    _written(tmp_path, 3)
    state = load_latest(tmp_path)
    assert state is not None
    assert state.history == _state(3).history


def test_a_file_of_lines_that_was_shortened_is_refused(tmp_path: Path) -> None:
    lines = _written(tmp_path, 1, 2)
    lines.write_bytes(lines.read_bytes()[:-5])
    with pytest.raises(InputError, match=r"wanted 2 lines in \d+ bytes, got \d+ bytes; put the run's own back"):
        load_latest(tmp_path)


def test_checkpoints_with_their_own_history_are_read_and_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "round-000002.safetensors").write_bytes(to_bytes(_state(2)))
    save(tmp_path, replace(_state(3), round=3))
    states = [load(file) for file in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    assert [one.history for one in states] == [_state(2).history, _state(3).history]


def test_a_shorter_history_takes_nothing_from_the_newest_checkpoint(tmp_path: Path) -> None:
    _written(tmp_path, 1, 5)
    save(tmp_path, replace(_state(2, "other"), round=6))
    states = [load(file) for file in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    assert [one.history for one in states] == [_state(5).history, _state(2, "other").history]
