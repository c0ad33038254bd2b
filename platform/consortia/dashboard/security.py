"""Decides who may look, and limits what a browser may do.

Guarantees: nothing but the sign-in page and the style is served without the token (cookie or `Authorization: Bearer`),
compared in constant time; a session ends on this server with its sign-out, whoever kept its cookie; no page runs or
loads anything from elsewhere, is framed, or is kept in a cache. Nothing but sign-in and sign-out takes a POST, unless
the server was started with `--allow-changes`: then a POST below `/change/` is taken from a browser that signed in with
the token for changes, and from a page of this server only (`Origin`, and `Sec-Fetch-Site` where the browser sends it).
A change takes effect by its ticket alone, once (`Tickets`). Where a provider signs browsers in (`consortia.dashboard.
oidc`), no token does, and the token, where there is one, opens `/metrics` alone.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, replace
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from consortia.common.errors import InputError

TOKEN_VARIABLE = "CONSORTIA_DASHBOARD_TOKEN"  # noqa: S105 - its name
CHANGE_VARIABLE: Final = "CONSORTIA_DASHBOARD_CHANGE_TOKEN"
_SHORTEST = 20
_OPEN = ("/sign-in", "/assets/")
_CHANGE = "/change/"
_TICKET_SECONDS = 600.0
_MOST_TICKETS = 100
_MOST_SESSIONS = 100
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


@dataclass(frozen=True)
class Session:
    """What a browser that signed in may do, who it is, and until when (`time.monotonic`; None: no end of its own)."""

    may_change: bool
    who: str
    until: float | None = None


class Key:
    """The tokens of one server, and the sessions that they opened.

    A session is known to this process alone: it ends with the sign-out, with the process, and as the oldest of more
    than a hundred. The cookie's name is this process's own, so servers on other ports of one host, which browsers send
    each other's cookies, replace none of it.

    Parameters
    ----------
    token : str
        Lets look.
    view : str
        Begins the cookie's name.
    change_token : str
        Lets look and change; empty where nothing can be changed.
    provider : bool
        Browsers sign in elsewhere (`open`), and the token is for `/metrics` alone.
    takes_changes : bool
        Whether sessions that `open` made may change.
    """

    def __init__(
        self,
        token: str,
        view: str,
        change_token: str = "",
        *,
        provider: bool = False,
        takes_changes: bool = False,
    ) -> None:
        self._tokens = [given.encode() for given in (token, change_token) if given]
        # By the hash of what the cookie holds: whoever reads this table opens nothing.
        self._sessions: dict[bytes, Session] = {}
        self._provider = provider
        self.takes_changes = bool(change_token) or takes_changes
        self.cookie = f"consortia-{view}-{secrets.token_hex(4)}"

    def sign_in(self, token: str) -> str | None:
        """Return a new session of a token, None for a wrong one."""
        found = self.checked(token)
        return None if found is None else self.open(found)

    def checked(self, token: str) -> Session | None:
        """Return what a token lets its browser do, None for a wrong one."""
        place = None if self._provider else self._place(token)
        if place is None:
            return None
        changes = self.takes_changes and place == len(self._tokens) - 1
        return Session(changes, "token for changes" if changes else "token")

    def open(self, found: Session) -> str:
        """Return a new session of somebody who was checked."""
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = replace(found, may_change=found.may_change and self.takes_changes)
        while len(self._sessions) > _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return session

    def sign_out(self, headers: Headers) -> Session | None:
        """End the session of a request and return it: its cookie opens nothing from now on."""
        return self._sessions.pop(_digest(self._cookie(headers)), None)

    def admits(self, headers: Headers, path: str = "") -> bool:
        """Return whether a request carries a token or a session that opens `path`."""
        kind, _, given = headers.get("authorization", "").partition(" ")
        opens = not self._provider or path == "/metrics"
        if opens and kind.lower() == "bearer" and self._place(given.strip()) is not None:
            return True
        return self.held(headers) is not None

    def may_change(self, headers: Headers) -> bool:
        """Return whether a request is of a browser that signed in and may change."""
        session = self.held(headers)
        return session is not None and session.may_change

    def held(self, headers: Headers) -> Session | None:
        """Return the session of a request."""
        session = self._sessions.get(_digest(self._cookie(headers)))
        return None if session is None or (session.until is not None and time.monotonic() >= session.until) else session

    def _place(self, token: str) -> int | None:
        opened = [hmac.compare_digest(token.encode(), known) for known in self._tokens]
        return opened.index(True) if any(opened) else None

    def _cookie(self, headers: Headers) -> str:
        return cookie(headers, self.cookie)


def cookie(headers: Headers, name: str) -> str:
    """Return what a request's cookie holds; empty without it."""
    try:
        morsel = SimpleCookie(headers.get("cookie", "")).get(name)
    except CookieError:
        morsel = None
    return morsel.value if morsel is not None else ""


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode("utf-8", "surrogateescape")).digest()


