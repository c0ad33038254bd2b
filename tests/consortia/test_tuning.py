"""Planning and sweeping budgets: numbers by hand, nothing lost on Ctrl-C, real rows only by their owners' word."""

from __future__ import annotations

import json
import math
import re
import shlex
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.planning.plan import make_plans
from consortia.studies import sweep as sweeps
from consortia.studies.sweep import Sweep
from consortia.studies.tuning import answer, knobs, prices
from consortia.terms.scenario import load_scenario, scenario_from_json
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian

ROOT = Path(__file__).resolve().parents[2]


def call(*arguments: str, code: int = 0) -> Any:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result


def test_prices_by_hand() -> None:
    scenario = load_scenario("banks-network")
    plan = next(p for p in make_plans(scenario) if p.name == "used-car")
    half, same = prices(scenario, plan, [1.5, 3.0])
    assert same.noise_multiplier == plan.noise_multiplier
    # 62 training units, q = 1, 40 steps, 24-odd numbers: sigma sqrt(d) / (q n sqrt(T)).
    size = plan.parameters_shared + plan.parameters_private
    assert plan.training_units == round(103 * 0.6) == 62
    assert same.noise_ratio == pytest.approx(plan.noise_multiplier * math.sqrt(size) / (62 * math.sqrt(40)))
    assert half.noise_multiplier > 1.5 * same.noise_multiplier
    # The proposal pays for its own 20 rounds and not for a 21st; half of it pays for less than half.
    assert same.rounds_affordable in {19, 20}
    assert 1 <= half.rounds_affordable < 10
    event = PoissonGaussian(
        noise_multiplier=plan.noise_multiplier,
        sampling_rate=1.0,
        steps=2 * half.rounds_affordable,
        partition="train",
        unit="record",
    )
    assert epsilon([event], 1e-5) <= 1.5


def test_knobs_say_which_helps_in_numbers() -> None:
    scenario = load_scenario("banks-network")
    found = {knob.knob: knob for knob in knobs(scenario, scenario.participant("used-car"))}
    base = found["as proposed"]
    assert found["epsilon"].helps
    assert found["epsilon"].noise_multiplier < base.noise_multiplier
    assert not found["clip"].helps  # noise and signal shrink together
    assert found["clip"].update_noise == pytest.approx(base.update_noise / 2)
    assert found["clip"].noise_ratio == base.noise_ratio
    # At q = 1 the Gaussian mechanism's sigma grows as sqrt(steps): the ratio hardly moves, the noise in the model does.
    assert found["rounds"].noise_ratio == pytest.approx(base.noise_ratio, rel=2e-3)
    assert found["rounds"].update_noise == pytest.approx(base.update_noise / 2, rel=2e-3)


@pytest.mark.end_to_end
def test_a_smaller_model_and_a_larger_rate_are_knobs_where_they_exist() -> None:
    scenario = load_scenario("factories-network")
    data = json.loads(scenario.to_json())
    data["contract"]["industries"]["factory"] |= {
        "model": {"kind": "mlp", "hidden": [32]},
        "sampling_rate": 0.05,
        "local_steps": 1,
    }
    data["contract"]["rounds"] = 5  # over many steps sigma grows as q does, and larger batches gain nothing
    changed = scenario_from_json(json.dumps(data))
    found = {knob.knob: knob for knob in knobs(changed, changed.roster[0])}
    assert found["model"].helps
    assert found["sampling_rate"].helps
    assert (found["sampling_rate"].before, found["sampling_rate"].after) == ("0.05", "0.1")


def test_the_lifetime_is_the_participants_own(tmp_path: Path) -> None:
    call("budget", "init", "--scenario", "banks-network", "--home", str(tmp_path))
    call("budget", "set", "other", "--run", "2", "--lifetime", "5", "--home", str(tmp_path))
    data = answer(load_scenario("banks-network"), "banks-network", [1.0], tmp_path, "other")
    life = data["participants"]["other"]["lifetime"]
    assert (life["left"], life["runs_left"], life["source"]) == (5.0, 2, "policy and ledger")  # 5 / min(3, 2)
    demo = answer(load_scenario("banks-network"), "banks-network", [1.0], None, "other")["participants"]["other"][
        "lifetime"
    ]
    assert (demo["left"], demo["runs_left"], demo["source"]) == (12.0, 4, "demonstration policy")


