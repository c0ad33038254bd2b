"""What secure sums exclude, said before a run; clips and epsilon by budget."""

from __future__ import annotations

import json
from typing import Any

import pytest

from consortia.common.errors import InputError
from consortia.planning.plan import make_plans
from consortia.planning.secure_sum import exposures
from consortia.terms.contract import clip_of, contract_from_json
from consortia.terms.scenario import load_scenario
from consortia.terms.settle import fixed_point, sigma_of


def _contract(**changes: Any) -> str:
    data = json.loads(load_scenario("secure-banks-network").contract.canonical())
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
    scenario = load_scenario("secure-banks-network")
    two = scenario.model_copy(update={"roster": scenario.roster[:2]})
    with pytest.raises(InputError, match="the sum of two is the other's update"):
        make_plans(two)
    with pytest.raises(InputError, match="wanted a finite epsilon"):
        make_plans(scenario.with_overrides(epsilon=["other=inf"]))


def test_drop_outs_are_reserved_for_or_refused() -> None:
    """n = 5, t = 1: T = 4 must agree, so one may drop out; the noise of mode one is that of n - t, of two n - t - d."""
    scenario = load_scenario("secure-banks-network")

    def two(**terms: Any) -> Any:
        data = json.loads(scenario.contract.canonical())
        data["secure"] |= {"mode": "two", "drops": 1, **terms}
        return scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})

    make_plans(two())
    with pytest.raises(InputError, match="drops: wanted at most 1, since 4 of 5 must agree"):
        make_plans(two(drops=2))
    for terms in ({"drops": 0}, {"mode": "one"}):
        with pytest.raises(InputError, match='drops >= 1 with mode = "two", and none with mode = "one"'):
            two(**terms)
    one, other = exposures(scenario)["new-car"], exposures(two())["new-car"]
    assert (one["cohort"], other["cohort"]) == (5, 4)  # against the fewest whose sum opens
    assert one["promised"] == other["promised"]
    # c = 0: sigma sqrt(5/4) and sqrt(4/3) are left; all others: sigma / sqrt(4) and / sqrt(3).
    assert other["nobody"] < one["nobody"]
    assert other["all_others"] < one["all_others"]
    assert fixed_point(two().contract).share_std(5) == pytest.approx(
        fixed_point(scenario.contract).share_std(5) * (4 / 3) ** 0.5
    )
    assert "drops" not in scenario.contract.canonical()  # contracts of mode one keep their hash


def test_budgets_differ_by_the_clip_and_exposure_is_printed_for_three() -> None:
    scenario = load_scenario("secure-banks-network").with_overrides(epsilon=["other=0.5"])
    found = exposures(scenario)
    assert found["new-car"]["nobody"] < found["new-car"]["promised"] < found["new-car"]["all_others"]
    assert found["other"]["promised"] <= 0.5
    terms = scenario.contract.secure_terms
    assert terms.noise is not None
    strict, loose = (sigma_of(scenario.contract, scenario.participant(n)) for n in ("other", "new-car"))
    assert strict is not None
    assert loose is not None
    rules = scenario.contract.industries["bank"]
    assert clip_of(scenario.contract, rules, strict) * strict == pytest.approx(terms.noise)
    assert clip_of(scenario.contract, rules, loose) == pytest.approx(rules.clip)
    assert strict > 1.8 * loose


def test_older_contracts_keep_their_hash() -> None:
    text = load_scenario("banks-network").contract.canonical()
    assert "trust" not in text
    assert "secure" not in text
