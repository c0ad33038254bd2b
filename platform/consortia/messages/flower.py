"""Sends envelopes as Flower messages: the coordinator's side of Flower's Message API.

It uses push and pull directly instead of `send_and_receive`, for two reasons. That method polls every three seconds,
which cannot be changed. And a late reply to an older attempt must not be taken for a reply to this one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from consortia.common.errors import RunFailedError
from consortia.messages.answer_codes import PREFIX
from consortia.messages.exchange import Answer
from consortia.messages.flower_pace import Rhythm

RECORD = "consortia"
FIELD = "envelope"
_UNAVAILABLE = f"{PREFIX}{ErrorCode.NODE_UNAVAILABLE}"
#: A SuperNode heard nothing of its launcher for a minute: it has ended, or it had no CPU time.
_SILENT = f"{PREFIX}{ErrorCode.CLIENT_APP_CRASHED}"
#: So often an envelope is sent again to a participant whose launcher was silent.
_SENT_AGAIN = 2

#: Seconds between two looks for answers. Each look costs the SuperLink several milliseconds, however many it finds.
_FIRST_POLL, _SLOWEST_POLL = 0.01, 1.0
_JOIN_POLL = 0.1
#: A SuperNode counts as gone when its heartbeat is more than so many seconds late.
_LATE = 10.0
#: How long a round waits for a SuperNode that went away. Flower lets a killed SuperNode come back only when its last
#: heartbeat is 60 s old. At the same moment Flower reports it as unavailable.
_REJOIN_SECONDS = 30.0
_LOOK_SECONDS = 0.5


def pack(data: bytes) -> RecordDict:
    """Return a message content that carries one envelope."""
    return RecordDict({RECORD: ConfigRecord({FIELD: data})})


def unpack(content: RecordDict) -> bytes:
    """Return the envelope of a message content.

    Raises
    ------
    ValueError
        When the content has another shape.
    """
    record = content.get(RECORD)
    value = record.get(FIELD) if isinstance(record, ConfigRecord) else None
    if not isinstance(value, bytes):
        raise ValueError("message content: wanted one consortia envelope")
    return value


class GridExchange:
    """An `Exchange` over a Flower Grid; participants are the registered names of its nodes.

    Parameters
    ----------
    grid : Grid
    names : sequence of str
    join_seconds : float
        How long to wait for everybody to join.
    absent : callable, optional
        Called with the names of those who have not joined yet, whenever the list changes.
    """

    def __init__(
        self,
        grid: Grid,
        names: Sequence[str],
        join_seconds: float,
        absent: Callable[[Sequence[str]], None] = lambda names: None,
    ) -> None:
        self._grid = grid
        self._absent = absent
        self._nodes = self._wait_for_nodes(names, join_seconds)
        self._names = {node: name for name, node in self._nodes.items()}
        self._open: dict[str, str] = {}
        self._given_up = set(names) - set(self._nodes)
        # A Grid in this process can wait for an answer; a remote one must be polled.
        self._wait: Callable[[float], None] = getattr(grid, "wait", time.sleep)
        self._rhythm = Rhythm(_FIRST_POLL, _SLOWEST_POLL, 0.05, known=0.8)

    def _wait_for_nodes(self, names: Sequence[str], seconds: float) -> dict[str, int]:
        end = time.monotonic() + seconds
        told: list[str] = []
        while True:
            found = self._online(names)
            missing = [name for name in names if name not in found]
            if missing != told:
                told = missing
                self._absent(missing)
            if not missing or time.monotonic() > end:
                break
            time.sleep(_JOIN_POLL)
        if not found:
            raise RunFailedError(
                f"nobody joined within {seconds:.0f} s: wanted {', '.join(names)}; "
                "check that the participants run and that their keys are registered under these names"
            )
        return found

    def _online(self, names: Collection[str]) -> dict[str, int]:
        """Return the nodes of the participants that are online.

        A SuperLink reports a SuperNode as online for up to two heartbeat intervals after the last heartbeat. Here a
        SuperNode that missed a heartbeat is offline. Waiting for it now is cheaper than a round that waits for its
        answer.
        """
        now = time.time()
        return {
            node.name: node.node_id
            for node in self._grid.get_nodes()
            # A grid in this process has no status: everybody is online.
            if node.name in names
            and (
                not node.status
                or (node.status == "online" and node.online_until - now > node.heartbeat_interval - _LATE)
            )
        }

    def __call__(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Iterator[Answer]:
        """Send each envelope, and yield each answer that comes within `deadline` seconds.

        If a participant is away, this waits for it for a while, and sends the same envelope again when it is back. If
        the participant had answered before, the second answer costs it nothing. A participant that stayed away once is
        waited for only if nobody else is asked. One whose launcher was silent gets the same envelope again at once,
        unless it did not answer the last one either.
        """
        tickets, failed = self.send(kind, envelopes, deadline)
        current = set(tickets.values())
        away = {answer.participant: answer.code for answer in failed if answer.code == "NOT_JOINED"}
        yield from (answer for answer in failed if answer.participant not in away)
        started = time.monotonic()
        self._rhythm.restart()
        end = started + deadline
        patience, next_look = started + _REJOIN_SECONDS, started
        again = dict.fromkeys(set(envelopes) - self._given_up, _SENT_AGAIN)
        while time.monotonic() < end:
            for ticket, answer in self._pull():
                if len(current) == len(tickets):
                    self._rhythm.end()
                if ticket not in current:
                    yield Answer(answer.participant, None, "LATE_REPLY")
                    continue
                current.discard(ticket)
                if answer.code == _UNAVAILABLE:
                    away[answer.participant] = _UNAVAILABLE
                    patience = time.monotonic() + _REJOIN_SECONDS
                elif answer.code == _SILENT and again.get(answer.participant):
                    again[answer.participant] -= 1
                    more, failed = self.send(kind, {answer.participant: envelopes[answer.participant]}, deadline)
                    current |= set(more.values())
                    yield from failed
                else:
                    (self._given_up.add if answer.code == _SILENT else self._given_up.discard)(answer.participant)
                    yield answer
            awaited = set(away) if len(away) == len(envelopes) else set(away) - self._given_up
            if not current and (not awaited or time.monotonic() > patience):
                break
            if away and time.monotonic() > next_look:
                next_look = time.monotonic() + _LOOK_SECONDS
                if back := self._online(list(away)):
                    away = {name: code for name, code in away.items() if name not in back}
                    tickets, failed = self.send(kind, {name: envelopes[name] for name in back}, deadline)
                    current |= set(tickets.values())
                    yield from failed
            self._pause(end)
        self._given_up |= set(away)
        yield from (Answer(name, None, code) for name, code in away.items())

    def send(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> tuple[dict[str, str], list[Answer]]:
        """Send each envelope. Return the tickets of the sent ones by name, and the reasons for the others.

        An answer is accepted for `deadline` seconds and one more minute.
        """
        if late := [name for name in envelopes if name not in self._nodes]:
            self._nodes |= self._online(late)
            self._names = {node: name for name, node in self._nodes.items()}
        failed = [Answer(name, None, "NOT_JOINED") for name in envelopes if name not in self._nodes]
        messages = [
            Message(pack(data), self._nodes[name], kind, ttl=deadline + 60)
            for name, data in envelopes.items()
            if name in self._nodes
        ]
        tickets: dict[str, str] = {}
        try:
            pushed = list(self._grid.push_messages(messages))
        except ObjectPushError:  # it took minutes, and the SuperLink has forgotten what was begun
            pushed = [""] * len(messages)
        for message, message_id in zip(messages, pushed, strict=True):
            name = self._names[message.metadata.dst_node_id]
            if message_id:
                tickets[name] = message_id
                self._open[message_id] = name
            else:
                failed.append(Answer(name, None, "NOT_PUSHED"))
        return tickets, failed

    def receive(self, seconds: float) -> list[tuple[str, Answer]]:
        """Return the answers with their tickets as soon as any came; nothing after `seconds`."""
        end = time.monotonic() + seconds
        self._rhythm.restart()
        while not (came := self._pull()) and time.monotonic() < end:
            self._pause(end)
        return came

    def _pull(self) -> list[tuple[str, Answer]]:
        came = []
        for reply in self._grid.pull_messages(list(self._open)) if self._open else ():
            ticket = reply.metadata.reply_to_message_id
            if ticket in self._open:
                came.append((ticket, _read(self._open.pop(ticket), reply)))
        return came

    def _pause(self, end: float) -> None:
        self._wait(max(0.0, min(self._rhythm.next(), end - time.monotonic())))


def _read(name: str, reply: Message) -> Answer:
    if reply.has_error():
        return Answer(name, None, f"{PREFIX}{reply.error.code}")
    try:
        return Answer(name, unpack(reply.content))
    except ValueError:
        return Answer(name, None, "BAD_REPLY")
