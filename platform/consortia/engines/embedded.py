"""The embedded engine: a Flower Grid in this process, with a serialisation round trip for every message.

The ServerApp and ClientApp are those of a deployment, unchanged. Each message is written to protobuf bytes and read
back. So participants share no object, and a type that cannot be sent fails here, too. Each participant handles one
message at a time, as on a SuperNode. With several processes each participant has one for the whole run
(`consortia.engines.apart`).
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import PARTITION_ID_KEY
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from consortia.engines.apart import Apart, warm
from consortia.engines.base import Job

_RUN = 1
# Small models spend their time in Python, which runs one thread at a time. A second worker would only add switching.
_WORKERS = 1


class EmbeddedGrid(Grid):
    """An in-process Grid.

    Parameters
    ----------
    client_app : callable
        A ClientApp, or what else answers a message.
    node_configs : dict of str to dict
        The node config of each participant's SuperNode, by name.
    workers : int
        Number of participants that work at the same time, in threads of this process.
    processes : int
        Number of processes in which participants work; 1 is this process.
    """

    def __init__(
        self,
        client_app: Callable[[Message, Context], Message],
        node_configs: dict[str, dict[str, str | bool]],
        workers: int = _WORKERS,
        processes: int = 1,
    ) -> None:
        # Message() reads these values. Outside Flower's own processes nobody else sets them.
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = _RUN
        self._app = client_app
        self._names = dict(enumerate(node_configs, start=2))
        self._contexts = {
            number: Context(
                run_id=_RUN,
                node_id=number,
                node_config={PARTITION_ID_KEY: number, **node_configs[name]},
                state=RecordDict(),
                run_config={},
            )
            for number, name in self._names.items()
        }
        self._locks = {number: threading.Lock() for number in self._names}
        # Forked before this object starts a thread.
        self._apart = Apart(self._work, processes) if processes > 1 else None
        self._pools = [
            ThreadPoolExecutor(1 if self._apart else workers, thread_name_prefix="participant")
            for _ in range(processes)
        ]
        self._pending: dict[str, Future[bytes]] = {}
        self._replied = threading.Event()
        self._numbers = itertools.count(1)
        self._run = Run.create_empty(run_id=_RUN)

    def close(self) -> None:
        """Stop taking messages. Work that nobody waits for is dropped; what is at work now is finished."""
        working = [answer for answer in self._pending.values() if not (answer.cancel() or answer.done())]
        for number, pool in enumerate(self._pools):
            if self._apart is not None:
                pool.submit(self._apart.close, number)
            pool.shutdown(wait=not working)

    def set_run(self, run: Run) -> None:
        """See Grid."""
        self._run = run

    @property
    def run(self) -> Run:
        """See Grid."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See Grid."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See Grid."""
        return list(self._names)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """See Grid. The name is the one that a deployment registers with the node's key."""
        return [NodeInfo(node_id=number, name=name) for number, name in self._names.items()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """See Grid."""
        ids = []
        for message in messages:
            message_id = f"message-{next(self._numbers)}"
            message.metadata.__dict__["_message_id"] = message_id
            wire = message_to_proto(message).SerializeToString()
            place = message.metadata.dst_node_id % len(self._pools)
            self._pending[message_id] = self._pools[place].submit(self._answer, place, wire)
            self._pending[message_id].add_done_callback(lambda _: self._replied.set())
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """See Grid. Returns the replies that are ready."""
        ready = [i for i in message_ids if i in self._pending and self._pending[i].done()]
        return [message_from_proto(ProtoMessage.FromString(self._pending.pop(i).result())) for i in ready]

    def wait(self, seconds: float) -> None:
        """Wait until a reply is ready, at most `seconds`. A remote Grid must be polled instead."""
        self._replied.wait(seconds)
        self._replied.clear()

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See Grid."""
        ids = list(self.push_messages(messages))
        for message_id in ids:
            self._pending[message_id].exception(timeout)
        return self.pull_messages(ids)

    def _answer(self, place: int, wire: bytes) -> bytes:
        if self._apart is None:
            return self._work(wire)
        try:
            return self._apart.ask(place, wire)
        except (EOFError, OSError):  # killed, or out of memory
            message = message_from_proto(ProtoMessage.FromString(wire))
            lost = Message(Error(code=2, reason="the process of this participant ended"), reply_to=message)
            answer: bytes = message_to_proto(lost).SerializeToString()
            return answer

    def _work(self, wire: bytes) -> bytes:
        message = message_from_proto(ProtoMessage.FromString(wire))
        node = message.metadata.dst_node_id
        with self._locks[node]:
            try:
                reply = self._app(message, self._contexts[node])
            except Exception as error:  # noqa: BLE001 - as Flower does: an error reply, here without its text
                reply = Message(Error(code=2, reason=type(error).__name__), reply_to=message)
        answer: bytes = message_to_proto(reply).SerializeToString()
        return answer


def ready(job: Job, processes: int = 1) -> Callable[[], None]:
    """Make everything ready for a job, its processes too, and return what runs it.

    Parameters
    ----------
    processes : int
        In which participants work; more than one only where no other thread runs.
    """
    from consortia.client_app import app as client_app

    if processes > 1:
        warm(job.scenario)
    grid = EmbeddedGrid(client_app, _node_configs(job), processes=processes)
    return lambda: _serve(job, grid)


def serve(job: Job, client_app: Callable[[Message, Context], Message], workers: int) -> None:
    """Run a job with the ServerApp in this process, and each message answered by `client_app`, `workers` at a time."""
    _serve(job, EmbeddedGrid(client_app, _node_configs(job), workers))


def run(job: Job) -> None:
    """Run a job in this process (see `consortia.engines.base.Engine`)."""
    ready(job)()


def _node_configs(job: Job) -> dict[str, dict[str, str | bool]]:
    return {one.name: job.node_config(one.name) for one in job.scenario.roster}


def _serve(job: Job, grid: EmbeddedGrid) -> None:
    from consortia.server_app import app as server_app

    config = job.run_config(join_seconds=1.0)
    context = Context(run_id=_RUN, node_id=1, node_config={}, state=RecordDict(), run_config=dict(config))
    try:
        server_app(grid, context)
    finally:
        grid.close()
