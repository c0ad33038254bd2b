"""One person has one lifetime budget. Two data sets of a participant with the same rows share it, or the second is
refused.

Guarantees
----------
* Two data sets of one policy can name the same source: the same file by path, link or content; the same folder, site
  and industry of public data; or the same query of the same database. Then neither takes part until one of them says
  `lifetime = "<the other>"`. This is found before a row is read.
* Two data sets that share a row or a unit are found before any number computed from their rows leaves, whatever their
  sources are. A file beside the ledger holds keyed 64-bit hashes of the rows and units that each data set trained on or
  was measured on. The second data set is refused until it names the first, even if the policy no longer has the first.
* A named lifetime is a permanent link in the ledger's chain. Everything that either data set spent counts for both
  (`Ledger.share`). If one trains on a unit and the other measures on it, the data set is refused: the accounts of the
  two partitions compose in parallel only if no unit is in both.

The comparison fails closed: one equal row is enough, because a shared lifetime can only cost too much. Rows with few
distinct values can be equal by chance; then data sets of different persons have to share, too. Equal identifiers count
as one person. If they are different persons, give the identifiers of one source a prefix. Three cases are not found:
rows whose numbers differ when rounded to six digits and that have no common identifier; data sets of two participants;
and a vertical against a horizontal data set, whose accounts use different relations anyway. The hashes stay at home.
Their key is the split key.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients import registry
from clients.dataset import mark, prepare
from clients.sources import parse_source
from consortia.common import disk
from consortia.common.errors import ConsortiaError, RefusedError, SharedUnitsError
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions
from consortia.participant.rows import read_rows
from consortia.terms.policy import DatasetTerms, Policy
from privacy.errors import ContractMismatchError
from privacy.ledger import Ledger

__all__ = ["check_persons", "check_rows", "check_sources", "marks_of", "overlap", "settle"]

Marks = NDArray[np.uint64]
#: The lowest bits of a stored mark: whether it is measured on (not trained on), and whether it is a unit (not a row).
_MEASURED, _UNIT, _BITS = np.uint64(1), np.uint64(2), np.uint64(2)


def settle(ledger: Ledger, policy: Policy, dataset: str, source: str) -> None:
    """Write the policy's shared lifetimes into the ledger. Refuse a data set with the same source as another one.

    Raises
    ------
    RefusedError
        BAD_POLICY. The sentence names both data sets and what to write.
    """
    for name, terms in policy.dataset.items():
        if terms.lifetime is not None and terms.lifetime not in ledger.sharing(name):
            try:
                ledger.share(name, terms.lifetime)
            except ContractMismatchError as error:
                raise RefusedError("BAD_POLICY", f"dataset.{name}.lifetime: {error}") from None
    check_sources(policy, dataset, source, ledger.sharing(dataset))


def sharing(ledger: Ledger, policy: Policy, dataset: str) -> tuple[str, ...]:
    """Return the data sets that share the lifetime, according to the ledger or (from the next message on) the
    policy."""
    return ledger.sharing(dataset, [(name, terms.lifetime) for name, terms in policy.dataset.items() if terms.lifetime])


def check_sources(policy: Policy, dataset: str, source: str, shared: Iterable[str]) -> None:
    """Raise RefusedError if another data set of the policy has this source without sharing the lifetime."""
    others = {name: terms for name, terms in policy.dataset.items() if name not in {*shared, dataset}}
    mine = _identities(policy.dataset[dataset], source) if others else frozenset()
    for name, terms in others.items():
        if mine & _identities(terms, terms.source):
            raise RefusedError(
                "BAD_POLICY",
                f"dataset.{dataset}.source: wanted rows of its own, got the source of dataset.{name}; one person has "
                f'one lifetime: write lifetime = "{name}" below [dataset.{dataset}], or drop one of them',
            )


def check_rows(home: Home, ledger: Ledger, policy: Policy, dataset: str, parts: Partitions) -> None:
    """Compare the rows of a run with those of all other data sets that spent anything, and keep their marks.

    Raises
    ------
    SharedUnitsError
        Whether rows overlap depends on the rows, so PARTICIPANT_ERROR is sent. The log at home names the data sets.
    """
    tables = ((parts.train, False), (parts.validation, True), (parts.test, True))
    known = [_tagged(table.marks, measured=measured) for table, measured in tables if table.marks is not None]
    if not known:
        return
    mine = np.unique(np.concatenate(known))
    if problem := overlap(home, ledger, policy, dataset, mine):
        raise SharedUnitsError(problem)
    _keep(_file(home, dataset, "units"), mine)


def check_persons(home: Home, ledger: Ledger, policy: Policy, dataset: str, ids: Iterable[str]) -> None:
    """Do the same for the persons of a vertical data set; SharedUnitsError as `check_rows`."""
    key = home.split_key()
    persons = np.array([mark(key, "person", each) for each in ids], dtype=np.uint64)
    mine = np.unique(_tagged(np.column_stack([persons, persons]), measured=False))
    if problem := overlap(home, ledger, policy, dataset, mine, "persons"):
        raise SharedUnitsError(problem)
    _keep(_file(home, dataset, "persons"), mine)


def marks_of(marks: Marks | None) -> Marks:
    """Return the marks of rows that are not split yet, in the form that `overlap` takes."""
    return np.unique(_tagged(marks, measured=False)) if marks is not None else np.array([], dtype=np.uint64)


def overlap(
    home: Home, ledger: Ledger, policy: Policy, dataset: str, mine: Marks, kind: str = "units", *, split: bool = True
) -> str | None:
    """Return the conflict of these rows with the other data sets; None if there is none.

    Without `split` the marks do not distinguish training from measuring.
    """
    shared = sharing(ledger, policy, dataset)
    taken = {name.partition("/")[0] for name in ledger.datasets()} - {dataset}
    for name in sorted(taken):
        file = _file(home, name, kind)
        theirs = _load(file)
        if theirs is None:
            terms = policy.dataset.get(name)
            if name in shared or terms is None or kind != "units" or name not in ledger.datasets():
                continue  # no marks and nothing to compare: shared already, or its rows cannot be read from here
            theirs = _of_source(home, terms, name)
        if name not in shared and len(_both(mine, theirs)):
            return (
                f"dataset.{dataset}: wanted rows and units of its own, got some of data set {name}; one person has one "
                f'lifetime: write lifetime = "{name}" below [dataset.{dataset}], or take them out of one source'
            )
        if split and name in shared and _crossed(mine, theirs):
            return (
                f"dataset.{dataset}: wanted the split of data set {name}, with which it shares a lifetime, got units "
                "that one of them trains on and the other measures on; use the same split, unit and columns"
            )
    return None


def _both(one: Marks, other: Marks) -> Marks:
    return np.intersect1d(one >> _BITS, other >> _BITS)


def _crossed(one: Marks, other: Marks) -> bool:
    """Return whether one data set trains on a unit that the other measures on."""
    one, other = one[(one & _UNIT) > 0], other[(other & _UNIT) > 0]
    return any(len(_both(one[(one & _MEASURED) == side], other[(other & _MEASURED) != side])) for side in (0, 1))


def _tagged(marks: Marks, *, measured: bool) -> Marks:
    """Return the stored form (m,) of marks (n, 2) of rows and units. If a row is the unit, it is stored once."""
    rows, units = (marks >> _BITS << _BITS).T
    tagged = units | _UNIT | (_MEASURED if measured else np.uint64(0))
    return tagged if np.array_equal(rows, units) else np.concatenate([rows, tagged])


def _file(home: Home, dataset: str, kind: str) -> Path:
    return home.ledger.parent / f"{kind}-{dataset}.npy"


def _load(file: Path) -> Marks | None:
    try:
        found: Any = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):
        found = None
    if not isinstance(found, np.ndarray) or found.dtype != np.uint64 or found.ndim != 1:
        raise ConsortiaError(f"{file}: wanted the marks of a data set, got another file; put a whole copy back")
    return found


def _keep(file: Path, mine: Marks) -> None:
    """Add marks to the stored ones, durably and readable only by the owner. Marks are never removed, because their rows
    were charged."""
    before = _load(file)
    whole = mine if before is None else np.union1d(before, mine)
    if before is not None and len(whole) == len(before):
        return
    draft = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with disk.settled(draft, file), os.fdopen(descriptor, "wb") as stream:
        np.save(stream, whole)
        stream.flush()
        os.fsync(stream.fileno())


def _of_source(home: Home, terms: DatasetTerms, name: str) -> Marks:
    """Read a data set that was charged before marks existed."""
    client = registry.get(terms.industry)
    frame = read_rows(terms, client, key=f"dataset.{name}")
    table = prepare(client, frame, unit=terms.unit, key=home.split_key(), quarantine_threshold=1.0, where=name)
    return marks_of(table.marks)


def _identities(terms: DatasetTerms, text: str) -> frozenset[tuple[str, ...]]:
    """Return the identities of a source; two sources that are the same share one. Empty for synthetic rows and missing
    files.

    A source that cannot be inspected is identified by its text alone. The package that reads another data set may be
    broken, and that must not stop a run on this one. `check_rows` still finds shared rows.
    """
    try:
        source = parse_source(text)
        if source.kind == "synthetic":
            return frozenset()
        if source.table is None:
            place = str(Path(source.location).expanduser().resolve())
            return frozenset({("public", place, terms.industry, terms.site)})
        files = source.table.files()
        if not files:
            return frozenset({("table", source.kind, *source.table.identity())})
        return frozenset(identity for path in files if path.is_file() for identity in _of_file(path))
    except Exception:  # noqa: BLE001 - of a class that is not ours
        return frozenset({("text", str.__str__(text))})


def _of_file(path: Path) -> tuple[tuple[str, ...], ...]:
    """Return the identity of a file by place (independent of its name) and by content."""
    found = path.stat()
    content = _digest(str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    return ("file", str(found.st_dev), str(found.st_ino)), ("content", content)


@lru_cache(maxsize=64)
def _digest(path: str, inode: int, size: int, changed: int) -> str:
    """Return the SHA-256 of a file. The file is read again only if its inode, size or times have changed."""
    del inode, size, changed
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
