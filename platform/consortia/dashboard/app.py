"""One dashboard server: sign-in, assets, live updates and metrics around the pages of one view."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from consortia.common import words
from consortia.dashboard.compression import Compression
from consortia.dashboard.door import Door
from consortia.dashboard.security import Guard, Key

if TYPE_CHECKING:
    from consortia.dashboard.oidc import SignIn

_HERE = Path(str(resources.files("consortia"))) / "dashboard"
_LOOK_SECONDS = 0.5
_PING_SECONDS = 15.0


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


def build(
    view: View,
    token: str,
    change_token: str = "",
    provider: SignIn | None = None,
    *,
    changes: bool = False,
    acts: Path | None = None,
) -> FastAPI:
    """Return the application of one view; without `change_token` it only reads.

    With a `provider` browsers sign in there, and `changes` says whether who has the role may change something. Sign-ins
    are noted in the folder `acts`.
    """
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    key = Key(token, view.name, change_token, provider=provider is not None, takes_changes=changes)
    view.pages.takes_changes = key.takes_changes
    app.add_middleware(Compression)
    app.add_middleware(Guard, key=key)
    app.mount("/assets", StaticFiles(directory=_HERE / "assets"))
    registry = CollectorRegistry()
    registry.register(view.collector)

    door = Door(key, view.pages, acts, provider=provider is not None)
    door.add_pages(app)
    if provider is not None:
        provider.add_pages(app, door)

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
