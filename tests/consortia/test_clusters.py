"""Two groups with opposite labels in one consortium: each gets its own model, and resuming changes no bit."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from consortia.common.errors import InputError
from consortia.coordinator.rounds import Coordinator
from consortia.planning.plan import make_plans
from consortia.terms.scenario import Scenario, load_scenario

BENCH = runpy.run_path(str(Path(__file__).resolve().parents[2] / "benchmarks" / "clusters.py"))


def _folder(out: Path) -> Path:
    (folder,) = (out / "runs").iterdir()
    return folder


@pytest.mark.parametrize("epsilon", ["inf", pytest.param("8", marks=pytest.mark.end_to_end)])
def test_opposite_groups_are_separated(epsilon: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, Any] = {}
    monkeypatch.setattr(
        Coordinator, "_evaluate", lambda _, models, state: sent.update(models)
    )  # receipts take most of the time
    result = BENCH["run"](tmp_path, "clustered", epsilon, 8, 1)
    assert result["status"] == "completed"
    assert BENCH["separated"](result) is not None
    models = {
        file.stem: safetensors.torch.load(file.read_bytes())["head.weight"].flatten()
        for file in (_folder(tmp_path) / "model").iterdir()
    }
    assert set(models) == {"bank", "bank-cluster-0", "bank-cluster-1"}
    alike = torch.nn.functional.cosine_similarity(models["bank-cluster-0"], models["bank-cluster-1"], dim=0)
    assert alike < -0.5
    numbers = result["history"][-1]["clusters"]["bank"]
    assert all(
        torch.equal(sent[name]["head.weight"].flatten(), models[f"bank-cluster-{k}"]) for name, k in numbers.items()
    )


def _changed(**keys: Any) -> Scenario:
    scenario = load_scenario("banks-network")
    terms = scenario.contract.strategy.model_copy(update={"name": "clustered", **keys})
    return scenario.model_copy(update={"contract": scenario.contract.model_copy(update={"strategy": terms})})


@pytest.mark.parametrize(
    ("keys", "words"), [({"average_last": 3}, "average_last = 1"), ({"weighting": "information"}, "assumes one model")]
)
def test_what_assumes_one_model_is_refused(keys: dict[str, Any], words: str) -> None:
    make_plans(_changed())
    with pytest.raises(InputError, match=words):
        make_plans(_changed(**keys))
