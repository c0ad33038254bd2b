"""`python -m consortia.deploy.superlink`: Flower's own SuperLink and its options, closed to who is no node of it.

*Guarantee*: of a request to the fleet API no byte of the body is read, hence none reaches Flower's parser, unless its
head has the key of a registered node, a time within Flower's own tolerance, and that key's signature over the time.

Flower checks the same, but parses the body first. It checks again afterwards, with the node that the body names.
"""

from __future__ import annotations

import binascii
import datetime
import sys
from base64 import b64decode
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from flwr.superlink import main as flower
from flwr.superlink.cli import flower_superlink
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from consortia.deploy.held_questions import Held, wanted

FLEET = "/v1/fleet/"
_HELLO = "/v1/fleet/activate-node"


class KnownNodesOnly:
    """The outermost layer of the SuperLink: a request to the fleet API is a registered node's, or ends here.

    Parameters
    ----------
    app : ASGIApp
        What serves a request that passes; its `state.linkstate_factory` knows the nodes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or refuse it without reading its body."""
        answer: ASGIApp = self.app
        if scope["type"] == "http" and scope["path"].startswith(FLEET):
            linkstate = scope["app"].state.linkstate_factory.state
            refused = await run_in_threadpool(refusal, scope["path"], Headers(scope=scope), linkstate)
            answer = refused or self.app
        await answer(scope, receive, send)


def refusal(path: str, headers: Headers, linkstate: Any) -> JSONResponse | None:
    """Return None where the head of a request is a registered node's; else 401, or Flower's word on an unknown key.

    Parameters
    ----------
    linkstate : callable
        Returns Flower's LinkState, which knows the registered keys.
    """
    try:
        key = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        told = headers[TIMESTAMP_HEADER]
        age = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(told)).total_seconds()
        if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
            return _refused()
        if linkstate().get_node_id_by_public_key(key) is None:  # no parser of keys sees a stranger's
            return _unknown() if path == _HELLO else _refused()
        public = bytes_to_public_key(key)
        known = isinstance(public, ec.EllipticCurvePublicKey)
        return None if known and verify_signature(public, told.encode("ascii"), signature) else _refused()
    except (KeyError, ValueError, TypeError, UnsupportedAlgorithm, binascii.Error):
        return _refused()


def _refused() -> JSONResponse:
    return JSONResponse({"detail": "wanted the signature of a registered node"}, 401)


def _unknown() -> JSONResponse:
    """Return what Flower answers to the hello of a key that it does not know; SuperNode and preflight understand it."""
    error = FlowerError(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, "no node has this key")
    told = API_ERROR_MAP[error.code]
    return JSONResponse(error.to_json(told.public_message), told.http_status_code)


def main() -> None:
    """Start the SuperLink of a deployment."""
    _start(closed=True)


def local() -> None:
    """Start the SuperLink of a simulation on one machine: without the layer, since nobody else reaches it."""
    _start(closed=False)


def _start(*, closed: bool) -> None:
    sys.argv[0] = "flower-superlink"  # Flower reads its own name
    original = flower.create_app

    def layered(*arguments: Any, **options: Any) -> Any:
        app = original(*arguments, **options)
        if wanted():
            app.add_middleware(Held)
        if closed:
            app.add_middleware(KnownNodesOnly)  # the last one added is the outermost
        return app

    flower.create_app = layered
    flower_superlink()


if __name__ == "__main__":
    main()
