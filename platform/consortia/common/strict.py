"""Reads strict TOML files into frozen pydantic models, and reports all mistakes together, each with its path."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from clients.masking import masked
from consortia.common.errors import InputError

M = TypeVar("M", bound="StrictModel")

SUPPORTED_SCHEMA = 1
#: Characters of a value, of a key and of a list of names that an error repeats.
_SHORT, _KEY, _NAMES = 40, 60, 8
#: Mistakes that are told at once.
_PROBLEMS = 20


class StrictModel(BaseModel):
    """A frozen model in which an unknown key is an error and no value is coerced.

    Pydantic's own errors would quote the input, so they are told not to; `parse` says what is needed of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the parsed file; a missing or malformed one is an `InputError` that names it."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte-order mark in front
    except FileNotFoundError:
        raise InputError(f"{path}: wanted a TOML file, got nothing there; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: wanted a readable TOML file in UTF-8, got {type(error).__name__}; check the file"
        ) from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the parsed text; a syntax error is an `InputError` that names the line. A byte-order mark is skipped."""
    try:
        return tomllib.loads(text.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: wanted valid TOML, got a syntax error: {error}") from None


def read_record(path: Path) -> dict[str, Any]:
    """Return a record that this program wrote as JSON; what is damaged or of another schema is an `InputError`."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        data = None
    if not isinstance(data, dict):
        raise InputError(f"{path}: wanted a readable record (a JSON object), got something else; put a whole copy back")
    check_schema(data, str(path))
    return data


def check_schema(data: dict[str, Any], where: str) -> None:
    """Refuse a file of another schema version, naming both versions."""
    got = data.get("schema")
    if got != SUPPORTED_SCHEMA:
        raise InputError(
            f"{where}: schema: wanted {SUPPORTED_SCHEMA} (what this version reads), got {shown(got, private=True)}; "
            "use a matching version of consortia or rewrite the file"
        )


def shown(value: object, *, private: bool = False) -> str:
    """Return what an error may repeat of a value: a number, or a short text with its secrets masked, never a container.

    Parameters
    ----------
    private : bool
        The file is one participant's own: of a text only the length is said, for any key may hold a secret by mistake.
    """
    if isinstance(value, str):
        if private or len(value) > _SHORT:
            return f"a text of {len(value)} characters"
        return repr(masked(value))
    if value is None or isinstance(value, bool | int | float):
        text = repr(value)
        return text if len(text) <= _SHORT else "a number of too many digits"
    if isinstance(value, dict):
        return f"a table of {len(value)} keys"
    if isinstance(value, list | tuple | set | frozenset):
        return f"an array of {len(value)} items"
    return f"a {type(value).__name__}"


def listed(names: Iterable[str]) -> str:
    """Return the first of many names: an error never prints a whole roster."""
    every = list(names)
    more = f" and {len(every) - _NAMES} more" if len(every) > _NAMES else ""
    return ", ".join(every[:_NAMES]) + more


def parse(model: type[M], data: dict[str, Any], where: str, *, private: bool = False) -> M:
    """Validate `data` strictly.

    Parameters
    ----------
    private : bool
        The file is one participant's own: see `shown`.

    Raises
    ------
    InputError
        With one line per mistake: file, dotted key, what was wanted, what was got.
    """
    try:
        # JSON mode: strict, yet a TOML array may fill a tuple.
        return model.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        found = error.errors()
        # An array whose only items are wrong counts as empty, too: that is not another mistake.
        within = [item["loc"] for item in found]
        real = [i for i in found if i["type"] != "too_short" or not any(_inside(loc, i["loc"]) for loc in within)]
        problems = [_sentence(item, where, model, private=private) for item in real[:_PROBLEMS]]
        if len(real) > _PROBLEMS:
            problems.append(f"{where}: {len(real) - _PROBLEMS} more mistakes like these")
        raise InputError(*problems) from None


def _inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _sentence(item: Any, where: str, model: type[BaseModel], *, private: bool) -> str:
    path = ".".join(masked(str(part))[:_KEY] for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        return f"{where}: {path}: unknown key; {_hint(str(item['loc'][-1]), path, model)}"
    if item["type"] == "missing":
        return f"{where}: {path}: wanted a value, got none; add the key"
    wanted = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    last = str(item["loc"][-1]) if item["loc"] else ""
    private = private or masked(f"{last}=x") != f"{last}=x"  # a key like `password`, in whatever file
    if item["type"] == "value_error" and isinstance(item["input"], dict | list | tuple):
        return f"{where}: {path}: wanted {wanted}"  # a rule over several keys: it says itself what it got
    return f"{where}: {path}: wanted {wanted}, got {shown(item['input'], private=private)}"


def _hint(key: str, path: str, model: type[BaseModel]) -> str:
    """Return what to do about a key that is unknown at `path`: where it belongs, or what is spelled like it."""
    places = _places_of_keys(model)
    near = [key] if key in places else difflib.get_close_matches(key, places, n=1)
    if not near:
        return "remove it"
    here = path.rpartition(".")[0]
    owners = [place for place in places[near[0]] if place != here]
    if near[0] == key:
        return f"it belongs to {' or '.join(place or 'the top of the file' for place in owners[:3])}"
    return f"did you mean {near[0]!r}?"


def _places_of_keys(model: type[BaseModel]) -> dict[str, list[str]]:
    """Return the names of all fields of `model` and of the models below it, each with the tables that it belongs to."""
    keys: dict[str, list[str]] = {}
    pending: list[tuple[str, Any]] = [("", model)]
    seen: set[Any] = set()
    for where, current in pending:  # grows; the tables nearest to the top come first
        if isinstance(current, type) and issubclass(current, BaseModel):
            if current in seen:
                continue
            seen.add(current)
            for attribute, field in current.model_fields.items():
                name = field.alias or attribute
                keys.setdefault(name, []).append(where)
                pending.append((f"{where}.{name}" if where else name, field.annotation))
        else:
            pending.extend((where, inner) for inner in getattr(current, "__args__", ()))
    return keys
