"""`consortia demo`: a run starts, the page that shows it is opened with its token, and both end together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from dashboard_pages import TOKEN, get
from typer.testing import CliRunner

from consortia.cli import demo
from consortia.dashboard import serve, starting
from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView


class _Process:
    def __init__(self, command: list[str], **_: Any) -> None:
        self.command, self.ended = command, False

    def poll(self) -> int | None:
        return 0 if self.ended else None

    def terminate(self) -> None:
        self.ended = True

    def wait(self, _: float) -> None:
        assert self.ended


def test_the_run_the_page_and_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def popen(*arguments: Any, **options: Any) -> _Process:
        seen["run"] = _Process(*arguments, **options)
        return seen["run"]

    def until_interrupted(view: CoordinatorView, token: str, listener: Any, _: None) -> None:
        seen.update(view=view, token=token)
        listener.close()
        raise KeyboardInterrupt

    monkeypatch.setattr(starting.subprocess, "Popen", popen)
    monkeypatch.setattr(demo.webbrowser, "open", lambda link: seen.update(link=link))
    monkeypatch.setattr(serve, "serve", until_interrupted)
    monkeypatch.delenv("CONSORTIA_DASHBOARD_TOKEN", raising=False)
    said = CliRunner().invoke(APP, ["demo", "--out", str(tmp_path / "runs")])
    assert said.exit_code == 1  # interrupted
    assert seen["run"].command[-4:] == ["run", "cross-industry", "--out", str(tmp_path / "runs")]
    assert seen["run"].ended
    assert seen["link"].endswith(f"/sign-in#token={seen['token']}")  # behind #: never sent to a server
    assert isinstance(seen["view"], CoordinatorView)


def test_an_unknown_scenario_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting.subprocess, "Popen", lambda *_: pytest.fail("started"))
    assert CliRunner().invoke(APP, ["demo", "--scenario", "none-such"]).exit_code == 2


def test_the_sign_in_page_reads_the_token_behind_the_hash_and_takes_none_from_the_address(tmp_path: Path) -> None:
    app = build(CoordinatorView(tmp_path, None), TOKEN)
    assert "/assets/sign_in.js" in get(app, "/sign-in").text
    assert get(app, "/assets/sign_in.js").status_code == 200
    assert get(app, f"/?token={TOKEN}").status_code == 303
    assert "set-cookie" not in get(app, f"/sign-in?token={TOKEN}").headers
