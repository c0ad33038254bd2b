"""`python -m consortia.deploy.superexec`: Flower's SuperExec with `flower-superexec`'s options, and a sign of life."""

from __future__ import annotations

import sys

from flwr.proto.runtime_pb2 import AcquireTaskRequest, AcquireTaskResponse
from flwr.supercore.cli import flower_superexec
from flwr.supercore.runtime import RuntimeHttpClient

from consortia.deploy.health import alive
from consortia.messages import flower_patience

_ask = RuntimeHttpClient.AcquireTask


def _ask_and_tell(client: RuntimeHttpClient, request: AcquireTaskRequest) -> AcquireTaskResponse:
    answer = _ask(client, request)
    alive()
    return answer


def main() -> None:
    """Start SuperExec, which asks the SuperLink for work each second; an answer is the sign of life."""
    sys.argv[0] = "flower-superexec"  # Flower reads its own name
    RuntimeHttpClient.AcquireTask = _ask_and_tell  # type: ignore[method-assign, assignment]
    flower_patience.be_patient()
    flower_superexec()


if __name__ == "__main__":
    main()
