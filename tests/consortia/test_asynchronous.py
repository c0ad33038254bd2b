"""Runs without rounds: a slow participant, late and stale replies, lost messages, resume, participations."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from consortia.common.errors import InputError, RunFailedError
from consortia.coordinator import asynchronous
from consortia.coordinator.aggregation import _proposed_sigma, honest_bound
from consortia.coordinator.checkpoint import Checkpoint, load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.engines.embedded import EmbeddedGrid
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.messages.flower import GridExchange, pack, unpack
from consortia.planning.compatibility import cautions, check_fit, fits_with
from consortia.planning.plan import make_plans
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import initial_groups

LAZY = "used-car"


def _scenario(name: str = "fedbuff", *, rounds: int = 6, most: int | None = 6, **contract: Any) -> Scenario:
    data = load_scenario("banks-network").with_overrides(epsilon=["inf"]).model_dump(mode="python", by_alias=True)
    options = contract.pop("options", {})
    data["contract"]["strategy"] = {"name": name, "weighting": "equal", "options": options}
    data["contract"] |= {"rounds": rounds, "max_participations": most, **contract}
    return scenario_from_json(json.dumps(data))


def _answer(data: bytes, scenario: Scenario, change: float = 1.0) -> bytes:
    """Move every parameter by `change` times the participant's place in the alphabet and its participation."""
    message = decode(data)
    train = message.header["kind"] == "train"
    names = sorted(participant.name for participant in scenario.roster)
    step = change * (1 + names.index(message.header["participant"])) * int(message.header["round"])
    header = {
        "status": "OK" if train else "EVALUATED",
        **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
        "contract": scenario.contract.sha256(),
        "noise_multiplier": "0.0",
        "epsilon_budget": "null",
        "delta": "1e-05",
        "unit": "record",
        "non_private": "true",
    }
    return encode(Envelope(header, {n: t + step for n, t in message.tensors.items()} if train else {}))


