"""`python -m consortia.deploy.coordinator_app`: takes a run from the SuperLink and becomes its ServerApp.

`--engine flower` starts it instead of Flower's SuperExec, which would start a Python process that imports PyTorch once
more. It takes one run and ends with it, so that the command sees the end at once. The containers' SuperExec stays.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import httpx
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.superlink.cli import flwr_serverapp

from consortia.messages import flower_patience

_POLL_SECONDS = 0.1
#: Between the start of this process and the submission of the run lies the start of every participant.
_LONGEST_WAIT_SECONDS = 600.0
_METHODS = frozenset({"/flwr.proto.Runtime/AcquireTask"})


def main() -> int:
    """Wait for a run and be its ServerApp; exit status 1 if no run comes."""
    parser = argparse.ArgumentParser(prog="python -m consortia.deploy.coordinator_app", description=__doc__)
    parser.add_argument("--runtime-api-address", required=True, help="host:port of the SuperLink")
    parser.add_argument("--root-certificates", required=True, type=Path, help="the authority of its certificate")
    parser.add_argument("--superexec-auth-secret-file", required=True, type=Path, help="shared with the SuperLink")
    asked = parser.parse_args()
    token = _take_run(asked.runtime_api_address, asked.root_certificates, asked.superexec_auth_secret_file)
    if token is None:
        sys.stderr.write(f"no run came within {_LONGEST_WAIT_SECONDS:.0f} s\n")
        return 1
    where = ["--runtime-api-address", asked.runtime_api_address, "--root-certificates", str(asked.root_certificates)]
    sys.argv = ["flwr-serverapp", *where, "--token", token]
    flower_patience.be_patient()
    flwr_serverapp()
    return 0


def _take_run(address: str, authority: Path, secret: Path) -> str | None:
    """Return the token of the first run that the SuperLink has for a ServerApp; None if none comes."""
    client = RuntimeHttpClient.from_server_address(
        address,
        insecure=False,
        root_certificates=authority.read_bytes(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperExec"),
            SuperExecAuthHttpInterceptor(master_secret=secret.read_bytes(), protected_methods=_METHODS),
        ],
    )
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
    end = time.monotonic() + _LONGEST_WAIT_SECONDS
    try:
        while time.monotonic() < end:
            try:
                found = client.AcquireTask(wanted)
            except httpx.TransportError:  # it is busy, or not there yet
                found = None
            if found is not None and found.HasField("task") and found.token:
                return str(found.token)
            time.sleep(_POLL_SECONDS)
    finally:
        client.close()
    return None


if __name__ == "__main__":
    sys.exit(main())
