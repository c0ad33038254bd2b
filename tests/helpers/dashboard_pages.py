"""Asking a dashboard without a network, and a participant that answers at once."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
from fastapi import FastAPI

from consortia.messages.envelope import Envelope, decode, encode
from consortia.terms.scenario import Scenario

TOKEN = "a-token-of-this-test-only"


def get(app: FastAPI, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    """Ask the application, without a network."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **options)

    return asyncio.run(ask())


def signed(app: FastAPI, path: str) -> httpx.Response:
    """Ask with the token."""
    return get(app, path, headers={"Authorization": f"Bearer {TOKEN}"})


def crawl(app: FastAPI, *more: str) -> dict[str, str]:
    """Return every page that links lead to."""
    found: dict[str, str] = {}
    open_paths = ["/", "/metrics", *more]
    while open_paths:
        path = open_paths.pop()
        if path not in found and not path.startswith("/assets"):
            answer = signed(app, path)
            assert answer.status_code == 200, (path, answer.text)
            found[path] = answer.text
            open_paths += re.findall(r'href="(/[^"#]*)"', answer.text)
    return found


def counted(app: FastAPI, path: str, wanted: str) -> str:
    """Ask until what is counted in the background is there; a machine that does other work, too, takes long."""
    for _ in range(6000):
        text = signed(app, path).text
        if wanted in text:
            return text
        time.sleep(0.05)
    raise AssertionError(f"{path} never said {wanted!r}: {text}")


def reply(data: bytes, scenario: Scenario, **changes: str) -> bytes:
    """Answer as a participant that sends the model back; `changes` replaces header values."""
    message = decode(data)
    train = message.header["kind"] == "train"
    header = {
        "status": "OK" if train else "EVALUATED",
        **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
        "contract": scenario.contract.sha256(),
        "noise_multiplier": "1.5",
        "epsilon_budget": "3.0",
        "delta": "1e-05",
        "unit": "record",
        "non_private": "false",
        **changes,
    }
    return encode(Envelope(header, dict(message.tensors) if train else {}))
