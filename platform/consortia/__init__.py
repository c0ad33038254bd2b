"""Cross-industry federated learning with a privacy budget for every participant.

A data scientist's names are imported when they are first used, so that `import consortia` loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Where the names come from.
_NAMES = {
    "clients.schema": ("Column", "Schema", "Target"),
    "clients.tables": ("declare_schema", "infer_schema"),
    "consortia.api.estimators": ("FederatedClassifier", "FederatedRegressor"),
    "consortia.api.participants": ("Participant",),
    "consortia.api.planning": ("plan",),
    "consortia.api.running": ("run",),
    "consortia.api.runs": ("Run",),
    "consortia.api.training": ("train",),
    "consortia.common.errors": ("ArgumentError", "ConsortiaError", "InputError", "RunFailedError"),
}

__all__ = [
    "ArgumentError",
    "Column",
    "ConsortiaError",
    "FederatedClassifier",
    "FederatedRegressor",
    "InputError",
    "Participant",
    "Run",
    "RunFailedError",
    "Schema",
    "Target",
    "declare_schema",
    "infer_schema",
    "plan",
    "run",
    "train",
]

if TYPE_CHECKING:
    from clients.schema import Column, Schema, Target
    from clients.tables import declare_schema, infer_schema
    from consortia.api.estimators import FederatedClassifier, FederatedRegressor
    from consortia.api.participants import Participant
    from consortia.api.planning import plan
    from consortia.api.running import run
    from consortia.api.runs import Run
    from consortia.api.training import train
    from consortia.common.errors import ArgumentError, ConsortiaError, InputError, RunFailedError


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _NAMES.items() if name in names), None)
    if module is None:
        raise AttributeError(f"module 'consortia' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
