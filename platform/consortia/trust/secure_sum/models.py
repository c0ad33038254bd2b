"""Hashes of models and sizes of anchors, the same on both sides of a secure sum."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
from torch import Tensor

from consortia.trust.secure_sum.protocol import model_hash

#: Size in bytes of the counter and the head of the ledger's chain, which follow the masked words.
ANCHOR_BYTES = 40


def hash_of(group: Mapping[str, Tensor]) -> str:
    """Return the hash of one group's parameters."""
    return model_hash(safetensors.torch.save({name: tensor.contiguous() for name, tensor in group.items()}))