def test_the_interval_by_hand() -> None:
    # mean .8, s = .1, n = 3, t(.975, 2) = 4.3027: .8 -+ 4.3027 x .1 / sqrt(3) = .8 -+ .2484
    mean, low, high = sweeps._interval([0.7, 0.8, 0.9])
    assert (mean, low, high) == pytest.approx((0.8, 0.5516, 1.0484), abs=1e-4)
    assert math.isnan(sweeps._interval([0.7])[1])


def _fake(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[tuple[float, int]]:
    """Replace the run of a cell by one with a known answer; interrupt it once."""
    made: list[tuple[float, int]] = []

    def cell(sweep: Sweep, value: float, seed: int, out: Path) -> dict[str, Any]:
        if len(made) == stop_at:
            raise KeyboardInterrupt
        made.append((value, seed))
        participant = {"metric": "auc", "local": 0.6, "state": "ACTIVE"}
        account = {"run": value, "delta": 1e-5, "unit": "record", "non_private": False}
        return {
            "schema": 1,
            "epsilon": value,
            "seed": seed,
            "status": "completed",
            "synthetic": True,
            "charged": False,
            "participants": {
                name: {**participant, "federated": 0.7 + 0.01 * seed, "epsilon": account}
                for name in ("used-car", "other")
            },
        }

    monkeypatch.setattr(sweeps, "_run_cell", cell)
    return made


@pytest.mark.end_to_end
def test_a_sweep_is_resumed_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["budget", "sweep", "banks-network", "--participant", "used-car", "--epsilon", "0.5,2", "--seeds", "3"]
    made = _fake(monkeypatch, stop_at=4)
    said = call(*command, "--out", str(tmp_path / "s"), code=1)
    assert "finished runs are kept" in said.output
    assert made == [(0.5, 0), (2.0, 0), (0.5, 1), (2.0, 1)]  # seed by seed: whole curves
    more = _fake(monkeypatch)
    said = call(*command, "--out", str(tmp_path / "s"))
    assert more == [(0.5, 2), (2.0, 2)]
    assert "4/6: ε 2, seed 1 (kept)" in said.output  # plain lines without a terminal
    assert "0.710 [0.685, 0.735]" in said.output  # .71 -+ 4.3027 x .01 / sqrt(3) = .0248
    for word in ("synthetic rows", "3 seeds", "δ 1e-05", "unit: record"):
        assert word in said.output.replace("\n", " ")
    assert "| 0.5 | 0.710 [0.685, 0.735] |" in (tmp_path / "s" / "sweep.md").read_text()
    assert (tmp_path / "s" / "sweep.csv").read_text().startswith("epsilon,participant,metric,mean,low,high")
    assert ET.parse(tmp_path / "s" / "sweep.svg").getroot().tag.endswith("svg")
    assert (tmp_path / "s" / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    wider = call(*command[:-1], "4", "--out", str(tmp_path / "s"))  # more seeds later: only the new ones run
    assert "7/8: ε 0.5, seed 3\n" in wider.output
    other = call(*command, "--rounds", "3", "--out", str(tmp_path / "s"), code=2)
    assert "another sweep's" in other.output.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--epsilon", "0.5,x"], "--epsilon: wanted different numbers"),
        (["--epsilon", "1,1"], "--epsilon: wanted different numbers"),
        (["--participant", "nobody"], "--participant: wanted one of new-car"),
        (["--data", "."], "wanted --ledger DIR too"),
        (["--ledger", "."], "no policy file at"),
    ],
)
def test_what_cannot_be_swept_is_exit_2(tmp_path: Path, arguments: list[str], words: str) -> None:
    said = call("budget", "sweep", "banks-network", *arguments, "--out", str(tmp_path / "s"), code=2)
    assert words in said.output.replace("\n", " ")
    assert not (tmp_path / "s").exists()


def test_real_rows_are_swept_only_by_their_owners_word(tmp_path: Path) -> None:
    call("budget", "init", "--scenario", "banks-network", "--home", str(tmp_path))
    asked = Sweep(
        scenario="banks-network",
        participant="other",
        epsilons=(1.0,),
        seeds=1,
        data=tmp_path,
        ledger=tmp_path,
        rounds=None,
    )
    with pytest.raises(InputError, match=r"allow\.sweeps: wanted true, got false"):
        sweeps.check(asked)
    for name in (participant.name for participant in load_scenario("banks-network").roster):
        file = tmp_path / name / "policy.toml"
        file.write_text(file.read_text().replace("[allow]", "[allow]\nsweeps = true"))
        assert read_toml(file)["allow"]["sweeps"] is True
    assert sweeps.check(asked).name == "banks-network"


