"""Scopes, pretrained starts, and what a participant receives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from consortia.common.errors import InputError
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import (
    build_module,
    check_like,
    for_participant,
    initial_groups,
    load_state,
    shared_names,
    state_of,
)


def _contract(**changes: Any) -> Contract:
    data = json.loads(load_scenario("cross-industry-network").contract.canonical())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = data
        for key in parents:
            place = place[key]
        place[last] = value
    return contract_from_json(json.dumps(data))


def _same_mlp(**scopes: str) -> Contract:
    mlp = {"kind": "mlp", "hidden": [8, 4]}
    return _contract(**{f"industries__{i}__model": mlp for i in ("bank", "factory", "hospital")}, scopes=scopes)


def test_by_default_industries_share_with_their_own_kind_only() -> None:
    groups = initial_groups(_contract(), ["bank", "hospital"])
    assert set(groups) == {"bank", "hospital"}
    assert set(for_participant(groups, "bank")) == {"head.weight", "head.bias"}


def test_the_consortium_trunk_is_a_switch() -> None:
    contract = _same_mlp(encoder="industry", trunk="consortium", head="private")
    groups = initial_groups(contract, ["bank", "hospital"])
    assert {name.split(".")[0] for name in groups["*"]} == {"trunk"}
    assert {name.split(".")[0] for name in groups["bank"]} == {"encoder"}
    received = for_participant(groups, "hospital")
    assert not [name for name in received if name.startswith("head.")]
    module = build_module(contract, "hospital")
    assert shared_names(module.state_dict(), contract) == sorted(received)


def test_a_consortium_trunk_of_different_shapes_is_refused() -> None:
    contract = _contract(
        industries__bank__model={"kind": "mlp", "hidden": [8, 4]},
        industries__hospital__model={"kind": "mlp", "hidden": [8, 5]},
        scopes={"encoder": "industry", "trunk": "consortium", "head": "industry"},
    )
    with pytest.raises(InputError, match="one shape"):
        initial_groups(contract, ["bank", "hospital"])


def test_the_start_is_the_same_on_every_side() -> None:
    contract = _same_mlp(encoder="industry", trunk="industry", head="private")
    left, right = (state_of(build_module(contract, "bank")) for _ in range(2))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_pretrained_start_is_checked(tmp_path: Path) -> None:
    state = state_of(build_module(_contract(), "bank"))
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file({name: torch.full_like(t, 0.25) for name, t in state.items()}, file)
    sha = hashlib.sha256(file.read_bytes()).hexdigest()
    init = {"file": str(file), "sha256": sha}
    groups = initial_groups(_contract(industries__bank__init=init), ["bank"])
    assert all(bool((t == 0.25).all()) for t in groups["bank"].values())
    with pytest.raises(InputError, match="not the agreed one"):
        initial_groups(_contract(industries__bank__init={**init, "sha256": "0" * 64}), ["bank"])
    safetensors.torch.save_file({"head.weight": torch.ones(1, 1), "other": torch.ones(1)}, file)
    init["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="nobody asked for: other"):
        initial_groups(_contract(industries__bank__init=init), ["bank"])


def test_load_state_names_what_does_not_fit() -> None:
    module = build_module(_contract(), "bank")
    state = state_of(module)
    with pytest.raises(ValueError, match=r"head.weight: wanted shape \(1, \d+\), got \(1, 2\)"):
        load_state(module, {"head.weight": torch.ones(1, 2)})
    with pytest.raises(ValueError, match="finite"):
        load_state(module, {"head.bias": torch.tensor([float("inf")])})
    with pytest.raises(ValueError, match=r"parameters missing: head\.bias"):
        check_like(state, {"head.weight": state["head.weight"]})
    with pytest.raises(ValueError, match="parameters nobody asked for: x"):
        load_state(module, {"x": torch.ones(1)})
