"""Keeps each noisy update of a run, and plays the same run again without some of its participants.

Guarantees
----------
* *Only by contract.* Updates are kept where `contract.keeps_updates` says so, which everybody accepted by its hash.
  That needs noise of each participant's own: what is kept is what was released, and costs nothing more.
* *Changes, not models.* A file of a round holds what each participant changed. It holds no model of the run: from the
  models before and after a round and the others' changes one could work out the change of whoever left.
* *What a replay is.* It starts from the public initial model and adds the kept changes of those who stay, with weights
  and the server's memory worked out anew. It is a function of released, noised updates alone. It equals the run without
  the others only in its first round: later changes were computed at models which the others had shaped.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from consortia.common import disk
from consortia.common.errors import InputError
from consortia.coordinator import clusters
from consortia.coordinator.aggregation import aggregate, running_mean
from consortia.coordinator.checkpoint import Checkpoint
from consortia.terms.contract import Contract
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, initial_groups

__all__ = ["FOLDER", "Kept", "files_of", "keep", "load", "prefix", "replayed", "without"]

#: In a run's folder: a file for each round.
FOLDER = "updates"
_MULTIPLIER, _SIZE = ".multiplier", ".size"


@dataclass(frozen=True)
class Kept:
    """What one participant released in one round.

    Attributes
    ----------
    change : State
        The reply less the model that it was made from; of FedSGD the gradient, as it came.
    multiplier : float
        Noise multiplier that the reply declared.
    size : int or None
        Its number of training units, where that was released with noise.
    """

    change: State
    multiplier: float
    size: int | None


def keep(
    folder: Path,
    scenario: Scenario,
    number: int,
    sent: Mapping[str, State],
    accepted: Mapping[str, State],
    declared: Mapping[str, float],
    sizes: Mapping[str, int],
) -> None:
    """Write the changes of one round durably, before they are aggregated; a repeated round replaces its file.

    Raises
    ------
    RunFailedError
        The disk has no room for it.
    """
    tensors: dict[str, Tensor] = {}
    for name, reply in accepted.items():
        start = prefix(scenario, name)
        changed = {one: _less(scenario.contract, reply[one], before) for one, before in sent[name].items()}
        tensors |= {f"{start}{one}": tensor.contiguous() for one, tensor in changed.items()}
        tensors[f"{start}{_MULTIPLIER}"] = torch.tensor([declared[name]], dtype=torch.float64)
        if name in sizes:
            tensors[f"{start}{_SIZE}"] = torch.tensor([sizes[name]], dtype=torch.int64)
    with disk.kept(folder):
        (folder / FOLDER).mkdir(parents=True, exist_ok=True)
        disk.replace(folder / FOLDER / f"round-{number:06d}.safetensors", safetensors.torch.save(tensors))


def prefix(scenario: Scenario, name: str) -> str:
    """Return how the names of a participant's tensors begin."""
    return f"updates/{scenario.participant(name).industry}/{name}/"


def files_of(folder: Path, rounds: int) -> list[Path]:
    """Return the files of rounds 1 to `rounds`; InputError where one is missing."""
    files = [folder / FOLDER / f"round-{number:06d}.safetensors" for number in range(1, rounds + 1)]
    if missing := [file for file in files if not file.is_file()]:
        raise InputError(f"{missing[0]}: wanted the kept updates of every round, got none; put the run's own back")
    return files


def load(file: Path, scenario: Scenario) -> dict[str, Kept]:
    """Return what each participant released in the round of a file, by name."""
    raw = safetensors.torch.load(file.read_bytes())
    found = {}
    for one in scenario.roster:
        start = prefix(scenario, one.name)
        mine = {name.removeprefix(start): tensor for name, tensor in raw.items() if name.startswith(start)}
        if mine:
            size = mine.pop(_SIZE, None)
            multiplier = float(mine.pop(_MULTIPLIER))
            found[one.name] = Kept(mine, multiplier, None if size is None else int(size))
    return found


def without(file: Path, start: str) -> tuple[bytes, tuple[str, ...]]:
    """Return a file's bytes without the tensors whose names begin so, and these names."""
    raw = safetensors.torch.load(file.read_bytes())
    gone = tuple(sorted(name for name in raw if name.startswith(start)))
    return safetensors.torch.save({name: tensor for name, tensor in raw.items() if name not in gone}), gone


def replayed(folder: Path, scenario: Scenario, rounds: int, names: Collection[str]) -> Iterator[Checkpoint]:
    """Yield the state after each round of the run that the kept changes of these participants make.

    `history` of a state has one line: the groups that kept their model in this round, since too few changed it.

    Raises
    ------
    InputError
        A round's file is missing.
    """
    strategy = scenario.contract.strategy.strategy()
    groups = initial_groups(scenario.contract, [one.industry for one in scenario.roster])
    state = Checkpoint(0, groups, {}, {}, [])
    for file in files_of(folder, rounds):
        kept = {name: one for name, one in load(file, scenario).items() if name in names}
        models = clusters.models(scenario, strategy, state.groups, state.memory)
        replies = {name: _plus(scenario.contract, models[name], one.change) for name, one in kept.items()}
        declared = {name: one.multiplier for name, one in kept.items()}
        sizes = {name: one.size for name, one in kept.items() if one.size is not None}
        made, memory, few = aggregate(scenario, strategy, state, replies, declared, sizes)
        number = state.round + 1
        mean = running_mean(scenario.contract, state.average, number, made)
        state = Checkpoint(number, made, memory, mean, [{"round": number, "too_few_replies": few}])
        yield state


def _less(contract: Contract, reply: Tensor, before: Tensor) -> Tensor:
    if contract.strategy.strategy().fit.gradient or not reply.is_floating_point():
        return reply
    return reply - before


def _plus(contract: Contract, model: State, change: State) -> State:
    if contract.strategy.strategy().fit.gradient:
        return change
    return {name: model[name] + one if one.is_floating_point() else one for name, one in change.items()}