@pytest.mark.end_to_end
def test_a_sweep_and_a_plan_really_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    swept = call(
        *("budget", "sweep", "banks-network", "--participant", "used-car", "--epsilon", "0.5,8", "--seeds", "2"),
        *("--rounds", "4", "--json"),
    )
    points = json.loads(swept.stdout)["points"]
    assert len(points) == 10  # two ε, five participants: each sees what it does to itself and to the others
    for point in points:
        wanted = point["epsilon"] if point["participant"] == "used-car" else 3.0
        assert point["own_epsilon"] == pytest.approx(wanted, rel=0.01)
        assert point["metric"] == "auc"
    assert not list(Path("sweeps/banks-used-car").glob(".run-*"))
    planned = json.loads(
        call("budget", "plan", "banks-network", "--epsilon", "1", "--rounds", "4", "--seeds", "1", "--json").stdout
    )
    (price,) = planned["participants"]["other"]["prices"]
    assert price["utility"]["data"] == "synthetic"
    assert 0 < price["utility"]["mean"] < 1


@pytest.mark.end_to_end
def test_real_rows_are_charged_in_full(tmp_path: Path) -> None:
    homes, data = tmp_path / "homes", tmp_path / "data"
    call("budget", "init", "--scenario", "banks-network", "--home", str(homes))
    for file in homes.glob("*/policy.toml"):
        file.write_text(file.read_text().replace("[allow]", "[allow]\nsweeps = true"))
    line = "A11 6 A34 {purpose} 1169 A65 A75 4 A93 A101 4 A121 {age} A143 A152 2 A173 1 A192 A201 {label}"
    folder = data / "bank" / "german_credit"
    folder.mkdir(parents=True)
    purposes = ("A40", "A41", "A42", "A43", "A46")
    rows = [line.format(purpose=p, age=20 + i, label=1 + i % 2) for p in purposes for i in range(40)]
    (folder / "german.data").write_text("\n".join(rows) + "\n")
    asked = Sweep(
        scenario="banks-network",
        participant="other",
        epsilons=(1.0, 2.0),
        seeds=1,
        data=data,
        ledger=homes,
        rounds=None,
    )
    cells = sweeps.run(asked, tmp_path / "s", lambda *_: None)
    assert all(cell["charged"] and not cell["synthetic"] for cell in cells)
    shown = json.loads(call("budget", "show", "other", "--home", str(homes), "--json").stdout)["accounts"]
    assert [account["budget"] for account in shown] == [1.0, 2.0, 12.0]  # two runs and the lifetime
    assert shown[-1]["left"] == pytest.approx(9.0)


@pytest.mark.end_to_end
def test_the_pages_tuning_is_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands of the page: one number in one file, and the next run honours it."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "how_to" / "budgets.md").read_text(encoding="utf-8")
    section = text.split("## Tune your own ε", 1)[1].split("\n## ", 1)[0]
    (block,) = re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL)
    commands = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("consortia")]
    budgets = []
    for command in commands:
        said = CliRunner().invoke(APP, command, env={"COLUMNS": "200"})
        # Two rows of a straight line at a finite ε miss the scenario's expected parameters: exit 1, and said so.
        assert said.exit_code in {0, 1}, said.output
        if command[0] == "run":
            newest = max(Path("runs").glob("*/result.json"), key=lambda file: file.stat().st_mtime)
            participants = json.loads(newest.read_text())["participants"]
            budgets.append({name: participant["epsilon"]["budget"] for name, participant in participants.items()})
            for participant in participants.values():
                assert participant["epsilon"]["run"] <= participant["epsilon"]["budget"] + 1e-9
    assert budgets == [{"line-a": 1.0, "line-b": 1.0}, {"line-a": 0.5, "line-b": 1.0}]
    # The last command is the history; as JSON, since a table may wrap.
    assert "budget set" in CliRunner().invoke(APP, [*commands[-1], "--json"]).output
