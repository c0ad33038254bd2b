"""Writes a participant's home to one encrypted file, and restores it without losing a charge.

Guarantees
----------
* A backup may be made while the participant runs. SQLite's own backup copies the ledger last, in one step. So nothing
  in the file is newer than its ledger.
* It holds no secret that the platform promises to delete: the keys of a run of secure sums, and the content of the
  participant's own masked part. So a restored home takes no further part in a sum that was under way. It does not know
  which set of members it signed or opened after the backup, because the ledger's chain does not record that.
* The file is encrypted with AES-256-GCM. The key comes from the passphrase (scrypt). With a changed byte or another
  passphrase the file cannot be opened.
* A restore never replaces an existing ledger, policy or key. It is refused if a log of the lost ledger exists, because
  SQLite would write that log into the restored ledger. It is also refused if a witness holds a link that the ledger of
  the backup lacks: that link was charged for a reply after the backup.
* Without any witness nobody can know this. Then a restore is refused unless the owner declares that no reply has left
  since. The declaration is a note in the ledger's chain, and `consortia budget export` shows it to an auditor. A
  coordinator that holds a newer link still causes a refusal (`consortia.participant.ledger_witness`).
"""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
import tempfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from consortia.common import acts, disk
from consortia.common.errors import InputError
from consortia.participant import ledger_witness
from consortia.participant.home import OWN_SUMS, Home
from privacy.errors import PrivacyError
from privacy.ledger import Ledger
from privacy.secure_sum.store import KeyStore

_MAGIC = b"consortia home 1\n"
_MANIFEST = "backup.json"
#: Scrypt's cost parameter: each guess of a passphrase needs 128 MiB of memory.
_LOG_N = 17
_SALT, _NONCE = 16, 12
_SHORTEST = 12
#: Largest size of a home: the cipher takes it as one message in memory.
_MOST_BYTES = 2**30
#: The files that SQLite keeps beside a ledger.
_LOGS = ("-wal", "-shm", "-journal")
_LEFT_OUT = (".lock", ".tmp", *_LOGS, OWN_SUMS)


@dataclass(frozen=True)
class Backup:
    """The description of a backup.

    Attributes
    ----------
    participant : str
    made : str
        UTC, ISO 8601.
    files : int
    entries : int
        Links of the ledger's chain.
    """

    participant: str
    made: str
    files: int
    entries: int


def check_passphrase(passphrase: str) -> bytes:
    """Return the bytes of a passphrase; InputError if it is too short to resist guessing."""
    if len(passphrase) < _SHORTEST:
        raise InputError(
            f"passphrase: wanted at least {_SHORTEST} characters, got {len(passphrase)}; whoever has the file can "
            "try passphrases without limit"
        )
    return passphrase.encode()


def write_backup(home: Home, target: Path, passphrase: str) -> Backup:
    """Write the home to a new file, durably and readable only by its owner.

    Raises
    ------
    InputError
        There is no ledger or a broken one, the target exists, or the home is larger than 1 GiB.
    """
    secret = check_passphrase(passphrase)
    if target.exists():
        raise InputError(f"{target}: wanted no file there yet, got one; a backup never replaces another")
    if not home.ledger.is_file():
        raise InputError(f"{home.ledger}: wanted a ledger, got nothing there; check the name and --home")
    with acts.noted(home.kept, "home.backup", target.name):
        return _written(home, target, secret)


def _written(home: Home, target: Path, secret: bytes) -> Backup:
    databases = []
    files: dict[str, bytes] = {}
    for path in sorted(home.folder.rglob("*")):
        if not path.is_file() or path.is_symlink() or path.name.startswith(".") or path.name.endswith(_LEFT_OUT):
            continue
        if path.suffix == ".db":
            databases.append(path)
            continue
        try:
            files[path.relative_to(home.folder).as_posix()] = path.read_bytes()
        except FileNotFoundError:
            continue  # a temporary file that was renamed meanwhile
    for path in sorted(databases, key=lambda found: found == home.ledger):  # the ledger last
        files[path.relative_to(home.folder).as_posix()] = _copy_of(path)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "ledger.db"
        name = home.ledger.relative_to(home.folder).as_posix()
        copy.write_bytes(files[name])
        counter = _verified(copy, home.participant)
        files[name] = _without_keys(copy)
    made = datetime.now(UTC).isoformat(timespec="seconds")
    found = Backup(home.participant, made, len(files), counter)
    files[_MANIFEST] = json.dumps({"schema": 1, **found.__dict__}).encode()
    plain = _tar(files)
    if len(plain) > _MOST_BYTES:
        raise InputError(
            f"{home.folder}: wanted at most 1 GiB, got {len(plain) / 2**30:.1f}; move rows and old runs out"
        )
    salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
    head = _MAGIC + bytes([_LOG_N]) + salt + nonce
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    with disk.settled(draft, target):
        disk.write_secret(draft, head + AESGCM(_key(secret, salt, _LOG_N)).encrypt(nonce, plain, head))
        with draft.open("rb") as written:
            os.fsync(written.fileno())
    return found


