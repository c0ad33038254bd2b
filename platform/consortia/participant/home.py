"""The folder of a participant, which only its owner may read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consortia.common.disk import write_text
from consortia.common.errors import InputError, RefusedError
from privacy.errors import LedgerBrokenError, LedgerMissingError
from privacy.ledger import Ledger


@dataclass(frozen=True)
class Home:
    """The folder of one participant.

    Attributes
    ----------
    folder : Path
        Holds policy.toml, split.key, receipts, the log.
    participant : str
    simulation : bool
        One operator holds all rows: demonstration policies are accepted, the ledger is scratch.
    ledger_folder : Path
        Where ledger.db lies; differs from `folder` only under `--ledger`.
    control : bool
        A control run of a simulation: at its end only predictions are written, no receipt.
    """

    folder: Path
    participant: str
    simulation: bool = False
    ledger_folder: Path | None = None
    control: bool = False

    @property
    def kept(self) -> Path:
        """Folder of what outlives a run also under `--ledger`: policy, ledger and keys."""
        return self.ledger_folder or self.folder

    @property
    def policy(self) -> Path:
        """The owner's policy file; it lies beside the ledger that it governs."""
        return self.kept / "policy.toml"

    @property
    def ledger(self) -> Path:
        """The durable record of events."""
        return self.kept / "ledger.db"

    @property
    def log(self) -> Path:
        """The participant's own log; it may hold counts of rows and is never sent."""
        return self.folder / "participant.log"

    def run_folder(self, run_id: str) -> Path:
        """Return (and make) the folder of one run: receipt, progress, private parameters."""
        folder = self.folder / "runs" / run_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    def write_policy(self, text: str) -> None:
        """Write the policy durably.

        Raises
        ------
        InputError
            Where the file is mounted by itself, as it is in a participant's container.
        """
        try:
            write_text(self.policy, text)
        except OSError as error:
            if error.errno not in {errno.EBUSY, errno.EROFS}:
                raise
            raise InputError(
                f"{self.policy}: wanted a policy that can be changed here, got one that is mounted read-only; change "
                "the file on the host (homes/NAME/policy.toml, or policy.toml of the join kit)"
            ) from None

    def create(self, *, split_seed: int | None = None) -> None:
        """Make the folder and the split key.

        The key decides which unit is in which partition, once per data set. It is random; a simulation
        derives it from `--split-seed`, so that a result can be repeated.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file = self.folder / "split.key"
        if not key_file.exists():
            if split_seed is None:
                key = secrets.token_bytes(32)
            else:
                key = hashlib.sha256(f"split:{split_seed}".encode()).digest()
            descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(key)

    def split_key(self) -> bytes:
        """Return the key of the split."""
        file = self.kept / "split.key"
        try:
            return file.read_bytes()
        except FileNotFoundError:
            raise RefusedError("NO_LEDGER", f"{self.folder} has no split.key; run `consortia budget init`") from None

    def pin_split(self, dataset: str, split: str) -> None:
        """Fix how the data set is split, once and for all its runs.

        With other shares a training unit of one run would be a test unit of another, and the two partitions' accounts
        would no longer compose in parallel.
        """
        pinned = self._pinned(f"split-{dataset}.json", split)
        if pinned != split:
            raise RefusedError("CONTRACT_NOT_ALLOWED", f"data set {dataset} is split as {pinned}, not as {split}")

    def pin_rows(self, dataset: str, *, synthetic: bool) -> None:
        """Fix whether a data set's account counts real rows or is a demonstration's, with its first rows.

        Synthetic rows never take anything from a budget of real ones, nor do real rows begin with a spent one.
        """
        kind = "synthetic" if synthetic else "real"
        if (pinned := self._pinned(f"rows-{dataset}", kind)) != kind:
            remedy = (
                f"name the file again at dataset.{dataset}.source"
                if synthetic
                else f"make a home for the real rows (`consortia home init {self.participant} --data FILE …`) elsewhere"
            )
            raise RefusedError(
                "BAD_POLICY",
                f"{self.policy}: dataset.{dataset}.source: wanted {pinned} rows, which this ledger counts, got {kind} "
                f"ones; {remedy}",
            )

    def _pinned(self, name: str, text: str) -> str:
        """Return the text of a file beside the ledger, which is `text` if there was none; whoever was first decides."""
        file = self.kept / name
        try:
            return file.read_text(encoding="utf-8")
        except FileNotFoundError:
            draft = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
            draft.write_text(text, encoding="utf-8")
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
            draft.unlink()
            return file.read_text(encoding="utf-8")

    @contextlib.contextmanager
    def exclusive(self, seconds: float) -> Iterator[None]:
        """Hold the participant's lock: one message at a time, over threads and processes, with a bounded wait."""
        end = time.monotonic() + seconds
        with (self.folder / "participant.lock").open("a") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise TimeoutError("the participant is still at work on another message") from None
                    time.sleep(0.01)
            yield

    def open_ledger(self) -> Ledger:
        """Return the ledger's handle; a missing ledger is a refusal, never a fresh start.

        This process keeps the handle for the next message, as long as the same file lies at that path.
        """
        try:
            return _handles.get(self.ledger, self.participant)
        except LedgerMissingError as error:
            raise RefusedError("NO_LEDGER", str(error)) from None
        except LedgerBrokenError as error:
            raise RefusedError("LEDGER_BROKEN", f"{error}; put an unbroken copy of {self.ledger} back") from None


class _Handles:
    """Open ledgers of this process: opening one costs more than using it."""

    def __init__(self, most: int = 64) -> None:
        self._lock = threading.Lock()
        self._most = most
        self._open: OrderedDict[tuple[int, Path, str], tuple[tuple[int, int], Ledger]] = OrderedDict()

    def get(self, path: Path, participant: str) -> Ledger:
        """Return an open handle on the file that lies at `path` now."""
        key = (os.getpid(), path, participant)  # a handle never crosses a fork
        with self._lock:
            try:
                found = path.stat()
                identity = (found.st_dev, found.st_ino)
            except OSError:
                identity = (-1, -1)
            kept = self._open.get(key)
            if kept is not None and kept[0] == identity:
                self._open.move_to_end(key)
                return kept[1]
            if kept is not None:
                self._open.pop(key)[1].close()
            ledger = Ledger.open(path, participant)
            self._open[key] = (identity, ledger)
            while len(self._open) > self._most:
                self._open.popitem(last=False)[1][1].close()
            return ledger


_handles = _Handles()