class _Script:
    """A transport whose answers come in the order of a turn: one message at a time, `slow` ones every tenth look."""

    def __init__(self, scenario: Scenario, slow: str = LAZY, mute: tuple[str, ...] = (), change: float = 1.0) -> None:
        self.scenario, self.slow, self.mute, self.change = scenario, slow, mute, change
        self.sent: list[tuple[str, int, str]] = []
        self.waiting: list[tuple[str, str, bytes]] = []
        self.looks = 0

    def __call__(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        return [Answer(name, _answer(data, self.scenario)) for name, data in envelopes.items()]

    def send(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> tuple[dict[str, str], list[Answer]]:
        tickets = {}
        for name, data in envelopes.items():
            tickets[name] = f"{name} {len(self.sent)}"
            self.sent.append((name, int(decode(data).header["round"]), tickets[name]))
            self.waiting.append((tickets[name], name, data))
        return tickets, []

    def receive(self, seconds: float) -> list[tuple[str, Answer]]:
        self.looks += 1
        for index, (ticket, name, data) in enumerate(self.waiting):
            if name in self.mute or (name == self.slow and self.looks % 10):
                continue
            del self.waiting[index]
            return [(ticket, Answer(name, _answer(data, self.scenario, self.change)))]
        time.sleep(0.002)
        return []


def _model(folder: Path) -> dict[str, torch.Tensor]:
    state = load_latest(folder)
    assert state is not None
    return state.groups["bank"]


def test_a_slow_participant_holds_nobody_and_its_staleness_counts(tmp_path: Path) -> None:
    scenario = _scenario(rounds=12)
    script = _Script(scenario)
    record = Coordinator(scenario, "run-1", tmp_path, script).run()
    assert record["status"] == "completed"
    assert [line["version"] for line in record["history"]] == list(range(1, 13))
    updates = [update for line in record["history"] for update in line["updates"]]
    lazy = [u for u in updates if u["participant"] == LAZY]
    fast = [u for u in updates if u["participant"] != LAZY]
    assert lazy[0]["staleness"] > 2 > max(u["staleness"] for u in fast) - 1
    assert lazy[0]["weight"] == pytest.approx(0.5 / (1 + lazy[0]["staleness"]) ** 0.5)
    # Nobody took part more often than the contract says, and the numbers of a participant's messages are its own.
    for participant in scenario.roster:
        numbers = [number for name, number, _ in script.sent if name == participant.name]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) <= scenario.contract.participations


def test_the_loop_by_hand(tmp_path: Path) -> None:
    # Two steps of two replies of new-car (second in the alphabet: +2, then +4) and furniture (+1, then +2).
    scenario = _scenario(rounds=2, most=2, round={"quorum": 0.4, "deadline_seconds": 60.0})
    script = _Script(scenario, slow="", mute=("used-car", "radio-tv", "other"))
    Coordinator(scenario, "run-1", tmp_path, script).run()
    start = initial_groups(scenario.contract, ["bank"])["bank"]
    # Step 1: (2 + 1) / 2. new-car's second participation began before it: staleness 1, weight 1 / sqrt 2.
    # furniture's began after it. Step 2: (4 / sqrt 2 + 2) / 2.
    wanted = 1.5 + (4 / 2**0.5 + 2) / 2
    assert all(torch.allclose(tensor, start[n] + wanted) for n, tensor in _model(tmp_path).items())


def test_the_deadline_steps_without_the_slow_one_and_uses_its_reply_later(tmp_path: Path) -> None:
    scenario = _scenario("semi-sync", rounds=30, most=30, options={"window_seconds": 0.005})
    record = Coordinator(scenario, "run-1", tmp_path, _Script(scenario)).run()
    lines = record["history"]
    assert LAZY not in lines[0]["replies"]
    late = [u for line in lines for u in line["updates"] if u["participant"] == LAZY]
    assert late
    assert late[0]["staleness"] >= 1
    for line in lines:
        assert len({u["participant"] for u in line["updates"]}) == len(line["updates"])  # one each in a window


def test_a_reply_that_is_too_stale_is_dropped_by_name(tmp_path: Path) -> None:
    scenario = _scenario(rounds=12, options={"max_staleness": 2})
    record = Coordinator(scenario, "run-1", tmp_path, _Script(scenario)).run()
    codes = {n: {f["code"] for f in p["failures"]} for n, p in record["participants"].items()}
    assert codes.pop(LAZY) == {"TOO_STALE"}
    assert not any(codes.values())
    assert all(u["participant"] != LAZY for line in record["history"] for u in line["updates"])


def test_an_answer_to_an_old_attempt_is_late_and_the_same_participation_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "_PAUSE", 0.0)
    scenario = _scenario("fedasync", rounds=5, most=1, round={"deadline_seconds": 0.3, "quorum": 0.2})

    class Tardy(_Script):
        def __init__(self) -> None:
            super().__init__(scenario, slow="")
            self.held: list[tuple[str, str, bytes]] = []
            self.models: list[bytes] = []

        def receive(self, seconds: float) -> list[tuple[str, Answer]]:
            for item in [w for w in self.waiting if w[1] == LAZY]:
                self.waiting.remove(item)
                self.held.append(item)
                self.models.append(item[2])
            if len(self.models) >= 2 and self.held:  # the first attempt's answer comes after the second was sent
                ticket, name, data = self.held.pop(0)
                return [(ticket, Answer(name, _answer(data, self.scenario)))]
            return super().receive(seconds)

    script = Tardy()
    record = Coordinator(scenario, "run-1", tmp_path, script).run()
    codes = [f["code"] for f in record["participants"][LAZY]["failures"]]
    assert codes == ["NO_REPLY", "LATE_REPLY"]
    assert record["history"][-1]["replies"] == [LAZY]
    first, second = (decode(data) for data in script.models[:2])
    assert first.header["round"] == second.header["round"] == "1"
    assert all(torch.equal(first.tensors[n], second.tensors[n]) for n in first.tensors)  # so the outbox answers