class Tickets:
    """Changes that were shown and wait for their confirmation: each is taken once, within ten minutes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, most: int = _MOST_TICKETS) -> None:
        self._clock = clock
        self._most = most
        self._waiting: dict[str, tuple[float, Any]] = {}

    def give(self, change: Any) -> str:
        """Return the ticket of a change. Of more than `most` the oldest is dropped."""
        ticket = secrets.token_urlsafe(32)
        self._waiting[ticket] = (self._clock() + _TICKET_SECONDS, change)
        while len(self._waiting) > self._most:
            del self._waiting[next(iter(self._waiting))]
        return ticket

    def take(self, ticket: str) -> Any:
        """Return the change of a ticket and forget it; None when it is unknown, was taken before, or is too old."""
        until, change = self._waiting.pop(ticket, (0.0, None))
        return change if self._clock() < until else None


def token_from_environment(variable: str = TOKEN_VARIABLE) -> tuple[str, bool]:
    """Return a token and whether it was made up here.

    Raises
    ------
    InputError
        When the environment's is short enough to be guessed.
    """
    given = os.environ.get(variable, "")
    if given and len(given) < _SHORTEST:
        raise InputError(f"${variable}: wanted {_SHORTEST} characters or more, got {len(given)}")
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

        # Pages ask for it: what cannot be changed is not offered.
        session = self._key.held(Headers(scope=scope))
        scope.setdefault("state", {}).update(
            may_change=session is not None and session.may_change, who=session.who if session is not None else ""
        )
        answer = self._refusal(scope) or self._app
        await answer(scope, receive, sealed)

    def _refusal(self, scope: MutableMapping[str, Any]) -> ASGIApp | None:
        path, method, headers = scope["path"], scope["method"], Headers(scope=scope)
        if method not in {"GET", "HEAD"} and (method, path) not in {("POST", "/sign-in"), ("POST", "/sign-out")}:
            return self._change_refusal(method, path, headers)
        if path.startswith(_OPEN) or self._key.admits(headers, path):
            return None
        if path in {"/metrics", "/live"}:
            return PlainTextResponse("sign in, or send the token as `Authorization: Bearer`", 401)
        return RedirectResponse("/sign-in", 303)

    def _change_refusal(self, method: str, path: str, headers: Headers) -> ASGIApp | None:
        if method != "POST" or not path.startswith(_CHANGE) or not self._key.takes_changes:
            return PlainTextResponse("this dashboard only reads", 405, {"Allow": "GET, HEAD"})
        if not self._key.may_change(headers):
            return PlainTextResponse("sign in as somebody who may change", 403)
        host = headers.get("host", "")
        here = headers.get("origin", "") in {f"http://{host}", f"https://{host}"}
        if not host or not here or headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return PlainTextResponse("a change is taken from a page of this dashboard only", 403)
        return None
