"""Keeps a participant's checked rows between the processes of two messages of the same run.

Each message has its own process (`consortia.deploy.forks`), which would have to read the source again. A launcher can
lend a place (`use`). It holds the rows as bytes, in memory only.

Guarantees
----------
* Kept rows are used only for the same run, participant, policy file, contract, split key and source. All files of the
  source must have the inode, size and times that they had before they were read. In all other cases the source is read
  again.
* A file that changed less than two seconds ago is not kept, because its times might not show a further change. A source
  without files (a database) is read once in a run.
* The bytes are tensors and JSON (safetensors). Reading them executes nothing, so one message cannot pass code to the
  next.
* Their name is a keyed hash with the home's split key. It reveals nothing about policy or files.
* If anything fails, the source is read again; nothing else is lost.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from clients.dataset import QuarantineReport, Table
from clients.sources import parse_source
from consortia.common.errors import describe
from consortia.participant.partitions import Partitions

if TYPE_CHECKING:
    from clients._checking import Spelling
    from consortia.participant.home import Home
    from consortia.terms.contract import Contract
    from consortia.terms.policy import DatasetTerms

__all__ = ["Key", "Place", "find", "keep", "key_of", "use"]

log = logging.getLogger("consortia.participant")
#: File systems distinguish times that are at least this far apart.
_UNSETTLED_SECONDS = 2.0
_PARTS = ("train", "validation", "test")


class Place(Protocol):
    """A place where bytes outlive a process. A slot holds one item at a time, with its `key`."""

    def find(self, slot: bytes, key: bytes) -> str | None:
        """Return the path of a file in memory with the item; None if there is none."""

    def put(self, slot: bytes, key: bytes, data: bytes) -> None:
        """Replace the slot's item by these bytes; do nothing if there are too many."""


@dataclasses.dataclass(frozen=True)
class Key:
    """The place of rows (`slot`, 32 bytes: the data set of a home) and their version (`key`, 32 bytes)."""

    slot: bytes
    key: bytes


_place: Place | None = None


def use(place: Place | None) -> None:
    """Keep rows at this place from now on, in this process. None keeps no rows."""
    global _place  # noqa: PLW0603 - a process has one launcher
    _place = place


def key_of(
    home: Home, terms: DatasetTerms, dataset: str, contract: Contract, run_id: str, split_key: bytes
) -> Key | None:
    """Return the key of rows for the current state of their files; None if they must not be kept."""
    if _place is None:
        return None
    try:
        table = parse_source(terms.source).table
        files = [_state(path) for path in sorted(table.files())] if table is not None else []
        policy = hashlib.sha256(home.policy.read_bytes()).hexdigest()
    except Exception:  # noqa: BLE001 - `files` may be of a class that is not ours; reading says what is wrong
        return None
    if None in files:
        return None
    where = [str(home.folder), str(home.ledger_folder), home.participant, dataset]
    # The key uses the unmasked text: two sources that differ only in the password are different.
    what = [*where, home.simulation, run_id, contract.sha256(), terms.model_dump_json(), str.__str__(terms.source)]
    return Key(_digest(split_key, "slot", where), _digest(split_key, "rows", [*what, policy, files]))


def find(key: Key | None) -> Partitions | None:
    """Return the rows that are kept under a key; None if there are none."""
    if key is None or _place is None:
        return None
    try:
        file = _place.find(key.slot, key.key)
        return None if file is None else _decoded(file)
    except Exception as error:  # noqa: BLE001 - reading the source again is always right
        log.info("rows are read again: %s", describe(error))
        return None


def keep(key: Key | None, rows: Partitions) -> None:
    """Keep rows under the key that was computed before they were read. A file that changed since gives another key."""
    if key is None or _place is None:
        return
    try:
        _place.put(key.slot, key.key, _encoded(rows))
    except Exception as error:  # noqa: BLE001 - what cannot be kept is read again
        log.info("rows are not kept: %s", describe(error))


def _state(path: Any) -> list[object] | None:
    found = path.stat()
    newest = max(found.st_mtime, found.st_ctime)
    if not path.is_file() or time.time() - newest < _UNSETTLED_SECONDS:
        return None
    return [str(path.resolve()), *(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)]


def _digest(key: bytes, purpose: str, parts: Sequence[object]) -> bytes:
    return hmac.digest(key, f"kept {purpose}\n{json.dumps(parts)}".encode(), "sha256")


