"""One person, one lifetime: two data sets of a participant with the same rows share a budget, or the second is refused.

Guarantees
----------
* Two data sets of one policy that name the same source (the same file by path, link or content; the same folder, site
  and industry of public data; the same query of the same database) take no part until one of them says
  `lifetime = "<the other>"`. That is found before a row is read.
* Two data sets that hold one row or one unit together, whatever their sources are, are found before a row leaves:
  beside the ledger lies a file of keyed 64-bit hashes of what each data set trained or was measured on. The data set
  that comes second is refused until it names the first. The first may have left the policy meanwhile.
* A named lifetime is a link in the ledger's chain, for good. What either data set took counts for both
  (`Ledger.share`). A unit that one of them trains on and the other measures on is refused: the accounts of the two
  partitions compose in parallel only while no unit is in both.

The comparison fails closed, since a shared lifetime can only cost too much: one equal row is enough. Rows of few
distinct values repeat by chance; then two data sets of different persons have to share. Equal identifiers are one
person: give the persons of one source a prefix where they are others. Not found: rows that were changed in more than
the sixth digit and have no common identifier; data sets at two participants; vertical data sets against horizontal
ones, whose accounts count under other relations anyway. The hashes stay at home; the key is that of the split.
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
#: The lowest bits of a stored mark: a unit that is measured on, not trained on; a unit, not the row of one.
_MEASURED, _UNIT, _BITS = np.uint64(1), np.uint64(2), np.uint64(2)


def settle(ledger: Ledger, policy: Policy, dataset: str, source: str) -> None:
    """Write the policy's shared lifetimes into the ledger; refuse a data set whose source another one has, too.

    Raises
    ------
    RefusedError
        BAD_POLICY; the sentence names both data sets and what to write.
    """
    for name, terms in policy.dataset.items():
        if terms.lifetime is not None and terms.lifetime not in ledger.sharing(name):
            try:
                ledger.share(name, terms.lifetime)
            except ContractMismatchError as error:
                raise RefusedError("BAD_POLICY", f"dataset.{name}.lifetime: {error}") from None
    check_sources(policy, dataset, source, ledger.sharing(dataset))


def sharing(ledger: Ledger, policy: Policy, dataset: str) -> tuple[str, ...]:
    """Return what shares the data set's lifetime by the ledger or, from the next message on, by the policy."""
    return ledger.sharing(dataset, [(name, terms.lifetime) for name, terms in policy.dataset.items() if terms.lifetime])


def check_sources(policy: Policy, dataset: str, source: str, shared: Iterable[str]) -> None:
    """Raise RefusedError when a data set of the policy has this source without sharing the lifetime."""
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
    """Compare the rows of a run with those of all other data sets that took anything, and keep their marks.

    Raises
    ------
    SharedUnitsError
        Whether rows overlap depends on the rows, so it crosses as PARTICIPANT_ERROR; the log names the data sets.
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
    """Return the marks of rows that are not split yet, as `overlap` takes them."""
    return np.unique(_tagged(marks, measured=False)) if marks is not None else np.array([], dtype=np.uint64)


def overlap(
    home: Home, ledger: Ledger, policy: Policy, dataset: str, mine: Marks, kind: str = "units", *, split: bool = True
) -> str | None:
    """Return what is wrong with these rows beside those of the other data sets; None when nothing is.

    Without `split` the marks do not say yet who is trained on and who is measured on.
    """
    shared = sharing(ledger, policy, dataset)
    taken = {name.partition("/")[0] for name in ledger.datasets()} - {dataset}
    for name in sorted(taken):
        file = _file(home, name, kind)
        theirs = _load(file)
        if theirs is None:
            terms = policy.dataset.get(name)
            if name in shared or terms is None or kind != "units" or name not in ledger.datasets():
                continue  # a data set that this version has never seen, and whose rows cannot be looked up
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
    """Return whether a unit of both is trained on in one and measured on in the other."""
    one, other = one[(one & _UNIT) > 0], other[(other & _UNIT) > 0]
    return any(len(_both(one[(one & _MEASURED) == side], other[(other & _MEASURED) != side])) for side in (0, 1))


def _tagged(marks: Marks, *, measured: bool) -> Marks:
    """Return marks (n, 2) of rows and units as they are stored (m,): where a row is the unit, once."""
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
    """Add marks to what was there, durably and for the owner only: a row that was there once has been charged."""
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
    """Read a data set that was charged before there were marks."""
    client = registry.get(terms.industry)
    frame = read_rows(terms, client, key=f"dataset.{name}")
    table = prepare(client, frame, unit=terms.unit, key=home.split_key(), quarantine_threshold=1.0, where=name)
    return marks_of(table.marks)


def _identities(terms: DatasetTerms, text: str) -> frozenset[tuple[str, ...]]:
    """Return what two sources have in common when they are one; empty for synthetic rows and what is not there.

    A source that cannot be looked at is known by its text alone: the package that reads another data set may be broken,
    which stops no run on this one. Rows that two data sets share are found all the same (`check_rows`).
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
    """Return where a file is, whatever it is called, and what is in it."""
    found = path.stat()
    content = _digest(str(path.resolve()), found.st_ino, found.st_size, found.st_mtime_ns)
    return ("file", str(found.st_dev), str(found.st_ino)), ("content", content)


@lru_cache(maxsize=64)
def _digest(path: str, inode: int, size: int, changed: int) -> str:
    """Return the SHA-256 of a file; it is read again when anything else about it has changed."""
    del inode, size, changed
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
