"""One dashboard server: sign-in, assets, live updates and metrics around the pages of one view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from consortia.common import words
from consortia.dashboard.compression import Compression
from consortia.dashboard.security import Guard, Key

_HERE = Path(str(resources.files("consortia"))) / "dashboard"
_LOOK_SECONDS = 0.5
_PING_SECONDS = 15.0
_LONGEST_FORM = 4000


class Pages:
    """Renders templates of one view, whose changes are made on the page named `changes_at`."""

    def __init__(self, title: str, nav: tuple[tuple[str, str], ...], changes_at: str) -> None:
        #: Whether this server takes changes from anybody: the foot of every page says so.
        self.takes_changes = False
        self._templates = Environment(
            loader=FileSystemLoader(_HERE / "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.globals.update(title=title, nav=nav, words_of=words)
        self._templates.globals.update(takes_changes=lambda: self.takes_changes, changes_at=changes_at)

    def __call__(self, template: str, status: int = 200, **values: Any) -> HTMLResponse:
        """Return a page. `live` is the address of its updates, `version` what it shows, `say` what is read aloud."""
        defaults = {"live": "", "version": "", "say": "", "here": "", "may_change": False}
        return HTMLResponse(self._templates.get_template(template).render(**{**defaults, **values}), status)


class View(Protocol):
    """What the coordinator's view and a participant's have in common."""

    @property
    def name(self) -> str:
        """Of the view: in the cookie's name."""
        ...

    @property
    def pages(self) -> Pages:
        """Its templates."""
        ...

    @property
    def collector(self) -> Collector:
        """Its metrics."""
        ...

    def add_pages(self, app: FastAPI) -> None:
        """Add the view's own pages."""
        ...

    def version(self, about: str) -> str:
        """Return a text that changes when what is shown `about` something changed; cheap."""
        ...


def build(view: View, token: str, change_token: str = "") -> FastAPI:
    """Return the application of one view; without `change_token` it only reads."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    key = Key(token, view.name, change_token)
    view.pages.takes_changes = key.takes_changes
    app.add_middleware(Compression)
    app.add_middleware(Guard, key=key)
    app.mount("/assets", StaticFiles(directory=_HERE / "assets"))
    registry = CollectorRegistry()
    registry.register(view.collector)

    @app.get("/sign-in")
    async def ask() -> Response:
        return view.pages("sign_in.html", failed=False)

    @app.post("/sign-in")
    async def sign_in(request: Request) -> Response:
        session = key.sign_in((await form(request)).get("token", "").strip())
        if session is None:
            return view.pages("sign_in.html", status=403, failed=True)
        answer = RedirectResponse("/", 303)
        secure = request.url.scheme == "https"
        answer.set_cookie(key.cookie, session, httponly=True, samesite="strict", secure=secure)
        return answer

    @app.post("/sign-out")
    async def sign_out(request: Request) -> Response:
        key.sign_out(request.headers)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(key.cookie, httponly=True, samesite="strict")
        return answer

    @app.get("/live")
    async def live(request: Request, about: str = "") -> Response:
        return StreamingResponse(_changes(view, key, request, about), media_type="text/event-stream")

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.exception_handler(HTTPException)
    async def nothing_here(_: Request, error: HTTPException) -> Response:
        return view.pages("error.html", status=error.status_code, code=error.status_code)

    view.add_pages(app)
    return app


async def form(request: Request) -> dict[str, str]:
    """Return the fields of a short form, the first value of each; what is longer than any of ours is cut off."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_FORM:
            break
    fields = parse_qs(body[:_LONGEST_FORM].decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


async def _changes(view: View, key: Key, request: Request, about: str) -> AsyncIterator[str]:
    """Yield the version, first as it is and then whenever it changes, until the session ends."""
    last, silent = "", 0.0
    while key.admits(request.headers) and not await request.is_disconnected():
        version = view.version(about)
        if version != last:
            last, silent = version, 0.0
            yield f"data: {version}\n\n"
        elif silent >= _PING_SECONDS:
            silent = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(_LOOK_SECONDS)
        silent += _LOOK_SECONDS