def restore(home: Home, source: Path, passphrase: str, *, nothing_left_since: bool = False) -> Backup:
    """Put a backup's files into a home that has no ledger. Existing files stay as they are.

    Parameters
    ----------
    nothing_left_since : bool
        The owner declares that no reply has left since the backup. It matters only if there is no witness.

    Raises
    ------
    InputError
        The file cannot be opened or belongs to another participant; there is a ledger; the split key differs; or there
        is neither a witness nor a declaration. Nothing was written.
    RefusedError
        LEDGER_BEHIND or LEDGER_FORKED: a witness knows of a later charge. Nothing was written.
    """
    if home.ledger.exists():
        raise InputError(
            f"{home.ledger}: wanted no ledger there, got one; a ledger is never replaced: it may hold charges that the "
            "backup lacks"
        )
    for log in (home.ledger.with_name(home.ledger.name + ending) for ending in _LOGS):
        if log.exists():
            raise InputError(
                f"{log}: wanted no log of a lost ledger, got one; it may hold charges that the backup lacks, and would "
                "be written into its ledger. Put it back beside the ledger.db that it belongs to, or move it away"
            )
    files = _opened(source, passphrase)
    said = json.loads(files.pop(_MANIFEST))
    found = Backup(said["participant"], said["made"], said["files"], said["entries"])
    if found.participant != home.participant:
        raise InputError(f"{source}: wanted a backup of {home.participant}, got one of {found.participant}")
    key = home.folder / "split.key"
    if key.exists() and key.read_bytes() != files["split.key"]:
        raise InputError(f"{key}: wanted the key of the backup, got another; units would change their partition")
    settled = _settled(home, files.pop(home.ledger.name), found, nothing_left_since)
    files.pop("witness.json", None)  # not the newest; the ledger's end, written below, is newer
    home.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        path = home.folder / name
        if not path.exists():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            disk.write_secret(path, content)
    draft = home.ledger.with_name(f".{home.ledger.name}.{os.getpid()}")
    with disk.settled(draft, home.ledger):  # last: without a ledger every message is refused
        disk.write_secret(draft, settled)
        with draft.open("rb") as written:
            os.fsync(written.fileno())
    with Ledger.open(home.ledger, home.participant) as ledger:
        ledger_witness.keep(home, ledger.anchor())
    acts.record(home.kept, "home.restore", found.made)  # last: the log itself may have come with the backup
    return found


def _settled(home: Home, data: bytes, found: Backup, nothing_left_since: bool) -> bytes:
    """Return the ledger of a backup with a note of its restore, after a witness or the owner confirmed it."""
    witness = ledger_witness.witness_file(home)
    witnessed = witness.exists()
    if not witnessed and not nothing_left_since:
        raise InputError(
            f"{witness}: wanted the witness of the ledger that was lost, got none: nobody can tell whether a reply "
            f"left after {found.made}. If none did, add --nothing-left-since. If one did, or you do not know, its "
            "charge is lost: docs/sharp_edges.md, 'A lost ledger'"
        )
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "ledger.db"
        disk.write_secret(copy, data)
        _verified(copy, home.participant)
        with Ledger.open(copy, home.participant) as ledger:
            if witnessed:
                ledger_witness.check(home, ledger, None)
            ledger.note({"what": "restored", "backup": found.made, "entries": found.entries, "witnessed": witnessed})
        return _without_keys(copy)


def _copy_of(path: Path) -> bytes:
    """Return a consistent copy of a database while others write to it."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "copy.db"
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
        return copy.read_bytes()


def _without_keys(path: Path) -> bytes:
    """Return a copy of a ledger without the keys of secure sums under way. Attempts and votes stay."""
    with closing(KeyStore.open(path)) as keys:
        keys.end_all()
    return _copy_of(path)


def _verified(path: Path, participant: str) -> int:
    """Check a ledger's chain, and return its number of links; InputError if the chain is broken."""
    try:
        with Ledger.open(path, participant) as ledger:
            return ledger.verify().counter
    except PrivacyError as error:
        raise InputError(str(error)) from None


def _tar(files: dict[str, bytes]) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            entry.mode = 0o600
            archive.addfile(entry, io.BytesIO(content))
    return target.getvalue()


def _opened(source: Path, passphrase: str) -> dict[str, bytes]:
    """Return the files of a backup. InputError for a wrong passphrase or a changed file; the two cannot be told
    apart."""
    try:
        data = source.read_bytes()
    except OSError as error:
        raise InputError(f"{source}: wanted a backup, got {type(error).__name__}; check the path") from None
    end = len(_MAGIC) + 1 + _SALT + _NONCE
    head, log_n = data[:end], data[len(_MAGIC) : len(_MAGIC) + 1]
    if not data.startswith(_MAGIC) or len(data) <= end or not 10 <= log_n[0] <= 20:
        raise InputError(f"{source}: wanted a file of `consortia home backup`, got another; check the path")
    salt, nonce = head[-_SALT - _NONCE : -_NONCE], head[-_NONCE:]
    try:
        plain = AESGCM(_key(check_passphrase(passphrase), salt, log_n[0])).decrypt(nonce, data[end:], head)
    except InvalidTag:
        raise InputError(
            f"{source}: wanted its passphrase and an unchanged file, got another passphrase or a changed file"
        ) from None
    files = {}
    with tarfile.open(fileobj=io.BytesIO(plain)) as archive:
        for entry in archive:
            path = PurePosixPath(entry.name)
            content = archive.extractfile(entry) if entry.isreg() else None
            if content is None or path.is_absolute() or ".." in path.parts:
                raise InputError(f"{source}: wanted plain files below the home, got {entry.name!r}")
            files[entry.name] = content.read()
    return files


def _key(passphrase: bytes, salt: bytes, log_n: int) -> bytes:
    return Scrypt(salt=salt, length=32, n=2**log_n, r=8, p=1).derive(passphrase)
