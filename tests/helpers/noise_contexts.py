"""A context for noise that answers no message: for tests."""

from __future__ import annotations

from privacy.noise_context import NoiseContext
from privacy.randomness import FreshNoise, KeyStream, fresh_generator

TEST = NoiseContext(purpose="test", message="test", attempt=1, ledger="")


def generator() -> FreshNoise:
    """Return a fresh generator; every call has entropy of its own."""
    return fresh_generator(TEST)


def stream() -> KeyStream:
    """Return a fresh key stream; every call has entropy of its own."""
    return KeyStream(TEST)
