"""Reads a participant's home for its owner: ledger, receipts, progress, policy. Nothing of it leaves."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit

from clients.masking import masked
from consortia.common.errors import ConsortiaError, InputError
from consortia.dashboard.background import Background
from consortia.participant.account import LIFETIME, history, summary
from consortia.participant.home import Home
from consortia.reports.decision import compares
from consortia.terms.policy import Policy, parse_policy
from privacy.errors import PrivacyError


@dataclass(frozen=True)
class OwnRun:
    """One run as its participant saw it: its receipt (empty before the end) and its own progress by round."""

    id: str
    receipt: dict[str, Any]
    progress: list[dict[str, Any]]

    @property
    def metric(self) -> str | None:
        """The receipt's headline metric; None where nothing was measured, as at a partner of a vertical run."""
        name = self.receipt.get("headline")
        return str(name) if name in self.receipt.get("metrics", {}) else None

    @property
    def values(self) -> dict[str, float | None]:
        """The headline metric on test rows, by model."""
        return self.receipt["metrics"][self.metric] if self.metric else {}

    @property
    def compares(self) -> bool:
        """Whether the receipt has the joined model; those of vertical and older runs do not."""
        return "metrics" in self.receipt and compares(self.receipt)

    @property
    def quarantine(self) -> dict[str, Any]:
        """Rows read and kept, and reasons; empty in a vertical run."""
        found: dict[str, Any] = self.receipt.get("quarantine", {})
        return found

    @property
    def set_aside(self) -> int | None:
        """Rows that were set aside."""
        return self.quarantine["rows_read"] - self.quarantine["rows_kept"] if self.quarantine else None


class Own:
    """Reads one home.

    Parameters
    ----------
    home : Home
        With `policy.toml`; the ledger may be missing or broken, which is then said.
    """

    def __init__(self, home: Home, background: Background) -> None:
        self.home = home
        self._background = background

    def policy(self) -> tuple[Policy, str]:
        """Return the policy and its text, passwords left out.

        Raises
        ------
        InputError
            When it is malformed.
        """
        text = self.home.policy.read_text(encoding="utf-8-sig")
        policy = parse_policy(text, str(self.home.policy))
        return policy, _shown(text)

    def accounts(self) -> tuple[dict[str, Any] | None, str]:
        """Return every account of the ledger, None before it was counted first, and what is wrong with the ledger."""

        def count() -> dict[str, Any]:
            return summary(self.home.open_ledger(), self.policy()[0], self.home.participant)

        return self._counted("accounts", count)

    def history(self) -> tuple[list[dict[str, Any]] | None, str]:
        """Return the ledger's lines, oldest first, as `accounts` does."""
        return self._counted("history", lambda: history(self.home.open_ledger()))

    def _counted(self, slot: str, count: Any) -> tuple[Any, str]:
        try:
            state = (self.home.open_ledger().anchor().counter, self.home.policy.stat().st_mtime_ns)
        except (ConsortiaError, PrivacyError, OSError, sqlite3.Error) as error:
            return None, f"The ledger cannot be read: {error}"
        return self._background.take(slot, state, count)[0], ""

    def runs(self) -> list[OwnRun]:
        """Return every run that left something here, the newest first."""
        files = {file.parent for name in ("receipt.json", "progress.jsonl") for file in self._files(name)}
        newest = sorted(files, key=lambda folder: (folder.stat().st_mtime, folder.name), reverse=True)
        return [OwnRun(folder.name, _json(folder / "receipt.json"), _lines(folder)) for folder in newest]

    def version(self) -> str:
        """Return what changes when anything here does."""
        files = [*self._files("receipt.json"), *self._files("progress.jsonl"), self.home.policy]
        files += [self.home.ledger, self.home.ledger.with_name(self.home.ledger.name + "-wal")]
        seen = [file.stat() for file in files if file.is_file()]
        return (
            f"{sum(s.st_size for s in seen)}-{max((s.st_mtime_ns for s in seen), default=0)}-{self._background.version}"
        )

    def _files(self, name: str) -> list[Path]:
        return list((self.home.folder / "runs").glob(f"*/{name}"))


def lifetimes(accounts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lifetime accounts, each with the runs that it was spent on, the newest first."""
    lines = accounts["accounts"]
    return [
        {
            **life,
            "runs": [one for one in lines if one["dataset"] == life["dataset"] and one["horizon"] != LIFETIME][::-1],
        }
        for life in lines
        if life["horizon"] == LIFETIME
    ]


def open_home(folder: Path) -> Home:
    """Return the home that lies in `folder`, of the participant that its policy names.

    Raises
    ------
    InputError
        When there is no policy, or it is malformed.
    """
    file = folder / "policy.toml"
    if not file.is_file():
        raise InputError(
            f"--home {folder}: wanted a participant's home with policy.toml, got none; `consortia budget init`"
        )
    policy = parse_policy(file.read_text(encoding="utf-8"), str(file))
    return Home(folder.resolve(), policy.participant, simulation=policy.demo)


def _json(file: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data


def _lines(folder: Path) -> list[dict[str, Any]]:
    """Return the progress lines; a round that was played again counts as it was last."""
    file = folder / "progress.jsonl"
    if not file.is_file():
        return []
    found: dict[int, dict[str, Any]] = {}
    for text in file.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # half a line, by a crash
        found[line["round"]] = line
    return [found[number] for number in sorted(found)]


def _shown(text: str) -> str:
    """Return a policy's text with the secrets masked, those that TOML's escapes hide too."""
    document: Any = tomlkit.parse(text)
    for terms in document.get("dataset", {}).values():
        if "source" in terms:
            terms["source"] = masked(str(terms["source"]))
    if "new_persons" in document.get("vertical", {}):
        document["vertical"]["new_persons"] = masked(str(document["vertical"]["new_persons"]))
    return masked(tomlkit.dumps(document))
