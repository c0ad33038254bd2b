"""Recommendations: what stays at home, ranked metrics in receipts, what is refused by name."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from clients import networks, registry
from clients.dataset import prepare
from clients.errors import ModelError, SchemaError
from clients.industry import ModelSpec
from clients.models import build
from clients.schema import Target
from clients.shapes import Items
from consortia.common.errors import InputError
from consortia.engines.vectorized.network import dense_layers
from consortia.participant.evaluation import score_metrics
from consortia.planning.plan import make_plans
from consortia.terms.scenario import load_scenario, scenario_from_json
from consortia.terms.scopes import build_module, shared_names

CLIENT = registry.get("recommendations")


def test_the_item_part_alone_leaves() -> None:
    contract = load_scenario("recommendations").contract
    names = dict(build_module(contract, "recommendations").named_parameters())
    assert shared_names(names, contract) == ["encoder.1.items.weight"]
    assert sorted(set(names) - {"encoder.1.items.weight"}) == [
        f"head.{layer}.{part}" for layer in ("level", "tower") for part in ("bias", "weight")
    ]


def test_rankings_are_those_of_each_user() -> None:
    frame = CLIENT.synthesise(np.random.default_rng(0), 300, "club")
    table = prepare(CLIENT, frame, unit="user")
    target = table.target.double().numpy()
    found = score_metrics(CLIENT, target, table)
    assert (found["rmse"], found["recall_at_10"], found["ndcg_at_10"]) == (0, 1, 1)
    users = table.unit_index.numpy()
    turned = score_metrics(CLIENT, target + 10.0 * users, table)  # what users differ in ranks nothing
    assert (turned["recall_at_10"], turned["ndcg_at_10"]) == (1, 1)


def test_what_does_not_fit_is_refused_by_name() -> None:
    spec = ModelSpec(kind="two-tower", hidden=(4,))
    with pytest.raises(InputError, match="--engine vectorized: industry recommendations: wanted dense layers"):
        dense_layers(build(CLIENT, spec, 33, torch.Generator()), "recommendations")
    for wrong in ((4, 4), (5,), (2,), ()):
        with pytest.raises(ModelError, match="hidden: wanted one even width >= 4 for two-tower"):
            ModelSpec(kind="two-tower", hidden=wrong)
    with pytest.raises(ModelError, match="kind 'two-tower': wanted a client whose rows are items, got image"):
        build(registry.get("digits"), spec, 64, torch.Generator())
    with pytest.raises(SchemaError, match="vocabulary: wanted at most"):
        Items(vocabulary=2**21, earlier=1)
    data = json.loads(load_scenario("banks").to_json().replace('"bank"', '"recommendations"')) | {"expect": {}}
    data["roster"] = [one | {"site": "club"} for one in data["roster"]]
    with pytest.raises(InputError, match=r"wanted 'gradient' with industry recommendations.*got 'sums'"):
        make_plans(scenario_from_json(json.dumps(data)))


def test_one_number_a_row_is_wanted() -> None:
    target = Target(name="y", kind="multiclass", classes=("a", "b", "c"))
    with pytest.raises(ModelError, match="wanted a target of one number a row, got one of 3"):
        networks.head("two-tower", {}, 4, target.outputs)
