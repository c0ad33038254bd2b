"""Limits requests that charge nothing.

Guarantees
----------
* A new run is refused with RUNS_EXHAUSTED if `limits.unpaid_runs` runs have folders here and charged nothing. A
  participant with an exhausted budget still measures models, but only a limited number.
* A run may have `limits.evaluations` models measured, each once (up to three times if measuring was interrupted).
  Further ones are refused with EVALUATIONS_EXHAUSTED. A repeated message gets the same answer, without measuring again.
* Every start is noted in the run's folder before a row is measured. If it cannot be noted, nothing is measured.
* Refusals depend on messages and policy alone, never on rows.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from consortia.common import disk
from consortia.common.errors import RefusedError

if TYPE_CHECKING:
    from consortia.participant.home import Home
    from consortia.terms.policy import LimitTerms
    from privacy.ledger import Ledger

log = logging.getLogger("consortia.participant")

_TRIES = 3


def run_folder(home: Home, ledger: Ledger, run_id: str, limits: LimitTerms) -> Path:
    """Return (and make) the folder of a run, unless it is new here and too many other runs charged nothing.

    Raises
    ------
    RefusedError
        RUNS_EXHAUSTED. The log at home says what the owner can do.
    """
    runs = home.folder / "runs"
    folders = {folder.name for folder in runs.iterdir()} if runs.is_dir() else set()
    if run_id not in folders and len(folders) >= limits.unpaid_runs:
        _check_unpaid(folders, ledger, run_id, limits, runs)
    return home.run_folder(run_id)


def _check_unpaid(folders: set[str], ledger: Ledger, run_id: str, limits: LimitTerms, runs: Path) -> None:
    paid = {account.partition("/")[0] for account in ledger.used()}
    if run_id not in paid and len(folders - paid) >= limits.unpaid_runs:
        raise RefusedError(
            "RUNS_EXHAUSTED",
            f"limits.unpaid_runs = {limits.unpaid_runs}, and that many runs in {runs} took nothing from the ledger; "
            "raise it, or put old folders elsewhere",
        )


@dataclass(frozen=True)
class Measurement:
    """The evaluation of one model of one run: whether it is measured, and its note in the run's folder."""

    notes: Path
    key: str
    due: bool

    def done(self) -> None:
        """Note that the measurement is complete and written."""
        _note(self.notes, self.key, "measured")


def admit(home: Home, ledger: Ledger, run_id: str, key: str, limits: LimitTerms) -> Measurement:
    """Note that a model is about to be measured, or return that it must not be.

    Parameters
    ----------
    key : SHA-256 (hex) of run, round, contract and model.

    Raises
    ------
    RefusedError
        RUNS_EXHAUSTED or EVALUATIONS_EXHAUSTED.
    """
    try:
        notes = run_folder(home, ledger, run_id, limits) / "evaluations.jsonl"
        lines = _read(notes)
        keys, states = {line["key"] for line in lines}, [line["state"] for line in lines if line["key"] == key]
        if key not in keys and len(keys) >= limits.evaluations:
            raise RefusedError(
                "EVALUATIONS_EXHAUSTED",
                f"limits.evaluations = {limits.evaluations}, and {notes} names that many models; raise it",
            )
        due = "measured" not in states and len(states) < _TRIES
        if due:
            _note(notes, key, "started")
        return Measurement(notes, key, due)
    except OSError as error:
        log.error("%s: nothing is measured, for it cannot be noted: %s", home.participant, type(error).__name__)
        return Measurement(home.log, key, due=False)


def _read(notes: Path) -> list[dict[str, str]]:
    """Return the notes. An incomplete line (after a kill) counts as a separate model."""
    if not notes.is_file():
        return []
    lines = []
    for number, text in enumerate(notes.read_text(encoding="utf-8").splitlines()):
        try:
            lines.append(json.loads(text))
        except ValueError:
            lines.append({"key": f"line {number}", "state": "started"})
    return lines


def _note(notes: Path, key: str, state: str) -> None:
    disk.append_json(notes, {"key": key, "state": state, "time": time.time()})
