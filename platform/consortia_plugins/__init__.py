"""Finds values by name, built in or brought by installed packages. Every seam follows this one rule.

A seam is a group of entry points (`importlib.metadata`). A package names its value there:

    [project.entry-points."consortia.metrics"]
    f1 = "partner_package.f1:METRIC"

Nothing is imported until a value is asked for by its name. So a broken package is one sentence, which names the
package, for whoever asks for that value, and nothing to everybody else. This module imports nothing of ours.
"""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import Any, Generic, TypeVar

__all__ = ["Seam", "frozen_dataclass", "known_name", "near", "rescan"]

T = TypeVar("T")
_PREFIX = "consortia."


class Seam(Generic[T]):
    """One kind of value, by name.

    Parameters
    ----------
    group : str
        The group of entry points, such as "consortia.metrics".
    what : str
        The word for one value in sentences, such as "metric".
    check : callable
        (name, loaded object) -> the value. It raises ValueError ("wanted …, got …") for anything else.
    built_in : mapping or callable that returns one
        Name -> `module:attribute`. An installed value never replaces a built-in one.
    unknown, broken : exception classes
        Raised with one sentence: there is no value of that name; there is one that cannot be used.
    """

    def __init__(
        self,
        group: str,
        what: str,
        check: Callable[[str, Any], T],
        *,
        built_in: Mapping[str, str] | Callable[[], Mapping[str, str]],
        unknown: type[Exception],
        broken: type[Exception],
    ) -> None:
        self.group, self.what = group, what
        self._check, self._built_in, self._unknown, self._broken = check, built_in, unknown, broken

    def built_in(self) -> Mapping[str, str]:
        """Return the built-in names with the places of their values, in the order of the table."""
        return self._built_in() if callable(self._built_in) else self._built_in

    def installed(self) -> Mapping[str, tuple[EntryPoint, ...]]:
        """Return the entry points of installed packages by name, in alphabetical order; nothing is imported."""
        found: dict[str, tuple[EntryPoint, ...]] = {}
        for point in sorted(_scan(tuple(sys.path))[0], key=lambda point: point.name):
            if point.group == self.group:
                found[point.name] = (*found.get(point.name, ()), point)
        return found

    def names(self) -> tuple[str, ...]:
        """Return every known name: built-in ones first, then installed ones; nothing is imported."""
        return tuple(dict.fromkeys((*self.built_in(), *self.installed())))

    def get(self, name: str, where: str = "") -> T:
        """Return the value of that name.

        Parameters
        ----------
        where : str
            The parameter in the sentence about an unknown name; the word of the seam without it.

        Raises
        ------
        unknown
            There is none; the sentence lists those there are.
        broken
            It cannot be loaded, is something else, or two packages bring it; the sentence names the packages.
        """
        points, place = self.installed().get(name, ()), self.built_in().get(name)
        if place is None:
            if not points:
                raise self._unknown(self.unknown(name, where))
            return self.load(name, points)
        if points:
            raise self._broken(
                f"{self.what} {name!r} is built in, and {_whose(points)} brings another of that name; uninstall it"
            )
        return self._loaded(name, EntryPoint(name, place, self.group))

    def load(self, name: str, points: tuple[EntryPoint, ...]) -> T:
        """Return the value that installed packages bring under a name; `broken` as `get`."""
        whose = _whose(points)
        if len(points) > 1:
            raise self._broken(f"{self.what} {name!r}: {whose} all bring one; uninstall all but one")
        return self._loaded(name, points[0], whose)

    def _loaded(self, name: str, point: EntryPoint, whose: str = "") -> T:
        """Return a checked value; `whose` is empty for a built-in one: a file of this checkout may be broken, too."""
        of, mend = (f" of {whose}", f"repair or uninstall {whose}") if whose else ("", "repair that file")
        try:
            found = point.load()
        except (Exception, SystemExit) as error:
            if isinstance(error, ModuleNotFoundError) and not whose:
                raise  # an extra that is not installed: who asked knows its name
            raise self._broken(
                f"{self.what} {name!r}{of} cannot be loaded from {point.value!r}: "
                f"{type(error).__name__}: {error}; {mend}"
            ) from error
        try:
            return self._check(name, found)
        except ValueError as error:
            raise self._broken(f"{self.what} {name!r}{of}: {error}") from error

    def unknown(self, name: object, where: str = "") -> str:
        """Return the sentence about a name that nobody knows."""
        unreadable = "".join(f"; the entry points of {package} cannot be read" for package in _scan(tuple(sys.path))[1])
        close = near(name, self.names()) if isinstance(name, str) else ""
        return (
            f"{where or self.what}: wanted one of {', '.join(self.names())}, got {name!r}{close}; correct the name, or "
            f"install the package that brings it; after a new entry point run `pip install -e` again{unreadable}"
        )

    def package(self, name: str) -> str | None:
        """Return the installed packages that bring a name, for sentences; None for a built-in or unknown one."""
        points = self.installed().get(name)
        return _whose(points) if points else None


