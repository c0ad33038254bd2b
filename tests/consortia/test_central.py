"""`trust = "coordinator"`: what contract, policy, participants, coordinator and records make of DP-FedAvg."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import tomli_w
import torch
from rich.console import Console
from torch import Tensor

from clients import smart_home
from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.coordinator import trusted_rounds
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.trusted_rounds import CentralRounds
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.engines.vectorized import participants
from consortia.reports.tables import print_plan, print_result
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import State, initial_groups
from consortia.trust import trusted_coordinator
from consortia.trust.trusted_coordinator import flat_change, moved, plan_of
from privacy.accounting import epsilon
from privacy.events import NonPrivate, event_from_json
from privacy.randomness import seeded_generator
from strategies.registry import NAMES

ROOT = Path(__file__).resolve().parents[2]


def _few(tmp_path: Path, homes: int = 8, **contract: Any) -> str:
    """Return the path of smart-home with few homes."""
    data = read_toml(ROOT / "scenarios" / "smart-home.toml")
    data["crowd"] = [data["crowd"][0] | {"count": homes}]
    data["contract"]["central"] |= {"units": homes, "sampling_rate": 0.5, "delta": 0.01} | contract.pop("central", {})
    data["contract"] |= contract
    del data["expect"]
    path = tmp_path / "smart-home.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    policies = tmp_path / "policies" / "smart-home"
    policies.mkdir(parents=True, exist_ok=True)
    policies.joinpath("home.toml").write_text(
        (ROOT / "scenarios" / "policies" / "smart-home" / "home.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    return str(path)


def _run(tmp_path: Path, engine: str, scenario: str, **options: Any) -> Outcome:
    chosen = Options(scenario=scenario, out=tmp_path / engine, engine=engine, **options)
    return execute(prepare(chosen), chosen)


def _model(outcome: Outcome) -> dict[str, Tensor]:
    return safetensors.torch.load((outcome.job.folder / "model" / "smart_home.safetensors").read_bytes())


def test_the_committed_scenario_is_a_thousand_homes(tmp_path: Path) -> None:
    scenario = load_scenario("smart-home")
    assert (len(scenario.roster), scenario.contract.central.units) == (1000, 1000)  # type: ignore[union-attr]
    assert (scenario.roster[0].name, scenario.roster[-1].name) == ("home-0001", "home-1000")
    sites = [participant.site for participant in scenario.roster]
    assert len(set(sites)) == 1000
    assert (sites[0], sites[-1]) == ("datatest/1", "datatest2/476")
    for participant in scenario.roster:
        smart_home.CLIENT.check_site(participant.site)
    loud = scenario.with_overrides(epsilon=["inf"])
    assert contract_from_json(loud.contract.canonical()).central == loud.contract.central
    assert scenario_from_json(loud.to_json()) == loud
    assert plan_of(loud.contract).noise_multiplier == 0
    assert loud.contract.sha256() != scenario.contract.sha256()
    with pytest.raises(InputError, match="one number for everybody"):
        scenario.with_overrides(epsilon=["home-0001=2"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trust": "local"}, 'exactly where trust = "coordinator"'),
        ({"strategy": {"name": "scaffold", "weighting": "equal"}}, "needs the mean of the changes only"),
        ({"strategy": {"name": "fedavg"}}, 'strategy.weighting = "equal"'),
        ({"compression": {"kind": "int8"}}, "no longer clipped"),
        ({"evaluation": {"metrics": "dp"}, "releases": ["update", "metrics"]}, 'evaluation.metrics = "none"'),
        ({"scopes": {"head": "private"}}, "no private parameters"),
        ({"central": {"delta": 0.2}}, "central.delta < 1/central.units"),
    ],
)
def test_what_it_excludes_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(_few(tmp_path, **changes))


OPTIONS: dict[str, dict[str, Any]] = {
    "fedprox": {"mu": 0.1},
    "fedbuff": {"buffer_size": 2},
    "norm-bound": {"relative": 1.2},
    "server-optimizer": {"optimizer": "adam"},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_gets_the_noisy_mean_or_is_refused(tmp_path: Path, name: str) -> None:
    """What takes a mean of changes runs, and gets one update; nothing that looks at single updates may."""
    strategy = {"name": name, "weighting": "equal", "options": OPTIONS.get(name, {})}
    fits = name in {"fedavg", "fedprox", "fednova", "fedadagrad", "fedadam", "fedyogi", "server-optimizer"}
    if not fits:
        with pytest.raises(
            InputError, match=r"needs the mean of the changes only|local_steps = 1|needs a training loss"
        ):
            load_scenario(_few(tmp_path, strategy=strategy))
        return
    rounds, state, scenario = _rounds(tmp_path, strategy=strategy)
    rounds.plan = dataclasses.replace(rounds.plan, noise_multiplier=1.3, sampling_rate=1.0)
    made = scenario.contract.strategy.strategy()
    after, _, names = rounds.round(made, state, lambda sent: {one: dict(model) for one, model in sent.items()})
    assert len(names) == 8
    assert float(flat_change(state.groups["smart_home"], after["smart_home"]).norm()) > 0


def test_a_participant_that_claims_an_epsilon_of_its_own_is_refused(tmp_path: Path) -> None:
    path = Path(_few(tmp_path))
    data = read_toml(path)
    data["crowd"][0]["epsilon"] = 1.0
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match="the change itself is not noised"):
        load_scenario(str(path))
    data["crowd"][0]["count"] = 0
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    with pytest.raises(InputError, match=r"crowd\.count: wanted a whole number"):
        load_scenario(str(path))


@pytest.mark.parametrize("engine", [pytest.param("embedded", marks=pytest.mark.end_to_end), "vectorized"])
def test_a_policy_must_trust_the_coordinator(tmp_path: Path, engine: str) -> None:
    scenario = _few(tmp_path, homes=2)
    policy = tmp_path / "policies" / "smart-home" / "home.toml"
    policy.write_text(policy.read_text(encoding="utf-8").replace("trusted_coordinator = true\n", ""), encoding="utf-8")
    chosen = Options(scenario=scenario, out=tmp_path / "out", engine=engine, rounds=1, epsilon=("inf",))
    job = prepare(chosen)
    result = execute(job, chosen).result
    codes = {failure["code"] for participant in result["participants"].values() for failure in participant["failures"]}
    assert codes == {"RELEASE_NOT_ALLOWED"}


def _rounds(tmp_path: Path, **contract: Any) -> tuple[CentralRounds, Checkpoint, Scenario]:
    scenario = load_scenario(_few(tmp_path, **contract))
    groups = initial_groups(scenario.contract, ["smart_home"])
    assert scenario.contract.central is not None
    return CentralRounds(scenario, "run-1"), Checkpoint(0, groups, {}, {}, []), scenario


def test_a_reply_that_was_not_clipped_is_clipped_here(tmp_path: Path) -> None:
    """Everybody drawn sends a change of norm 1000, without noise: the mean moves by at most count x C / (q units)."""
    rounds, state, scenario = _rounds(tmp_path, central={"epsilon": math.inf})
    asked: list[str] = []

    def ask(sent: Mapping[str, State]) -> dict[str, State]:
        asked.extend(sent)
        return {name: {p: tensor + 500 for p, tensor in model.items()} for name, model in sent.items()}

    after, _, names = rounds.round(scenario.contract.strategy.strategy(), state, ask)
    moved_by = float(flat_change(state.groups["smart_home"], after["smart_home"]).norm())
    assert names == asked
    assert moved_by == pytest.approx(len(asked) * 0.5 / (0.5 * 8), abs=1e-5)


def test_who_does_not_answer_counts_as_nothing_and_the_noise_is_there(tmp_path: Path) -> None:
    """120 rounds of 6 numbers without an answer: deviation z C / (q units) = 1.3 x .5 / 4 within 4 standard errors."""
    rounds, state, scenario = _rounds(tmp_path, central={"epsilon": math.inf})
    rounds.plan = dataclasses.replace(rounds.plan, noise_multiplier=1.3)
    strategy = scenario.contract.strategy.strategy()
    start = state.groups["smart_home"]
    moves = [flat_change(start, rounds.round(strategy, state, lambda _: {})[0]["smart_home"]) for _ in range(120)]
    found = torch.cat(moves)
    wanted = 1.3 * 0.5 / 4
    assert abs(float(found.std()) / wanted - 1) < 4 / math.sqrt(2 * len(found))


def test_homes_are_drawn_with_the_contracts_rate(tmp_path: Path) -> None:
    """500 rounds of 8 homes at q = .5: sizes of mean 4 and variance 2; a fixed half would have none."""
    rounds, state, scenario = _rounds(tmp_path, central={"epsilon": math.inf})
    sizes: list[float] = []

    def ask(sent: Mapping[str, State]) -> dict[str, State]:
        sizes.append(float(len(sent)))
        return {}

    for _ in range(500):
        rounds.round(scenario.contract.strategy.strategy(), state, ask)
    sizes += [0.0] * (500 - len(sizes))  # nobody is asked when nobody is drawn
    assert abs(float(np.mean(sizes)) - 4) < 4 * math.sqrt(2 / 500)
    assert abs(float(np.var(sizes)) - 2) < 4 * 2 * math.sqrt(2 / 500)


def test_a_flat_change_and_back() -> None:
    before = {"b": torch.zeros(2), "a": torch.ones(2, 2)}
    after = {"a": torch.tensor([[2.0, 1.0], [1.0, 1.0]]), "b": torch.tensor([0.0, 3.0])}
    change = flat_change(before, after)
    assert change.tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 3.0]
    assert all(torch.equal(moved(before, change)[name], tensor) for name, tensor in after.items())


def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []

    def generator(_: object) -> torch.Generator:
        numbers.append(1)
        return seeded_generator("central", len(numbers))

    monkeypatch.setattr(trusted_rounds, "fresh_generator", generator)


@pytest.mark.end_to_end
def test_embedded_and_vectorized_agree_and_say_who_is_protected_from_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = _few(tmp_path)
    outcomes = {}
    for engine in ("embedded", "vectorized"):
        with monkeypatch.context() as patch:
            _seeded(patch)
            outcomes[engine] = _run(tmp_path, engine, scenario, rounds=6)
    one, other = outcomes["embedded"], outcomes["vectorized"]
    assert all(torch.allclose(_model(one)[name], tensor, atol=1e-5) for name, tensor in _model(other).items())
    assert [line["replies"] for line in one.result["history"]] == [line["replies"] for line in other.result["history"]]
    for outcome in outcomes.values():
        result, plan = outcome.result, plan_of(outcome.job.scenario.contract)
        found = result["central"]
        assert found["epsilon"]["models_only"] == epsilon([plan.event(6, "home")], 0.01) <= 3
        assert found["epsilon"]["who_took_part_known"] == epsilon([plan.event_when_known(6, "home")], 0.01, grid=1e-2)
        assert found["epsilon"]["coordinator"] is None
        assert (found["unit"], found["delta"], found["horizon"], found["rounds"]) == ("home", 0.01, "this run", 6)
        assert result["noise"] == "operating system entropy, once a round at the coordinator"
        for name, home in outcome.job.homes.items():
            account = result["participants"][name]["epsilon"]
            assert (account["run"], account["non_private"], account["budget"]) == (None, True, None)
            receipt = json.loads((home.run_folder(outcome.job.run_id) / "receipt.json").read_text(encoding="utf-8"))
            assert receipt["central"]["epsilon"] == found["epsilon"]
        console = Console(record=True, width=200)
        print_result(console, result)
        print_plan(console, outcome.job.scenario, [])
        assert "towards the coordinator ε = ∞ (not protected)" in console.export_text()
    took_part = {name for line in one.result["history"] for name in line["replies"]}
    for name, home in one.job.homes.items():
        file = home.run_folder(one.job.run_id) / "events.json"
        entries = json.loads(file.read_text(encoding="utf-8"))["entries"] if file.is_file() else []
        events = [event_from_json(event) for entry in entries for event in entry["events"]]
        assert all(isinstance(event, NonPrivate) for event in events)  # a home's own ledger claims no amplification
        assert bool(events) == (name in took_part)


def test_a_home_sends_no_longer_change_than_the_clip(tmp_path: Path) -> None:
    """Of norm C = .5 at most, over all parameters jointly, alone and stacked; a short one stays as it is."""
    contract = load_scenario(_few(tmp_path)).contract
    start = initial_groups(contract, ["smart_home"])["smart_home"]
    after = {name: torch.stack([tensor + 3, tensor + 0.01]) for name, tensor in start.items()}
    together = participants._shortened(start, after, 0.5)
    for place, wanted in enumerate((0.5, 0.01 * math.sqrt(6))):
        alone = trusted_coordinator.shortened(contract, start, {name: tensor[place] for name, tensor in after.items()})
        assert float(flat_change(start, alone).norm()) == pytest.approx(wanted, abs=1e-5)
        assert all(torch.allclose(together[name][place], tensor) for name, tensor in alone.items())


def test_no_homes_evaluation_minutes_neighbour_anybodys_training_minutes(tmp_path: Path) -> None:
    """A file of one number a minute: every home has its own 12 + 6 minutes, and the two kinds are 13 minutes apart."""
    minutes = 2665
    lines = ["sno,Temperature,Humidity,Light,CO2,HumidityRatio,Occupancy"]
    lines += [f"{minute},21,30,0,500,0.004,0" for minute in range(minutes)]
    (tmp_path / "datatest.txt").write_text("\n".join(lines), encoding="utf-8")
    train, report = [], []
    for home in range(1, smart_home.CLIENT.homes["datatest"] + 1):
        frame = smart_home.read(tmp_path, f"datatest/{home}")
        assert len(frame) == 18
        parts = smart_home.by_time(np.zeros(18), f"datatest/{home}")
        numbers = frame["sno"].astype(int).to_numpy()
        train += numbers[parts == "train"].tolist()
        report += numbers[parts == "test"].tolist()
        assert (len(numbers[parts == "train"]), len(numbers[parts == "test"])) == (12, 6)
    assert len(set(train + report)) == 132 * 18
    assert np.abs(np.subtract.outer(train, report)).min() == 13
    with pytest.raises(Exception, match="site"):
        smart_home.CLIENT.check_site("datatest/133")
