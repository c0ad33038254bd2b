"""Defines an event: the cost of a release, as methods that each kind must state.

A kind of event is one frozen dataclass in one file. It owns its laws: privacy-loss distribution, Renyi divergence, pure
epsilon, size and resizing, relation, checks of its fields, description. Nothing else in the platform knows a kind by
name, so a kind cannot be known in one place and forgotten in another. `privacy.events.registry` refuses a kind that
lacks a law, and everything that counts refuses a kind that is not registered.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, cast, final

from privacy.errors import PlanError, UnknownEventError

__all__ = [
    "CHANGE_LABEL",
    "PARTITIONS",
    "RELATION",
    "RELATIONS",
    "REPLACE_ROW",
    "AddedNoise",
    "Event",
    "Repeated",
    "check_count",
    "check_positive",
]

RELATION: Final = "add_or_remove_one"
#: What neighbours differ in where the set of rows is fixed by an intersection (vertical mode).
CHANGE_LABEL: Final = "change_one_label"
REPLACE_ROW: Final = "replace_one_row"
RELATIONS: Final = (RELATION, CHANGE_LABEL, REPLACE_ROW)
PARTITIONS: Final = ("train", "validation", "evaluation")


def check_positive(name: str, value: object) -> None:
    """Raise PlanError unless `value` is a finite number > 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise PlanError(f"{name}: wanted a finite number > 0, got {value!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """Raise PlanError unless `value` is a whole number >= `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise PlanError(f"{name}: wanted a whole number >= {least}, got {value!r}")


@dataclass(frozen=True)
class Event(ABC):
    """What releases of one mechanism cost, as data.

    Formal guarantee: every subclass that `privacy.events.register` accepts states all abstract members below; they hold
    for all of the event's `size` releases together, for any two neighbours under its `relation`, whatever the rows are.

    Attributes
    ----------
    kind : str
        Class attribute: its name in JSON and in the registry.
    releases : tuple of str
        Class attribute: the kinds of releases that it may pay for at the release gate (`privacy.egress.KINDS`). With
        none, the ledger counts it and the gate lets nothing out for it.
    partition : one of `PARTITIONS`: which units it read.
    unit : "record" or the column of the privacy unit.
    """

    kind: ClassVar[str] = ""
    releases: ClassVar[tuple[str, ...]] = ()

    partition: str
    unit: str

    @final
    def __post_init__(self) -> None:
        if self.partition not in PARTITIONS:
            raise PlanError(f"partition: wanted one of {', '.join(PARTITIONS)}, got {self.partition!r}")
        if not isinstance(self.unit, str) or not self.unit:
            raise PlanError(f'unit: wanted "record" or the name of a column, got {self.unit!r}')
        for field in fields(self):
            value = getattr(self, field.name)
            # JSON must give back what was written, and equal mechanisms must be equal: scalars only.
            if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
                raise PlanError(f"{field.name}: wanted a text or a finite number, got {value!r}")
        self.validate()

    @abstractmethod
    def validate(self) -> None:
        """Raise PlanError for a field that is out of range; each is a text or a finite number already."""

    @property
    @abstractmethod
    def relation(self) -> str:
        """What two neighbouring data sets differ in, one of `RELATIONS`. Relations are never composed."""

    @property
    @abstractmethod
    def size(self) -> int:
        """How many equal releases the event stands for."""

    @abstractmethod
    def resized(self, size: int) -> "Event":
        """Return the same mechanism, released `size` times (`size` >= 1)."""

    @abstractmethod
    def describe(self) -> str:
        """Return one release in plain words: the mechanism and its parameters, without size and partition."""

    @abstractmethod
    def pure_epsilon(self) -> float | None:
        """Return epsilon at delta = 0 of all releases if the mechanism is counted so, infinite if it is not private.

        None means that it is counted by its privacy-loss distribution. Pure epsilons are added exactly, on top.
        """

    @abstractmethod
    def pld(self, grid: float) -> Any:
        """Return the privacy-loss distribution of all releases (`dp_accounting.pld`), never below the true one.

        Parameters
        ----------
        grid : discretisation interval of the loss, in nats.
        """

    @abstractmethod
    def loss_span(self) -> float:
        """Return the rough width of the loss of all releases, in nats: it chooses a grid, never epsilon."""

    @abstractmethod
    def rdp(self, orders: tuple[int, ...]) -> tuple[float, ...]:
        """Return a bound of the Renyi divergence of all releases at each order (each > 1), in nats."""

    def canonical(self) -> "Event":
        """Return an event of the same laws for any partition and unit, by which results are kept.

        A kind that equals another one for some parameters may return that other event. It must be registered.
        """
        # Not `replace`: kinds have fields of their own, and mypy knows only those of the base.
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{**values, "partition": "train", "unit": "record"})

    def sampled_gaussian(self) -> tuple[float, float, int] | None:
        """Return (noise multiplier, sampling rate, number) of a Gaussian mechanism; None for any other."""
        return None

    @final
    @property
    def non_private(self) -> bool:
        """Whether epsilon is infinite at every delta."""
        pure = self.pure_epsilon()
        return pure is not None and math.isinf(pure)

    @final
    def to_json(self) -> dict[str, Any]:
        """Return kind, relation and fields, JSON-able."""
        body = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"kind": self.kind, "relation": self.relation, **body}

    @final
    @classmethod
    def from_fields(cls, body: Mapping[str, Any]) -> "Event":
        """Return the event with exactly these fields.

        Raises
        ------
        UnknownEventError
            For a field too many or too few, or a value out of range.
        """
        wanted = {field.name for field in fields(cls)}
        if set(body) != wanted:
            raise UnknownEventError(f"event {cls.kind}: wanted keys {sorted(wanted)}, got {sorted(map(str, body))}")
        try:
            return cls(**body)
        except PlanError as error:
            raise UnknownEventError(f"event {cls.kind}: {error}") from error


class Repeated(Event):
    """A kind whose field `count` says how many equal releases it stands for (declare it: ``count: int = 1``)."""

    count: int

    @property
    def size(self) -> int:
        """How many equal releases the event stands for."""
        return self.count

    def resized(self, size: int) -> Event:
        """Return the same mechanism, released `size` times."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return cast(Event, type(self)(**{**values, "count": size}))


@dataclass(frozen=True, kw_only=True)
class AddedNoise(Repeated):
    """A repeated kind with one parameter: `noise_multiplier`, the scale of its noise over the sensitivity."""

    noise_multiplier: float
    count: int = 1

    def validate(self) -> None:
        """Check the numbers."""
        check_positive("noise_multiplier", self.noise_multiplier)
        check_count("count", self.count)
