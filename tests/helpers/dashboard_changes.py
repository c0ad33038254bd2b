"""Changing something through a dashboard's pages, without a network, and through the command beside it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import APP
from dashboard_pages import get
from fastapi import FastAPI
from typer.testing import CliRunner

from privacy.ledger import Ledger

CHANGE_TOKEN = "a-token-for-changes-of-this-test"
ORIGIN = {"Origin": "http://127.0.0.1"}


def call(*arguments: str) -> str:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "250"})
    assert result.exit_code == 0, result.output
    return result.output


def linear_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that accepts `linear` as it is: a module's fixture `template`."""
    place = tmp_path_factory.mktemp("template")
    call("budget", "init", "--scenario", "linear", "--home", str(place))
    return place


def two_homes(template: Path, tmp_path: Path) -> Path:
    """Two equal homes in two folders, one for the page, one for the command: a fixture `homes`."""
    for place in ("page", "command"):
        shutil.copytree(template, tmp_path / place)
    return tmp_path


def signed_in(app: FastAPI, token: str) -> dict[str, str]:
    answer = get(app, "/sign-in", "POST", data={"token": token})
    assert answer.status_code == 303
    return {"Cookie": answer.headers["set-cookie"].split(";")[0]}


def post(app: FastAPI, path: str, who: dict[str, str], headers: dict[str, str] | None = None, **data: str) -> Any:
    return get(app, path, "POST", data=data, headers={**who, **(ORIGIN if headers is None else headers)})


def ticket_of(answer: httpx.Response) -> str:
    found = re.search(r'name="ticket" value="([^"]+)"', answer.text)
    assert found, answer.text
    return found[1]


def lines(home: Path) -> list[dict[str, Any]]:
    """The ledger's lines and the policy, without times and hashes."""
    with Ledger.open(home / "line-a" / "ledger.db", "line-a") as ledger:
        assert ledger.anchor() is not None
    told = json.loads(call("budget", "history", "line-a", "--home", str(home), "--json"))["history"]
    return [*({"what": one["what"], "detail": one["detail"]} for one in told), policy(home)]


def policy(home: Path) -> dict[str, Any]:
    return {"policy": (home / "line-a" / "policy.toml").read_text()}
