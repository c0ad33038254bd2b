"""Generators of synthetic rows, seeded by words."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["numpy_generator"]


def numpy_generator(*parts: str | int) -> np.random.Generator:
    """A generator seeded by the SHA-256 of its parts: for synthetic rows, never for noise."""
    digest = hashlib.sha256("\0".join(str(part) for part in parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
