"""The recipe of a linear model by few gradients of all rows, for which few rows suffice: constants, nothing to tune.

The model starts at zero, and its first gradient is the difference between the classes' mean rows. With few rows and a
small budget that difference is nearly all that noise leaves, so steps are few and short: further ones follow the noise.
A clip of one half lets every row count alike, since a row's norm is 1 at least. docs/design/0050-few-steps.md says how
the constants were chosen and what they reach.

Every step is a Gaussian mechanism on all rows of a participant (sampling rate 1), and all of them together have the
run's ε, like those of any network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

__all__ = ["ROUNDS", "industry", "with_training"]

ROUNDS: Final = 10
#: No sum of few steps is worth the noise of two spare attempts.
_SPARE: Final = 1


def industry() -> dict[str, Any]:
    """Return the terms of an industry. FedSGD's participants send gradients, whatever their own rate is."""
    return {
        "model": {"kind": "linear"},
        "local_steps": 1,
        "sampling_rate": 1.0,
        "clip": 0.5,
        "learning_rate": 1.0,
    }


def with_training(terms: Mapping[str, Any]) -> dict[str, Any]:
    """Return training terms with rounds and strategy of the recipe. FedSGD needs sums alone, so noise may be shared."""
    out = {**terms, "rounds": ROUNDS, "strategy": {"name": "fedsgd", "server_learning_rate": 0.75}}
    if terms.get("trust") == "aggregate" and isinstance(secure := terms.get("secure", {}), Mapping):
        out["secure"] = {"spare": _SPARE, **secure}
    return out
