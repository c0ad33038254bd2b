"""Banks that sum: real participants, ledgers and messages in one process."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from consortia import client_app
from consortia.coordinator.rounds import Coordinator
from consortia.engines.demonstration import demo_policy_file
from consortia.messages.envelope import decode
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.terms.scenario import Scenario, load_scenario
from consortia.trust.secure_sum.protocol import SumRequest
from privacy.ledger import Ledger

Hook = Callable[[str, bytes, Callable[[bytes], bytes]], bytes | None]


class Town:
    """The five banks, some factories where asked for, and a transport in which a test may sit."""

    def __init__(
        self,
        folder: Path,
        *,
        rounds: int = 2,
        participants: int = 5,
        factories: int = 0,
        base: str = "secure-banks-network",
        epsilon: Sequence[str] = (),
        **contract: Any,
    ) -> None:
        self.folder = folder
        self.base = base
        scenario = load_scenario(base)
        data = json.loads(scenario.to_json())
        banks, others = data["roster"], json.loads(load_scenario("factories-network").to_json())["roster"]
        banks.append({**banks[4], "name": "other-2"})
        others.append({**others[2], "name": "high-2"})
        data["roster"] = [*banks[:participants], *others[:factories]]
        data["contract"].update(rounds=rounds, **contract)
        for key in ("noise", "largest_clip", "smallest_clip", "rows"):
            (data["contract"]["secure"] or {}).pop(key, None)
        self.scenario = Scenario.model_validate_json(json.dumps(data)).with_overrides(rounds=rounds, epsilon=epsilon)
        self.homes = {participant.name: self._home(participant.name) for participant in self.scenario.roster}
        pin_each_other(self.homes)
        self.sent: dict[str, list[bytes]] = {name: [] for name in self.homes}
        self.replies: dict[str, list[bytes]] = {name: [] for name in self.homes}
        self.hook: Hook = lambda name, data, answer: answer(data)
        self.evaluates = False

    def _home(self, name: str) -> Home:
        home = Home(self.folder / "participants" / name, name, simulation=True)
        home.create(split_seed=3)
        industry = self.scenario.participant(name).industry
        scenario = {"bank": self.base, "factory": "factories-network"}[industry]
        model = name.removesuffix("-2")
        text = demo_policy_file(scenario, model).read_text(encoding="utf-8")
        home.policy.write_text(text.replace(f'participant = "{model}"', f'participant = "{name}"'), encoding="utf-8")
        Ledger.create(home.ledger, name).close()
        return home

    def exchange(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Sequence[Answer]:
        answers = []
        for name, data in envelopes.items():
            self.sent[name].append(data)

            def answer(message: bytes, name: str = name) -> bytes:
                reply = client_app.answer(message, self.homes[name], None)
                self.replies[name].append(reply)
                return reply

            came = self.hook(name, data, answer) if kind == "train" or self.evaluates else None
            answers.append(Answer(name, came, "" if came is not None else "NO_REPLY"))
        return answers

    def coordinator(self) -> Coordinator:
        return Coordinator(self.scenario, "run-1", self.folder / "out", self.exchange)

    def run(self) -> dict[str, Any]:
        return self.coordinator().run()

    def entries(self, name: str) -> list[Any]:
        with Ledger.open(self.homes[name].ledger, name) as ledger:
            return ledger.entries("run-1")

    def secrets(self, name: str) -> int:
        connection = sqlite3.connect(self.homes[name].ledger)
        try:
            return int(connection.execute("SELECT count(*) FROM secure_runs").fetchone()[0])
        finally:
            connection.close()


def kind_of(data: bytes) -> tuple[str, int, int]:
    """Return kind, round and attempt of a message."""
    header = decode(data).header
    attempt = SumRequest.from_json(header["secure"]).attempt if header["kind"] == "train" else -1
    return header["kind"], int(header["round"]), attempt


def lost(kind: str, number: int, name: str) -> Hook:
    """Return a transport that loses one answer of one participant; later attempts of the round reach it."""
    left = [(kind, number, name)]

    def hook(who: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        if (*kind_of(data)[:2], who) in left:
            left.clear()
            return None
        return reply

    return hook