def near(got: str, known: Iterable[str]) -> str:
    """Return ' (did you mean …?)' when a known name looks like `got`, else nothing."""
    close = difflib.get_close_matches(got, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def frozen_dataclass(found: Any, wanted: str, parts: Iterable[str]) -> type[Any]:
    """Return a class of options: a frozen dataclass that has all `parts`.

    Parameters
    ----------
    wanted : str
        What it should be, such as "a strategy (strategies.base.Strategy)".

    Raises
    ------
    ValueError
        "wanted …, got …" for anything else.
    """
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise ValueError(f"wanted a frozen dataclass, got {getattr(found, '__name__', type(found).__name__)}")
    if not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        raise ValueError(f"wanted @dataclass(frozen=True) on {found.__name__}, got one that can be changed")
    if lacking := [part for part in parts if not hasattr(found, part)]:
        raise ValueError(f"wanted {wanted}, got {found.__name__} without {lacking[0]}")
    return found


def known_name(
    name: str,
    what: str,
    get: Callable[[str], Any],
    names: Callable[[], tuple[str, ...]],
    *,
    unknown: type[Exception],
    broken: type[Exception],
) -> str:
    """Return a name that stands in a file; ValueError, saying what was wanted, where no such value can be used.

    Parameters
    ----------
    what : str
        The word of the seam.
    get, names
        Of the seam; `get` raises `unknown` or `broken`.
    """
    try:
        get(name)
    except broken as error:
        raise ValueError(f"a {what} that can be loaded ({error})") from None
    except unknown:
        known = names()
        raise ValueError(f"a {what} that is built in or installed ({', '.join(known)}){near(name, known)}") from None
    return name


def rescan() -> None:
    """Look for installed packages again: after one was installed while this process runs."""
    _scan.cache_clear()


@lru_cache(maxsize=4)
def _scan(_: tuple[str, ...]) -> tuple[tuple[EntryPoint, ...], tuple[str, ...]]:
    """Return our entry points, and the packages whose entry points cannot be read.

    Looking through every installed package takes milliseconds, so it is done once for each path that the process had.
    Files are read one by one: `importlib.metadata.entry_points` raises for all packages where one has a broken file.
    """
    points: list[EntryPoint] = []
    unreadable: list[str] = []
    seen: set[str] = set()
    for package in distributions():
        try:
            if _PREFIX not in (package.read_text("entry_points.txt") or ""):
                continue
            if _name(package) not in seen:  # a second copy, later on the path, is never imported
                points += [point for point in package.entry_points if point.group.startswith(_PREFIX)]
        except Exception:  # noqa: BLE001 - whatever stands in somebody's file
            unreadable.append(_name(package))
        seen.add(_name(package))
    return tuple(points), tuple(unreadable)


def _name(package: Distribution) -> str:
    return str(package.metadata["Name"] or "a package without a name")


def _whose(points: Iterable[EntryPoint]) -> str:
    return ", ".join(sorted(_name(point.dist) if point.dist else point.value for point in points))
