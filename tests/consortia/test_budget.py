"""`consortia budget`: show, history, set and export tell the same as the ledger, and an auditor can recount them."""

from __future__ import annotations

import json
import re
import runpy
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.cli import budget_accounts
from consortia.common.strict import read_toml
from privacy.accounting import epsilon
from privacy.events import GaussianRelease, LaplaceRelease
from privacy.ledger import Budget, Ledger, RunPlan

ROOT = Path(__file__).resolve().parents[2]
RECOUNT: Any = runpy.run_path(str(ROOT / "benchmarks" / "recount_ledger.py"))["main"]


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, ["budget", *arguments], env={"COLUMNS": "250"})
    assert result.exit_code == code, result.output
    return result.output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A participant with a run of training, Gaussian metrics and Laplace counts, one release of it abandoned."""
    call("init", "--scenario", "linear", "--home", str(tmp_path))
    with Ledger.open(tmp_path / "line-a" / "ledger.db", "line-a") as ledger:
        common: dict[str, Any] = {"partition": "train", "unit": "record"}
        plan = RunPlan(
            run_id="run-1",
            dataset="line",
            contract_sha256="c" * 64,
            unit="record",
            declared_units=120,
            allowance=Budget(1.0, 1e-5),
            noise_multiplier=4.0,
            sampling_rate=0.1,
            steps_per_round=5,
            rounds=4,
            clip=1.0,
            non_private=False,
            other_events=(
                GaussianRelease(noise_multiplier=40.0, count=2, **common),
                LaplaceRelease(noise_multiplier=200.0, count=1, **common),
            ),
        )
        ledger.open_run(plan, Budget(4.0, 4e-5))
        for number in range(1, 4):
            reservation = ledger.reserve("run-1", number, "k", plan.round_events(), lifetime=Budget(4.0, 4e-5))
            if number < 3:
                ledger.commit(reservation, b"reply")
    return tmp_path


def test_show_says_what_was_spent_by_what_and_what_is_left(home: Path) -> None:
    run, lifetime = json.loads(call("show", "line-a", "--home", str(home), "--json"))["accounts"]
    with Ledger.open(home / "line-a" / "ledger.db", "line-a") as ledger:
        events = [event for entry in ledger.entries() for event in entry.events]
    assert run["epsilon"] == pytest.approx(epsilon(events, 1e-5))
    assert (run["releases"], run["abandoned"], run["unit"]) == (3, 1, "record")
    assert run["left"] == pytest.approx(1.0 - run["epsilon"])
    assert [part["times"] for part in run["by"]] == [6, 3, 15]
    # Joint composition costs less than the parts added up.
    assert run["epsilon"] < sum(part["epsilon_alone"] for part in run["by"])
    assert lifetime["left"] == pytest.approx(3.0)  # 4 less the allowance of the one run that released
    table = call("show", "line-a", "--home", str(home))
    for word in ("15 x DP-SGD", "6 x Gaussian", "3 x Laplace", "lifetime", "record", "1e-05", "ε left"):
        assert word in table
    # Runs come first, and the two kinds of spending are apart.
    assert table.startswith("line-a, line: runs like the last one left: 3 (ε 1 at δ 1e-05 each).")
    assert "reserved by the filter" in table
    assert (lifetime["runs_left"], lifetime["reserved"]) == (3, pytest.approx(1.0))
    unused = call("show", "line-b", "--home", str(home))
    assert "runs like the run budget's left: 4" in unused  # all of it is left
    assert "Nothing was spent yet" in unused


def test_history_is_the_chain_in_words(home: Path) -> None:
    lines = json.loads(call("history", "line-a", "--home", str(home), "--json"))["history"]
    assert [line["what"] for line in lines] == ["run opened", "released", "released", "charged, abandoned"]
    by_run = call("history", "line-a", "--home", str(home))
    assert "run run-1" in by_run
    assert "3 releases, 1 of them abandoned: ε " in by_run
    assert "round 3" not in by_run
    by_round = call("history", "line-a", "--home", str(home), "--rounds")
    assert "round 3 of run-1, charged, abandoned: ε " in by_round
    assert "3 older entries" in call("history", "line-a", "--home", str(home), "--rounds", "--last", "1")


def test_at_80_columns_nothing_is_broken(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_accounts.out, "width", 80)
    with Ledger.open(home / "line-a" / "ledger.db", "line-a") as ledger:
        ids = {entry.run_id for entry in ledger.entries()}
    for command in (["show"], ["history"], ["history", "--rounds"]):
        said = call(*command[:1], "line-a", *command[1:], "--home", str(home))
        assert all(len(line) <= 80 for line in said.splitlines()), command
        assert all(name in said for name in ids)
        assert "…" not in said
        assert not re.search(r"([εδσ=]| of| x)\n\s*\d", said), command


def test_set_edits_one_number_keeps_the_rest_and_is_recorded(home: Path) -> None:
    file = home / "line-a" / "policy.toml"
    file.write_text("# my own remark\n" + file.read_text())
    before = read_toml(file)
    said = call("set", "line-a", "--lifetime", "9", "--home", str(home))
    assert "lifetime: ε 4 at δ 4e-05 -> ε 9 at δ 4e-05 (add/remove one unit: record)" in said
    assert "Raised" in said
    assert file.read_text().startswith("# my own remark\n")
    after = read_toml(file)
    before["budget"]["lifetime"]["epsilon"] = 9.0
    assert after == before
    call("set", "line-a", "--run", "0.5", "--home", str(home))
    shown = json.loads(call("show", "line-a", "--home", str(home), "--json"))["accounts"]
    assert shown[1]["left"] == pytest.approx(8.0)
    assert shown[0]["releases"] == 3  # a note costs nothing
    notes = [line["detail"] for line in json.loads(call("history", "line-a", "--home", str(home), "--json"))["history"]]
    assert "lifetime ε 9, δ 4e-05 (raised)" in notes[-2]
    assert "run ε 0.5, δ 1e-05 (lowered)" in notes[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "wanted --run"),
        (["--run", "9"], "lifetime epsilon and delta at least as large"),
        (["--run", "-1"], "greater than 0"),
        (["--run", "nan"], "finite"),
        (["--lifetime-delta", "0.5"], "1/declared_units"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_and_changes_nothing(home: Path, arguments: list[str], words: str) -> None:
    file = home / "line-a" / "policy.toml"
    before = file.read_bytes()
    assert words in call("set", "line-a", *arguments, "--home", str(home), code=2).replace("\n", "")
    assert file.read_bytes() == before


def test_an_auditor_recounts_the_export(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call("set", "line-a", "--lifetime", "9", "--home", str(home))
    data = json.loads(call("export", "line-a", "--home", str(home)))
    export = tmp_path / "export.json"
    export.write_text(json.dumps(data))
    assert RECOUNT([str(export)]) == 0
    assert "links follow" in capsys.readouterr().out
    data["accounts"][0]["epsilon"] -= 0.02
    export.write_text(json.dumps(data))
    assert RECOUNT([str(export)]) == 1
    data["entries"][0]["events"][0]["steps"] = 1
    export.write_text(json.dumps(data))
    assert RECOUNT([str(export)]) == 1
    assert "does not follow" in capsys.readouterr().out


@pytest.mark.end_to_end
def test_every_printed_epsilon_names_unit_delta_and_horizon(home: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "runs")
    homes = ["--home", str(home)]
    for command, horizon in (
        (["check", "linear", "--epsilon", "1"], "run"),
        (["run", "linear", "--epsilon", "1", "--out", out], "lifetime"),
        (["budget", "show", "line-a", *homes], "lifetime"),
        (["budget", "history", "line-a", *homes], "run"),
        (["budget", "set", "line-a", "--run", "0.5", *homes], "run"),
        (["budget", "plan", "linear", "--seeds", "0", "--epsilon", "1"], "run"),
    ):
        said = CliRunner().invoke(APP, command, env={"COLUMNS": "200"}).output
        assert "ε" in said
        for word in ("δ", "unit", "add", "remov", horizon):
            assert word in said, (command, word)
        for line in said.splitlines():
            if "so far" in line:
                assert re.search(r"run ε so far by proposals [\d.–]+ \(δ 1e-05, add/remove one unit\)", line), line


def test_an_edited_ledger_is_not_exported(home: Path) -> None:
    connection = sqlite3.connect(home / "line-a" / "ledger.db")
    connection.execute("DROP TRIGGER runs_keep")
    connection.execute("UPDATE runs SET bounds = '{}'")
    connection.commit()
    connection.close()
    for command in ("export", "history", "show"):
        assert "does not follow" in call(command, "line-a", "--home", str(home), code=2).replace("\n", " ")


def test_the_evaluation_units_have_a_budget_of_their_own(tmp_path: Path) -> None:
    def call(*arguments: str) -> tuple[int, str]:
        said = CliRunner().invoke(
            APP, ["budget", *arguments, "--home", str(tmp_path)], env={"COLUMNS": "250", "CONSORTIA_HOME": ""}
        )
        return said.exit_code, said.output

    assert call("init", "--scenario", "banks-network")[0] == 0
    code, said = call("set", "other", "--evaluation-run", "1")
    assert code == 2
    assert "--evaluation-lifetime" in said
    code, said = call("set", "other", "--evaluation-run", "1", "--evaluation-lifetime", "2.5", "--json")
    assert code == 0
    # The delta of the training units' budget, until it is set.
    account = {"run": {"epsilon": 1.0, "delta": 1e-5}, "lifetime": {"epsilon": 2.5, "delta": 4e-5}}
    assert json.loads(said)["after"]["evaluation"] == account
    lines = {line["dataset"]: line for line in json.loads(call("show", "other", "--json")[1])["accounts"]}
    assert (lines["credit"]["left"], lines["credit/evaluation"]["left"]) == (12.0, 2.5)
    assert lines["credit/evaluation"]["budget"] == 2.5
    code, said = call("set", "other", "--evaluation-lifetime", "3")
    assert code == 0
    assert "Raised" in said
    assert call("set", "other", "--evaluation-lifetime", "0.5")[0] == 2  # less than a run's
    (*_, last) = json.loads(call("history", "other", "--json")[1])["history"]
    assert "evaluation lifetime ε 3, δ 4e-05 (raised)" in last["detail"]
