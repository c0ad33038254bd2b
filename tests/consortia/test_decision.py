"""The paragraph with which terminal, report and dashboard begin: each sentence from numbers of the record."""

from __future__ import annotations

from typing import Any

import pytest

from consortia.reports.decision import decide, decide_alone
from consortia.reports.glossary import TERMS
from consortia.terms.scenario import load_scenario

PLANTED = "Ada Lovelace 4711"


def line(
    value: float, low: float, high: float, *, left: int | None = 3, spent: float = 1.0, **more: Any
) -> dict[str, Any]:
    account = {"run": spent, "budget": 1.0, "delta": 1e-5, "non_private": False, "runs_left": left}
    return {
        "industry": "bank",
        "headline": "auc",
        "metrics": {"auc": {"local": 0.7, "control": 0.7, "joined": 0.7 + value}},
        "net_gain": {"value": value, "low": low, "high": high},
        "units": {"test": 30},
        "epsilon": account,
        **more,
    }


def record(participants: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "scenario": "banks-network",
        "status": "completed",
        "observer": "simulation",
        "synthetic": True,
        "charged": True,
        "rounds": 2,
        "participants": participants,
        **more,
    }


def test_it_says_who_for_whom_what_it_cost_and_what_next() -> None:
    told = {"verdict": "not worth it", "metric": "auc", "gain": None}
    found = decide(
        record(
            {
                "a": line(0.02, 0.01, 0.03),
                "b": line(0.03, -0.01, 0.05, left=1),
                "c": line(-0.02, -0.03, 0.01, forecast=told),
                "d": {**line(0, 0, 0), "net_gain": None},
            }
        )
    )
    assert found.who == (
        "4 participants (bank) trained together. It is a simulation by one operator who holds all rows, which are "
        "synthetic."
    )
    assert found.paid == "Joining paid clearly for a; perhaps for b; not for c. Too few test rows say it for d."
    assert found.cost == (
        "It cost each of them ε 1, the whole budget of one run, as planned. ε limits how much anybody can learn of any "
        "one unit (a record or a person, as declared); smaller is more private. The lifetime budgets have room for "
        "1 more run like it at b, for up to 3 at the others."
    )
    assert found.next == (
        "Next, use the joined model: a; measure again, with more test rows or a second run, before deciding: b; stay "
        "alone, or find more partners, for N_eff is under half of the own rows: c; set more rows apart for the test: d."
    )
    assert str(found) == " ".join(found.sentences)


def test_the_industries_and_another_learner_come_from_the_scenario() -> None:
    loaded = load_scenario("banks-network")
    name = loaded.roster[0].name
    assert (
        decide(record({name: line(-0.1, -0.2, 0.0)}), loaded).next
        == f'Next, stay alone, or ask the coordinator for a run with noisy sums (learner = "sums"): {name}.'
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"spent": 1.2}, "over the run budget of a"),
        ({"spent": 0.4}, "ε 0.4, of a run budget of 1"),
        ({"left": 0}, "No run like it is left: the lifetime budget is used up."),
    ],
)
def test_only_what_is_over_or_ends_is_said_as_such(changes: dict[str, Any], words: str) -> None:
    text = str(decide(record({"a": line(0.02, 0.01, 0.03, **changes)})))
    assert words in text
    assert words not in str(decide(record({"a": line(0.02, 0.01, 0.03)})))


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        ((0.02, 0.01, 0.03), "use the joined model: a."),
        ((0.02, -0.01, 0.03), "decide, or raise the lifetime budget, which is used up, and measure again: a."),
        ((-0.02, -0.03, 0.01), "stay alone: a."),
    ],
)
def test_nobody_is_sent_into_a_run_that_the_budget_refuses(gain: tuple[float, float, float], words: str) -> None:
    assert decide(record({"a": line(*gain, left=0)})).next == f"Next, {words}"


def test_the_same_advice_for_everybody_is_said_once() -> None:
    assert decide(record({name: line(0.02, 0.01, 0.03) for name in "abc"})).next == "Next, use the joined model: all."


