"""Where compression meets a message: the reply at home, and the same reply at the coordinator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from consortia.compression import compress, expand
from consortia.home import Home
from consortia.request import Request
from consortia.scenario import Contract


def shortened(request: Request, home: Home, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what travels instead of an update that passed the release gate; top-k's memory stays at home."""
    terms = request.contract.compression
    if terms is None or request.kind != "train":
        return tensors
    folder = home.run_folder(request.run_id)
    last = folder / f"left-out-{request.round - 1}.npy"
    memory = np.load(last) if terms.kind == "top-k" and last.is_file() else None
    sent, left = compress(tensors, _base(request.contract, request.model), terms, np.random.default_rng(), memory)
    if left is not None:
        np.save(folder / f"left-out-{request.round}.npy", left)
    return sent


def lengthened(
    contract: Contract, kind: str, tensors: Mapping[str, Tensor], received: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the update that `shortened` made smaller; ValueError when the bytes are not what the contract says."""
    if contract.compression is None or kind != "train":
        return dict(tensors)
    return expand(tensors, _base(contract, received), contract.compression)


def saved_bytes(came: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> int:
    """Return how many bytes an update would have been more."""
    return sum(t.nbytes for t in update.values()) - sum(
        t.nbytes for n, t in came.items() if not n.startswith("metrics")
    )


def _base(contract: Contract, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return what an update is compressed against: the model that came, or zero for a gradient."""
    if contract.strategy.strategy().fit.gradient:
        return {name: torch.zeros_like(tensor) for name, tensor in received.items()}
    return received
