"""A participant's models as data: a network, a linear model, trees, or a stack of two of these.

A model is stored as safetensors in the participant's own run folder. It leaves only if its owner exports it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.dataset import Table
from clients.models import FederatedModule, predictions
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.learners.sums.model import CENTRE
from consortia.participant.stack import Stack
from consortia.participant.trees import LARGEST_LOGIT, Trees
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.scopes import build_module, check_like, load_state, starting_module, state_of

__all__ = [
    "AT_HOME",
    "EDITED",
    "FEDERATED",
    "JOINED",
    "About",
    "JoinedModel",
    "OwnModel",
    "Scorer",
    "constant",
    "from_bytes",
    "keep",
    "linear",
    "to_bytes",
]

FILE_SCHEMA = "1"
#: `About.kind` of a received federated model, of one that was finished on own rows, of a stack with an own model, and
#: of one whose shapes were edited by hand. Only the first may leave.
FEDERATED, AT_HOME, JOINED, EDITED = "federated", "sums at home", "joined", "edited by hand"


class OwnModel(nn.Module):
    """Computes scores from features: the sum of its parts' outputs, passed through the target's link.

    Parameters
    ----------
    target : Target
    network : FederatedModule, optional
        The network; it is copied.
    slope, intercept : Tensor (n_features, outputs) and (outputs,), optional
        float64. ``features @ slope + intercept`` gives logits, or for a regression values on the target's public scale.
    trees : Trees, optional
    """

    def __init__(
        self,
        target: Target,
        network: FederatedModule | None = None,
        slope: Tensor | None = None,
        intercept: Tensor | None = None,
        trees: Trees | None = None,
    ) -> None:
        super().__init__()
        self.target = target
        self.trees = trees
        self.network = copy.deepcopy(network).eval().requires_grad_(False) if network is not None else None
        self.slope: Tensor | None
        self.intercept: Tensor | None
        self.register_buffer("slope", slope)
        self.register_buffer("intercept", intercept)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 probabilities (n,) or (n, classes or labels), or values in the target's unit (n,)."""
        output = torch.zeros((), dtype=torch.float64)
        if self.network is not None:
            output = output + self.network({"features": features}).double()
        if self.slope is not None and self.intercept is not None:
            output = output + features.double() @ self.slope + self.intercept
        if self.trees is not None:
            output = output + self.trees(features, apart=self.target.kind == "multilabel")
        if self.target.kind == "multiclass":
            return torch.softmax(output, dim=-1).float()
        if self.target.kind == "multilabel":
            return torch.sigmoid(output).float()
        if self.target.kind == "anomaly" and self.network is not None:  # an error, not log-odds
            return predictions(self.target, output).float()
        if self.target.kind in {"binary", "anomaly"}:
            return torch.sigmoid(output.squeeze(-1)).float()
        middle, half = self.target.scale
        return (output.squeeze(-1) * half + middle).float()


class JoinedModel(OwnModel):
    """A stack of a participant's own model and the federated one. It saw own rows without DP, so it never leaves."""

    def __init__(self, own: OwnModel, federated: OwnModel, stack: Stack) -> None:
        super().__init__(own.target)
        self.own = own
        self.federated = federated
        self.stack = stack

    def forward(self, features: Tensor) -> Tensor:
        """See `OwnModel`."""
        scores: Tensor = self.stack(self.own(features), self.federated(features))
        return scores.float()


@dataclass(frozen=True)
class Scorer:
    """A fitted model, own or federated, in the form that comparisons and stacks use.

    Attributes
    ----------
    scores : callable
        Takes a table; returns probabilities (n_rows,) or (n_rows, n_classes), or values in the target's unit (n_rows,).
    model : callable
        Returns the same model as data.
    held_out : array (n_training_rows,) or (n_training_rows, n_classes), optional
        The federated scores of own training rows, from models that did not see the row's unit. None if the federated
        model did not see own rows without noise; then `scores` is used for training rows, too.
    """

    scores: Callable[[Table], NDArray[np.float64]]
    model: Callable[[], OwnModel]
    held_out: NDArray[np.float64] | None = None

    def __call__(self, table: Table) -> NDArray[np.float64]:
        """Return the scores of a table."""
        return self.scores(table)


