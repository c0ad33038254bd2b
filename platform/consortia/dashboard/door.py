"""Signing in and out: by token here, or at a provider (`consortia.dashboard.oidc`); each is noted in the log of acts.

Guarantee: nobody comes in whose sign-in is not noted, where the server notes acts.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from consortia.common.acts import acting, record
from consortia.common.errors import InputError
from consortia.dashboard.security import Key, Session

_LONGEST_FORM = 4000
#: Whoever has no token may try without limit, and must not fill the disk.
_REFUSED_EVERY_SECONDS: Final = 1.0


class Door:
    """Where browsers come in.

    Parameters
    ----------
    key : Key
    page : callable
        Renders a template with the view's own values.
    folder : Path or None
        Whose log of acts notes sign-ins and sign-outs; None where nothing is noted.
    provider : bool
        Browsers sign in elsewhere.
    """

    def __init__(self, key: Key, page: Callable[..., Response], folder: Path | None, *, provider: bool) -> None:
        self.page = page
        self._key = key
        self._folder = folder
        self._provider = provider
        self._refused = float("-inf")

    def add_pages(self, app: FastAPI) -> None:
        """Add the pages of signing in and out."""

        @app.get("/sign-in")
        async def ask() -> Response:
            return self.page("sign_in.html", provider=self._provider, problem="")

        @app.post("/sign-in")
        async def sign_in(request: Request) -> Response:
            found = self._key.checked((await form(request)).get("token", "").strip())
            if found is None:
                return await self.refuse("That is not the token of this server.")
            return await self.admit(found, RedirectResponse("/", 303), secure=request.url.scheme == "https")

        @app.post("/sign-out")
        async def sign_out(request: Request) -> Response:
            session = self._key.sign_out(request.headers)
            if session is not None:
                await run_in_threadpool(self._note, session.who, "sign-out", "done")
            answer = RedirectResponse("/sign-in", 303)
            answer.delete_cookie(self._key.cookie, httponly=True, samesite="strict")
            return answer

    async def admit(self, found: Session, answer: Response, *, secure: bool) -> Response:
        """Note who comes in, and give its browser a session with `answer`."""
        if not await run_in_threadpool(self._note, found.who, "sign-in", "done"):
            problem = "Nobody can sign in now: the log of acts cannot be written."
            return self.page("sign_in.html", status=503, provider=self._provider, problem=problem)
        session = self._key.open(found)
        answer.set_cookie(self._key.cookie, session, httponly=True, samesite="strict", secure=secure)
        return answer

    async def refuse(self, problem: str) -> Response:
        """Say why somebody does not come in; it is noted at most once a second."""
        now = time.monotonic()
        if now - self._refused >= _REFUSED_EVERY_SECONDS:
            self._refused = now
            await run_in_threadpool(self._note, "nobody", "sign-in", "refused")
        return self.page("sign_in.html", status=403, provider=self._provider, problem=problem)

    def _note(self, who: str, act: str, outcome: str) -> bool:
        if self._folder is None:
            return True
        try:
            with acting(who):
                record(self._folder, act, outcome=outcome)
        except InputError:
            return False
        return True


async def form(request: Request) -> dict[str, str]:
    """Return the fields of a short form, the first value of each; what is longer than any of ours is cut off."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            break
    fields = parse_qs(body[:_LONGEST_FORM].decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}
