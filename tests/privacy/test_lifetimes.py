"""Several data sets under one lifetime: the filter counts all of them, for good, and old ledgers open as they are."""

from pathlib import Path
from typing import Any

import pytest

from privacy.errors import BudgetExhaustedError, ContractMismatchError, PlanError
from privacy.ledger import Budget, Ledger

LIFETIME = Budget(2.0, 2e-5)


@pytest.fixture
def ledger(ledger_path: Path) -> Any:
    with Ledger.open(ledger_path, "hospital-a") as opened:
        yield opened


def spend(ledger: Ledger, make_plan: Any, run: str, dataset: str, **changes: Any) -> None:
    """Spend a whole allowance of (1, 1e-5)."""
    plan = ledger.open_run(make_plan(run, dataset=dataset, **changes), LIFETIME)
    for number in range(1, 6):
        ledger.reserve(run, number, "k", [plan.round_event()], lifetime=LIFETIME)


def test_without_a_link_each_data_set_has_a_lifetime(ledger: Ledger, make_plan: Any) -> None:
    for run, dataset in (("1", "heart"), ("2", "heart"), ("3", "copy"), ("4", "copy")):
        spend(ledger, make_plan, run, dataset)
    assert ledger.sharing("heart") == ("heart",)


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_shared_lifetime_counts_both_whenever_it_was_shared(ledger: Ledger, make_plan: Any, when: str) -> None:
    if when == "before":
        ledger.share("copy", "heart")
    spend(ledger, make_plan, "1", "heart")
    if when == "between":
        ledger.share("copy", "heart")
    spend(ledger, make_plan, "2", "copy")
    if when == "after":
        ledger.share("copy", "heart")
    assert ledger.sharing("heart") == ledger.sharing("copy") == ("copy", "heart")
    for dataset in ("heart", "copy"):
        assert ledger.lifetime_left(dataset, LIFETIME) == Budget(0.0, 0.0)
        assert ledger.spent(dataset, 2e-5) == ledger.spent("heart", 2e-5) > 0.9
        with pytest.raises(BudgetExhaustedError, match="lifetime"):
            spend(ledger, make_plan, f"3 on {dataset}", dataset)


def test_links_add_up_and_kinds_of_accounts_stay_apart(ledger: Ledger, make_plan: Any) -> None:
    ledger.share("a", "b")
    ledger.share("d", "c")
    assert ledger.sharing("a") == ("a", "b")
    ledger.share("b", "c")
    assert ledger.sharing("d") == ("a", "b", "c", "d")
    assert ledger.sharing("a/evaluation") == ("a/evaluation", "b/evaluation", "c/evaluation", "d/evaluation")
    assert ledger.sharing("e", [("e", "d")]) == ("a", "b", "c", "d", "e")
    spend(ledger, make_plan, "1", "a/evaluation")
    assert ledger.lifetime_left("d/evaluation", LIFETIME).epsilon == 1.0
    assert ledger.lifetime_left("d", LIFETIME).epsilon == 2.0


def test_a_link_is_in_the_chain_and_written_once(ledger: Ledger, ledger_path: Path) -> None:
    ledger.note({"what": "budget", "run": 1})
    ledger.share("copy", "heart")
    anchor = ledger.anchor()
    ledger.note({"what": "budget", "run": 1})
    ledger.share("heart", "copy")
    assert ledger.anchor() == anchor
    ledger.close()
    with Ledger.open(ledger_path, "hospital-a") as again:
        assert again.sharing("heart") == ("copy", "heart")
        assert again.verify() == anchor


def test_data_sets_of_different_units_cannot_share(ledger: Ledger, make_plan: Any) -> None:
    spend(ledger, make_plan, "1", "heart")
    spend(ledger, make_plan, "2", "copy", unit="patient_id")
    with pytest.raises(ContractMismatchError, match="different units"):
        ledger.share("copy", "heart")
    assert ledger.sharing("heart") == ("heart",)
    ledger.share("third", "heart")
    with pytest.raises(ContractMismatchError, match="different units"):
        ledger.open_run(make_plan("3", dataset="third", unit="patient_id"), LIFETIME)


def test_a_release_without_noise_ends_the_private_life_of_both(ledger: Ledger, make_plan: Any) -> None:
    ledger.share("copy", "heart")
    free = Budget(float("inf"), 2e-5)
    plan = ledger.open_run(make_plan("1", dataset="copy", allowance=Budget(float("inf"), 1e-5), non_private=True), free)
    ledger.reserve("1", 1, "k", [plan.round_event()], lifetime=free)
    with pytest.raises(BudgetExhaustedError):
        spend(ledger, make_plan, "2", "heart")


@pytest.mark.parametrize(("one", "other"), [("a", "a"), ("", "a"), ("a/evaluation", "b"), (None, "a"), (3, "a")])
def test_what_is_no_pair_of_data_sets_is_refused(ledger: Ledger, one: Any, other: Any) -> None:
    with pytest.raises(PlanError, match="two data sets"):
        ledger.share(one, other)