@dataclass(frozen=True)
class About:
    """The origin of a model: everything that is needed to build it and to judge it."""

    participant: str
    run_id: str
    industry: str
    kind: str
    detail: str
    contract: Contract


def linear(target: Target, slope: NDArray[np.float64], intercept: NDArray[np.float64]) -> OwnModel:
    """Return a linear model: `slope` (n_features, outputs), `intercept` (outputs,)."""
    return OwnModel(
        target, None, torch.tensor(slope, dtype=torch.float64), torch.tensor(intercept, dtype=torch.float64)
    )


def constant(target: Target, n_features: int, value: NDArray[np.float64]) -> OwnModel:
    """Return the model that predicts `value` for every row: a probability, one for each class or label, or a number."""
    if target.kind == "regression":
        middle, half = target.scale
        logits = (value - middle) / half
    else:
        with np.errstate(divide="ignore"):
            logits = np.log(value) - (np.log1p(-value) if target.kind in {"binary", "anomaly", "multilabel"} else 0)
        logits = np.clip(logits, -LARGEST_LOGIT, LARGEST_LOGIT)
    return linear(target, np.zeros((n_features, len(logits))), logits)


def to_bytes(model: OwnModel, about: About) -> bytes:
    """Return a safetensors file that holds parameters, contract and origin."""
    metadata = {
        "schema": FILE_SCHEMA,
        "participant": about.participant,
        "run_id": about.run_id,
        "industry": about.industry,
        "kind": about.kind,
        "detail": about.detail,
        "contract": about.contract.canonical(),
    }
    tensors = {name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}
    return safetensors.torch.save(tensors, metadata=metadata)


def from_bytes(data: bytes, where: str) -> tuple[OwnModel, About]:
    """Read the result of `to_bytes`. Names, shapes and dtypes must be those of the contract's network.

    Raises
    ------
    InputError
        The file has another format or schema, or does not fit its contract.
    """
    try:
        size = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + size])["__metadata__"]
        tensors = safetensors.torch.load(data)
    except (ValueError, KeyError, safetensors.SafetensorError):
        raise InputError(f"{where}: wanted a model in safetensors format, got something else") from None
    if metadata.get("schema") != FILE_SCHEMA:
        raise InputError(f"{where}: wanted a model file of schema {FILE_SCHEMA}, got {metadata.get('schema')!r}")
    contract = contract_from_json(metadata["contract"]).of(metadata["industry"])
    origin = {key: metadata[key] for key in ("participant", "run_id", "industry", "kind", "detail")}
    about = About(**origin, contract=contract)
    try:
        if "stack.slopes" not in tensors:
            return _of_tensors(tensors, about), about
        own, federated = (_of_tensors(_below(tensors, part), about) for part in ("own", "federated"))
        return JoinedModel(own, federated, Stack(own.target, **_below(tensors, "stack"))), about
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: {error}") from None


def _below(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    start = f"{part}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _of_tensors(tensors: Mapping[str, Tensor], about: About) -> OwnModel:
    from clients import registry

    network, trees = None, None
    if state := _below(tensors, "network"):
        network = build_module(about.contract, about.industry)
        if about.contract.sums is not None and CENTRE not in state:  # trained alone, not by sums
            network = starting_module(about.contract, about.industry)
        check_like(state_of(network), state)
        load_state(network, state)
    if state := _below(tensors, "trees"):
        trees = Trees(**state)
    target = registry.get(about.industry).schema.target
    return OwnModel(target, network, tensors.get("slope"), tensors.get("intercept"), trees)


def keep(folder: Path, models: Mapping[str, tuple[OwnModel, About]]) -> dict[str, str]:
    """Write each model as `<name>.safetensors`, completely or not at all. Return the SHA-256 by name."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    hashes = {}
    for name, (model, about) in models.items():
        data = to_bytes(model, about)
        temporary = folder / f"{name}.tmp"
        temporary.write_bytes(data)
        temporary.replace(folder / f"{name}.safetensors")
        hashes[name] = hashlib.sha256(data).hexdigest()
    return hashes