def test_mute_participants_are_given_up_and_too_few_left_fail_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asynchronous, "_PAUSE", 0.0)
    terms = {"deadline_seconds": 0.01, "attempts": 2, "quorum": 0.6}
    scenario = _scenario(rounds=100, most=100, round=terms)
    names = sorted(participant.name for participant in scenario.roster)
    script = _Script(scenario, slow="", mute=tuple(names[2:]))
    with pytest.raises(RunFailedError, match=r"wanted at least 3 participants that answer, got 2 \(.*NO_REPLY"):
        Coordinator(scenario, "run-1", tmp_path, script).run()
    assert json.loads((tmp_path / "coordinator.json").read_text())["status"] == "failed"
    assert sum(name == names[4] for name, *_ in script.sent) <= 4  # two participations, two attempts each


def test_bad_replies_are_dropped_and_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asynchronous, "_PAUSE", 0.0)
    scenario = _scenario(rounds=4)

    class Spoilt(_Script):
        def receive(self, seconds: float) -> list[tuple[str, Answer]]:
            return [
                (t, Answer(a.participant, b"no envelope") if a.participant == LAZY else a)
                for t, a in super().receive(seconds)
            ]

    record = Coordinator(scenario, "run-1", tmp_path, Spoilt(scenario, slow="")).run()
    assert record["status"] == "completed"
    assert {f["code"] for f in record["participants"][LAZY]["failures"]} == {"BAD_REPLY"}


@pytest.mark.parametrize("name", ["fedasync", "fedbuff", "semi-sync"])
def test_killed_at_any_checkpoint_it_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """The answers come in one order here: first sent, first answered."""
    scenario = _scenario(name, rounds=4, options={"buffer_size": 3} if name == "fedbuff" else {})
    kept: list[int] = []

    class Counting(Coordinator):
        def _keep(self, state: Checkpoint) -> None:
            super()._keep(state)
            kept.append(state.round)

    Counting(scenario, "run-1", tmp_path / "whole", _Script(scenario, slow="", change=0.1)).run()
    whole = _model(tmp_path / "whole")
    for stop in range(1, len(kept), 1 if name == "fedasync" else 4):

        class Dies(Coordinator):
            left = stop

            def _keep(self, state: Checkpoint) -> None:
                super()._keep(state)
                self.left -= 1
                if not self.left:
                    raise KeyboardInterrupt

        folder = tmp_path / f"killed-{stop}"
        with pytest.raises(KeyboardInterrupt):
            Dies(scenario, "run-1", folder, _Script(scenario, slow="", change=0.1)).run()
        again = Coordinator(scenario, "run-1", folder, _Script(scenario, slow="", change=0.1))
        record = again.run(resume=True)
        assert all(torch.equal(tensor, whole[n]) for n, tensor in _model(folder).items()), stop
        assert [line["round"] for line in record["history"]] == [1, 2, 3, 4]


