"""Who counts as there: a SuperNode that stopped beating does not, one that joins late does from then on."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from consortia.common.errors import RunFailedError
from consortia.engines.embedded import EmbeddedGrid
from consortia.messages.flower import GridExchange, unpack

INTERVAL = 30.0  # Flower's; it calls a node online until two of them after the last heartbeat


class _Grid(EmbeddedGrid):
    """A grid whose nodes are what a SuperLink would tell."""

    def __init__(self) -> None:
        super().__init__(ClientApp(), {})
        self.nodes: list[NodeInfo] = []

    def get_nodes(self) -> Iterable[NodeInfo]:
        return self.nodes

    def push_messages(self, messages: Iterable[object]) -> Iterable[str]:
        return ["" for _ in messages]


def _node(number: int, name: str, beat_ago: float, status: str = "online") -> NodeInfo:
    until = time.time() - beat_ago + 2 * INTERVAL
    return NodeInfo(node_id=number, name=name, status=status, online_until=until, heartbeat_interval=INTERVAL)


@pytest.mark.parametrize(("beat_ago", "there"), [(0.0, True), (29.0, True), (39.0, True), (41.0, False), (59.0, False)])
def test_a_node_that_missed_a_heartbeat_has_not_joined(beat_ago: float, there: bool) -> None:
    grid = _Grid()
    grid.nodes = [_node(2, "bank-a", beat_ago)]
    if there:
        GridExchange(grid, ["bank-a"], 0.0)
    else:
        with pytest.raises(RunFailedError, match="nobody joined"):
            GridExchange(grid, ["bank-a"], 0.0)


def test_who_joins_late_is_asked_from_then_on() -> None:
    grid = _Grid()
    grid.nodes = [_node(2, "bank-a", 1.0), _node(3, "bank-b", 50.0)]
    exchange = GridExchange(grid, ["bank-a", "bank-b"], 0.0)
    envelopes = {"bank-a": b"", "bank-b": b""}

    def codes() -> dict[str, str]:
        return {answer.participant: answer.code for answer in exchange("evaluate", envelopes, 0.1)}

    assert codes()["bank-b"] == "NOT_JOINED"
    grid.nodes[1] = _node(3, "bank-b", 1.0)
    assert codes() == {"bank-a": "NOT_PUSHED", "bank-b": "NOT_PUSHED"}  # this grid takes nothing; both were asked


class _Failing(_Grid):
    """One SuperNode that answers with what it got, but the first so many messages with an error."""

    code = ErrorCode.CLIENT_APP_CRASHED

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.nodes = [_node(2, "bank-a", 1.0)]
        self.pushed: list[Message] = []
        self.failing = failing

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # type: ignore[override]
        self.pushed += list(messages)
        return [str(len(self.pushed))]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        for number in message_ids:
            message = self.pushed[int(number) - 1]
            message.metadata.__dict__["_message_id"] = number
            if int(number) <= self.failing:
                yield Message(Error(self.code, "failed"), reply_to=message)
            else:
                yield Message(RecordDict(message.content), reply_to=message)


class _Rebooting(_Failing):
    """The SuperNode dies with its first message and is online again after a few looks."""

    code = ErrorCode.NODE_UNAVAILABLE

    def __init__(self) -> None:
        super().__init__(failing=1)
        self.looks = 0

    def get_nodes(self) -> Iterable[NodeInfo]:
        if len(self.pushed) == 1:
            self.looks += 1
            return [_node(2, "bank-a", 1.0)] if self.looks > 1 else []
        return self.nodes


def test_a_node_that_dies_and_comes_back_gets_the_same_envelope_again(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = _Rebooting()
    exchange = GridExchange(grid, ["bank-a"], 0.0)
    (answer,) = exchange("train", {"bank-a": b"envelope"}, 5.0)
    assert (answer.data, answer.code) == (b"envelope", "")
    assert len(grid.pushed) == 2
    assert grid.looks == 2


def test_a_starved_launcher_gets_the_same_envelope_again() -> None:
    grid = _Failing(failing=2)
    exchange = GridExchange(grid, ["bank-a"], 0.0)
    (answer,) = exchange("train", {"bank-a": b"envelope"}, 5.0)
    assert (answer.data, answer.code) == (b"envelope", "")
    assert [unpack(message.content) for message in grid.pushed] == [b"envelope"] * 3


def test_a_launcher_that_is_gone_is_asked_again_in_one_round_only() -> None:
    grid = _Failing(failing=4)
    exchange = GridExchange(grid, ["bank-a"], 0.0)
    codes, asked = [], []
    for _ in range(4):
        (answer,) = exchange("train", {"bank-a": b"envelope"}, 5.0)
        codes.append(answer.code)
        asked.append(len(grid.pushed))
    silent = f"FLOWER_ERROR_{ErrorCode.CLIENT_APP_CRASHED}"
    assert codes == [silent, silent, "", ""]
    assert asked == [3, 4, 5, 6]
    grid.failing = 7  # it had answered, so it is asked again
    (answer,) = exchange("train", {"bank-a": b"envelope"}, 5.0)
    assert (answer.code, len(grid.pushed)) == ("", 8)


def test_a_push_that_took_too_long_is_an_attempt_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = _Failing(failing=0)
    push = grid.push_messages

    def forgotten(_: Iterable[Message]) -> Iterable[str]:
        raise ObjectPushError("object", 1, "session")

    exchange = GridExchange(grid, ["bank-a"], 0.0)
    monkeypatch.setattr(grid, "push_messages", forgotten)
    assert [answer.code for answer in exchange("train", {"bank-a": b""}, 5.0)] == ["NOT_PUSHED"]
    monkeypatch.setattr(grid, "push_messages", push)
    assert [answer.code for answer in exchange("train", {"bank-a": b""}, 5.0)] == [""]


class _Clock:
    """A clock that goes on by what is slept."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    time = staticmethod(time.time)

    def sleep(self, seconds: float) -> None:
        self.now += max(seconds, 0.01)


def test_who_stays_away_is_not_waited_for_beside_others(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr("consortia.messages.flower.time", clock)
    monkeypatch.setattr("consortia.messages.flower._REJOIN_SECONDS", 0.3)
    grid = _Grid()
    monkeypatch.setattr(grid, "wait", clock.sleep)
    grid.nodes = [_node(2, "bank-a", 1.0)]
    exchange = GridExchange(grid, ["bank-a", "bank-b"], 0.0)
    list(exchange("train", {"bank-a": b"", "bank-b": b""}, 5.0))
    assert clock.now < 0.2
    # Alone it is waited for, and not longer than that: attempts are not used up in a moment.
    clock.now = 0.0
    assert [answer.code for answer in exchange("train", {"bank-b": b""}, 5.0)] == ["NOT_JOINED"]
    assert 0.3 <= clock.now < 2
