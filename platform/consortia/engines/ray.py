"""The Ray engine: the ClientApp runs in the actors of Flower's own simulation runtime, on one machine or a Ray cluster.

ServerApp, messages, node configs and record are those of the embedded engine; only who works differs. Flower's
`RayBackend` gives each message to an idle actor, a process of its own with one core. Flower's `run_simulation` is not
used: its nodes have neither a name nor a node config of their own (decision 0073).

Privacy: an actor is a new Python process, so no key and no generator is inherited. Messages of one participant may be
answered by several actors, one at a time; the home's lock and its ledger are between processes already.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, cast

from flwr.app import ConfigRecordValues, Context, Message

from clients import registry
from consortia.common.errors import InputError
from consortia.common.logs import quieter
from consortia.engines import embedded
from consortia.engines.base import Job

if TYPE_CHECKING:
    from flwr.clientapp import ClientApp
    from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend
    from flwr.simulation.ray_transport.ray_actor import BasicActorPool

__all__ = ["check", "run"]

#: One core an actor. Ray starts an actor again that was killed; the coordinator asks its participant once more.
_ACTOR: Final[dict[str, ConfigRecordValues]] = {"num_cpus": 1, "num_gpus": 0.0, "max_restarts": 3}
_END_SECONDS: Final = 10.0
_INIT: Final[dict[str, ConfigRecordValues]] = {
    "log_to_driver": False,
    "include_dashboard": False,
    "logging_level": logging.ERROR,
}


def check() -> None:
    """Refuse to start without Ray (InputError)."""
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "--engine ray: wanted Ray beside Flower, got an installation without it; pip install 'consortia[ray]', or "
            "take --engine embedded"
        )


def run(job: Job) -> None:
    """Run a job with participants in Ray's actors (see `consortia.engines.base.Engine`)."""
    check()
    with _environment():
        from flwr.server.superlink.fleet.vce.backend.raybackend import RayBackend

        backend = RayBackend({"init_args": dict(_INIT), "client_resources": dict(_ACTOR)})
        try:
            backend.build(cast("Callable[[], ClientApp]", _participant))
            embedded.serve(job, lambda message, context: _ask(backend, message, context), backend.num_workers)
        finally:
            _drop_work(backend.pool)
            backend.terminate()


def _ask(backend: RayBackend, message: Message, context: Context) -> Message:
    reply, _ = backend.process_message(message, context)
    return reply


def _drop_work(pool: BasicActorPool | None) -> None:
    """End actors that still work: after an interruption their threads here would wait for ever for a Ray that left."""
    import ray

    busy: dict[Any, Any] = pool._future_to_actor if pool is not None else {}
    with quieter(logging.CRITICAL, "flwr"):
        for actor in list(busy.values()):
            ray.kill(actor)
        end = time.monotonic() + _END_SECONDS
        while busy and time.monotonic() < end:
            time.sleep(0.05)


def _participant() -> Callable[[Message, Context], Message]:
    """Return what an actor does with a message: one participant's log is open at a time."""
    from consortia.client_app import app

    def answer(message: Message, context: Context) -> Message:
        logger = logging.getLogger("consortia.participant")
        try:
            return app(message, context)
        finally:
            for handler in list(logger.handlers):
                logger.removeHandler(handler)
                handler.close()

    return answer


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Set what actors inherit: the same clients' files, no report of use to Ray, the coordinator's own priority (Ray's
    default of 15 lets deadlines pass on a busy machine). Put all back at the end."""
    before = dict(os.environ)
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of its default
    os.environ[registry.FOLDERS] = os.pathsep.join(str(folder) for folder in registry.folders())
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
