"""What a message that charges nothing may cost a participant: bounded, over restarts, and never an honest run's way."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import receipt
from consortia.participant.handle import handle
from consortia.participant.home import Home

Make = Callable[..., Any]
LAST = 6  # the number of the closing evaluation of five rounds


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every measurement that was made, by run."""
    made: list[str] = []

    def write(home: Home, request: Any, *_: object) -> None:
        made.append(request.run_id)

    monkeypatch.setattr(receipt, "write", write)
    return made


def _limits(site: Any, **limits: int) -> None:
    site.policy(lambda policy: policy.update(limits=limits))


def _model(site: Any, value: float, **changes: str) -> bytes:
    """Return an evaluation of a model that has not been seen before."""
    message = decode(site.message(LAST, kind="evaluate", **changes))
    return encode(Envelope(message.header, {n: torch.full_like(t, value) for n, t in message.tensors.items()}))


def _code(site: Any, run: str) -> str:
    code: str = site.ask(LAST, kind="evaluate", run=run).header["code"]
    return code


def test_evaluations_of_ever_new_runs_end(site: Any, measured: list[str]) -> None:
    _limits(site, unpaid_runs=3)
    assert [_code(site, f"new-{n}") for n in range(5)] == ["NOT_TRAINED"] * 3 + ["RUNS_EXHAUSTED"] * 2
    assert measured == ["new-0", "new-1", "new-2"]
    assert sorted(folder.name for folder in (site.home.folder / "runs").iterdir()) == measured  # the disk, too
    assert _code(site, "new-0") == "NOT_TRAINED"  # a repeat is answered as before, and not measured again
    assert len(measured) == 3


def test_the_bound_is_read_from_the_home(site: Any, measured: list[str], tmp_path: Path) -> None:
    _limits(site, unpaid_runs=2, evaluations=1)
    assert [_code(site, f"new-{n}") for n in range(2)] == ["NOT_TRAINED"] * 2
    shutil.copytree(site.home.folder, tmp_path / "elsewhere")  # nothing in memory knows this home
    site.home = replace(site.home, folder=tmp_path / "elsewhere")
    assert _code(site, "new-2") == "RUNS_EXHAUSTED"
    other_model = handle(_model(site, 0.5, run="new-1"), site.home)
    assert decode(other_model).header["code"] == "EVALUATIONS_EXHAUSTED"
    (site.home.folder / "runs" / "new-0").rename(site.home.folder / "old")  # its owner puts a folder elsewhere
    assert _code(site, "new-3") == "NOT_TRAINED"
    assert measured == ["new-0", "new-1", "new-3"]


def test_an_honest_run_never_meets_the_bound(site: Any, measured: list[str]) -> None:
    _limits(site, unpaid_runs=1, evaluations=1)
    assert _code(site, "new-0") == "NOT_TRAINED"
    for run in ("run-1", "run-2"):  # what took something from the ledger does not count
        for number in (1, 2):
            assert site.ask(number, run=run).header["status"] == "OK"
        closing = site.message(LAST, kind="evaluate", run=run)
        first = handle(closing, site.home)
        assert decode(first).header["status"] == "EVALUATED"
        assert handle(closing, site.home) == first  # a message that is sent again, as a resumed run does
    assert measured == ["new-0", "run-1", "run-2"]
    assert _code(site, "new-1") == "RUNS_EXHAUSTED"


def test_models_of_one_run_end(site: Any, measured: list[str]) -> None:
    _limits(site, evaluations=2)
    assert site.ask(1).header["status"] == "OK"
    replies = [decode(handle(_model(site, value), site.home)).header for value in (0.0, 0.1, 0.2, 0.0)]
    assert [reply.get("code", reply["status"]) for reply in replies] == [
        "EVALUATED", "EVALUATED", "EVALUATIONS_EXHAUSTED", "EVALUATED",
    ]  # fmt: skip
    assert len(measured) == 2


def test_a_measurement_that_was_cut_short_is_tried_three_times(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def killed(*_: object) -> None:
        tries.append(1)
        raise OverflowError

    monkeypatch.setattr(receipt, "write", killed)
    assert {_code(site, "new-0") for _ in range(5)} == {"NOT_TRAINED"}
    assert len(tries) == 3


def test_what_cannot_be_noted_is_not_measured(site: Any, measured: list[str]) -> None:
    (site.home.folder / "runs").write_text("no folder can be made here")
    assert _code(site, "new-0") == "NOT_TRAINED"
    assert measured == []
