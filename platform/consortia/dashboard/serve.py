"""Serves one view until a signal."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn

from consortia.common.errors import InputError
from consortia.common.logs import JsonLines
from consortia.dashboard.app import View, build

if TYPE_CHECKING:
    from fastapi import FastAPI

    from consortia.dashboard.oidc import SignIn


def serve(
    view: View,
    token: str,
    listener: socket.socket,
    participant: str | None,
    change_token: str = "",
    provider: SignIn | None = None,
    *,
    changes: bool = False,
    acts: Path | None = None,
) -> None:
    """Serve a view on a socket that listens already. Logs are JSON lines; no address that was called is in them."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(participant))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    server(build(view, token, change_token, provider, changes=changes, acts=acts)).run(sockets=[listener])


def server(app: FastAPI) -> uvicorn.Server:
    """Return the server of one view's application, which does not listen yet."""
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, ws="none", timeout_graceful_shutdown=1
    )
    return uvicorn.Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections from now on.

    Raises
    ------
    InputError
        When the address cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            f"--host {host} --port {port}: wanted an address to listen on, got {error.strerror}; try another port"
        ) from None
