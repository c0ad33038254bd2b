"""What a release cost, as data. Counting is elsewhere, so that a better accountant can recount old runs.

Every event is stated under the relation *add or remove one unit*. An event says which partition of the
data it read: ``train`` and ``evaluation`` hold disjoint units (splits are by a keyed hash of the unit), so
the two compose in parallel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Final

from privacy.errors import PlanError, UnknownEventError

__all__ = [
    "EVENT_SCHEMA",
    "PARTITIONS",
    "RELATION",
    "Event",
    "GaussianRelease",
    "LaplaceRelease",
    "NonPrivate",
    "PoissonGaussian",
    "event_from_json",
    "event_to_json",
]

EVENT_SCHEMA: Final = 1
RELATION: Final = "add_or_remove_one"
PARTITIONS: Final = ("train", "evaluation")


def _positive(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise PlanError(f"{name}: wanted a finite number > 0, got {value!r}")


def _counting(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{name}: wanted a whole number >= 1, got {value!r}")


@dataclass(frozen=True)
class _Common:
    partition: str
    unit: str

    def __post_init__(self) -> None:
        if self.partition not in PARTITIONS:
            raise PlanError(f"partition: wanted one of {', '.join(PARTITIONS)}, got {self.partition!r}")
        if not isinstance(self.unit, str) or not self.unit:
            raise PlanError(f'unit: wanted "record" or the name of a column, got {self.unit!r}')


@dataclass(frozen=True, kw_only=True)
class PoissonGaussian(_Common):
    """DP-SGD: ``steps`` Gaussian releases, each on a Poisson sample of the units.

    Parameters
    ----------
    noise_multiplier : standard deviation of the noise over the clipping norm, > 0.
    sampling_rate : probability of each unit to be in a draw, in (0, 1].
    steps : number of draws, >= 1.
    """

    noise_multiplier: float
    sampling_rate: float
    steps: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("noise_multiplier", self.noise_multiplier)
        _positive("sampling_rate", self.sampling_rate)
        if self.sampling_rate > 1:
            raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {self.sampling_rate!r}")
        _counting("steps", self.steps)


@dataclass(frozen=True, kw_only=True)
class GaussianRelease(_Common):
    """``count`` releases with Gaussian noise; ``noise_multiplier`` is sigma / L2 sensitivity."""

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("noise_multiplier", self.noise_multiplier)
        _counting("count", self.count)


@dataclass(frozen=True, kw_only=True)
class LaplaceRelease(_Common):
    """``count`` releases with Laplace noise; ``noise_multiplier`` is the scale b / L1 sensitivity."""

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("noise_multiplier", self.noise_multiplier)
        _counting("count", self.count)


@dataclass(frozen=True, kw_only=True)
class NonPrivate(_Common):
    """Something left without noise: epsilon is infinite, and is called so everywhere."""

    what: str

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.what, str) or not self.what:
            raise PlanError(f"what: wanted the name of what left, got {self.what!r}")


Event = PoissonGaussian | GaussianRelease | LaplaceRelease | NonPrivate

_KINDS: Final[dict[str, type[Any]]] = {
    "poisson_gaussian": PoissonGaussian,
    "gaussian": GaussianRelease,
    "laplace": LaplaceRelease,
    "non_private": NonPrivate,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def event_to_json(event: Event) -> dict[str, Any]:
    """Return `event` as a JSON-able dict: schema, kind, relation and its fields.

    Raises
    ------
    UnknownEventError
        If `event` is not one of the known kinds.
    """
    name = _NAMES.get(type(event))
    if name is None:
        raise UnknownEventError(f"event: wanted one of {', '.join(_KINDS)}, got {type(event).__name__}")
    body = {field.name: getattr(event, field.name) for field in fields(event)}
    return {"schema": EVENT_SCHEMA, "kind": name, "relation": RELATION, **body}


def event_from_json(record: Mapping[str, Any]) -> Event:
    """Read back what `event_to_json` wrote, strictly.

    Raises
    ------
    UnknownEventError
        For another schema, kind, relation, a key too many or too few, or a number out of range.
    """
    if not isinstance(record, Mapping):
        raise UnknownEventError(f"event: wanted a mapping, got {type(record).__name__}")
    body = dict(record)
    schema, kind, relation = body.pop("schema", None), body.pop("kind", None), body.pop("relation", None)
    if schema != EVENT_SCHEMA or isinstance(schema, bool):
        raise UnknownEventError(f"event schema: wanted {EVENT_SCHEMA}, got {schema!r}")
    if relation != RELATION:
        raise UnknownEventError(f"event relation: wanted {RELATION!r}, got {relation!r}")
    cls = _KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise UnknownEventError(f"event kind: wanted one of {', '.join(_KINDS)}, got {kind!r}")
    wanted = {field.name for field in fields(cls)}
    if set(body) != wanted:
        raise UnknownEventError(f"event {kind}: wanted keys {sorted(wanted)}, got {sorted(map(str, body))}")
    try:
        event: Event = cls(**body)
    except PlanError as error:
        raise UnknownEventError(f"event {kind}: {error}") from error
    return event


def event_size(event: Event) -> int:
    """How many equal releases `event` stands for: its steps or its count (1 when non-private)."""
    if isinstance(event, PoissonGaussian):
        return event.steps
    return 1 if isinstance(event, NonPrivate) else event.count


@lru_cache(maxsize=4096)
def resized(event: Event, size: int) -> Event:
    """Return the same mechanism, released `size` times (`size` >= 1)."""
    common: dict[str, Any] = {"partition": event.partition, "unit": event.unit}
    if isinstance(event, PoissonGaussian):
        sigma, rate = event.noise_multiplier, event.sampling_rate
        return PoissonGaussian(noise_multiplier=sigma, sampling_rate=rate, steps=size, **common)
    if isinstance(event, NonPrivate):
        return event
    return type(event)(noise_multiplier=event.noise_multiplier, count=size, **common)
