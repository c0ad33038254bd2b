"""`weighting = "noised"`: one charged release of the number of training units, and what the coordinator makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from dp_accounting.pld import privacy_loss_distribution as pld
from noise_contexts import TEST
from scipy import stats

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.coordinator.aggregation import round_weights
from consortia.coordinator.participant_view import ParticipantView, recall, sizes_of
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import decode
from consortia.messages.size_release import SHARE, SIZE, release, take
from consortia.participant import local
from consortia.participant.handle import handle
from consortia.participant.training import make_plan
from consortia.terms.contract import contract_from_json
from consortia.terms.policy import load_policy
from consortia.terms.scenario import Scenario, find_scenario, load_scenario, scenario_from_json
from privacy.accounting import epsilon
from privacy.errors import ReleaseRefusedError
from privacy.events import LaplaceRelease
from privacy.ledger import Budget, Ledger

ROUNDS = 3


def _noised(scenario: Scenario) -> Scenario:
    data = json.loads(scenario.contract.canonical())
    data["releases"] = ["update", "size"]
    data["strategy"]["weighting"] = "noised"
    return scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    made = make_site("bank-a", rounds=ROUNDS)
    made.scenario = _noised(made.scenario)
    made.policy(lambda policy: policy["allow"].update(releases=["update", "size"]))
    return made


def _plan(site: Any, allowance: Budget) -> Any:
    terms = next(iter(load_policy(site.home.policy, simulation=True).dataset.values()))
    return make_plan(site.scenario.contract, terms, "credit", "run-1", allowance)


def test_it_is_set_aside_first_and_both_cost_the_allowance(site: Any) -> None:
    plan = _plan(site, Budget(3.0, 1e-5))
    (once,) = plan.once_events
    assert once.noise_multiplier == 1 / (SHARE * 3.0)
    events = [*plan.round_events() * plan.rounds, once]
    joint = epsilon(events, 1e-5)
    steps = plan.rounds * plan.steps_per_round
    gaussian = pld.from_gaussian_mechanism(
        plan.noise_multiplier, value_discretization_interval=1e-4, sampling_prob=plan.sampling_rate
    ).self_compose(steps)
    laplace = pld.from_laplace_mechanism(once.noise_multiplier, value_discretization_interval=1e-4)
    assert joint == pytest.approx(gaussian.compose(laplace).get_epsilon_for_delta(1e-5), abs=0.01)
    assert 2.97 < joint <= 3.0
    assert joint < epsilon(plan.round_events() * plan.rounds, 1e-5) + SHARE * 3.0


def test_the_ledger_takes_it_once(site: Any, tmp_path: Path) -> None:
    plan, life = _plan(site, Budget(3.0, 1e-5)), Budget(12.0, 4e-5)
    with Ledger.create(tmp_path / "ledger.db", "bank-a") as ledger:
        ledger.open_run(plan, life)
        assert ledger.plan("run-1") == plan
        ledger.reserve("run-1", 1, "a", (*plan.round_events(), *plan.once_events), lifetime=life)
        with pytest.raises(ReleaseRefusedError, match="once was taken"):
            ledger.reserve("run-1", 2, "b", (*plan.round_events(), *plan.once_events), lifetime=life)
        for number in range(2, ROUNDS + 1):  # every round is still affordable
            ledger.reserve("run-1", number, "b", plan.round_events(), lifetime=life)


def test_it_leaves_once_with_an_event_and_is_repeated_for_free(site: Any) -> None:
    message = site.message(1)
    first = handle(message, site.home)
    size = decode(first).tensors[SIZE]
    assert (size.dtype, tuple(size.shape)) == (torch.int64, (1,))
    assert int(size) >= 1
    assert handle(message, site.home) == first
    assert SIZE not in site.ask(2).tensors
    with site.ledger() as ledger:
        charged = [[type(event) for event in entry.events] for entry in ledger.entries()]
    assert [LaplaceRelease in kinds for kinds in charged] == [True, False]
    assert all(e.partition == "train" for entry in ledger_entries(site) for e in entry.events)


def ledger_entries(site: Any) -> list[Any]:
    with site.ledger() as ledger:
        return ledger.entries()


def test_after_an_abandoned_attempt_none_leaves(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk")

    with monkeypatch.context() as broken:
        broken.setattr(local, "train_round", fail)
        assert site.ask(1).header["status"] == "FAILED"
    again = site.ask(1)
    assert again.header["status"] == "OK"
    assert SIZE not in again.tensors
    events = [event for entry in ledger_entries(site) for event in entry.events]
    assert sum(isinstance(event, LaplaceRelease) for event in events) == 1  # spent all the same


def test_the_policy_must_allow_it(site: Any) -> None:
    site.policy(lambda policy: policy["allow"].update(releases=["update"]))
    assert site.ask(1).header["code"] == "RELEASE_NOT_ALLOWED"


def test_the_noise_is_laplace_and_never_below_one() -> None:
    class Rows:
        n_units = 500

    event = LaplaceRelease(noise_multiplier=4.0, partition="train", unit="record")
    drawn = np.array([int(release((event,), Rows(), TEST)[0].tensors[SIZE]) for _ in range(3000)])  # type: ignore[arg-type]
    # Rounded to whole numbers, and jittered back over one of them.
    jittered = drawn + np.random.default_rng(0).uniform(-0.5, 0.5, len(drawn))
    assert stats.kstest(jittered, stats.laplace(500, 4.0).cdf).pvalue > 1e-6
    Rows.n_units = 0
    assert min(int(release((event,), Rows(), TEST)[0].tensors[SIZE]) for _ in range(50)) == 1  # type: ignore[arg-type]


def test_a_claim_can_only_lower_a_weight() -> None:
    scenario = _noised(load_scenario("banks-network"))
    contract, participants = scenario.contract, list(scenario.roster)

    def weights(**sizes: int) -> dict[str, float]:
        known = {name.replace("_", "-"): size for name, size in sizes.items()}
        found = round_weights(contract, participants, {}, [], {}, known)
        return {participant.name: weight for participant, weight in zip(participants, found, strict=True)}

    # .6 of 234, 103, 181, 280, 202 declared units train: 140, 62, 109, 168, 121, together 600.
    assert weights()["new-car"] == pytest.approx(140 / 600)
    assert weights(new_car=10**12) == weights()
    assert weights(new_car=70)["new-car"] == pytest.approx(70 / 530)


def test_the_coordinator_takes_one_whole_number_and_only_where_asked() -> None:
    contract = _noised(load_scenario("banks-network")).contract
    rest, size = take({SIZE: torch.tensor([140]), "head.bias": torch.zeros(1)}, contract, "train")
    assert (list(rest), size) == (["head.bias"], 140)
    assert take({}, contract, "train") == ({}, None)
    for bad in (torch.tensor([0]), torch.tensor([1.5]), torch.tensor(5), torch.tensor([5, 6])):
        with pytest.raises(ValueError, match="whole number"):
            take({SIZE: bad}, contract, "train")
    for other, kind in ((load_scenario("banks-network").contract, "train"), (contract, "evaluate")):
        with pytest.raises(ValueError, match="nobody asked"):
            take({SIZE: torch.tensor([5])}, other, kind)


@pytest.mark.parametrize(
    ("scenario", "change", "said"),
    [
        (
            "secure-banks-network",
            {"releases": ["update", "size"], "strategy": {"weighting": "noised"}},
            'weighting = "declared"',
        ),
        ("banks-network", {"strategy": {"weighting": "noised"}}, "'size' in releases"),
        ("banks-network", {"releases": ["update", "size"]}, "'size' in releases"),
    ],
)
def test_contracts_that_do_not_fit_are_refused(scenario: str, change: dict[str, Any], said: str) -> None:
    data = json.loads(load_scenario(scenario).to_json())
    data["contract"] |= change
    with pytest.raises(InputError, match=said):
        scenario_from_json(json.dumps(data))


def test_declared_sizes_are_the_participants_normaliser(site: Any) -> None:
    """The released number weighs; the step is still normalised by the public one."""
    plan = _plan(site, Budget(3.0, 1e-5))
    terms = next(iter(load_policy(site.home.policy, simulation=True).dataset.values()))
    assert plan.declared_units == site.scenario.contract.split.training_units(terms.declared_units)


@pytest.mark.end_to_end
def test_a_whole_run_weighs_by_what_was_released(tmp_path: Path) -> None:
    data = read_toml(find_scenario("banks-network"))
    data["contract"] |= {"rounds": 2, "releases": ["update", "size"], "strategy": {"weighting": "noised"}}
    data["roster"] = data["roster"][:2]
    file = tmp_path / "sizes.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    (tmp_path / "policies" / "sizes").mkdir(parents=True)
    for participant in data["roster"]:
        policy = read_toml(demo_policy_file("banks-network", participant["name"]))
        policy["allow"]["releases"] = ["update", "size"]
        target = tmp_path / "policies" / "sizes" / f"{participant['name']}.toml"
        target.write_text(tomli_w.dumps(policy), encoding="utf-8")
    options = Options(scenario=str(file), out=tmp_path / "runs")
    job = execute(prepare(options), options).job
    record = json.loads((job.folder / "coordinator.json").read_text())
    assert record["status"] == "completed"
    sizes = record["history"][0]["sizes"]
    assert set(sizes) == {"new-car", "used-car"}
    assert record["history"][1]["sizes"] == sizes  # released once, remembered
    participants = {participant.name: ParticipantView(participant) for participant in job.scenario.roster}
    recall(participants, record["history"])
    assert sizes_of(participants) == sizes
