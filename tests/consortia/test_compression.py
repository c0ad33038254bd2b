"""Compressed updates: what comes back, how small they are, and that a reply is still not believed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import zstandard

from consortia.messages.compression import PACKED, compress, expand
from consortia.terms.compression import CompressionTerms

RECEIVED = {"w": torch.zeros(40, 25), "b": torch.ones(7), "count": torch.tensor(3)}


def _update(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    moved = {n: RECEIVED[n] + 0.1 * torch.randn(RECEIVED[n].shape, generator=generator) for n in ("w", "b")}
    return {**moved, "count": torch.tensor(4)}


@pytest.mark.parametrize(("kind", "levels"), [("int8", 127), ("int4", 7)])
def test_every_number_comes_back_within_a_step_and_right_on_average(kind: str, levels: int) -> None:
    terms = CompressionTerms(kind=kind)  # type: ignore[arg-type]
    update = _update()
    step = max(float((update[n] - RECEIVED[n]).abs().max()) for n in ("w", "b")) / levels
    total = torch.zeros(40, 25)
    for seed in range(50):
        sent, memory = compress(update, RECEIVED, terms, np.random.default_rng(seed))
        assert memory is None
        back = expand(sent, RECEIVED, terms)
        assert set(back) == set(update)
        assert back["count"] == 4
        assert float((back["w"] - update["w"]).abs().max()) <= step * 1.001
        total += back["w"]
    # The deviation of one rounding is at most half a step; of the mean of 50, a fourteenth: five of these.
    assert float((total / 50 - update["w"]).abs().max()) < step * 5 / 14


def test_sizes() -> None:
    received = {"w": torch.zeros(100_000)}
    update = {"w": 0.1 * torch.randn(100_000, generator=torch.Generator().manual_seed(1))}
    rng = np.random.default_rng(0)
    raw = 4 * 100_000
    size = {
        kind: compress(update, received, CompressionTerms(kind=kind), rng)[0][PACKED].numel() / raw  # type: ignore[arg-type]
        for kind in ("int8", "int4", "top-k")
    }
    assert size["int8"] <= 0.26
    assert size["int4"] <= 0.13
    assert size["top-k"] <= 0.15  # a tenth of the numbers, with their places


def test_top_k_sends_the_largest_and_remembers_the_rest() -> None:
    received = {"w": torch.zeros(10)}
    terms = CompressionTerms(kind="top-k", fraction=0.2)
    update = {"w": torch.tensor([1.0, -9.0, 2.0, 0.0, 3.0, 8.0, 0.0, 0.0, 4.0, 0.0])}
    rng = np.random.default_rng(0)
    sent, memory = compress(update, received, terms, rng)
    assert expand(sent, received, terms)["w"].tolist() == [0, -9, 0, 0, 0, 8, 0, 0, 0, 0]
    assert memory is not None
    sent, memory = compress({"w": torch.zeros(10)}, received, terms, rng, memory)
    assert expand(sent, received, terms)["w"].tolist() == [0, 0, 0, 0, 3, 0, 0, 0, 4, 0]  # nothing is lost, only late
    assert memory is not None
    assert memory.tolist() == [1, 0, 2, 0, 0, 0, 0, 0, 0, 0]


def _blob(body: bytes, count: float = 1007, scale: float = 1.0, magic: bytes = b"CPU1") -> torch.Tensor:
    data = magic + struct.pack("<df", count, scale) + zstandard.ZstdCompressor().compress(body)
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("int8", {}),
        ("int8", {PACKED: torch.zeros(3)}),
        ("int8", {PACKED: torch.zeros(100, dtype=torch.uint8)}),
        ("int8", {PACKED: _blob(bytes(1006))}),
        ("int8", {PACKED: _blob(bytes(1007), count=1006)}),
        ("int8", {PACKED: _blob(bytes(1007), scale=float("nan"))}),
        ("int8", {PACKED: _blob(bytes(1007), magic=b"XXXX")}),
        ("int8", {PACKED: _blob(bytes(10_000_000))}),  # a bomb
        ("int4", {PACKED: _blob(bytes(1007))}),
        ("top-k", {PACKED: _blob(bytes(7))}),
        ("top-k", {PACKED: _blob(struct.pack("<If", 1007, 1.0))}),
        ("top-k", {PACKED: _blob(struct.pack("<IIff", 5, 0, 1.0, 1.0))}),
        ("top-k", {PACKED: _blob(struct.pack("<If", 5, float("inf")))}),
    ],
)
def test_bytes_that_the_contract_does_not_say_are_refused(kind: str, tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match=PACKED):
        expand(tensors, RECEIVED, CompressionTerms(kind=kind))  # type: ignore[arg-type]


def _ran(kind: str | None, folder: Path) -> torch.Tensor:
    """Return the parameters that a run ends with; non-private, so that two runs differ by the compression only."""
    from consortia.engines import runner
    from consortia.engines.options import Options
    from consortia.engines.runner import execute, prepare
    from consortia.terms.scenario import load_scenario, scenario_from_json

    data = json.loads(load_scenario("linear").to_json())
    if kind:
        data["contract"]["compression"] = {"kind": kind, "fraction": 0.5}
    scenario = scenario_from_json(json.dumps(data))
    options = Options(scenario="linear", rounds=12, seed=1, epsilon=("inf",), out=folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "load_scenario", lambda name: scenario)
        done = execute(prepare(options), options)
    assert done.result["status"] == "completed"
    participants: dict[str, Any] = done.result["participants"]
    assert all(("saved" in participant["bytes"]) is bool(kind) for participant in participants.values())
    assert ("compression" in done.job.scenario.contract.canonical()) is bool(kind)
    model = safetensors.torch.load((done.job.folder / "model" / "linear.safetensors").read_bytes())
    return torch.cat([model[name].flatten().double() for name in sorted(model)])


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> torch.Tensor:
    """What a run without compression ends with; its contract keeps its hash."""
    return _ran(None, tmp_path_factory.mktemp("plain"))


@pytest.mark.end_to_end
@pytest.mark.parametrize("kind", ["int8", "top-k"])
def test_a_run_with_compressed_updates_ends_where_the_other_does(
    kind: str, plain: torch.Tensor, tmp_path: Path
) -> None:
    moved = float(plain.norm())
    assert float((_ran(kind, tmp_path) - plain).norm()) < (0.02 if kind == "int8" else 0.25) * moved