def test_a_deployed_record_leaves_the_verdict_at_home() -> None:
    released = {"industry": "bank", "metrics": {"auc": {"federated": 0.7, "joined": None}}, "net_gain": None}
    account = {"run": 1.0, "budget": 1.0, "delta": 1e-5, "non_private": False, "runs_left": None}
    found = decide(record({"a": {**released, "epsilon": account}}, observer="coordinator", synthetic=None))
    assert found.paid == "Whether joining paid is each participant's own to know: `consortia receipt HOME`, there."
    assert found.next == ""


def test_a_failed_run_says_whom_to_ask_and_repeats_no_detail() -> None:
    failures = [{"round": 1, "code": "BAD_REPLY", "detail": PLANTED}]
    account = dict.fromkeys(("run", "budget", "non_private"))
    broken = {"industry": "bank", "metrics": {}, "epsilon": account, "failures": failures}
    found = decide(record({"a": broken}, status="failed", reason=PLANTED))
    assert found.paid == "Whether joining pays was not measured."
    assert "failed after 2 rounds" in found.who
    assert found.next == "Next: a (BAD_REPLY): its answer is not what was asked for; it is dropped."
    assert PLANTED not in str(found)
    assert "was refused" in decide(record({"a": broken}, status="failed", refused=True)).who


def test_a_code_is_told_once_with_its_meaning() -> None:
    refused = {"industry": "bank", "metrics": {}, "epsilon": dict.fromkeys(("run", "budget", "non_private"))}
    code = {"round": 1, "code": "CONTRACT_NOT_ALLOWED", "detail": ""}
    lines = {name: refused | {"failures": [code]} for name in "abcd"}
    assert decide(record(lines | {"e": refused}, status="failed")).next == (
        "Next: a, b, c and d (CONTRACT_NOT_ALLOWED): it does not accept this contract; its owner reads it and runs "
        "`consortia budget allow`."
    )


def test_who_loses_by_joining_is_named() -> None:
    found = decide(record({"a": line(0.02, 0.01, 0.03), "b": line(-0.02, -0.03, 0.01), "c": line(-0.02, -0.03, -0.01)}))
    assert found.paid == "Joining paid clearly for a; not for b and c. It made the model of c worse."
    own = decide_alone({**line(-0.02, -0.03, -0.01), "participant": "c", "synthetic": False})
    assert own.paid.startswith("Joining made the model worse: net gain -0.020")


def test_a_crowd_is_counted_and_a_receipt_speaks_for_itself() -> None:
    crowd = {f"home-{number}": line(0.02, 0.01, 0.03) for number in range(50)}
    assert decide(record(crowd)).paid == "Joining paid clearly for 50."
    own = decide_alone({**line(0.02, 0.01, 0.03), "participant": "a", "synthetic": False})
    assert str(own).startswith(
        "a trained with the others of this run. Joining paid clearly: net gain +0.020 [+0.010, +0.030]. It cost ε 1,"
    )
    assert own.next == "Next, use the joined model."
    assert decide_alone(line(-0.02, -0.03, 0.01)).paid.startswith("Joining did not pay: ")


def test_a_vertical_run_has_an_owner_and_helpers() -> None:
    owner = {**line(0, 0, 0), "role": "label owner", "gain": {"value": 0.1, "low": 0.05, "high": 0.2}}
    owner["metrics"] = {"auc": {"local": 0.6, "federated": 0.7}}
    helper = {
        "industry": "hospital",
        "metrics": {},
        "epsilon": {**owner["epsilon"], "non_private": True},
        "role": "partner",
    }
    text = str(decide(record({"bank": owner, "clinic": helper})))
    assert "hold different columns of the same persons: clinic helped bank." in text
    assert "Joining paid clearly for bank." in text
    assert "clinic took part non-private, without a guarantee (ε = ∞)" in text
    assert "use the federated model: bank" in text


def test_every_term_has_one_line() -> None:
    assert {"alone", "control", "federated", "joined", "net gain", "ε", "δ", "σ", "N_eff", "runs left"} <= set(TERMS)
    assert all(says and "\n" not in says for says in TERMS.values())
