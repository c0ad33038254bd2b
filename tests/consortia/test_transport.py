"""Who counts as there: a SuperNode that stopped beating does not, one that joins late does from then on."""

from __future__ import annotations

import time
from collections.abc import Iterable

import pytest
from flwr.clientapp import ClientApp
from flwr.proto.node_pb2 import NodeInfo

from consortia.engines.embedded import EmbeddedGrid
from consortia.errors import RunFailedError
from consortia.transport import GridExchange

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
