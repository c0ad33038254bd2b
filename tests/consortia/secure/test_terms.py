"""What secure sums exclude, said before a run; clips and epsilon by budget."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consortia.errors import InputError
from consortia.plan import make_plans
from consortia.scenario import contract_from_json, load_scenario
from consortia.secure.fit import exposures
from consortia.secure.settle import sigma_of
from consortia.secure.terms import clip_of


def _contract(**changes: Any) -> str:
    data = json.loads(load_scenario("secure-banks").contract.canonical())
    data.update(changes)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strategy": {"name": "krum", "weighting": "equal"}}, "krum compares single updates"),
        ({"strategy": {"name": "median", "weighting": "equal"}}, "nobody sees one"),
        ({"strategy": {"name": "fedprox", "options": {"mu": 0.1}}}, "no proof"),
        ({"strategy": {"name": "fedsgd", "weighting": "equal"}}, 'weighting = "declared"'),
        ({"trust": "local"}, 'set trust = "aggregate"'),
    ],
)
def test_a_contract_that_hidden_updates_exclude_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        contract_from_json(_contract(**changes))


def test_check_refuses_a_sum_of_two_and_a_member_without_a_budget() -> None:
    scenario = load_scenario("secure-banks")
    two = scenario.model_copy(update={"roster": scenario.roster[:2]})
    with pytest.raises(InputError, match="the sum of two is the other's update"):
        make_plans(two)
    with pytest.raises(InputError, match="wanted a finite epsilon"):
        make_plans(scenario.with_overrides(epsilon=["other=inf"]))


def test_budgets_differ_by_the_clip_and_exposure_is_printed_for_three() -> None:
    scenario = load_scenario("secure-banks").with_overrides(epsilon=["other=0.5"])
    found = exposures(scenario)
    assert found["new-car"]["nobody"] < found["new-car"]["promised"] < found["new-car"]["all_others"]
    assert found["other"]["promised"] <= 0.5
    terms = scenario.contract.secure_terms
    assert terms.noise is not None
    strict, loose = (sigma_of(scenario.contract, scenario.seat(n)) for n in ("other", "new-car"))
    assert strict is not None
    assert loose is not None
    rules = scenario.contract.industries["bank"]
    assert clip_of(scenario.contract, rules, strict) * strict == pytest.approx(terms.noise)
    assert clip_of(scenario.contract, rules, loose) == pytest.approx(rules.clip)
    assert strict > 1.8 * loose


def test_older_contracts_keep_their_hash() -> None:
    text = load_scenario("banks").contract.canonical()
    assert "trust" not in text
    assert "secure" not in text
