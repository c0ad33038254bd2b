"""Reads a compressed reply at the coordinator."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from consortia.messages.compression import expand
from consortia.terms.contract import Contract


def lengthened(
    contract: Contract, kind: str, tensors: Mapping[str, Tensor], received: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the decompressed update; ValueError if the bytes do not match the contract."""
    if contract.compression is None or kind != "train":
        return dict(tensors)
    return expand(tensors, base(contract, received), contract.compression)


def saved_bytes(came: Mapping[str, Tensor], update: Mapping[str, Tensor]) -> int:
    """Return how many bytes the compression of an update saved."""
    return sum(t.nbytes for t in update.values()) - sum(
        t.nbytes for n, t in came.items() if not n.startswith("metrics")
    )


def base(contract: Contract, received: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the reference that an update is compressed against: the received model, or zero for a gradient."""
    if contract.strategy.strategy().fit.gradient:
        return {name: torch.zeros_like(tensor) for name, tensor in received.items()}
    return received