def test_embedded_participants_at_once_do_not_wait_for_the_one_that_sleeps(tmp_path: Path) -> None:
    scenario = _scenario(rounds=8, round={"deadline_seconds": 20.0})
    app, over = ClientApp(), threading.Event()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        data = unpack(message.content)
        if context.node_config["participant"] == LAZY:
            over.wait(10)  # who waits for it, waits until then
        return Message(pack(_answer(data, scenario, 0.01)), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        over.set()
        return Message(pack(_answer(unpack(message.content), scenario)), reply_to=message)

    names = [participant.name for participant in scenario.roster]
    grid = EmbeddedGrid(app, {name: {"participant": name} for name in names}, workers=len(names))
    try:
        record = Coordinator(scenario, "run-1", tmp_path, GridExchange(grid, names, 1.0)).run()
    finally:
        grid.close()
    # Eight steps of two replies within one training of the slow one, whose reply then comes late.
    assert len(record["history"]) == 8
    assert not any(LAZY in line["replies"] for line in record["history"])
    assert [f["code"] for f in record["participants"][LAZY]["failures"]] == ["LATE_REPLY"]


def test_sigma_is_solved_for_the_participations_of_the_contract(make_site: Callable[..., Any]) -> None:
    def of(name: str, rounds: int, most: int | None) -> Scenario:
        data = load_scenario("banks-network").model_dump(mode="python", by_alias=True)
        data["contract"] |= {
            "strategy": {"name": name, "weighting": "equal"},
            "rounds": rounds,
            "max_participations": most,
        }
        return scenario_from_json(json.dumps(data))

    def sigma(*key: Any) -> float:
        terms = of(*key)
        return _proposed_sigma(terms.contract, terms.participant("new-car"))

    one = of("fedbuff", 40, 2)
    assert sigma("fedbuff", 40, 2) == sigma("cyclic", 10, 2) == sigma("fedavg", 2, None) < sigma("cyclic", 10, None)
    assert next(p for p in make_plans(one) if p.name == "new-car").noise_multiplier == sigma("fedavg", 2, None)
    start = initial_groups(one.contract, ["bank"])["bank"]
    participant = one.participant("new-car")
    assert honest_bound(one.contract, participant, start) == honest_bound(
        of("fedavg", 2, None).contract, participant, start
    )
    # At the participant: its own numbers up to two, charged; a third is outside the contract, under any number.
    site = make_site("new-car", "banks-network")
    contract = one.contract.canonical()
    assert [site.ask(n, contract=contract).header["status"] for n in (1, 2)] == ["OK", "OK"]
    assert site.ask(3, contract=contract).header["code"] == "BAD_MESSAGE"
    assert len(site.ledger().entries()) == 2
    plan = site.ledger().plan("run-1")
    assert plan.rounds == 2
    assert plan.noise_multiplier == pytest.approx(sigma("fedavg", 2, None))


@pytest.mark.parametrize("epsilon", ["inf", "3"])
def test_a_cyclic_participant_answers_no_more_rounds_than_the_contract_says(
    epsilon: str, make_site: Callable[..., Any]
) -> None:
    scenario = _scenario("cyclic", rounds=10, most=2)
    site = make_site("new-car", "banks-network", epsilon=[epsilon])
    site.policy(lambda data: data["allow"].update(non_private=True))
    asked = [site.ask(number, contract=scenario.contract.canonical()).header for number in (1, 6, 9)]
    assert [header["status"] for header in asked] == ["OK", "OK", "RECEIVE_ONLY"]
    assert len(site.ledger().entries()) == 2


def test_what_does_not_go_without_rounds_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="max_participations with an asynchronous strategy or 'cyclic' only"):
        _scenario("fedavg")
    for keys, words in (
        ({"evaluation": {"metrics": "dp", "every": 1}, "releases": ["update", "metrics"]}, "evaluation.every = 0"),
        ({"trust": "aggregate"}, "sum of the updates only"),
    ):
        with pytest.raises(InputError, match=words):
            _scenario(**keys)  # type: ignore[arg-type]
    for key, value, words in (
        ("average_last", 2, "average_last = 1"),
        ("weighting", "information", "compares no replies"),
    ):
        data = json.loads(_scenario().to_json())
        data["contract"]["strategy"][key] = value
        with pytest.raises(InputError, match=words):
            scenario_from_json(json.dumps(data))
    with pytest.raises(InputError, match="wanted at least 30 participations"):
        check_fit(_scenario("cyclic", rounds=30, most=5))
    assert "by their staleness" in fits_with(_scenario())["missing replies"]
    assert cautions(_scenario(rounds=12)) == []
    (line,) = cautions(_scenario(rounds=13))  # four others with six replies each make twelve steps of two
    assert "without the slowest there are 12" in line
