"""Decides who may look, and limits what a browser may do.

Guarantees: nothing but the sign-in page and the style is served without the token (cookie or `Authorization: Bearer`),
compared in constant time; nothing but sign-in and sign-out takes a POST; no page runs or loads anything from elsewhere,
is framed, or is kept in a cache.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consortia.common.errors import InputError

TOKEN_VARIABLE = "CONSORTIA_DASHBOARD_TOKEN"  # noqa: S105 - its name
_SHORTEST = 20
_OPEN = ("/sign-in", "/assets/")
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Key:
    """The token of one server, and the cookie that stands for it.

    Parameters
    ----------
    view : str
        In the cookie's name: browsers share cookies between ports of one host.
    """

    def __init__(self, token: str, view: str) -> None:
        self._token = token.encode()
        # Not the token: a cookie that leaks opens neither another view nor this one after its next start.
        self.session = secrets.token_urlsafe(32)
        self.cookie = f"consortia-{view}"

    def opens(self, token: str) -> bool:
        """Return whether this is the token."""
        return hmac.compare_digest(token.encode(), self._token)

    def admits(self, headers: Headers) -> bool:
        """Return whether a request carries the token or the session."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.opens(given.strip()):
            return True
        try:
            morsel = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return False
        return morsel is not None and hmac.compare_digest(morsel.value.encode(), self.session.encode())


def token_from_environment() -> tuple[str, bool]:
    """Return the token and whether it was made up here.

    Raises
    ------
    InputError
        When the environment's is short enough to be guessed.
    """
    given = os.environ.get(TOKEN_VARIABLE, "")
    if given and len(given) < _SHORTEST:
        raise InputError(f"${TOKEN_VARIABLE}: wanted {_SHORTEST} characters or more, got {len(given)}")
    return (given, False) if given else (secrets.token_urlsafe(32), True)


class Guard:
    """Lets through what the module's docstring says, and puts the headers on everything."""

    def __init__(self, app: ASGIApp, key: Key) -> None:
        self._app = app
        self._key = key

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        answer = self._refusal(scope) or self._app
        await answer(scope, receive, sealed)

    def _refusal(self, scope: MutableMapping[str, Any]) -> ASGIApp | None:
        path, method = scope["path"], scope["method"]
        if method not in {"GET", "HEAD"} and (method, path) not in {("POST", "/sign-in"), ("POST", "/sign-out")}:
            return PlainTextResponse("this dashboard only reads", 405, {"Allow": "GET, HEAD"})
        if path.startswith(_OPEN) or self._key.admits(Headers(scope=scope)):
            return None
        if path in {"/metrics", "/live"}:
            return PlainTextResponse("sign in, or send the token as `Authorization: Bearer`", 401)
        return RedirectResponse("/sign-in", 303)
