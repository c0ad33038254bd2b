"""A SuperNode's question is kept open until there is a message, and Flower's answer is what it would have been."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink import main as flower

from consortia.deploy import held_questions
from consortia.deploy.held_questions import Held
from consortia.messages import flower_facts, flower_pace

KEY, NODE, OTHER = b"a node's key", 7, 8


class _Metadata:
    def __init__(self, node: int) -> None:
        self.dst_node_id = node


class _Stored:
    def __init__(self, node: int) -> None:
        self.metadata = _Metadata(node)


class _State(InMemoryLinkState):
    """Flower's state of messages, as far as the layer looks at it: whose a key is, and what is stored."""

    def __init__(self) -> None:
        self.message_ins_store: dict[str, Any] = {}

    def get_node_id_by_public_key(self, public_key: bytes) -> int | None:
        return NODE if public_key == KEY else None

    def store_message_ins(self, message: Any) -> str | None:
        self.message_ins_store[str(len(self.message_ins_store))] = message
        return "stored"


class Link:
    """A SuperLink with the layer; `ask` returns whether Flower was asked, with what body, and after how long."""

    def __init__(self) -> None:
        self.state = _State()
        self.asked: list[bytes] = []
        self.layer = Held(self._flower)
        factory = type("Factory", (), {"state": lambda _: self.state})()
        self.app = type("App", (), {"state": type("State", (), {"linkstate_factory": factory})})

    async def _flower(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append((await receive())["body"])

    async def ask(self, *, key: bytes = KEY, path: str = "/v1/fleet/pull-messages", left: float = 60.0) -> float:
        started, told = time.monotonic(), [b"que", b"stion"]

        async def receive() -> dict[str, Any]:
            if told:
                return {"type": "http.request", "body": told.pop(0), "more_body": bool(told)}
            await asyncio.sleep(left)
            return {"type": "http.disconnect"}

        headers = [(b"flwr-public-key", b64encode(key)), (b"content-length", b"8")]
        scope = {"type": "http", "path": path, "headers": headers, "app": self.app}
        await self.layer(scope, receive, lambda _: asyncio.sleep(0))
        return time.monotonic() - started

    async def store_soon(self, node: int, after: float = 0.2) -> None:
        await asyncio.sleep(after)
        await asyncio.to_thread(self.state.store_message_ins, _Stored(node))


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch) -> Link:
    monkeypatch.setattr(held_questions, "HELD_SECONDS", 1.0)
    return Link()


def test_a_question_waits_for_its_message(link: Link) -> None:
    async def play() -> float:
        took, _ = await asyncio.gather(link.ask(), link.store_soon(NODE))
        return took

    assert 0.2 <= asyncio.run(play()) < 0.9
    assert link.asked == [b"question"]


def test_a_question_waits_no_longer_than_is_allowed(link: Link) -> None:
    async def play() -> float:
        took, _ = await asyncio.gather(link.ask(), link.store_soon(OTHER))
        return took

    assert asyncio.run(play()) >= 1.0
    assert link.asked == [b"question"]


def test_messages_that_were_there_before_are_told_at_once(link: Link) -> None:
    async def play() -> list[float]:
        link.state.store_message_ins(_Stored(NODE))
        first = await link.ask()
        await link.store_soon(NODE, 0)
        await link.store_soon(NODE, 0)
        return [first, await link.ask(), await link.ask(), await link.ask()]

    *at_once, last = asyncio.run(play())
    assert max(at_once) < 0.5 <= last
    assert len(link.asked) == 4


def test_who_hangs_up_takes_no_message(link: Link) -> None:
    async def play() -> None:
        await link.ask(left=0.1)
        assert link.asked == []
        await asyncio.gather(link.ask(), link.store_soon(NODE, 0.1))

    asyncio.run(play())
    assert link.asked == [b"question"]


def test_other_requests_and_strangers_are_not_kept(link: Link) -> None:
    async def play() -> float:
        return max(await link.ask(path="/v1/fleet/push-object"), await link.ask(key=b"stranger"))

    assert asyncio.run(play()) < 0.5
    assert link.asked == [b"que", b"que"]  # Flower reads the rest itself


def test_another_flower_answers_at_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert held_questions.wanted()
    monkeypatch.setitem(flower_facts.KNOWN, held_questions.REPLACED[0], "0" * 16)
    assert not held_questions.wanted()
    assert "InMemoryLinkState" in caplog.text
    monkeypatch.undo()
    monkeypatch.setenv(flower_pace.SWITCH, "1")
    assert not held_questions.wanted()


def test_flowers_own_superlink_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_questions, "HELD_SECONDS", 1.5)
    app = flower.create_app()
    app.add_middleware(Held)
    key = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    app.state.linkstate_factory.state().create_node("owner", "owner", key, 30)

    async def ask(shown: bytes) -> tuple[int, float]:
        started = time.monotonic()
        head = {"flwr-public-key": b64encode(shown).decode()}
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://superlink", timeout=60) as client:
            answer = await client.post("/v1/fleet/pull-messages", content=b"", headers=head)
        return answer.status_code, time.monotonic() - started

    asyncio.run(ask(b"stranger"))  # what is loaded with the first request
    (stranger, at_once), (nobody, waited) = asyncio.run(ask(b"stranger")), asyncio.run(ask(key))
    assert waited >= 1.5 > at_once
    assert stranger == nobody >= 400  # no signature: Flower refuses afterwards, as before
