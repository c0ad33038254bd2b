"""Compresses pages that are read, and never the answer to a form.

The length of a compressed page that holds both a secret and a text of an attacker tells of the secret (BREACH). No page
that answers GET holds one: tokens and sessions travel in headers and cookies alone, and what an address asks for comes
back only as far as it names a run or a participant that exists. A ticket of a change does stand beside the text of a
form; it answers POST, so it is not compressed, though it is a new one each time, too. The stream of updates is not
compressed either: each of its lines has to leave at once.
"""

from __future__ import annotations

from typing import Final

from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["Compression"]

#: Bytes under which compressing gains nothing, and a level that costs milliseconds for a page of many plots.
_LEAST: Final = 1000
_LEVEL: Final = 4
_STREAM: Final = "/live"


class Compression:
    """Lets `GZipMiddleware` compress what answers GET."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain = app
        self._small = GZipMiddleware(app, minimum_size=_LEAST, compresslevel=_LEVEL)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] != _STREAM
        await (self._small if read else self._plain)(scope, receive, send)
