"""The results of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clients.masking import masked

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One line of a preflight.

    Attributes
    ----------
    check : str
        Which link of the chain.
    status : str
        `skipped` when a link before it is broken.
    found : str
        What was found; stays with the participant, yet names no value of a row.
    todo : str
        What to do about it; empty when ok.
    """

    check: str
    status: Status
    found: str
    todo: str = ""

    def __str__(self) -> str:
        return f"{self.check}: {self.status}: {self.found}" + (f" -> {self.todo}" if self.todo else "")


class Chain:
    """Findings in order: after a broken link the rest of the chain is skipped."""

    def __init__(self, *checks: str) -> None:
        self._open = list(checks)
        self.findings: list[Finding] = []

    def ok(self, found: str) -> None:
        """Close the next link."""
        self.findings.append(Finding(self._open.pop(0), "ok", masked(found)))

    def failed(self, found: str, todo: str) -> None:
        """Close the next link, broken; what comes after it can still be looked at."""
        self.findings.append(Finding(self._open.pop(0), "failed", masked(found), masked(todo)))

    def skip(self, why: str) -> None:
        """Close the next link unseen."""
        self.findings.append(Finding(self._open.pop(0), "skipped", why))

    def stop(self, found: str, todo: str) -> list[Finding]:
        """Close the next link, broken, and skip the rest; return all findings."""
        self.failed(found, todo)
        return self.rest(f"{self.findings[-1].check} first")

    def rest(self, why: str) -> list[Finding]:
        """Skip what is open; return all findings."""
        while self._open:
            self.skip(why)
        return self.findings
