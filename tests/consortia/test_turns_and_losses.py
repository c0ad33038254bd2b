"""Strategies that need something special of a round: turns of Cyclic, the losses of q-FedAvg."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.common.errors import InputError, RunFailedError
from consortia.coordinator.aggregation import turns
from consortia.coordinator.rounds import Coordinator
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.participant.handle import handle
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import LOSS, initial_groups
from privacy.events import NonPrivate
from strategies.registry import make


def _scenario(name: str, scenario: str = "banks-network", scopes: str = "industry", **options: Any) -> Scenario:
    data = load_scenario(scenario).with_overrides(rounds=6, epsilon=["inf"]).model_dump(mode="python", by_alias=True)
    data["contract"]["strategy"] = {"name": name, "options": options}
    data["contract"]["scopes"] = {"encoder": "industry", "trunk": scopes, "head": "industry"}
    data["contract"]["releases"] = ["update", "metrics"] if name == "qfedavg" else ["update"]
    data["contract"]["round"] = {"attempts": 2}
    return scenario_from_json(json.dumps(data))


class _Honest:
    """Participants that send what they got, plus one."""

    def __init__(self, silent: Sequence[str] = (), loss: float | None = None) -> None:
        self.asked: list[list[str]] = []
        self.silent = set(silent)
        self.loss = loss

    def __call__(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        if kind == "train":
            self.asked.append(sorted(envelopes))
        return [Answer(name, self._reply(name, data)) for name, data in envelopes.items() if name not in self.silent]

    def _reply(self, name: str, data: bytes) -> bytes:
        message = decode(data)
        header = {
            "status": "OK" if message.header["kind"] == "train" else "EVALUATED",
            "contract": "",
            "noise_multiplier": "0.0",
            "epsilon_budget": "null",
            "delta": "1e-5",
            "unit": "record",
            "non_private": "true",
            **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
        }
        header["contract"] = SHA[message.header["contract"]]
        tensors = {n: t + 1 for n, t in message.tensors.items()} if header["status"] == "OK" else {}
        if self.loss is not None and tensors:
            tensors[LOSS] = torch.tensor(self.loss)
        return encode(Envelope(header, tensors))


SHA: dict[str, str] = {}


def _play(scenario: Scenario, tmp_path: Path, participants: _Honest) -> dict[str, Any]:
    SHA[scenario.contract.canonical()] = scenario.contract.sha256()
    return Coordinator(scenario, "run-1", tmp_path, participants).run()


def test_everybody_has_its_turn(tmp_path: Path) -> None:
    scenario, participants = _scenario("cyclic"), _Honest()
    record = _play(scenario, tmp_path, participants)
    names = sorted(participant.name for participant in scenario.roster)
    assert participants.asked == [[name] for name in (*names, names[0])]
    assert [line["replies"] for line in record["history"]] == participants.asked
    start = initial_groups(scenario.contract, ["bank"])["bank"]
    from consortia.coordinator.checkpoint import load_latest

    state = load_latest(tmp_path)
    assert state is not None
    # Six visits of one more each: the model was handed on, not averaged.
    assert all(torch.allclose(state.groups["bank"][n], start[n] + 6) for n in start)


def test_who_does_not_answer_is_passed_over(tmp_path: Path) -> None:
    scenario = _scenario("cyclic")
    names = sorted(participant.name for participant in scenario.roster)
    participants = _Honest(silent=[names[1]])
    record = _play(scenario, tmp_path, participants)
    # Round 2: twice the second, then the third, whose own turn is round 3.
    assert participants.asked[:5] == [[names[0]], [names[1]], [names[1]], [names[2]], [names[2]]]
    assert [f["code"] for f in record["participants"][names[1]]["failures"]] == ["NO_REPLY"] * 3
    with pytest.raises(RunFailedError, match="round 1: wanted a reply of one participant"):
        _play(scenario, tmp_path / "other", _Honest(silent=names))


def test_industries_tour_apart_and_a_shared_trunk_makes_one_tour() -> None:
    strategy = make("cyclic")
    apart = _scenario("cyclic", "cross-industry-network")
    names = [participant.name for participant in apart.roster]
    assert turns(apart, strategy, 2, names) == [
        ["bank-b", "bank-a"],
        ["factory-b", "factory-a"],
        ["hospital-b", "hospital-a"],
    ]
    together = apart.model_dump(mode="python", by_alias=True)
    together["contract"]["scopes"]["trunk"] = "consortium"
    assert [len(t) for t in turns(scenario_from_json(json.dumps(together)), strategy, 2, names)] == [6]
    assert turns(apart, strategy, 1, ["bank-b"]) == [["bank-b"]]
    assert turns(apart, make("fedavg"), 1, names) == []


@pytest.mark.parametrize("loss", [None, -0.1, 10.5, float("nan"), 1e12])
def test_a_loss_outside_its_public_bound_is_no_reply(loss: float | None, tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="BAD_REPLY"):
        _play(_scenario("qfedavg"), tmp_path, _Honest(loss=loss))


def test_a_loss_that_nobody_asked_for_is_no_reply(tmp_path: Path) -> None:
    with pytest.raises(RunFailedError, match="BAD_REPLY"):
        _play(_scenario("fedavg"), tmp_path, _Honest(loss=0.5))
    assert _play(_scenario("qfedavg"), tmp_path / "other", _Honest(loss=0.5))["status"] == "completed"


def test_the_loss_is_a_release_with_an_event(make_site: Callable[..., Any]) -> None:
    scenario = _scenario("qfedavg", loss_bound=0.4)
    site = make_site("new-car", "banks-network", epsilon=["inf"])
    message = site.message(contract=scenario.contract.canonical())

    def ask() -> dict[str, str]:
        reply = decode(handle(message, site.home))
        site_reply.append(reply)
        return dict(reply.header)

    site_reply: list[Envelope] = []
    site.policy(lambda data: data["allow"].update(non_private=True))
    assert ask()["code"] == "RELEASE_NOT_ALLOWED"
    site.policy(lambda data: data["allow"].update(releases=["update", "metrics"], exact_metrics=True))
    assert ask()["status"] == "OK"
    # A model of zeros has the loss ln 2 on every row, each clipped to .4.
    assert site_reply[-1].tensors[LOSS].item() == pytest.approx(0.4)
    (entry,) = site.ledger().entries()
    assert [e.what for e in entry.events if isinstance(e, NonPrivate)] == ["update", "training loss"]


def test_a_private_participant_releases_no_loss(make_site: Callable[..., Any]) -> None:
    # `consortia check` refuses such a scenario; a coordinator that asks all the same gets a code.
    scenario = _scenario("qfedavg")
    site = make_site("new-car", "banks-network")
    site.policy(lambda data: data["allow"].update(releases=["update", "metrics"], exact_metrics=True))
    reply = decode(handle(site.message(contract=scenario.contract.canonical()), site.home))
    assert reply.header["code"] == "RELEASE_NOT_ALLOWED"
    assert site.ledger().entries() == []


def test_the_contract_must_say_that_metrics_leave() -> None:
    data = json.loads(_scenario("qfedavg").to_json())
    data["contract"]["releases"] = ["update"]
    with pytest.raises(InputError, match="needs a training loss"):
        scenario_from_json(json.dumps(data))
