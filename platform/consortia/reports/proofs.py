"""Finds what proves something of a finished run: its passport and its evidence pack, where they exist."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from consortia.common.errors import ConsortiaError
from consortia.common.strict import read_record
from consortia.reports.evidence import PACK
from consortia.trust.passport import FILE, known_passport

__all__ = ["Proof", "proofs"]


@dataclass(frozen=True)
class Proof:
    """One file of a run's folder.

    Attributes
    ----------
    kind : str
        `passport` or `evidence`.
    says : str
        What it is, and what to do with it.
    file : str
        Its path from the run's folder.
    sha256 : str
        Of a passport; else empty.
    """

    kind: str
    says: str
    file: str
    sha256: str = ""


def proofs(folder: Path, run_id: str) -> list[Proof]:
    """Return a run's proofs; an evidence pack of another run, or one that cannot be read, is none."""
    found = [
        Proof(
            "passport",
            "A passport states what each participant released and at which ε, signed by those who took part: "
            f"`consortia verify {FILE} --keys keys` checks it offline.",
            FILE,
            sha256,
        )
        for sha256 in known_passport(folder).values()
    ]
    if _packed(folder / PACK / "facts.json") == run_id:
        says = (
            "An evidence pack answers what a board, a data protection officer or a regulator asks, each sentence with "
            "what it rests on."
        )
        found.append(Proof("evidence", says, f"{PACK}/README.md"))
    return found


def _packed(file: Path) -> str | None:
    """Return the id of the run that an evidence pack is about."""
    try:
        found = read_record(file).get("run") if file.is_file() else None
    except (ConsortiaError, OSError, ValueError):
        return None
    return str(found.get("run_id")) if isinstance(found, dict) else None
