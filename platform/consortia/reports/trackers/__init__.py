"""Finds trackers by name: the built-in ones below, and those of installed packages.

A package names its class in the group `consortia.trackers`:

    [project.entry-points."consortia.trackers"]
    jsonl = "partner_package.jsonl:JsonLines"

`consortia run … --track jsonl` makes one for the run. A tracker gets released and public values only, in a simulation
too. One that fails is named once and dropped; the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol

from consortia.common.errors import InputError
from consortia_plugins import Seam

__all__ = ["GROUP", "NAMES", "MakeTracker", "TrackedRun", "Tracker", "Value", "get", "names", "package"]

GROUP: Final = "consortia.trackers"
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tensorboard": "consortia.reports.trackers.tensorboard:TensorBoard",
        "mlflow": "consortia.reports.trackers.mlflow:MLflow",
        "otel": "consortia.reports.trackers.otel:OpenTelemetry",
        # `consortia new tracker` adds its line above this one.
    }
)
#: The built-in ones.
NAMES: Final = tuple(_BUILT_IN)


@dataclass(frozen=True)
class Value:
    """One number of one round; `name` is "what/participant", or what alone."""

    name: str
    round: int
    value: float


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """What a tracker is told of a run when it starts.

    Attributes
    ----------
    id : str
        Of the run.
    folder : Path
        The run's folder. A tracker may write into a folder of its own name in it.
    scenario : str
        Its name: what runs are compared under.
    facts : mapping of str to str
        The contract's hash, the strategy, the rounds, the participants.
    """

    id: str
    folder: Path
    scenario: str
    facts: Mapping[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """Where values go. It is made with a `TrackedRun`; its methods are called one after the other, from any thread."""

    def write(self, new: Sequence[Value]) -> None:
        """Take values that were not there before; perhaps none."""

    def close(self, status: str) -> None:
        """Finish: the run is "completed", "failed", or "running" still, where it was interrupted."""


MakeTracker = Callable[[TrackedRun], Tracker]


def names() -> tuple[str, ...]:
    """Return every known tracker, built in or installed; nothing is imported for it."""
    return _trackers.names()


def get(name: str) -> MakeTracker:
    """Return what makes a tracker, its libraries imported.

    Raises
    ------
    InputError
        There is none of that name, its library is not installed, or the package that brings it is broken.
    """
    try:
        return _trackers.get(name, "--track")
    except ImportError:
        extra = "otel" if name == "otel" else "track"
        raise InputError(f"--track {name}: wanted its package, got none; pip install 'consortia[{extra}]'") from None


def chosen(text: str) -> list[str]:
    """Return the trackers that `NAME,…` names, each once; InputError for one that cannot be used.

    A class may have a static method `ready`, which is called here: it raises InputError for what its environment lacks.
    """
    found = list(dict.fromkeys(name for name in text.split(",") if name))
    for name in found:
        ready = getattr(get(name), "ready", None)
        if ready is not None:
            ready()
    return found


def package(name: str) -> str | None:
    """Return the installed package that brings a tracker; None for a built-in one."""
    return _trackers.package(name)


def _check(name: str, found: Any) -> MakeTracker:
    if not callable(found):
        raise ValueError(f"wanted a class (consortia.reports.trackers.Tracker), got {type(found).__name__}")
    if isinstance(found, type) and (lacking := [part for part in ("write", "close") if not hasattr(found, part)]):
        raise ValueError(f"wanted {found.__name__}.{lacking[0]}, got none")
    make: MakeTracker = found
    return make


_trackers = Seam(GROUP, "tracker", _check, built_in=lambda: _BUILT_IN, unknown=InputError, broken=InputError)
