"""Compresses an update after the release gate, as the contract says."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from consortia.messages.compressed_reply import base
from consortia.messages.compression import compress
from consortia.messages.request import Request
from consortia.participant.home import Home


def compressed(request: Request, home: Home, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return what is sent instead of an update that passed the release gate. The memory of top-k stays at home."""
    terms = request.contract.compression
    if terms is None or request.kind != "train":
        return tensors
    folder = home.run_folder(request.run_id)
    last = folder / f"left-out-{request.round - 1}.npy"
    memory = np.load(last) if terms.kind == "top-k" and last.is_file() else None
    sent, left = compress(tensors, base(request.contract, request.model), terms, np.random.default_rng(), memory)
    if left is not None:
        np.save(folder / f"left-out-{request.round}.npy", left)
    return sent