def _encoded(rows: Partitions) -> bytes:
    tensors: dict[str, Tensor] = {}
    head: dict[str, Any] = {
        "synthetic": rows.synthetic,
        "conditional_on_split": rows.conditional_on_split,
        "bias": rows.bias,
        "quarantine": _report(rows.quarantine),
    }
    tensors["broken"] = torch.from_numpy(np.ascontiguousarray(rows.quarantine.broken))
    for part in _PARTS:
        table: Table = getattr(rows, part)
        for name in ("unit_ids", "row_ids", "split_keys"):
            tensors[f"{part}/{name}"] = _letters(getattr(table, name))
        tensors |= {f"{part}/inputs/{name}": tensor.contiguous() for name, tensor in table.inputs.items()}
        tensors |= {f"{part}/target": table.target.contiguous(), f"{part}/unit_index": table.unit_index.contiguous()}
        if table.strata is not None:
            tensors[f"{part}/strata"] = table.strata.contiguous()
        if table.marks is not None:
            tensors[f"{part}/marks"] = torch.from_numpy(np.ascontiguousarray(table.marks).view(np.int64))
        if table.groups is not None:
            tensors[f"{part}/groups"] = torch.from_numpy(np.ascontiguousarray(table.groups))
        names = {"feature_names": table.feature_names, "rows_capped": table.rows_capped, "synthetic": table.synthetic}
        head[part] = {**names, "units": table.n_units, "rows": table.n_rows, "inputs": sorted(table.inputs)}
    return safetensors.torch.save(tensors, {"head": json.dumps(head)})


def _decoded(file: str) -> Partitions:
    with safetensors.safe_open(file, "pt") as found:
        head = json.loads(found.metadata()["head"])
        tensors: dict[str, Tensor] = {name: found.get_tensor(name) for name in found.keys()}  # noqa: SIM118
    told = head["quarantine"]
    report = QuarantineReport(
        **{**told, "ignored_columns": tuple(told["ignored_columns"])}
        | {"spellings": {name: _spelling(each) for name, each in told["spellings"].items()}},
        broken=tensors["broken"].numpy(),
    )
    train, validation, test = (_table(part, head[part], tensors, report) for part in _PARTS)
    return Partitions(
        train,
        validation,
        test,
        report,
        synthetic=head["synthetic"],
        conditional_on_split=head["conditional_on_split"],
        bias=tuple(head["bias"]),
    )


def _table(part: str, head: dict[str, Any], tensors: dict[str, Tensor], report: QuarantineReport) -> Table:
    marks, groups = tensors.get(f"{part}/marks"), tensors.get(f"{part}/groups")
    return Table(
        inputs={name: tensors[f"{part}/inputs/{name}"] for name in head["inputs"]},
        target=tensors[f"{part}/target"],
        feature_names=tuple(head["feature_names"]),
        unit_ids=_texts(tensors[f"{part}/unit_ids"], head["units"]),
        unit_index=tensors[f"{part}/unit_index"],
        row_ids=_texts(tensors[f"{part}/row_ids"], head["rows"]),
        split_keys=_texts(tensors[f"{part}/split_keys"], head["rows"]),
        quarantine=report,
        synthetic=head["synthetic"],
        rows_capped=head["rows_capped"],
        marks=None if marks is None else marks.numpy().view(np.uint64),
        groups=None if groups is None else groups.numpy(),
        strata=tensors.get(f"{part}/strata"),
    )


def _report(report: QuarantineReport) -> dict[str, Any]:
    told = {each.name: getattr(report, each.name) for each in dataclasses.fields(report) if each.name != "broken"}
    told["reasons"] = dict(report.reasons)
    told["spellings"] = {name: dataclasses.asdict(each) for name, each in report.spellings.items()}
    return told


def _spelling(told: dict[str, Any]) -> Spelling:
    from clients._checking import Spelling

    return Spelling(**told)


def _letters(texts: tuple[str, ...]) -> Tensor:
    data = "\n".join(texts).encode()
    if data.count(b"\n") != max(len(texts) - 1, 0):
        raise ValueError("wanted identifiers of one line each, got others")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())


def _texts(letters: Tensor, wanted: int) -> tuple[str, ...]:
    found = tuple(letters.numpy().tobytes().decode().split("\n")) if wanted else ()
    if len(found) != wanted:
        raise ValueError(f"wanted {wanted} identifiers, got {len(found)}")
    return found
