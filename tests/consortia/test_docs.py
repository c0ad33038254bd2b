"""The docs are true: README code runs, and everything that exists is named there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from torch import nn

from clients import registry
from clients.spec import ModelSpec
from consortia.cli import build_app
from consortia.scenario import committed_scenarios
from consortia.testing import check_client
from strategies.registry import NAMES

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readmes_industry_passes_the_conformance_suite() -> None:
    assert len(CODE[0].splitlines()) < 40
    names: dict[str, object] = {}
    exec(CODE[0], names)
    client = names["CLIENT"]
    check_client(client)  # type: ignore[arg-type]
    assert "check_client(CLIENT)" in CODE[1]


def test_the_readmes_own_module_has_the_right_width() -> None:
    call = ast.parse(CODE[2]).body[-1]
    assert isinstance(call, ast.Expr)
    assert isinstance(call.value, ast.Call)
    (argument,) = [keyword.value for keyword in call.value.keywords if keyword.arg == "encoder"]
    encoder = eval(ast.unparse(argument), {"nn": nn})
    module = encoder(7, ModelSpec(kind="mlp", hidden=(5, 3)))
    assert module[0].in_features == 7
    assert module[0].out_features == 5


@pytest.mark.parametrize("name", [*committed_scenarios(), *NAMES])
def test_scenarios_and_strategies_are_named(name: str) -> None:
    assert name.lower() in README.lower()


def test_clients_are_named() -> None:
    for name in registry.names():
        assert name in README or name in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_command_is_named() -> None:
    app = build_app()
    commands = [c.name for c in app.registered_commands] + [g.name for g in app.registered_groups]
    for name in commands:
        assert f"consortia {name}" in README


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tests_that_the_guarantees_name_exist() -> None:
    for target in re.findall(r"`(tests/[\w./]+)`", (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")):
        assert (ROOT / target).exists(), target
