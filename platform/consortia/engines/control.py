"""Controls a SuperLink over its Control API: submits a run, asks for its status."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

import httpx
from flwr.common.serde import fab_to_proto
from flwr.proto.control_pb2 import ListRunsRequest, StartRunRequest, StartRunResponse
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

from clients import registry
from consortia.common.errors import RunFailedError
from consortia.engines.base import Job
from consortia.messages.bundle import make_bundle
from consortia.vertical.request import total_steps

JOIN_SECONDS = 120.0
#: How long a submission tries to reach a SuperLink whose host has no free CPU time; each try may take Flower's 30 s.
CONNECT_SECONDS = 300.0
#: Where all SuperNodes start on one host, they share its cores: each takes 2 to 3 s of one.
_JOIN_SECONDS_EACH = 6.0
#: What `Control.status` says where the SuperLink does not answer, and where it answers without our run.
UNANSWERED: Final = "unanswered"
UNLISTED: Final = "unlisted"


class Control:
    """The Control API of one SuperLink.

    Parameters
    ----------
    address : str
        host:port of the SuperLink.
    authority : Path
        The certificate of the authority that signed the SuperLink's certificate.
    """

    def __init__(self, address: str, authority: Path) -> None:
        self._client = ControlHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=authority.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
        )

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def submit(self, job: Job) -> str:
        """Submit a run to the SuperLink as a bundle that holds only a pyproject.toml. Return Flower's id."""
        bundle = make_bundle(job.run_config(join_seconds(job)))
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        try:
            answer = self._start(StartRunRequest(fab=fab_to_proto(fab)))
        except httpx.HTTPStatusError as error:
            raise RunFailedError(f"the SuperLink did not take the run: {error.response.text or error}") from None
        except (httpx.HTTPError, ValueError) as error:
            raise RunFailedError(f"the SuperLink did not take the run: {type(error).__name__}: {error}") from None
        if not answer.HasField("run_id"):
            raise RunFailedError("the SuperLink did not take the run: it gave no number")
        return str(answer.run_id)

    def _start(self, request: StartRunRequest) -> StartRunResponse:
        """Ask for a run; ask again where the connection, or its TLS handshake, ran out of time: nothing was sent then.

        A time-out behind the handshake is raised: the SuperLink may have taken the run, and would take it twice.
        """
        end = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                return self._client.StartRun(request)
            except httpx.ConnectTimeout:
                if time.monotonic() > end:
                    raise

    def status(self, flower_run_id: str) -> str:
        """Return Flower's status of the run, such as `finished:failed`; `UNANSWERED` or `UNLISTED` if there is none."""
        try:
            runs = self._client.ListRuns(ListRunsRequest()).run_dict
        except (httpx.HTTPError, ValueError):
            return UNANSWERED
        if (run := runs.get(int(flower_run_id))) is None:
            return UNLISTED
        return f"{run.status.status}:{run.status.sub_status}"


def join_seconds(job: Job) -> float:
    """Return how long the coordinator waits for those who have not joined."""
    return max(JOIN_SECONDS, _JOIN_SECONDS_EACH * len(job.scenario.roster))


def longest_run(job: Job) -> float:
    """Return an upper bound on the seconds of a run, if every wait takes its whole deadline."""
    terms = job.scenario.contract.round
    rounds = max(total_steps(job.scenario), *(part.contract.participations for part in job.scenario.parts())) + 1
    return join_seconds(job) + rounds * terms.attempts * (terms.deadline_seconds + 60)


def read_status(record: Path, before: int) -> dict[str, Any] | None:
    """Return the coordinator's record if it was written after the time stamp `before` (0: no record before)."""
    if not record.is_file() or record.stat().st_mtime_ns == before:
        return None
    found: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return found


def flower_environment(home: Path) -> dict[str, str]:
    """Return the environment of a Flower process that keeps its files in `home`."""
    return {
        **os.environ,
        # Flower starts its helpers from PATH. They must be those of this installation.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        # These processes have another working directory, but must find the same clients' files.
        registry.FOLDERS: os.pathsep.join(str(folder) for folder in registry.folders()),
        # Never import from the working directory.
        "PYTHONSAFEPATH": "1",
    }


def tool(name: str) -> str:
    """Return the path of a command of this installation."""
    return str(Path(sys.executable).parent / name)
