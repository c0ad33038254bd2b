"""Serves one view until a signal."""

from __future__ import annotations

import logging
import socket

import uvicorn

from consortia.common.logs import JsonLines
from consortia.dashboard.app import View, build


def serve(view: View, token: str, listener: socket.socket, participant: str | None) -> None:
    """Serve a view on a socket that listens already. Logs are JSON lines; no address that was called is in them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(participant))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    config = uvicorn.Config(
        build(view, token), log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=1,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
