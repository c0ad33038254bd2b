"""Finds the kinds of events: built-in, registered and installed ones.

A stranger's package names its event class in the group `consortia.mechanisms`, under the event's own kind:

    [project.entry-points."consortia.mechanisms"]
    geometric = "partner_package.geometric:GeometricRelease"

It is loaded when a kind of that name is first met. Everything that counts asks here first, so an event that nobody
registered is refused everywhere.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from threading import RLock
from typing import Any, Final, TypeVar

from consortia_plugins import Seam
from privacy.errors import MechanismError, UnknownEventError
from privacy.events.base import Event
from privacy.events.gaussian import GaussianRelease
from privacy.events.laplace import LaplaceRelease
from privacy.events.non_private import NonPrivate
from privacy.events.poisson_gaussian import PoissonGaussian
from privacy.events.randomized_response import RandomizedResponse
from privacy.events.replace_gaussian import ReplaceGaussian

__all__ = [
    "EVENT_SCHEMA",
    "GROUP",
    "check_known",
    "event_from_json",
    "event_size",
    "event_to_json",
    "kinds",
    "register",
    "relation_of",
    "resized",
]

EVENT_SCHEMA: Final = 1
GROUP: Final = "consortia.mechanisms"

E = TypeVar("E", bound=Event)

_BUILT_IN: Final[Mapping[str, type[Event]]] = {
    cls.kind: cls
    for cls in (PoissonGaussian, GaussianRelease, LaplaceRelease, NonPrivate, RandomizedResponse, ReplaceGaussian)
}
_added: dict[str, type[Event]] = {}
_lock = RLock()


def register(cls: type[E]) -> type[E]:
    """Make a kind of event known to this process; also a class decorator, above ``@dataclass``.

    Raises
    ------
    MechanismError
        The class lacks a law (the message names each), is no frozen dataclass of its own, inherits another kind's
        laws, or claims the kind of another class.
    """
    _check_complete(cls)
    with _lock:
        known = _BUILT_IN.get(cls.kind) or _added.get(cls.kind)
        if known is not None and known is not cls:
            whose = "built in" if cls.kind in _BUILT_IN else f"{known.__module__}.{known.__qualname__}"
            raise MechanismError(f"event kind {cls.kind!r}: it is taken ({whose}); choose another name")
        if known is None:
            _added[cls.kind] = cls
    return cls


def _check_complete(cls: Any) -> None:
    """Refuse a class that states less than all its laws, or in another way than everything here relies on."""
    if not (isinstance(cls, type) and issubclass(cls, Event)):
        raise MechanismError(f"event: wanted a subclass of privacy.events.Event, got {cls!r}")
    name = cls.__name__
    if missing := sorted(getattr(cls, "__abstractmethods__", ())):
        raise MechanismError(f"event {name}: wanted all of its laws, got none for {', '.join(missing)}; define each")
    if not isinstance(cls.kind, str) or not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", cls.kind):
        raise MechanismError(f"event {name}: kind: wanted a name such as 'geometric', got {cls.kind!r}")
    if not isinstance(cls.releases, tuple) or not all(isinstance(one, str) for one in cls.releases):
        raise MechanismError(f"event {name}: releases: wanted a tuple of kinds of releases, got {cls.releases!r}")
    # The decorator has to stand on the class itself: without it, its own parameters would be no fields at all.
    own = cls.__dict__.get("__dataclass_params__")
    if own is None or not own.frozen or not own.eq:
        raise MechanismError(f"event {name}: wanted @dataclass(frozen=True, kw_only=True) on the class, got another")
    if hidden := [f.name for f in fields(cls) if not (f.compare and f.init and f.hash is not False)]:
        # Two mechanisms that differ in such a field would be added up as one.
        raise MechanismError(f"event {name}: wanted fields that are compared and given, got {', '.join(hidden)}")
    fixed = ("__post_init__", "non_private", "to_json", "from_fields")
    if changed := [what for what in fixed if any(what in vars(base) for base in cls.__mro__ if base is not Event)]:
        raise MechanismError(f"event {name}: wanted these as they are, got others: {', '.join(changed)}")
    for base in cls.__mro__[1:]:
        if base in _BUILT_IN.values() or base in _added.values():
            raise MechanismError(
                f"event {name}: wanted a subclass of Event itself, got one of {base.__name__}, whose laws are not its "
                "own; state each law"
            )


def kinds() -> tuple[str, ...]:
    """Return every known kind: built in, registered, then installed ones; nothing is imported for it."""
    installed = [name for name in _installed.installed() if name not in _BUILT_IN and name not in _added]
    return (*_BUILT_IN, *_added, *installed)


def _find(kind: object) -> type[Event] | None:
    """Return the class of a kind, loaded if it is installed; None for an unknown one."""
    if not isinstance(kind, str):
        return None
    known = _BUILT_IN.get(kind) or _added.get(kind)
    if known is None and (points := _installed.installed().get(kind)):
        known = _installed.load(kind, points)
    return known


def _check(kind: str, cls: Any) -> type[Event]:
    if (got := getattr(cls, "kind", None)) != kind:
        raise ValueError(f"wanted an event class of that kind, got {got!r}")
    try:
        loaded: type[Event] = register(cls)
    except MechanismError as error:
        raise ValueError(str(error)) from error
    return loaded


_installed = Seam(GROUP, "event kind", _check, built_in={}, unknown=UnknownEventError, broken=MechanismError)


def check_known(event: object) -> None:
    """Raise UnknownEventError unless `event` is of a registered kind: what cannot be counted is refused."""
    cls = type(event)
    if cls in _KNOWN_TYPES or cls in _added.values():
        return
    if isinstance(event, Event) and event.kind not in _BUILT_IN and _find(event.kind) is cls:
        return
    raise UnknownEventError(
        f"event: wanted one of {', '.join(kinds())}, got {cls.__name__}, which is not registered and cannot be counted"
    )


_KNOWN_TYPES: Final = frozenset(_BUILT_IN.values())


def relation_of(event: Event) -> str:
    """What two neighbouring data sets of `event` differ in."""
    check_known(event)
    return event.relation


def event_size(event: Event) -> int:
    """How many equal releases `event` stands for: its steps or its count (1 when non-private)."""
    check_known(event)
    return event.size


def resized(event: Event, size: int) -> Event:
    """Return the same mechanism, released `size` times (`size` >= 1).

    Raises
    ------
    UnknownEventError
        The kind is not registered, or answers with another mechanism or size.
    """
    check_known(event)
    return _resized(event, size)


@lru_cache(maxsize=4096)
def _resized(event: Event, size: int) -> Event:
    result = event.resized(size)
    if type(result) is not type(event) or (result.size != size and not event.non_private):
        raise UnknownEventError(f"event {event.kind}: wanted itself with size {size}, got {result!r}")
    return result


def event_to_json(event: Event) -> dict[str, Any]:
    """Return `event` as a JSON-able dict: schema, kind, relation and its fields.

    Raises
    ------
    UnknownEventError
        If `event` is not of a known kind.
    """
    check_known(event)
    return {"schema": EVENT_SCHEMA, **event.to_json()}


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
    cls = _find(kind)
    if cls is None:
        raise UnknownEventError(f"event kind: wanted one of {', '.join(kinds())}, got {kind!r}")
    event = cls.from_fields(body)
    if relation != event.relation:
        raise UnknownEventError(f"event relation: wanted {event.relation!r}, got {relation!r}")
    return event
