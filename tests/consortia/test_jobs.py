"""Work side by side: the same results as one by one, the same errors, nothing inherited, one writer for each ledger."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.audit.run import run as audit
from consortia.common.errors import InputError, RefusedError, RunFailedError
from consortia.common.jobs import side_by_side
from consortia.engines.options import Options
from consortia.engines.runner import execute
from consortia.studies import sweep as sweeps
from consortia.studies.controlled_run import control, prepare
from consortia.terms.scenario import load_scenario
from privacy.errors import PlanError
from privacy.noise_context import NoiseContext
from privacy.randomness import FreshNoise, fresh_generator, fresh_key

_HELD: list[FreshNoise] = []
CONTEXT = NoiseContext(purpose="test", message="the same", attempt=0, ledger="")


def _square(number: int) -> int:
    if number == 5:
        raise RefusedError("POLICY_MISSING", "five is refused")
    return number**2


def _key(_: int) -> tuple[int, str]:
    return os.getpid(), fresh_key(CONTEXT).hex()


def _draw_inherited(_: int) -> int:
    return int(_HELD[-1].stream.words(1)[0])


def _die(number: int) -> int:
    if number:
        os._exit(9)
    return number


def _call(*arguments: str) -> Any:
    return CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"})


def test_one_job_takes_its_tasks_one_by_one() -> None:
    order = []

    def tasks() -> Iterator[int]:
        for number in range(3):
            order.append(f"take {number}")
            yield number

    order.extend(f"have {result}" for result in side_by_side(_square, tasks(), 1))
    assert order == ["take 0", "have 0", "take 1", "have 1", "take 2", "have 4"]


def test_jobs_that_share_memory_are_refused() -> None:
    with (
        joblib.parallel_config("threading"),
        pytest.raises(InputError, match="--jobs: wanted a joblib backend of proc"),
    ):
        list(side_by_side(_square, range(3), 2))


def test_a_fork_draws_its_own_noise_and_refuses_its_parents() -> None:
    with joblib.parallel_config("multiprocessing"):  # the one backend that inherits this process's memory
        drawn = list(side_by_side(_key, range(4), 2))
        _HELD.append(fresh_generator(CONTEXT))
        with pytest.raises(PlanError, match="inherited over a fork"):
            list(side_by_side(_draw_inherited, range(2), 2))
    assert os.getpid() not in {process for process, _ in drawn}
    assert len({key for _, key in drawn}) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "banks-network", "--jobs", "2"], "--jobs: wanted --placebo or --uncompressed"),
        (["audit", "banks-network", "--jobs", "0"], "--jobs"),
        (["budget", "sweep", "linear", "--ledger", "HERE", "--jobs", "2"], "each ledger has one writer"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, arguments: list[str], said: str) -> None:
    result = _call(*(str(tmp_path) if one == "HERE" else one for one in arguments))
    assert result.exit_code == 2
    assert said in result.output


@pytest.mark.end_to_end
def test_two_jobs_give_what_one_gives() -> None:
    with pytest.raises(RefusedError, match="five is refused") as found:
        list(side_by_side(_square, range(9), 2))
    assert found.value.code == "POLICY_MISSING"
    assert list(side_by_side(_square, range(5), 2)) == list(side_by_side(_square, range(5), 1)) == [0, 1, 4, 9, 16]
    with pytest.raises(RunFailedError, match="--jobs 2: a process ended without an answer"):
        list(side_by_side(_die, range(2), 2))


@pytest.mark.end_to_end
def test_a_sweep_of_two_jobs_has_the_cells_of_one(tmp_path: Path) -> None:
    one = sweeps.Sweep(scenario="banks-network", participant="", epsilons=(float("inf"),), seeds=2, rounds=2)
    told: list[str] = []
    alone = sweeps.run(one, tmp_path / "one", lambda *_: None)
    both = sweeps.run(replace(one, jobs=2), tmp_path / "two", lambda *line: told.append(str(line)))
    assert alone == both
    assert told == ["(1, 2, 'ε inf, seed 0')", "(2, 2, 'ε inf, seed 1')"]
    assert len({cell["participants"]["other"]["federated"] for cell in both}) == 2  # seeds differ


@pytest.mark.end_to_end
def test_a_control_of_two_jobs_has_the_numbers_of_one(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        options = Options(
            scenario="shared-trunk",
            rounds=1,
            epsilon=("inf",),
            placebo=True,
            draws=2,
            jobs=jobs,
            out=tmp_path / str(jobs),
        )
        job = prepare(options)
        execute(job, options)
        said: list[str] = []
        found.append((control(job, options, said.append)["placebo"]["participants"], said))
        kept = json.loads((job.folder / "placebo.json").read_text(encoding="utf-8"))["participants"]
        assert kept == found[-1][0]
    assert found[0] == found[1]


@pytest.mark.end_to_end
def test_an_audit_of_two_jobs_looks_at_what_one_looks_at() -> None:
    scenario, only = load_scenario("banks-network"), ("mechanism", "asking", "sums", "canary")
    alone, both = (audit(scenario, only=only, quick=True, jobs=jobs) for jobs in (1, 2))
    looks = [
        [(found.instrument, found.skipped, [(check.law, check.subject) for check in found.checks]) for found in one]
        for one in (alone, both)
    ]
    assert looks[0] == looks[1]
    assert not [check for found in both for check in found.violations]
