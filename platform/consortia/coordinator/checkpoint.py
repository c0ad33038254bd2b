"""Writes checkpoints: one safetensors file for each committed round. A file is written completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from consortia.common import disk
from consortia.terms.scopes import State
from privacy.ledger import Anchor

_KEPT = 2
_TENSORS = ("groups", "memory", "average", "pending")


@dataclass(frozen=True)
class Checkpoint:
    """The state of the coordinator after a committed round.

    Attributes
    ----------
    round : int
        0 before the first.
    groups, memory, average : dict of str to State
        Shared parameters, the strategy's memory and the running mean, each by group.
    history : list
        One line per round.
    heads : dict of str to Anchor
        The newest ledger link of each participant that came with a reply.
    pending : dict of str to State
        Asynchronous runs: the models of open participations and the replies in the buffers.
    progress : dict
        Asynchronous runs: versions, staleness and participations, JSON-able.
    """

    round: int
    groups: dict[str, State]
    memory: dict[str, State]
    average: dict[str, State]
    history: list[dict[str, Any]]
    heads: dict[str, Anchor] = field(default_factory=dict)
    pending: dict[str, State] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, state: Checkpoint, *, final: Mapping[str, State] | None = None) -> None:
    """Write the checkpoint durably. With `final` also write the model of the run, one file for each group.

    Raises
    ------
    RunFailedError
        The disk has no room for it. The previous checkpoint stays.
    """
    target = folder / "checkpoints"
    with disk.kept(folder):
        target.mkdir(parents=True, exist_ok=True)
        disk.replace(target / f"round-{state.round:06d}.safetensors", to_bytes(state))
        for old in files_of(folder)[:-_KEPT]:
            old.unlink()
        for group, named in (final or {}).items():
            file = folder / "model" / f"{'consortium' if group == '*' else group}.safetensors"
            file.parent.mkdir(exist_ok=True)
            disk.replace(file, model_bytes(named))


def to_bytes(state: Checkpoint) -> bytes:
    """Return the file of a checkpoint."""
    tensors = {
        f"{kind}/{group}/{name}": tensor.clone(
            memory_format=torch.contiguous_format
        )  # safetensors needs contiguous tensors without shared memory
        for kind, groups in ((kind, getattr(state, kind)) for kind in _TENSORS)
        for group, named in groups.items()
        for name, tensor in named.items()
    }
    meta = {"round": str(state.round), "history": json.dumps(state.history)}
    meta["progress"] = json.dumps(state.progress)
    meta["heads"] = json.dumps({name: [anchor.counter, anchor.head] for name, anchor in state.heads.items()})
    return safetensors.torch.save(tensors, metadata=meta)


def model_bytes(named: State) -> bytes:
    """Return the file of a group's model."""
    return safetensors.torch.save({name: tensor.contiguous() for name, tensor in named.items()})


def files_of(folder: Path) -> list[Path]:
    """Return the files of a run's checkpoints, the newest last."""
    return sorted((folder / "checkpoints").glob("round-*.safetensors"))


def load_latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint, None if there is none."""
    files = files_of(folder)
    return load(files[-1]) if files else None


def load(path: Path) -> Checkpoint:
    """Return the checkpoint in a file."""
    parts: dict[str, dict[str, State]] = {kind: {} for kind in _TENSORS}
    with safetensors.safe_open(path, framework="pt") as file:
        meta = file.metadata()
        for key in file.keys():  # noqa: SIM118 - not a dict
            kind, group, name = key.split("/", 2)
            parts[kind].setdefault(group, {})[name] = file.get_tensor(key)
    heads = {name: Anchor(*pair) for name, pair in json.loads(meta.get("heads", "{}")).items()}
    history = json.loads(meta["history"])
    return Checkpoint(
        round=int(meta["round"]), history=history, heads=heads, progress=json.loads(meta.get("progress", "{}")), **parts
    )
