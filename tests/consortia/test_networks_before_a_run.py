"""`consortia check` makes the very check of a network that the first round of DP training makes."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor, nn

from clients import registry
from consortia.common.errors import InputError
from consortia.planning import networks
from consortia.planning.known import shown
from consortia.planning.networks import check_networks, slow_networks
from consortia.terms import scopes
from consortia.terms.scenario import Scenario, load_scenario
from privacy.errors import PlanError


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


def test_a_network_of_ones_own_that_trains_row_by_row_is_named_with_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).square()

    scenario, client = _everybody(load_scenario("linear"), 3.0), registry.get("linear")
    assert slow_networks(scenario) == []
    for layer, told in ((Own, "no rule for Own"), (nn.Linear, "")):
        monkeypatch.setattr(
            registry, "get", lambda _, layer=layer: replace(client, encoder=lambda n, spec: layer(n, spec.width(n)))
        )
        scopes._pristine.cache_clear()
        try:
            found = slow_networks(scenario)
            assert slow_networks(_everybody(scenario, float("inf"))) == []
        finally:
            scopes._pristine.cache_clear()
        assert len(found) == bool(told)
        assert all(
            told in line and "contract.industries.linear.model: linear trains row by row" in line for line in found
        )


def client_width(spec: object, n_features: int) -> int:
    return spec.width(n_features)  # type: ignore[attr-defined, no-any-return]


def _everybody(scenario: Scenario, epsilon: float) -> Scenario:
    roster = tuple(line.model_copy(update={"epsilon": epsilon}) for line in scenario.roster)
    return scenario.model_copy(update={"roster": roster})


@pytest.fixture
def scenario(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scenario:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return _everybody(load_scenario("linear"), 3.0)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Which networks were checked."""
    calls: list[object] = []
    real = networks.check_module

    def counted(module: nn.Module, *given: object) -> object:
        calls.append(module)
        return real(module, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(networks, "check_module", counted)
    return calls


def _shown(scenario: Scenario) -> None:
    with shown():
        check_networks(scenario)


def test_a_network_that_passed_is_not_tried_again_to_be_shown(
    scenario: Scenario, checked: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    _shown(scenario)
    _shown(scenario)
    assert len(checked) == 1
    check_networks(scenario)  # whoever does not only show
    assert len(checked) == 2
    terms = dict(scenario.contract.industries)
    model = terms["linear"].model.model_copy(update={"kind": "mlp", "hidden": (3,)})
    terms["linear"] = terms["linear"].model_copy(update={"model": model})
    _shown(scenario.model_copy(update={"contract": scenario.contract.model_copy(update={"industries": terms})}))
    assert len(checked) == 3
    monkeypatch.setattr(networks, "version", lambda package: "another Opacus")
    _shown(scenario)
    assert len(checked) == 4
    monkeypatch.setattr(networks, "digest", lambda places: "other code")
    _shown(scenario)
    assert len(checked) == 5


def test_the_code_that_decides_is_in_the_digest(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    monkeypatch.setattr(networks, "digest", lambda places: hashed.extend(map(str, places)) or "")
    _shown(scenario)
    root = Path(networks.__file__).parents[3]
    wanted = {"clients", "privacy", "platform/consortia_plugins", "platform/consortia/planning/networks.py"}
    assert {*hashed} == {str(root / name) for name in {*wanted, "platform/consortia/terms/scopes.py"}}


@pytest.mark.parametrize("numbers", ["[0.0]", "[2.0]", "[1.0, 1.0]", "[]", "passed", "[NaN]"])
def test_a_changed_entry_is_no_pass(scenario: Scenario, checked: list[object], tmp_path: Path, numbers: str) -> None:
    _shown(scenario)
    with sqlite3.connect(tmp_path / "consortia" / "plans.db") as link:
        link.execute("UPDATE plans SET numbers = ?", (numbers,))
    _shown(scenario)
    assert len(checked) == 2


def test_a_refusal_is_found_anew_and_an_entry_by_hand_deceives_nobody_who_runs(
    scenario: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[object] = []

    def refuse(*given: object) -> None:
        refused.append(given)
        raise PlanError("module: mixes rows")

    monkeypatch.setattr(networks, "check_module", refuse)
    for number in (1, 2):
        with pytest.raises(InputError, match="mixes rows"):
            _shown(scenario)
        assert len(refused) == number
    assert not (tmp_path / "consortia" / "plans.db").exists()
    monkeypatch.setattr(networks, "check_module", lambda *given: None)
    _shown(scenario)  # an entry that says it passed
    monkeypatch.setattr(networks, "check_module", refuse)
    _shown(scenario)
    with pytest.raises(InputError, match="mixes rows"):
        check_networks(scenario)


def test_the_network_of_code_that_is_not_hashed_is_tried_each_time(
    scenario: Scenario, checked: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = registry.get("linear")

    def encoder(n_features: int, spec: object) -> nn.Module:
        return client.encoder(n_features, spec)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "get", lambda _: replace(client, encoder=encoder))
    _shown(scenario)
    monkeypatch.setattr(registry, "get", lambda _: client)
    monkeypatch.setattr(registry, "built_in", frozenset)  # a package's client with an encoder of ours
    _shown(scenario)
    _shown(scenario)
    assert len(checked) == 3
    assert not (tmp_path / "consortia" / "plans.db").exists()
