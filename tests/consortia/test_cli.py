"""The command line: exit 0 ok, 1 missed, 2 bad input with file, key, wanted and got; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner, Result

import privacy
from consortia.common.strict import read_toml
from consortia.terms.scenario import find_scenario


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def _scenario(folder: Path, name: str = "banks-network", **changes: Any) -> str:
    """Write a changed copy of a committed scenario with its policies; return its path."""
    source = find_scenario(name)
    data = tomllib.loads(source.read_text(encoding="utf-8"))
    for path, value in changes.items():
        *parents, last = path.split("__")
        place: Any = data
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        place[last] = value
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / source.name
    target.write_text(tomli_w.dumps(data), encoding="utf-8")
    policies = folder / "policies" / source.stem
    policies.mkdir(parents=True)
    for file in (source.parent / "policies" / source.stem).iterdir():
        (policies / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    return str(target)


@pytest.mark.end_to_end
def test_run_prints_the_table_and_writes_the_record(tmp_path: Path) -> None:
    result = call("run", "linear", "--rounds", "20", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    for word in ("line-a", "line-b", "synthetic", "not charged", "non-private", "RMSE, lower is better"):
        assert word in result.output
    for heading in ("alone", "control", "federated", "joined", "net gain [95 %]", "verdict"):
        assert heading in result.output
    (record,) = tmp_path.glob("*/result.json")
    told = json.loads(record.read_text())
    assert told["status"] == "completed"
    for participant in told["participants"].values():
        assert {"local", "control", "federated", "joined"} <= participant["metrics"][participant["headline"]].keys()
        net = participant["net_gain"]
        assert net["low"] <= net["value"] <= net["high"]


def test_a_missed_expectation_is_exit_1(tmp_path: Path) -> None:
    result = call("run", "linear", "--rounds", "1", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "head.weight: wanted 3.0 within 0.05, got" in result.output


def test_json_is_json(tmp_path: Path) -> None:
    result = CliRunner().invoke(APP, ["run", "linear", "--rounds", "2", "--out", str(tmp_path), "--json"])
    assert json.loads(result.stdout)["scenario"] == "linear"
    checked = CliRunner().invoke(APP, ["check", "banks-network", "--json"])
    assert len(json.loads(checked.stdout)["participants"]) == 5


def test_receipts_are_read_in_the_homes(tmp_path: Path) -> None:
    call("run", "linear", "--rounds", "2", "--epsilon", "8", "--out", str(tmp_path))  # too short for its expectation
    homes = [str(home) for home in sorted(tmp_path.glob("*/participants/*"))]
    shown = call("receipt", *homes)
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("unit record, add or remove one, δ of the run 1e-05") == len(homes) == 2
    kept = json.loads(call("receipt", "--json", homes[0]).output)
    assert [receipt["participant"] for receipt in kept] == ["line-a"]
    assert call("receipt", homes[0], "--run", "another").exit_code == 2


@pytest.mark.end_to_end
def test_check_shows_the_plan_and_warns() -> None:
    result = call("check", "cross-industry-network")
    assert result.exit_code == 0
    for word in ("hospital-a", "factory-b", "σ", "update:"):
        assert word in result.output
    warned = call("check", "factories-network", "--epsilon", "high=0.01")
    assert "warning high: epsilon 0.01 with" in warned.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "cross-industri"], "check the spelling"),
        (["run", "missing.toml"], "check the path"),
        (["run", "banks-network", "--epsilon", "0"], "wanted a number > 0"),
        (["run", "banks-network", "--epsilon", "nobody=1"], "wanted a participant of banks-network"),
        (["run", "banks-network", "--engine", "warp"], "--engine: wanted one of embedded, flower"),
        (["run", "banks-network", "--data", "/nowhere"], "--data /nowhere: wanted a folder"),
        (["run", "banks-network", "--resume", "/nowhere"], "holds job.json"),
        (["run", "banks-network", "--rounds", "0"], "contract.rounds: wanted greater than or equal to 1"),
        (["run", "banks-network", "--engine", "flower", "--dump", "x"], "wanted a simulation"),
        (["run"], "wanted the name or path of a scenario"),
        (["new", "client", "bank"], "exists already"),
        (["new", "client", "Bad Name"], "wanted a name of 2 to 30 small letters"),
        (["budget", "show", "nobody", "--home", "/nowhere"], "consortia budget init"),
        (["budget", "init"], "give exactly one"),
    ],
)
def test_bad_input_is_exit_2_with_a_sentence(arguments: list[str], words: str, tmp_path: Path) -> None:
    extra = ["--out", str(tmp_path)] if arguments[0] == "run" else []
    result = call(*arguments, *extra)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"contract__ruonds": 3}, "contract.ruonds: unknown key; did you mean 'rounds'?"),
        ({"schema": 3}, "schema: wanted 1 (what this version reads), got 3"),
        ({"roster__0__epsilon": -2.0}, "roster.0.epsilon: wanted greater than 0, got -2.0"),
        ({"roster__0__delta": 0.1}, "delta < 1/units"),
        ({"roster__0__industry": "airline"}, "an installed industry"),
        ({"roster__0__site": "moon"}, "site: wanted one of"),
        ({"contract__industries__bank__split": "flamby"}, "split: wanted one of hash, got 'flamby'"),
        ({"contract__industries__bank__filter": "x"}, "filter: wanted one of none"),
        ({"contract__industries__bank__init": {"file": "/nowhere", "sha256": "0" * 64}}, "wanted a safetensors file"),
    ],
)
def test_bad_scenarios_are_exit_2(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    result = call("run", _scenario(tmp_path / "s", **changes), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 2, result.output
    assert words in result.output.replace("\n", "")
    assert not (tmp_path / "runs").exists()


def _data(tmp_path: Path, change: Any) -> Path:
    """Write a tiny data set in the bank's public format, spoilt by `change`."""
    line = "A11 6 A34 {purpose} 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 {label}"
    lines = [
        line.format(purpose=purpose, label=1 + (i % 2))
        for purpose in ("A40", "A41", "A42", "A43", "A46")
        for i in range(40)
    ]
    folder = tmp_path / "data" / "bank" / "german_credit"
    folder.mkdir(parents=True)
    (folder / "german.data").write_text("\n".join(change(lines)) + "\n")
    return tmp_path / "data"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda lines: [x.replace(" 1169 ", " much ") for x in lines], id="text in a number"),
        pytest.param(
            lambda lines: [" ".join(x.split()[:5]) for x in lines], id="a wrong column", marks=pytest.mark.end_to_end
        ),
        pytest.param(lambda lines: [x[:-1] + "9" for x in lines], id="an unknown class"),
        pytest.param(lambda lines: [], id="an empty file"),
    ],
)
def test_bad_rows_are_a_named_bounded_failure_and_stay_at_home(change: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, change)
    result = call("run", "banks-network", "--rounds", "2", "--data", str(data), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 2, result.output
    assert "PARTICIPANT_ERROR" in result.output
    assert "nobody was charged" in result.output
    assert "cause at" in result.output
    assert not {"much", "1169"} & set(result.output.split())
    (folder,) = (tmp_path / "runs").iterdir()
    log = (folder / "participants" / "new-car" / "participant.log").read_text()
    assert "incident" in log
    assert "much" not in log
    assert "1169" not in log


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda lines: [x[:-1] + "1" if " A41 " in x else x for x in lines], id="one class at one site"),
        pytest.param(lambda lines: [x for x in lines if " A41 " not in x] + lines[40:41], id="one row at one site"),
    ],
)
def test_few_rows_and_one_class_are_legal(change: Any, tmp_path: Path) -> None:
    data = _data(tmp_path, change)
    result = call("run", "banks-network", "--rounds", "2", "--data", str(data), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 0, result.output


@pytest.mark.end_to_end
def test_one_class_everywhere_is_a_named_failure(tmp_path: Path) -> None:
    data = _data(tmp_path, lambda lines: [x[:-1] + "1" for x in lines])
    result = call("run", "banks-network", "--rounds", "2", "--data", str(data), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 1
    assert "no participant has a second class" in result.output


@pytest.mark.end_to_end
def test_quarantined_rows_are_counted_at_home(tmp_path: Path) -> None:
    data = _data(tmp_path, lambda lines: [lines[0].replace(" 1169 ", " secret-amount "), *lines[1:]])
    result = call("run", "banks-network", "--rounds", "2", "--data", str(data), "--out", str(tmp_path / "runs"))
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "runs").iterdir()
    log = (folder / "participants" / "new-car" / "participant.log").read_text()
    assert "1 of 40 rows quarantined" in log
    receipt = json.loads(next((folder / "participants" / "new-car" / "runs").glob("*/receipt.json")).read_text())
    assert receipt["quarantine"]["rows_read"] - receipt["quarantine"]["rows_kept"] == 1
    for file in folder.rglob("*"):
        if file.is_file():
            assert b"secret-amount" not in file.read_bytes(), file


def test_a_foreign_package_of_the_same_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "privacy").mkdir()
    real = Path(privacy.__file__).parent
    for file in real.glob("*.py"):
        (tmp_path / "privacy" / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "consortia.cli", "check", "linear"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "package 'privacy': wanted the one beside consortia" in done.stderr


def test_a_missing_policy_is_a_refusal(tmp_path: Path) -> None:
    scenario = _scenario(tmp_path / "s")
    (tmp_path / "s" / "policies" / "banks-network" / "other.toml").unlink()
    result = call("run", scenario, "--out", str(tmp_path / "runs"))
    assert result.exit_code == 2
    assert "policy of other: wanted" in result.output.replace("\n", "")


@pytest.mark.end_to_end
def test_a_policy_that_forbids_is_named(tmp_path: Path) -> None:
    scenario = _scenario(tmp_path / "s")
    file = tmp_path / "s" / "policies" / "banks-network" / "other.toml"
    policy = read_toml(file)
    policy["allow"]["releases"] = []
    file.write_text(tomli_w.dumps(policy), encoding="utf-8")
    result = call("run", scenario, "--rounds", "2", "--out", str(tmp_path / "runs"))
    assert result.exit_code == 0  # the others go on; quorum is half
    assert "other: RELEASE_NOT_ALLOWED" in result.output


@pytest.mark.end_to_end
def test_budget_init_show_export(tmp_path: Path) -> None:
    made = call("budget", "init", "--scenario", "linear", "--home", str(tmp_path))
    assert made.exit_code == 0
    policy = read_toml(tmp_path / "line-a" / "policy.toml")
    assert policy["demo"] is False
    assert policy["allow"]["contracts"][0].startswith("sha256:")
    again = call("budget", "init", "line-a", "--home", str(tmp_path))
    assert again.exit_code == 2
    assert "never replaced" in again.output.replace("\n", "")
    run = call("run", "linear", "--epsilon", "1", "--ledger", str(tmp_path), "--out", str(tmp_path / "runs"))
    assert run.exit_code in {0, 1}
    # The owner finds its receipt in its own home, whose ledger was charged.
    assert call("receipt", str(tmp_path / "line-a")).exit_code == 0
    shown = CliRunner().invoke(APP, ["budget", "show", "line-a", "--home", str(tmp_path), "--json"])
    accounts = json.loads(shown.stdout)["accounts"]
    assert [a["horizon"].split()[0] for a in accounts] == ["run", "lifetime"]
    assert accounts[0]["epsilon"] == pytest.approx(1, rel=5e-3)
    exported = CliRunner().invoke(APP, ["budget", "export", "line-a", "--home", str(tmp_path)])
    assert json.loads(exported.stdout)["participant"] == "line-a"


def test_every_command_has_an_example() -> None:
    for command in (
        ["check"],
        ["run"],
        ["budget", "init"],
        ["budget", "show"],
        ["budget", "export"],
        *(["new", what] for what in ("client", "strategy", "metric", "source", "tracker")),
    ):
        assert "Example: consortia" in call(*command, "--help").output
