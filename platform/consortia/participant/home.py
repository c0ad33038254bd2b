"""The folder of a participant. Only its owner may read it."""

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
from typing import TYPE_CHECKING, Any

import tomli_w

from consortia.common.disk import write_text
from consortia.common.errors import InputError, RefusedError
from privacy.errors import LedgerBrokenError, LedgerMissingError, PrivacyError
from privacy.ledger import Ledger

if TYPE_CHECKING:  # commands that need a folder only start faster
    from consortia.terms.policy import Policy

#: File in a run's folder with the participant's last message of noisy sums (`consortia.participant.own_sums`). It is
#: secret.
OWN_SUMS = "own-sums.safetensors"


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
        Folder of ledger.db; it differs from `folder` only under `--ledger`.
    control : bool
        Whether this is a control run of a simulation. Such a run writes predictions and no receipt.
    """

    folder: Path
    participant: str
    simulation: bool = False
    ledger_folder: Path | None = None
    control: bool = False

    @property
    def kept(self) -> Path:
        """Folder of the files that outlive a run, also under `--ledger`: policy, ledger and keys."""
        return self.ledger_folder or self.folder

    @property
    def policy(self) -> Path:
        """The owner's policy file, beside the ledger that it governs."""
        return self.kept / "policy.toml"

    def change_policy(self, data: dict[str, Any]) -> None:
        """Write the policy anew; a comment in its first line stays."""
        head = self.policy.read_text(encoding="utf-8").partition("\n")[0]
        comment = head + "\n" if head.startswith("#") else ""
        self.policy.write_text(comment + tomli_w.dumps(data), encoding="utf-8")

    def read_policy(self) -> Policy:
        """Return the owner's policy.

        Raises
        ------
        RefusedError
            There is none that can be used, or it is another participant's.
        """
        from consortia.terms.policy import load_policy

        try:
            policy = load_policy(self.policy, simulation=self.simulation)
        except InputError as error:
            raise RefusedError("BAD_POLICY", str(error)) from None
        if policy.participant != self.participant:
            raise RefusedError("WRONG_PARTICIPANT", f"{self.policy} belongs to {policy.participant}")
        return policy

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

    @contextlib.contextmanager
    def policy_held(self) -> Iterator[None]:
        """Hold the policy while it is read and written anew: one change at a time across threads and processes."""
        descriptor = os.open(self.kept, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def write_policy(self, text: str) -> None:
        """Write the policy durably.

        Raises
        ------
        InputError
            The file is mounted as a single file, as in a participant's container.
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

        The key decides which unit is in which partition, once for each data set. It is random. A simulation derives it
        from `--split-seed`, so that its result can be repeated.
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
        """Fix the split of a data set for all its runs.

        With different shares a training unit of one run could be a test unit of another. Then the accounts of the two
        partitions would not compose in parallel.
        """
        pinned = self._pinned(f"split-{dataset}.json", split)
        if pinned != split:
            raise RefusedError("CONTRACT_NOT_ALLOWED", f"data set {dataset} is split as {pinned}, not as {split}")

    def pin_rows(self, dataset: str, *, synthetic: bool) -> None:
        """Fix with the first rows whether a data set's account counts real or synthetic rows.

        Synthetic rows must not spend the budget of real rows, and real rows must not start with a spent budget.
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
        """Return the text of a file beside the ledger. If it is missing, write `text`; the first writer decides."""
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
        """Hold the participant's lock: one message at a time across threads and processes, with a bounded wait."""
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
        """Return the ledger's handle. A missing ledger is refused; no new one is made.

        This process keeps the handle for the next message, as long as the path has the same file.
        """
        try:
            return _handles.get(self.ledger, self.participant)
        except LedgerMissingError as error:
            raise RefusedError("NO_LEDGER", str(error)) from None
        except LedgerBrokenError as error:
            raise RefusedError("LEDGER_BROKEN", f"{error}; put an unbroken copy of {self.ledger} back") from None

    def open_for_owner(self) -> Ledger:
        """Return a handle of the caller's own, for a command or a page: there a refusal is an InputError."""
        try:
            return Ledger.open(self.ledger, self.participant)
        except PrivacyError as error:
            raise InputError(str(error)) from None


class _Handles:
    """The open ledgers of this process. Opening a ledger takes longer than using it."""

    def __init__(self, most: int = 64) -> None:
        self._lock = threading.Lock()
        self._most = most
        self._open: OrderedDict[tuple[int, Path, str], tuple[tuple[int, int], Ledger]] = OrderedDict()

    def get(self, path: Path, participant: str) -> Ledger:
        """Return an open handle for the file that is at `path` now."""
        key = (os.getpid(), path, participant)  # a handle must not be used after a fork
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
