"""Proposes how a file's columns become a schema's, for the owner to look at. It runs at home and decides nothing."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd
import tomlkit

from clients import _values, measures
from clients._labels import NONE, SEPARATOR, joined, one_column
from clients.errors import SchemaError
from clients.mapping import ColumnMap
from clients.measures import conversion
from clients.schema import Column, Schema

__all__ = ["FILL_IN", "Line", "left_over", "propose_mapping", "rules_of", "to_toml"]

#: Stands where a person must say what is meant; a mapping that still holds it is refused.
FILL_IN: Final = "FILL IN"
_MOST_CODES: Final = 20
_MEASURE: Final = re.compile(r"[\[(]([^\])]+)[\])]\s*$|_(mg_dl|mmol_l|g_dl|cm|mm|kg|lb|kpa|mmhg|degf|degc|f|c)$", re.I)
_YES: Final = ("y", "yes", "j", "ja", "o", "oui", "s", "si", "sí", "true", "t", "positive", "pos")
_NO: Final = ("n", "no", "nein", "non", "false", "negative", "neg")
_BIRTH: Final = ("birth", "born", "dob", "geburt", "naissance", "nacimiento")
_DATES: Final = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d", "%d-%m-%Y")


@dataclass(frozen=True)
class Line:
    """One column of the schema.

    Attributes
    ----------
    name : str
    source : str
        The file's column; empty when none was found.
    rule : mapping
        What the policy says of it below `mapping`; empty when the column is fine as it is.
    why : str
        What a person should look at.
    """

    name: str
    source: str
    rule: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""


def propose_mapping(frame: pd.DataFrame, schema: Schema) -> list[Line]:
    """Return a line for each column of the schema and for its target.

    Parameters
    ----------
    frame : DataFrame (n_rows, any columns)
        As the source reads it.
    """
    free = {str(name): str(name) for name in frame.columns}
    wanted: list[tuple[str, Column | None]] = [(column.name, column) for column in schema.columns]
    wanted.append((schema.target.name, None))
    found: dict[str, str] = {}
    for match in (_alike, _close):
        for name, column in wanted:
            if name not in found and (source := match(name, column, list(free))):
                found[name] = source
                del free[source]
    return [_line(name, column, found.get(name, ""), frame, schema) for name, column in wanted]


def rules_of(lines: Sequence[Line]) -> dict[str, ColumnMap]:
    """Return the rules as a policy has them."""
    return {line.name: ColumnMap.model_validate_json(json.dumps(dict(line.rule))) for line in lines if line.rule}


def left_over(lines: Sequence[Line], frame: pd.DataFrame) -> list[str]:
    """Return the columns of the file that no rule takes."""
    taken = {line.source for line in lines}
    return [str(name) for name in frame.columns if str(name) not in taken]


def to_toml(lines: Sequence[Line], dataset: str, rest: Sequence[str] = ()) -> str:
    """Return the rules as text for a policy; where something is to be filled in, `rest` says what nobody took."""
    text = []
    if rest and any(FILL_IN in str(line.rule) for line in lines):
        text += [f"# columns of the file that no rule takes: {json.dumps(rest, ensure_ascii=False)[1:-1]}", ""]
    for line in lines:
        if line.rule:
            text.append(f"[dataset.{dataset}.mapping.{tomlkit.key(line.name).as_string()}]")
            text += [f"{key} = {_toml(value)}" for key, value in line.rule.items()]
            text[-1] += f"  # {line.why}" if line.why else ""
            text.append("")
    return "\n".join(text)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    return str(tomlkit.item(value).as_string())


def _words(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", _MEASURE.sub("", name).casefold()).strip()


def _alike(name: str, column: Column | None, free: list[str]) -> str:
    same = [each for each in free if each == name] or [each for each in free if _words(each) == _words(name)]
    return same[0] if len(same) == 1 else ""


def _close(name: str, column: Column | None, free: list[str]) -> str:
    if column is not None and column.measure in {"year", "years"} and _words(name) == "age":
        born = [each for each in free if any(word in _words(each) for word in _BIRTH)]
        if len(born) == 1:
            return born[0]
    words = {_words(each): each for each in free}
    close = difflib.get_close_matches(_words(name), list(words), 1, 0.75)
    return words[close[0]] if close else ""


def _line(name: str, column: Column | None, source: str, frame: pd.DataFrame, schema: Schema) -> Line:
    several = column is None and schema.target.kind == "multilabel"
    if several and not source and name in one_column(schema.target, frame):
        return Line(name, "", {}, "a column for each label")
    if not source:
        optional = column is not None and not column.required
        return Line(name, "", {} if optional else {"column": FILL_IN}, "no such column" + " (not needed)" * optional)
    rule: dict[str, Any] = {} if source.strip().casefold() == name.casefold() else {"column": source}
    why = "other name" if rule else ""
    texts = _values.texts(
        joined(frame[source]) if several else frame[source], () if column is None else column.missing_values
    )
    codes, said = (
        _coded(column, texts, schema) if _is_coded(column, schema) else _measured(column, source, texts, schema)
    )
    return Line(name, source, {**rule, **codes}, "; ".join(part for part in (why, said) if part))


def _is_coded(column: Column | None, schema: Schema) -> bool:
    return schema.target.kind != "regression" if column is None else column.dtype in {"flag", "category"}


def _coded(column: Column | None, texts: pd.Series[Any], schema: Schema) -> tuple[dict[str, Any], str]:
    target = schema.target
    if column is None:
        legal = tuple(target.mapping) or target.classes
    else:
        legal = column.categories if column.dtype == "category" else ("0", "1")
    distinct = sorted(texts.dropna().unique())
    flag = column is not None and column.dtype == "flag"
    if column is None and target.kind == "multilabel":  # each label of a text
        distinct = sorted({part.strip() for text in distinct for part in text.split(SEPARATOR)} - {NONE})
    fine = [text for text in distinct if text in legal or (flag and text.casefold() in _values.FLAGS)]
    if len(fine) == len(distinct):
        return {}, ""
    if len(distinct) > _MOST_CODES:
        return {"values": {FILL_IN: legal[0]}}, f"{len(distinct)} different texts, wanted {', '.join(legal)}"
    binary = legal if len(legal) == 2 else ()
    values = {text: _meant(text, legal, binary, set(distinct)) for text in distinct}
    return {"values": values}, "check what each code means"


def _meant(text: str, legal: tuple[str, ...], binary: tuple[str, ...], distinct: set[str]) -> str:
    if text in legal and not (binary and distinct == {"1", "2"}):
        return text
    folded = {each.casefold(): each for each in legal}
    if text.casefold() in folded and not binary:
        return folded[text.casefold()]
    if binary:
        if text.casefold() in _YES or (distinct == {"1", "2"} and text == "1"):
            return binary[1]
        if text.casefold() in _NO or (distinct == {"1", "2"} and text == "2"):
            return binary[0]
    begins = [each for each in legal if each.casefold().startswith(text.casefold())]
    return begins[0] if len(begins) == 1 else FILL_IN


def _measured(column: Column | None, source: str, texts: pd.Series[Any], schema: Schema) -> tuple[dict[str, Any], str]:
    if column is not None and column.dtype == "text":
        return {}, ""
    wanted = schema.target.measure if column is None else column.measure
    numbers = _values.numbers(texts, "number")
    wrong = texts[numbers.isna() & texts.notna()]
    if len(wrong) and any(word in _words(source) for word in _BIRTH):
        form = next((each for each in _DATES if _dates(wrong, each)), FILL_IN)
        return {"born": form, "on": FILL_IN}, "a date of birth: the age on which day?"
    rule: dict[str, Any] = {}
    said = []
    spelled = wrong.value_counts()
    if len(spelled) and len(spelled) <= 3 and int(spelled.iloc[0]) > 1:
        rule["missing"] = [str(text) for text in spelled.index]
        said.append("texts among numbers are taken for missing")
    if (unit := _unit(source, wanted)) and wanted and unit != wanted:
        if _converts(unit, wanted, None):
            rule["measure"] = unit
            said.append(f"{unit} becomes {wanted}")
        else:
            rule["measure"] = FILL_IN
            amount = _converts(unit, wanted, 1.0)
            said.append(f"{unit} to {wanted}: wanted " + ("the molar mass in g/mol, too" if amount else "another unit"))
    return rule, "; ".join(said)


def _unit(source: str, wanted: str) -> str:
    """The unit of measure in a name. One that differs from the wanted unit in case alone counts as the wanted one."""
    found = _MEASURE.search(source)
    if not found:
        return ""
    unit = found[1] or {"f": "degF", "c": "degC", "mmhg": "mmHg", "kpa": "kPa"}.get(
        found[2].lower(), found[2].lower().replace("_", "/")
    )
    if unit.casefold() == wanted.casefold():
        return wanted
    # A header in capitals: pint reads MG/L as megagrams, and nobody measures in these.
    spelled = [unit, unit.lower()] if measures.known(unit) else [unit.lower()]
    fits = [each for each in spelled if _converts(each, wanted, None) or _converts(each, wanted, 1.0)]
    return fits[0] if fits else unit if measures.known(unit) else ""


def _converts(unit: str, wanted: str, molar_mass: float | None) -> bool:
    try:
        conversion(unit, wanted, molar_mass, "measure")
    except SchemaError:
        return False
    return True


def _dates(texts: pd.Series[Any], form: str) -> bool:
    return bool(pd.to_datetime(texts, format=form, errors="coerce").notna().all())
