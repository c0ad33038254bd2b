"""Which learners a contract can name: the built-in ones, and those of installed packages; and what it may leave out.

`gradient` trains networks in rounds. All others release noisy sums in few messages. Three of them have a table of their
own in a contract; the others have their options in `[contract.options]`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from consortia.common.strict import StrictModel
from consortia.learners.blocks.shares import OWN_KIND, Shares
from consortia_plugins import Seam, frozen_dataclass
from consortia_plugins import options as typed

if TYPE_CHECKING:  # who reads a contract needs no torch
    from clients.schema import Schema
    from consortia.learners.blocks.clipped import ClippedRecipe
    from consortia.learners.own import Learner

__all__ = [
    "GRADIENT",
    "GROUP",
    "STEPS",
    "TABLES",
    "OwnTerms",
    "get",
    "has_options",
    "lent",
    "names",
    "own_terms",
    "with_constants",
    "written",
]

GROUP: Final = "consortia.learners"
_BUILT_IN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sums": "consortia.terms.sums:SumsTerms",
        "additive": "consortia.terms.additive:AdditiveTerms",
        "statistics": "consortia.terms.statistics:StatisticsTerms",
        # `consortia new learner` adds its line above this one.
    }
)
#: Those with a table of their own in a contract.
TABLES: Final = ("sums", "additive", "statistics")
#: An industry's terms where nothing takes steps: every unit is in each sum, once, within a bound of 1.
STEPS: Final[Mapping[str, Any]] = {"local_steps": 1, "sampling_rate": 1.0, "clip": 1.0, "learning_rate": 1.0}
GRADIENT: Final = "gradient"
_MOST_MESSAGES: Final = 1000
#: Lent by a conformance suite for as long as it runs.
_lent: dict[str, type[Any]] = {}


def has_options(name: str) -> bool:
    """Return whether a learner's terms are `[contract.options]`: neither steps nor a table of its own."""
    return name not in {GRADIENT, *TABLES}


class UnknownLearnerError(ValueError):
    """No learner of that name is built in or installed."""


class LearnerLoadError(ValueError):
    """An installed package names a learner that cannot be loaded, or that is none."""


def names() -> tuple[str, ...]:
    """Return every known learner, built in or installed; nothing is imported for it."""
    return tuple(dict.fromkeys((GRADIENT, *_learners.names())))


def get(name: str) -> type[Any]:
    """Return the class of a learner's options: of those in `TABLES` their terms, of others a frozen dataclass.

    Raises
    ------
    UnknownLearnerError
        There is none of that name; the message lists those there are.
    LearnerLoadError
        An installed one is broken; the message names its package.
    """
    return _lent[name] if name in _lent else _learners.get(name)


@contextmanager
def lent(name: str, kind: type[Any]) -> Iterator[None]:
    """Let contracts of this process name a learner that no package brings, until the block ends."""
    _lent[name] = _check(name, kind)
    try:
        yield
    finally:
        del _lent[name]


def _check(name: str, found: Any) -> type[Any]:
    if name in TABLES and isinstance(found, type) and issubclass(found, StrictModel):
        return found
    return frozen_dataclass(found, "a learner (consortia.learners.own.Learner)", ("shares", "recipe"))


_learners = Seam(
    GROUP, "learner", _check, built_in=lambda: _BUILT_IN, unknown=UnknownLearnerError, broken=LearnerLoadError
)


@dataclass(frozen=True)
class OwnTerms:
    """The terms of a learner that has no table of its own.

    Attributes
    ----------
    name : in contracts.
    learner : its options.
    shares : of the budget.
    """

    name: str
    learner: Learner
    shares: Shares

    def named_industries(self) -> set[str]:
        """Return the industries that the terms speak of: none."""
        return set()

    def only(self, industries: Collection[str]) -> OwnTerms:
        """Return the terms for some industries: they are the same for all."""
        del industries
        return self

    def recipe(self, schema: Schema) -> ClippedRecipe:
        """Return what it does with an industry's rows; ValueError for a schema that it cannot learn."""
        from consortia.learners.blocks.clipped import clipped

        return clipped(self.name, self.learner.recipe(schema), self.shares)


def own_terms(name: str, options: Mapping[str, Any]) -> OwnTerms:
    """Return the terms of a learner without a table of its own.

    Raises
    ------
    ValueError
        When nobody knows the name, its package is broken, or an option is none of its fields or of another type.
    """
    get(name)  # one that was lent is gone after its block, whatever is kept
    return _own_terms(name, json.dumps(options, sort_keys=True))


