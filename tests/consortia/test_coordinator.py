"""The coordinator trusts no reply. These tests replace the transport (and with it the participants) by functions."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.common.errors import RunFailedError
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.terms.scenario import Scenario, load_scenario

Change = Callable[[dict[str, str], dict[str, torch.Tensor]], None]


def _reply(data: bytes, scenario: Scenario, change: Change | None = None) -> bytes:
    """Answer as an honest participant that moves every parameter by one; then let `change` spoil it."""
    message = decode(data)
    train = message.header["kind"] == "train"
    header = {
        "status": "OK" if train else "EVALUATED",
        **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
        "contract": scenario.contract.sha256(),
        "noise_multiplier": "1.5",
        "epsilon_budget": "1.0",
        "delta": "1e-05",
        "unit": "record",
        "non_private": "false",
    }
    tensors = {name: tensor + 1 for name, tensor in message.tensors.items()} if train else {}
    if change is not None and train:
        change(header, tensors)
    return encode(Envelope(header, tensors))


def _play(tmp_path: Path, spoil: Mapping[str, Change | None], *, rounds: int = 2) -> tuple[Coordinator, dict[str, Any]]:
    scenario = load_scenario("banks-network").with_overrides(rounds=rounds)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        return [Answer(n, _reply(data, scenario, spoil.get(n))) for n, data in envelopes.items()]

    coordinator = Coordinator(scenario, "run-1", tmp_path, exchange)
    return coordinator, coordinator.run()


def _nan(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"][0, 0] = float("nan")


def _shape(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"][:, :-1]


def _dtype(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] = tensors["head.weight"].double()


def _missing(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    del tensors["head.bias"]


def _extra(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.more"] = torch.ones(1)


def _huge(_: dict[str, str], tensors: dict[str, torch.Tensor]) -> None:
    tensors["head.weight"] += 3e38  # finite, but it would overflow at everybody who gets the mean


def _header(key: str, value: str) -> Change:
    def change(header: dict[str, str], _: dict[str, torch.Tensor]) -> None:
        header[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (_nan, "finite"),
        (_shape, "wanted shape"),
        (_dtype, "wanted dtype"),
        (_missing, "parameters missing"),
        (_extra, "nobody asked for"),
        (_header("round", "7"), "round"),
        (_header("run", "other"), "run"),
        (_header("contract", "0" * 64), "contract"),
        (_header("participant", "used-car"), "another participant"),
        (_header("noise_multiplier", "nan"), "noise_multiplier"),
        (_header("noise_multiplier", "-1"), "noise_multiplier"),
        (_header("noise_multiplier", "0"), "noise_multiplier"),
        (_header("status", "REFUSED"), "carries content"),
        (_header("delta", "x"), "delta"),
        (_header("delta", "nan"), "delta"),
        (_header("epsilon_budget", "abc"), "epsilon_budget"),
        (_header("epsilon_budget", "nan"), "epsilon_budget"),
        (_header("non_private", "perhaps"), "non_private"),
        (_header("unit", ""), "unit"),
        (_huge, "wanted numbers up to"),
    ],
)
def test_one_bad_reply_is_attributed_by_name_and_dropped(tmp_path: Path, change: Change, detail: str) -> None:
    coordinator, record = _play(tmp_path, {"furniture": change})
    assert record["status"] == "completed"
    failures = record["participants"]["furniture"]["failures"]
    assert [f["code"] for f in failures] == ["BAD_REPLY", "BAD_REPLY"]
    assert all(detail in f["detail"] for f in failures)
    assert all(
        not participant["failures"] for name, participant in record["participants"].items() if name != "furniture"
    )
    state = load_latest(tmp_path)
    assert state is not None
    first = coordinator.history[0]
    assert first["replies"] == ["new-car", "other", "radio-tv", "used-car"]
    assert torch.isfinite(state.groups["bank"]["head.weight"]).all()


@pytest.mark.parametrize(
    "spoilt",
    [
        torch.tensor(float("nan"), dtype=torch.float64),
        torch.tensor(0.5, dtype=torch.float64),  # a fine number, but this contract releases no metrics
        torch.tensor(1 + 1j),
        torch.ones(2),
    ],
)
def test_metrics_that_nobody_asked_for_are_dropped(tmp_path: Path, spoilt: torch.Tensor) -> None:
    scenario = load_scenario("banks-network").with_overrides(rounds=1)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        answers = {n: _reply(data, scenario) for n, data in envelopes.items()}
        if kind == "evaluate":
            answers["other"] = encode(Envelope(decode(answers["other"]).header, {"auc": spoilt}))
        return [Answer(n, data) for n, data in answers.items()]

    record = Coordinator(scenario, "run-1", tmp_path, exchange).run()
    assert record["status"] == "completed"
    assert record["participants"]["other"]["failures"][0]["code"] == "BAD_REPLY"
    assert all(participant["metrics"] is None for participant in record["participants"].values())


def test_a_header_of_nested_json_is_a_bad_reply(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network").with_overrides(rounds=1)
    header = b'{"__metadata__":{"consortia":' + b"[" * 200_000 + b"]" * 200_000 + b"}}"
    bomb = struct.pack("<Q", len(header)) + header

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        return [Answer(n, bomb if n == "other" else _reply(data, scenario)) for n, data in envelopes.items()]

    record = Coordinator(scenario, "run-1", tmp_path, exchange).run()
    assert record["status"] == "completed"
    assert record["participants"]["other"]["failures"][0]["code"] == "BAD_REPLY"


def test_a_silent_majority_is_a_named_bounded_failure(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network")
    asked: list[str] = []

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        asked.append(kind)
        return [Answer(n, _reply(d, scenario)) for n, d in envelopes.items() if n == "other"]

    with pytest.raises(RunFailedError, match=r"round 1: wanted replies of at least 3 participants, got 1"):
        Coordinator(scenario, "run-1", tmp_path, exchange).run()
    assert len(asked) == scenario.contract.round.attempts
    record = json.loads((tmp_path / "coordinator.json").read_text())
    assert record["status"] == "failed"
    assert record["participants"]["new-car"]["failures"][0]["code"] == "NO_REPLY"


def test_a_late_reply_of_an_older_attempt_is_not_taken(tmp_path: Path) -> None:
    scenario = load_scenario("banks-network").with_overrides(rounds=1)
    calls = 0

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        nonlocal calls
        calls += 1
        late = [Answer("new-car", None, "LATE_REPLY")]
        return late + [Answer(n, _reply(d, scenario)) for n, d in envelopes.items() if n != "new-car" and calls > 1]

    record = Coordinator(scenario, "run-1", tmp_path, exchange).run()
    assert record["status"] == "completed"
    assert "new-car" not in record["history"][0]["replies"]


def test_the_aggregate_is_the_declared_size_weighted_mean(tmp_path: Path) -> None:
    # Everyone adds 1 to every parameter: whatever the weights, the mean moves by exactly 1 a round.
    coordinator, _ = _play(tmp_path, {}, rounds=2)
    state = load_latest(tmp_path)
    from consortia.terms.scopes import initial_groups

    start = initial_groups(coordinator.contract, ["bank"])["bank"]["head.weight"]
    assert state is not None
    torch.testing.assert_close(state.groups["bank"]["head.weight"], start + 2)


def test_an_industry_that_never_answers_keeps_its_model(tmp_path: Path) -> None:
    scenario = load_scenario("cross-industry-network").with_overrides(rounds=1)

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        return [Answer(n, _reply(d, scenario)) for n, d in envelopes.items() if not n.startswith("factory")]

    Coordinator(scenario, "run-1", tmp_path, exchange).run()
    from consortia.terms.scopes import initial_groups

    state = load_latest(tmp_path)
    start = initial_groups(scenario.contract, ["bank", "factory", "hospital"])
    assert state is not None
    assert all(torch.equal(state.groups["factory"][n], t) for n, t in start["factory"].items())
    assert not torch.equal(state.groups["bank"]["head.bias"], start["bank"]["head.bias"])
