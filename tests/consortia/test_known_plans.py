"""What planning keeps between commands: the same numbers as solved, nothing where nothing can be kept."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from consortia.cli import budget_accounts
from consortia.planning import known as module
from consortia.planning.plan import make_plans
from consortia.terms.scenario import load_scenario
from consortia.terms.settle import sigma_of
from privacy import accounting
from privacy.events import NonPrivate, PoissonGaussian


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "consortia"


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """How often noise was solved."""
    calls: list[object] = []
    real = accounting.solve_noise_multiplier

    def counted(**numbers: object) -> float:
        calls.append(numbers)
        return real(**numbers)  # type: ignore[arg-type]

    monkeypatch.setattr("consortia.terms.costs.solve_noise_multiplier", counted)
    return calls


def test_a_second_plan_reads_what_the_first_solved(folder: Path, solved: list[object]) -> None:
    scenario = load_scenario("hospitals-network")
    first = make_plans(scenario)
    assert solved
    number = len(solved)
    assert make_plans(scenario) == first
    assert len(solved) == number
    changed = scenario.with_overrides(rounds=scenario.contract.rounds + 1)
    assert [p.noise_multiplier for p in make_plans(changed)] != [p.noise_multiplier for p in first]
    assert len(solved) > number


def test_other_code_solves_again(folder: Path, solved: list[object], monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario("hospitals-network")
    make_plans(scenario)
    number = len(solved)
    monkeypatch.setattr(module, "_code", lambda: "another accountant")
    make_plans(scenario)
    assert len(solved) == 2 * number


def test_a_broken_file_or_no_folder_costs_time_only(folder: Path, solved: list[object]) -> None:
    scenario = load_scenario("hospitals-network")
    folder.mkdir(parents=True)
    (folder / "plans.db").write_bytes(b"no database" * 100)
    plans = make_plans(scenario)
    (folder / "plans.db").unlink()
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    assert make_plans(scenario) == plans


def test_participants_never_read_it() -> None:
    """A changed file must not lower anybody's noise: only planning and commands that show import it."""
    root = Path(module.__file__).parents[1]
    users = [file for file in root.rglob("*.py") if "planning.known" in file.read_text()]
    names = sorted(file.relative_to(root).as_posix() for file in users)
    assert names == [
        "cli/budget_accounts.py",
        "cli/check.py",
        "planning/networks.py",
        "planning/plan.py",
        "planning/secure_sum.py",
        "terms/costs.py",
    ]
    # Of these, `terms/costs.py` names it in a comment; it and `planning/networks.py` look up where `check` says so.
    setters = [f for f in root.rglob("*.py") if any(call in f.read_text() for call in ("remembered.set(", "shown()"))]
    assert sorted(f.relative_to(root).as_posix() for f in setters) == ["cli/check.py", "planning/known.py"]


@pytest.mark.parametrize("numbers", ["no list", "[1.0]", '["a", 2]', "[NaN, 1.0]", "[-1.0, 1.0]", "{}", "null"])
def test_a_damaged_entry_is_solved_again(folder: Path, numbers: str) -> None:
    solve = lambda: (1.5, 2.5)  # noqa: E731
    assert module.known(["plan"], solve, 2) == (1.5, 2.5)
    with sqlite3.connect(folder / "plans.db") as link:
        link.execute("UPDATE plans SET numbers = ?", (numbers,))
    assert module.known(["plan"], solve, 2) == (1.5, 2.5)
    assert module.known(["plan"], lambda: (9.0, 9.0), 2) == (1.5, 2.5)  # and kept


def test_what_is_shown_may_be_remembered_and_what_runs_never_is(folder: Path) -> None:
    """A file with a tenth of the noise changes what `check` prints; a run and a participant solve their own."""
    truth = load_scenario("secure-banks")
    participant = truth.roster[0]
    sigma = sigma_of(truth.contract, participant)
    with module.shown():
        assert sigma_of(truth.contract, participant) == sigma
        with sqlite3.connect(folder / "plans.db") as link:
            link.execute("UPDATE plans SET numbers = '[0.25]'")
        assert sigma_of(truth.contract, participant) == 0.25
    assert sigma_of(truth.contract, participant) == sigma
    assert load_scenario("secure-banks").contract == truth.contract


def test_the_file_holds_no_more_than_numbers(folder: Path) -> None:
    make_plans(load_scenario("hospitals-network"))
    with sqlite3.connect(folder / "plans.db") as link:
        rows = link.execute("SELECT plan FROM plans").fetchall()
    assert rows
    assert not any("hospital" in plan for (plan,) in rows)


def test_an_account_that_was_shown_before_is_not_counted_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    event = PoissonGaussian(noise_multiplier=1.0, sampling_rate=0.1, steps=20, partition="train", unit="patient_id")
    first = budget_accounts._count([event, event], 1e-5)
    assert first == accounting.epsilon([event, event], 1e-5)
    monkeypatch.setattr(budget_accounts, "epsilon", lambda events, delta: 9.0)
    assert budget_accounts._count([replace(event, steps=40)], 1e-5) == first  # the same mechanism, added up
    assert budget_accounts._count([event], 1e-5) == 9.0
    assert budget_accounts._count([event, event], 1e-6) == 9.0
    assert b"patient_id" not in (folder / "plans.db").read_bytes()
    without_noise = NonPrivate(what="update", partition="train", unit="record")
    assert budget_accounts._count([without_noise], 1e-5) == 9.0  # infinite numbers are never kept
    monkeypatch.undo()
    assert budget_accounts._count([without_noise], 1e-5) == float("inf")


def test_a_file_that_changes_changes_the_digest_of_its_folder(tmp_path: Path) -> None:
    inside = tmp_path / "inner" / "code.py"
    inside.parent.mkdir()
    inside.write_text("a = 1")
    before = module.digest([tmp_path])
    assert module.digest([tmp_path]) == before
    inside.write_text("a = 2")
    assert module.digest([tmp_path]) != before
