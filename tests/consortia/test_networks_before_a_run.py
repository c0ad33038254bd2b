"""`consortia check` makes the very check of a network that the first round of DP training makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

from clients import registry
from consortia.common.errors import InputError
from consortia.planning.networks import check_networks
from consortia.terms import scopes
from consortia.terms.scenario import Scenario, load_scenario


def test_a_network_that_dp_training_refuses_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = _everybody(load_scenario("linear"), 3.0)
    check_networks(scenario)
    client = registry.get("linear")

    def mixing(n_features: int, spec: object) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(n_features), nn.Linear(n_features, client_width(spec, n_features)))

    monkeypatch.setattr(registry, "get", lambda _: replace(client, encoder=mixing))
    scopes._pristine.cache_clear()
    try:
        with pytest.raises(InputError, match=r"contract\.industries\.linear\.model: .*BatchNorm"):
            check_networks(scenario)
        check_networks(_everybody(scenario, float("inf")))  # no per-unit clipping there
    finally:
        scopes._pristine.cache_clear()


def client_width(spec: object, n_features: int) -> int:
    return spec.width(n_features)  # type: ignore[attr-defined, no-any-return]


def _everybody(scenario: Scenario, epsilon: float) -> Scenario:
    roster = tuple(line.model_copy(update={"epsilon": epsilon}) for line in scenario.roster)
    return scenario.model_copy(update={"roster": roster})
