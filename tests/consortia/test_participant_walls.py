"""What a coordinator that does not play by the rules gets: nothing that was not charged to the right account."""

from __future__ import annotations

import copy
import json
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from clients.linear import CLIENT as LINE
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import receipt
from consortia.participant.evaluation import gain_interval
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.contract import contract_from_json
from consortia.terms.scopes import LARGEST

Make = Callable[..., Any]


def _contract(site: Any, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(site.scenario.contract.canonical())
    change(data)
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})


def _two_datasets(policy: dict[str, Any]) -> None:
    policy["dataset"]["second"] = copy.deepcopy(policy["dataset"]["credit"])


def test_a_run_cannot_change_its_data_set(site: Any) -> None:
    site.policy(_two_datasets)
    assert site.ask(1).header["status"] == "OK"
    other = json.dumps({"dataset": "second", "epsilon": 3.0, "delta": 1e-5})
    assert site.ask(2, proposal=other).header["code"] == "CONTRACT_NOT_ALLOWED"
    with site.ledger() as ledger:
        assert [entry.dataset for entry in ledger.entries()] == ["credit"]


def test_the_owner_may_change_unit_or_declared_units_only_between_runs(site: Any) -> None:
    assert site.ask(1).header["status"] == "OK"
    site.policy(lambda p: p["dataset"]["credit"].update(declared_units=500))
    assert site.ask(2).header["code"] == "CONTRACT_NOT_ALLOWED"


def test_a_lowered_run_allowance_counts_at_once(site: Any) -> None:
    assert site.ask(1).header["status"] == "OK"
    site.policy(lambda p: p["budget"].update(run={"epsilon": 0.1, "delta": 1e-5}))
    assert site.ask(2).header["code"] == "BUDGET_EXHAUSTED"


def test_a_non_private_proposal_does_not_lift_the_lifetime_of_a_private_run(make_site: Make) -> None:
    site = make_site("bank-a", rounds=2)
    site.policy(lambda p: p["allow"].update(non_private=True))
    site.policy(lambda p: p["budget"].update(lifetime=p["budget"]["run"]))
    for number in (1, 2):
        assert site.ask(number).header["status"] == "OK"
    infinite = json.dumps({"dataset": "credit", "epsilon": None, "delta": 1e-5})
    # The run is private: its plan stands, whatever a later proposal says, and so does the lifetime.
    assert site.ask(2, run="run-2").header["code"] == "BUDGET_EXHAUSTED"
    with site.ledger() as ledger:
        before = len(ledger.entries())
    reply = site.ask(1, run="run-3", proposal=infinite)
    assert reply.header["non_private"] == "true"  # allowed by name, labelled, and from now on
    assert site.ask(1, run="run-4").header["code"] == "BUDGET_EXHAUSTED"  # nothing private is left
    with site.ledger() as ledger:
        assert len(ledger.entries()) == before + 1
        assert math.isinf(ledger.spent("credit", 1e-5))


def test_the_split_of_a_data_set_is_fixed_for_all_runs(site: Any) -> None:
    assert site.ask(1).header["status"] == "OK"
    _contract(site, lambda c: c.update(split={"train": 0.3, "validation": 0.1, "test": 0.6}))
    assert site.ask(1, run="run-2").header["code"] == "CONTRACT_NOT_ALLOWED"


def test_a_published_split_is_refused_where_units_have_several_rows(make_site: Make) -> None:
    site = make_site("va", "hospitals-network", rounds=2)
    site.policy(lambda p: p["dataset"]["heart"].update(unit="patient_id"))
    assert site.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"


def test_what_cannot_be_trained_on_costs_nothing(site: Any) -> None:
    message = decode(site.message(1))
    bad = [
        {name: torch.full_like(t, 2 * LARGEST) for name, t in message.tensors.items()},
        {name: torch.full_like(t, math.nan) for name, t in message.tensors.items()},
        {"head.weight": message.tensors["head.weight"]},
        {**message.tensors, "head.more": torch.ones(1)},
        {**message.tensors, "head.bias": torch.ones(3)},
        {},
    ]
    for tensors in bad:
        reply = decode(handle(encode(Envelope(message.header, tensors)), site.home))
        assert reply.header["code"] == "BAD_MESSAGE"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_a_private_parameter_in_a_message_is_refused_before_it_costs(make_site: Make) -> None:
    site = make_site("factory-a", rounds=2)
    full = decode(site.message(1)).tensors
    _contract(site, lambda c: c["scopes"].update(head="private"))
    message = decode(site.message(1))
    reply = decode(handle(encode(Envelope(message.header, full)), site.home))
    assert reply.header["code"] == "BAD_MESSAGE"


def test_whether_a_receipt_can_be_written_does_not_show(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert site.ask(1).header["status"] == "OK"
    honest = handle(site.message(6, kind="evaluate"), site.home)

    def boom(*_: object, **__: object) -> None:
        raise OverflowError("row 17 is 3.2e38")

    monkeypatch.setattr(receipt, "write", boom)
    assert handle(site.message(6, kind="evaluate"), site.home) == honest
    assert decode(honest).header["status"] == "EVALUATED"


def test_an_evaluation_of_a_run_that_never_trained_gets_a_code_only(site: Any) -> None:
    reply = site.ask(6, kind="evaluate")
    assert reply.header["code"] == "NOT_TRAINED"
    with site.ledger() as ledger:
        assert not ledger.runs()


def test_an_interval_that_overflows_is_none() -> None:
    from clients.dataset import prepare
    from clients.sources import parse_source, read

    table = prepare(LINE, read(parse_source("synthetic:20?seed=1"), LINE, "a"))
    import numpy as np

    scores = np.zeros(20)
    overflow = scores.copy()
    overflow[3] = np.inf
    with np.errstate(over="ignore", invalid="ignore"):
        assert gain_interval("rmse", overflow, scores, table, "p") is None


def test_train_and_evaluate_of_one_round_have_keys_of_their_own(site: Any) -> None:
    train = handle(site.message(5), site.home)
    evaluated = handle(site.message(5, kind="evaluate"), site.home)
    assert decode(train).header["kind"] == "train"
    assert decode(evaluated).header["status"] == "EVALUATED"


def test_the_same_message_at_once_is_trained_once(site: Any) -> None:
    message = site.message(1)
    replies: list[bytes] = []
    threads = [threading.Thread(target=lambda: replies.append(handle(message, site.home))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(replies)) == 1
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 1


def test_rounding_leaves_no_budget(site: Any) -> None:
    from consortia.common.errors import RefusedError
    from consortia.terms.policy import Proposal, effective_budget, load_policy
    from privacy.ledger import Budget

    policy = load_policy(site.home.policy, simulation=True)
    with pytest.raises(RefusedError, match="BUDGET_EXHAUSTED"):
        effective_budget(policy, Proposal("credit", 1.0, 1e-5), Budget(0.9 - 3 * 0.3, 1e-5))


def test_the_ledger_that_is_charged_brings_its_owners_policy(site: Any, tmp_path: Any) -> None:
    home = Home(tmp_path / "run", site.name, simulation=True, ledger_folder=site.home.folder)
    assert home.policy == site.home.policy
    assert home.split_key() == site.home.split_key()