@lru_cache(maxsize=64)
def _own_terms(name: str, options: str) -> OwnTerms:
    try:
        learner: Learner = typed.make(get(name), json.loads(options), f"learner {name}")
    except TypeError as error:  # of the learner's own checks
        raise ValueError(f"options: wanted values that learner {name} takes, got others ({error})") from None
    return OwnTerms(name, learner, _shares(learner))


def _shares(learner: Learner) -> Shares:
    """Return its shares; every number is checked, since the noise follows from them."""
    try:
        parts = tuple(tuple(float(share) for share in part) for part in learner.shares)
    except TypeError:
        raise ValueError("shares: wanted numbers by message and block, got others; write ((1.0,),)") from None
    every = [share for part in parts for share in part]
    if not 1 <= len(parts) <= _MOST_MESSAGES or not all(parts):
        raise ValueError(f"shares: wanted 1 to {_MOST_MESSAGES} messages of a block or more, got others")
    if not all(0 < share <= 1 for share in every) or not math.isclose(math.fsum(every), 1.0, abs_tol=1e-9):
        raise ValueError(f"shares: wanted numbers > 0 that sum to 1, got a sum of {math.fsum(every):g}")
    return Shares(OWN_KIND, parts)


def with_constants(contract: Mapping[str, Any]) -> dict[str, Any]:
    """Return a written contract with what a learner of noisy sums fixes, where it was left out; others as they are."""
    own = contract.get("by_industry")
    industries = contract.get("industries")
    if not isinstance(own, dict) or not isinstance(industries, dict):
        return _with_constants(contract)
    rest = {name: terms for name, terms in industries.items() if name not in own}
    data = _with_constants({**contract, "industries": rest})
    data["by_industry"] = {}
    for name, terms in own.items():
        alone = {"industries": {name: industries[name]}} if name in industries else {}
        filled = _with_constants({**terms, **alone}) if isinstance(terms, dict) else terms
        data["industries"] |= filled.pop("industries", {}) if alone and isinstance(terms, dict) else alone
        data["by_industry"][name] = filled
    return data


def _with_constants(contract: Mapping[str, Any]) -> dict[str, Any]:
    data = dict(contract)
    learner = data.get("learner", GRADIENT)
    if not isinstance(learner, str) or learner == GRADIENT:
        return data
    shares = _table(learner, data) if learner in TABLES else _options(learner, data)
    data.setdefault("releases", [shares.what])
    data.setdefault("rounds", shares.messages)
    if data.get("trust") == "aggregate" and isinstance(secure := data.setdefault("secure", {}), dict):
        # A second attempt costs as much as the first: who wants spare ones pays with noise, so says so.
        data["secure"] = {"spare": 0, **secure}
    if isinstance(industries := data.get("industries"), dict):
        data["industries"] = {
            name: {**STEPS, **terms} if isinstance(terms, dict) else terms for name, terms in industries.items()
        }
    return data


def _table(learner: str, data: dict[str, Any]) -> Shares:
    """Return the shares that a learner's own table gives; fill in an empty one."""
    kind, terms = get(learner), data.setdefault(learner, {})
    try:
        found: Shares = kind.model_validate(terms, strict=False).shares
    except ValidationError:  # they are refused when they are read
        found = kind().shares
    return found


def _options(learner: str, data: dict[str, Any]) -> Shares:
    """Return the shares that options give, and write every option down: a contract's hash has all that it trains by."""
    given = data.get("options", {})
    try:
        terms = own_terms(learner, given if isinstance(given, Mapping) else {})
        plain = written(terms.learner)
        own_terms(learner, plain)  # what is written must be read again
    except (ValueError, TypeError):  # name or options are refused when they are read, and nothing else is said then
        return Shares(OWN_KIND, ((1.0,),))
    if isinstance(given, Mapping) and plain:
        data["options"] = plain
    return terms.shares


def written(learner: Learner) -> dict[str, Any]:
    """Return every option of a learner as a contract has them; TypeError for one that JSON cannot write."""
    whole = {field: getattr(learner, field) for field in typed.fields_of(type(learner))}
    found: dict[str, Any] = json.loads(json.dumps(whole, default=_plain))
    return found


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Enum):
        return value.value
    raise TypeError(f"wanted a value that JSON can write, got {type(value).__name__}")
