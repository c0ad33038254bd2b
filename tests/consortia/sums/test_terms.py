"""What a contract of the learner `sums` says, fills in and excludes; older contracts keep their hash."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from consortia.common.errors import InputError
from consortia.planning.plan import make_plans
from consortia.terms.contract import contract_from_json, planned_rounds
from consortia.terms.costs import plan_event, updates_event
from consortia.terms.recipe import recipe
from consortia.terms.scenario import load_scenario, scenario_from_toml
from privacy.accounting import epsilon

HEAD = 'schema = 1\nname = "few"\ntitle = "Few"\n[contract]\nschema = 1\nwire = 1\n'
PARTICIPANT = (
    '[[roster]]\nname = "a"\nindustry = "{industry}"\ndataset = "d"\nsite = "other"\nunits = 200\nepsilon = 1.0\n'
    "delta = 1e-05\n"
)


def _changed(name: str, **changes: Any) -> str:
    return json.dumps(json.loads(load_scenario(name).contract.canonical()) | changes)


def test_a_written_contract_needs_the_learner_and_its_industries_only() -> None:
    text = HEAD + 'learner = "sums"\n[contract.industries.bank]\n' + PARTICIPANT.format(industry="bank")
    contract = scenario_from_toml(text).contract
    assert (contract.rounds, contract.releases) == (2, ("sums",))
    assert contract.sums is not None
    assert (contract.sums.centre_share, contract.sums.gram_share, contract.sums.slope_share) == (0.10, 0.27, 0.63)
    assert recipe(contract, "bank").outcome.expected == (0.3,)  # the schema's published share
    assert contract_from_json(contract.canonical()) == contract


def test_a_contract_without_the_learner_says_nothing_of_it() -> None:
    for name in ("banks-network", "secure-banks-network", "smart-home", "linear"):
        data = json.loads(load_scenario(name).contract.canonical())
        assert not {"learner", "sums"} & data.keys()


def test_spare_attempts_are_paid_with_noise_only_where_they_are_asked_for() -> None:
    scenario = load_scenario("secure-banks")
    assert scenario.contract.secure_terms.spare == 0
    assert planned_rounds(scenario.contract) == 1
    data = json.loads(scenario.contract.canonical())
    data["secure"] = {"colluders": 1, "spare": 2}
    spared = contract_from_json(json.dumps(data))
    assert planned_rounds(spared) == 3
    bank = scenario.contract.industries["bank"]
    assert epsilon([plan_event(spared, bank, 2.0)], 1e-5) > epsilon([plan_event(scenario.contract, bank, 2.0)], 1e-5)


def test_one_message_of_unknown_number_counts_as_the_costlier() -> None:
    contract = load_scenario("banks").contract
    bank = contract.industries["bank"]

    def spent(rounds: int, *messages: int) -> float:
        return epsilon([updates_event(contract, bank, 1.4, rounds, messages=messages)], 1e-5)

    assert spent(1, 1) < spent(1, 2) == spent(1) < spent(2) == spent(2, 1, 2)


def test_plans_cost_the_proposal() -> None:
    for name, wanted in (("banks", 3.0), ("secure-banks", 1.0)):
        for plan in make_plans(load_scenario(name)):
            assert plan.epsilon == pytest.approx(wanted, rel=1e-3)
            assert plan.epsilon is not None
            assert plan.epsilon <= wanted
            assert plan.releases == ("sums",)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda c: c.update(rounds=3), "rounds = 2"),
        (lambda c: c.update(releases=["update"]), r"releases \['sums'\]"),
        (lambda c: c.pop("sums"), r"\[contract.sums\] exactly where"),
        (lambda c: c.update(learner="gradient"), r"\[contract.sums\] exactly where"),
        (lambda c: c["strategy"].update(name="fedadam"), r"no \[contract.strategy\]"),
        (lambda c: c["scopes"].update(head="private"), r"no \[contract.scopes\]"),
        (lambda c: c["industries"]["bank"].update(local_steps=2), "nothing takes steps"),
        (lambda c: c["industries"]["bank"].update(clip=0.5), "nothing takes steps"),
        (lambda c: c["industries"]["bank"].update(model={"kind": "mlp", "hidden": [4]}), "nothing takes steps"),
        (lambda c: c["sums"].update(centre_share=0.2), "centre_share \\+ gram_share"),
        (lambda c: c["sums"].update(prevalence={"hospital": 0.5}), "not of hospital"),
        (lambda c: c.update(trust="aggregate", secure={"colluders": 0}), "secure.colluders >= 1"),
        (lambda c: c.update(trust="aggregate", secure={"cohorts": 2}), "secure.cohorts = 1"),
    ],
)
def test_what_does_not_go_with_sums_is_refused(change: Callable[[dict[str, Any]], Any], wanted: str) -> None:
    data = json.loads(load_scenario("banks").contract.canonical())
    change(data)
    with pytest.raises(InputError, match=wanted):
        contract_from_json(json.dumps(data))


def test_sums_are_no_release_of_a_network() -> None:
    with pytest.raises(InputError, match="no 'sums' in releases with learner = \"gradient\""):
        contract_from_json(_changed("banks-network", releases=["update", "sums"]))


def test_an_expectation_that_fits_no_target_is_refused_before_a_run() -> None:
    head = HEAD + 'learner = "sums"\n[contract.sums]\nprevalence = {{ {0} = {1} }}\n[contract.industries.{0}]\n'
    for industry, value, wanted in (("bank", "1.5", "share of the positive class"), ("linear", "0.0", "public bounds")):
        site = PARTICIPANT.format(industry=industry).replace("other", "a" if industry == "linear" else "other")
        scenario = scenario_from_toml(head.format(industry, value) + site)
        with pytest.raises(InputError, match=wanted):
            make_plans(scenario)


def test_a_policy_has_to_name_sums() -> None:
    from consortia.common.errors import RefusedError
    from consortia.engines.demonstration import demo_policy_file
    from consortia.terms.policy import Proposal, check_contract, load_policy

    contract = load_scenario("banks").contract
    proposal = Proposal("credit", 1.0, 1e-5)
    policy = load_policy(demo_policy_file("banks", "other"), simulation=True)
    assert check_contract(policy, contract, "bank", proposal).industry == "bank"
    older = load_policy(demo_policy_file("banks-network", "other"), simulation=True)
    with pytest.raises(RefusedError, match="the contract wants 'sums', the policy lacks it"):
        check_contract(older, contract, "bank", proposal)
