"""Keeps the newest (counter, head) of each participant's ledger, taken from its replies."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from pathlib import Path

from consortia.common import disk
from consortia.common.disk import write_json
from consortia.common.errors import RunFailedError
from consortia.messages.ledger_anchor import anchor_from, to_header
from privacy.ledger import Anchor


class Heads:
    """The pairs by participant. A run's checkpoints hold them within the run, and `heads.json` holds them across runs.

    Parameters
    ----------
    file : Path or None
        In the coordinator's state folder, beside its runs. None if every run has scratch ledgers.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.known: dict[str, Anchor] = self._stored()

    def _stored(self) -> dict[str, Anchor]:
        if self._file is None or not self._file.is_file():
            return {}
        try:
            pairs = json.loads(self._file.read_text(encoding="utf-8"))
            return {name: Anchor(int(counter), str(head)) for name, (counter, head) in pairs.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            raise RunFailedError(
                f"{self._file}: wanted the ledgers' heads by participant, got something else; restore it, for without "
                "it a ledger that forgot releases is not recognised"
            ) from None

    def header(self, name: str) -> dict[str, str]:
        """Return the header fields of a message to `name`."""
        return to_header(self.known.get(name))

    def learn(self, pairs: Mapping[str, Anchor]) -> None:
        """Keep the newest of each participant."""
        for name, anchor in pairs.items():
            if name not in self.known or self.known[name].counter < anchor.counter:
                self.known[name] = anchor

    def take(self, name: str, header: Mapping[str, str]) -> None:
        """Take the pair of a reply's header, which `anchor_from` has checked before."""
        anchor = anchor_from(dict(header))
        if anchor is not None:
            self.learn({name: anchor})

    def save(self) -> None:
        """Merge with the heads that other runs of this coordinator wrote meanwhile, and store durably."""
        if self._file is None or not self.known:
            return
        with disk.kept(self._file.parent), self._file.with_suffix(".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.learn(self._stored())
            write_json(self._file, {name: [a.counter, a.head] for name, a in sorted(self.known.items())})
