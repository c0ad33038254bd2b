"""Reads options of a strategy or a network from TOML into its frozen dataclass, by their types.

A field may have any type that pydantic knows: bool, int, float, str, Literal, an Enum, tuples and lists, mappings,
optional values, another frozen dataclass. Nothing is coerced (`true` is no number, "1" neither), but what TOML cannot
write otherwise is read: an array fills a tuple, a string an Enum, a table a dataclass, an integer a float.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError

from consortia_plugins import near

_WORDS: Mapping[Any, str] = types.MappingProxyType(
    {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
)


def read(kind: type[Any], key: str, value: Any) -> Any:
    """Return the value of one field.

    Parameters
    ----------
    kind : type
        A dataclass.
    key : str
        Name of one of its fields.
    value
        As it stands in the TOML file.

    Raises
    ------
    ValueError
        Naming the option, down to the place in a table or array, what was wanted and what was got.
    """
    try:
        wanted, adapter = _adapter(kind, key)  # type: ignore[arg-type]  # mypy: a class has no hash
    except (NameError, PydanticUserError) as error:
        raise ValueError(
            f"options.{key}: wanted a type that pydantic reads in {kind.__name__}, got one that it does not "
            f"({str(error).splitlines()[0]}); annotate the field with another type"
        ) from None
    try:
        # JSON mode: strict, yet an array may fill a tuple.
        read_value = adapter.validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        raise ValueError("; ".join(_sentence(key, wanted, item) for item in error.errors())) from None
    _refuse_unknown(f"options.{key}", value, adapter.dump_python(read_value))
    return read_value


@functools.cache  # a message reads the options of its strategy several times
def _adapter(kind: type[Any], key: str) -> tuple[Any, TypeAdapter[Any]]:
    wanted = typing.get_type_hints(kind, include_extras=True)[key]
    return wanted, TypeAdapter[Any](wanted)


def _sentence(key: str, wanted: Any, item: Any) -> str:
    path = ".".join(("options", key, *(str(part) for part in item["loc"])))
    if item["type"] == "missing":
        return f"{path}: wanted a value, got none; add the key"
    words = item["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not item["loc"] and isinstance(wanted, type):
        words = _WORDS.get(wanted, words)
    return f"{path}: wanted {words}, got {item['input']!r}"


def _refuse_unknown(path: str, given: Any, taken: Any) -> None:
    """Refuse a key of a table that no field took: pydantic passes over it in a plain dataclass."""
    if isinstance(given, Mapping) and isinstance(taken, Mapping):
        for key in given:
            if key not in taken:
                known = ", ".join(str(one) for one in taken) or "none"
                raise ValueError(f"{path}: wanted {known}, got {key!r}{near(str(key), map(str, taken))}")
            _refuse_unknown(f"{path}.{key}", given[key], taken[key])
    elif _is_array(given) and _is_array(taken) and len(given) == len(taken):
        for number, (one, other) in enumerate(zip(given, taken, strict=True)):
            _refuse_unknown(f"{path}.{number}", one, other)


def _is_array(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def fields_of(kind: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields that its constructor takes, by name."""
    return {field.name: field for field in dataclasses.fields(kind) if field.init}


def check_needed(kind: type[Any], given: Collection[str], what: str) -> None:
    """Raise ValueError unless every field that has neither a default nor a factory of one is given."""
    for key, field in fields_of(kind).items():
        needed = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if needed and key not in given:
            raise ValueError(f"options.{key}: wanted a value for {what}, got none")


def make(kind: type[Any], options: Mapping[str, Any], what: str) -> Any:
    """Return the value of a frozen dataclass that options fill.

    Parameters
    ----------
    what : str
        Whose options they are, for errors.

    Raises
    ------
    ValueError
        An option is unknown, missing or of a wrong type, or the class refuses a value.
    """
    fields = fields_of(kind)
    for key in options:
        if key not in fields:
            raise ValueError(
                f"options: wanted {', '.join(fields) or 'none'} for {what}, got {key!r}{near(key, fields)}"
            )
    check_needed(kind, options, what)
    return kind(**{key: read(kind, key, value) for key, value in options.items()})
