"""What a release cost, as data. Counting is elsewhere, so that a better accountant can recount old runs.

Every event is stated under the relation *add or remove one unit*, except those of the vertical mode, where the set
of rows is fixed and disclosed by an intersection: *change one label* and *replace one row*. Events of different
relations are never composed. An event says which partition of the
data it read: ``train``, ``validation`` and ``evaluation`` (test) hold disjoint units (splits are by a keyed hash
of the unit), so they compose in parallel.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
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
    "RandomizedResponse",
    "ReplaceGaussian",
    "event_from_json",
    "event_to_json",
    "relation_of",
]

EVENT_SCHEMA: Final = 1
RELATION: Final = "add_or_remove_one"
#: What neighbours differ in where the set of rows is fixed by an intersection (vertical mode).
CHANGE_LABEL: Final = "change_one_label"
REPLACE_ROW: Final = "replace_one_row"
PARTITIONS: Final = ("train", "validation", "evaluation")


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


@dataclass(frozen=True, kw_only=True)
class RandomizedResponse(_Common):
    """``count`` passes of every label (or score) through randomised response: pure epsilon, delta = 0 (Warner 1965).

    Parameters
    ----------
    what : "label" (relation: change one label) or "score" (relation: replace one row's columns).
    epsilon : of one value.
    classes : number of values it can take, >= 2.
    rows_per_unit : rows that one unit may have; each of them costs `epsilon`.
    """

    what: str
    epsilon: float
    classes: int
    rows_per_unit: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.what not in {"label", "score"}:
            raise PlanError(f'what: wanted "label" or "score", got {self.what!r}')
        _positive("epsilon", self.epsilon)
        _counting("classes", self.classes)
        if self.classes < 2:
            raise PlanError(f"classes: wanted 2 or more, got {self.classes}")
        _counting("rows_per_unit", self.rows_per_unit)
        _counting("count", self.count)


@dataclass(frozen=True, kw_only=True)
class ReplaceGaussian(_Common):
    """``count`` Gaussian releases; ``noise_multiplier`` is sigma / L2 sensitivity under replacing one row."""

    noise_multiplier: float
    count: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("noise_multiplier", self.noise_multiplier)
        _counting("count", self.count)


Event = PoissonGaussian | GaussianRelease | LaplaceRelease | NonPrivate | RandomizedResponse | ReplaceGaussian

_KINDS: Final[dict[str, type[Any]]] = {
    "poisson_gaussian": PoissonGaussian,
    "gaussian": GaussianRelease,
    "laplace": LaplaceRelease,
    "non_private": NonPrivate,
    "randomized_response": RandomizedResponse,
    "replace_gaussian": ReplaceGaussian,
}
_NAMES: Final = {kind: name for name, kind in _KINDS.items()}


def relation_of(event: Event) -> str:
    """What two neighbouring data sets of `event` differ in."""
    if isinstance(event, RandomizedResponse):
        return CHANGE_LABEL if event.what == "label" else REPLACE_ROW
    return REPLACE_ROW if isinstance(event, ReplaceGaussian) else RELATION


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
    return {"schema": EVENT_SCHEMA, "kind": name, "relation": relation_of(event), **body}


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
    if relation != relation_of(event):
        raise UnknownEventError(f"event relation: wanted {relation_of(event)!r}, got {relation!r}")
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
    return replace(event, count=size)
