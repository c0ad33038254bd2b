"""A shared model that is far worse than a constant is called diverged, with the knob that helps; no other one is."""

from __future__ import annotations

import numpy as np
import pytest

from clients import registry
from clients.dataset import prepare
from clients.sources import parse_source, read
from consortia.participant.evaluation import far_worse
from consortia.reports.receipt_table import diverged_in_words, notes


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
