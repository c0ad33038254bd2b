"""Strict files: TOML in, frozen pydantic model out, every mistake reported together and by path."""

from __future__ import annotations

import difflib
import json
import tomllib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from consortia.errors import InputError

M = TypeVar("M", bound="StrictModel")

SUPPORTED_SCHEMA = 1


class StrictModel(BaseModel):
    """A frozen model in which an unknown key is an error and no value is coerced."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the parsed file; a missing or malformed one is an `InputError` that names it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: wanted a TOML file, got nothing there; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: wanted a readable TOML file in UTF-8, got {type(error).__name__}; check the file"
        ) from None
    return parse_toml(text, str(path))


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """Return the parsed text; a syntax error is an `InputError` that names file and line."""
    try:
        return tomllib.loads(text)
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


def check_schema(data: dict[str, Any], where: str, key: str = "schema") -> None:
    """Refuse a file of another schema version, naming both versions."""
    got = data.get(key)
    if got != SUPPORTED_SCHEMA:
        raise InputError(
            f"{where}: {key}: wanted {SUPPORTED_SCHEMA} (what this version reads), got {got!r}; "
            "use a matching version of consortia or rewrite the file"
        )


def parse(model: type[M], data: dict[str, Any], where: str) -> M:
    """Validate `data` strictly.

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
        raise InputError(*(_sentence(item, where, model) for item in real)) from None


def _inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _sentence(item: Any, where: str, model: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in item["loc"]) or "(file)"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(item["loc"][-1]), _all_keys(model), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it"
        return f"{where}: {path}: unknown key; {hint}"
    if item["type"] == "missing":
        return f"{where}: {path}: wanted a value, got none; add the key"
    wanted = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return f"{where}: {path}: wanted {wanted}, got {item['input']!r}"


def _all_keys(model: type[BaseModel]) -> list[str]:
    """Return the field names of `model` and of every model below it."""
    keys: list[str] = []
    pending: list[Any] = [model]
    seen: set[Any] = set()
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        if isinstance(current, type) and issubclass(current, BaseModel):
            for name, field in current.model_fields.items():
                keys.append(name)
                pending.append(field.annotation)
        else:
            pending.extend(getattr(current, "__args__", ()))
    return keys
