"""A shared model that is far worse than a constant is called diverged, with the knob that helps; no other one is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clients import registry
from clients.dataset import prepare
from clients.sources import parse_source, read
from consortia.participant.evaluation import far_worse
from consortia.reports.receipt_table import diverged_in_words, notes
from consortia.terms.contract import contract_from_json


@pytest.mark.parametrize("industry", ["bank", "factory"])
def test_only_what_is_far_worse_than_a_constant_is_called_diverged(industry: str) -> None:
    client = registry.get(industry)
    table = prepare(client, read(parse_source("synthetic:80"), client, client.sites[0]))
    wanted = table.target.numpy().astype(float)
    if client.schema.target.kind == "multiclass":
        pytest.skip("no regression or binary target")
    constant = np.full(len(wanted), wanted.mean())
    assert far_worse(client, constant, constant, table) is None
    assert far_worse(client, wanted, constant, table) is None
    worst = 1 - wanted if client.schema.target.kind == "binary" else 100 * wanted + 1e4
    found = far_worse(client, worst, constant, table)
    assert found is not None
    assert found["model"] >= 2 * found["constant"]
    (told,) = diverged_in_words({"diverged": found})
    assert told.startswith("diverged: lower learning_rate")
    assert told in notes({"diverged": found})


def test_other_receipts_say_nothing_of_it() -> None:
    assert diverged_in_words({}) == []


def test_training_that_blew_up_is_charged_once_however_often_it_is_asked_for(
    make_site: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site("bank-a", rounds=3)
    contract = json.loads(site.scenario.contract.canonical())
    for terms in contract["industries"].values():
        terms |= {"learning_rate": 3e38, "clip": 1e4}
    changed = contract_from_json(json.dumps(contract))
    site.scenario = site.scenario.model_copy(update={"contract": changed})
    replies = [site.ask(1) for _ in range(3)]
    assert {reply.header["code"] for reply in replies} == {"PARTICIPANT_ERROR"}
    assert len({reply.header["incident"] for reply in replies}) == 3
    assert caplog.text.count("training diverged: lower learning_rate") == 1
    assert caplog.text.count("nothing more is charged") == 2
    with site.ledger() as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]
    assert site.ask(2).header["code"] == "PARTICIPANT_ERROR"  # another message, tried by itself
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 2
