"""Sessions of the dashboard: each server's own, and ended on the server when its browser signs out."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dashboard_pages import TOKEN, get
from starlette.datastructures import Headers

from consortia.dashboard.app import _changes, build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.security import Key


def test_signing_out_ends_the_session_on_the_server_and_no_other() -> None:
    app = build(CoordinatorView(Path(), None), TOKEN)
    one, other = (
        {"Cookie": get(app, "/sign-in", "POST", data={"token": TOKEN}).headers["set-cookie"].split(";")[0]}
        for _ in range(2)
    )
    assert get(app, "/sign-out", "POST", headers=one).status_code == 303
    assert get(app, "/", headers=one).status_code == 303  # whoever kept the cookie
    assert get(app, "/live", headers=one).status_code == 401
    assert get(app, "/", headers=other).status_code == 200


def test_two_views_on_one_host_have_cookies_of_their_own() -> None:
    """Browsers send cookies to every port of a host: signing in at one view keeps the session at the other."""
    apps = [build(CoordinatorView(Path(), None), TOKEN) for _ in range(2)]
    cookies = [get(app, "/sign-in", "POST", data={"token": TOKEN}).headers["set-cookie"].split(";")[0] for app in apps]
    assert len({cookie.split("=")[0] for cookie in cookies}) == 2
    both = {"Cookie": "; ".join(cookies)}
    assert [get(app, "/", headers=both).status_code for app in apps] == [200, 200]


def test_an_open_page_hears_nothing_after_its_sign_out() -> None:
    view, key = CoordinatorView(Path(), None), Key(TOKEN, "coordinator")
    headers = Headers({"cookie": f"{key.cookie}={key.sign_in(TOKEN)}"})

    class Asked:
        def __init__(self) -> None:
            self.headers = headers

        async def is_disconnected(self) -> bool:
            return False

    async def listen() -> list[str]:
        heard = []
        async for text in _changes(view, key, Asked(), ""):  # type: ignore[arg-type]
            heard.append(text)
            key.sign_out(headers)
        return heard

    assert len(asyncio.run(asyncio.wait_for(listen(), 20))) == 1


def test_the_oldest_of_many_sessions_ends() -> None:
    key = Key(TOKEN, "coordinator")
    sessions = [key.sign_in(TOKEN) for _ in range(101)]
    held = [key.admits(Headers({"cookie": f"{key.cookie}={session}"})) for session in sessions]
    assert held == [False] + [True] * 100
