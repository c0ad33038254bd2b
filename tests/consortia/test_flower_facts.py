"""The installed Flower is the one that is known; if not, one sentence says what changed."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from wire_tap import REQUESTS

from consortia.messages import flower_facts, flower_pace

ROOT = Path(__file__).resolve().parents[2]
PUBLIC = {"flwr.app", "flwr.clientapp", "flwr.serverapp"}


def _sentence(changes: list[str]) -> str:
    return f"Flower {version('flwr')} is not the one that is known: {'; '.join(changes)}." if changes else ""


def test_flower_is_the_one_that_is_known() -> None:
    assert not _sentence(flower_facts.changes())


def test_a_newer_flower_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supernode import start_client_internal

    def _push_messages() -> None:
        """Another one."""

    monkeypatch.setattr(flower_facts, "FLOWER", "1.0.0")
    monkeypatch.setattr(start_client_internal, "_push_messages", _push_messages)
    monkeypatch.delattr(start_client_internal, "_pull_and_store_message")
    names = ("flwr.common.constant:HEARTBEAT_PATIENCE", "flwr.proto.fleet_pb2:PullMessagesRequest")
    for name, known in zip(names, ("3", "node"), strict=True):
        monkeypatch.setitem(flower_facts.KNOWN, name, known)
    said = _sentence(flower_facts.changes())
    node = "flwr.supernode.start_client_internal"
    assert f"its version is {version('flwr')}, not 1.0.0" in said
    assert f"{node}:_pull_and_store_message is gone" in said
    assert re.search(rf"{node}:_push_messages is [0-9a-f]{{16}}, not 00bb86faffdec114", said)
    assert f"{names[0]} is 2, not 3" in said
    assert f"{names[1]} is node message_ids, not node" in said
    assert said.count("; ") == 4


def _imported(file: Path) -> Iterator[str]:
    text = file.read_text(encoding="utf-8")
    if "flwr" not in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").startswith("flwr."):
            yield from (f"{module}:{name.name}" for name in node.names if module not in PUBLIC)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("flwr."))


def test_every_private_name_that_the_product_takes_is_known() -> None:
    taken = {name for folder in ("platform", "strategies", "clients", "privacy") for file in
             (ROOT / folder).rglob("*.py") for name in _imported(file)} | set(flower_pace.REPLACED)  # fmt: skip
    assert len(taken) > 40
    assert not taken - set(flower_facts.KNOWN)


def test_every_field_that_a_supernode_can_send_is_known() -> None:
    names: set[str] = set()

    def reach(kind: Any) -> None:
        name = f"{kind.file.name.removesuffix('.proto').replace('/', '.')}_pb2:{kind.full_name.split('.', 2)[2]}"
        if name not in names:
            names.add(name)
            for field in kind.fields:
                if field.message_type is not None:
                    reach(field.message_type)

    for asked, _ in REQUESTS.values():
        reach(asked.DESCRIPTOR)
    assert len(names) > 25
    assert not names - set(flower_facts.KNOWN)


def test_one_file_of_code_knows_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = f"flwr=={flower_facts.FLOWER}"
    assert pinned in project["dependencies"]
    for pins in ("constraints.txt", "platform/locks/participant.txt"):
        lines = (ROOT / pins).read_text(encoding="utf-8").splitlines()
        assert [line.removesuffix(" \\") for line in lines if line.startswith("flwr==")] == [pinned], pins
    knows = [
        file.relative_to(ROOT).as_posix()
        for folder in ("platform", "strategies", "clients", "privacy", "docs")
        for file in (ROOT / folder).rglob("*")
        if file.suffix in {".py", ".md", ".txt", ".toml", ".yml", ".cfg"}
        and "docs/design" not in file.as_posix()
        and flower_facts.FLOWER in file.read_text(encoding="utf-8")
    ]
    assert sorted(knows) == ["platform/consortia/messages/flower_facts.py", "platform/locks/participant.txt"]
