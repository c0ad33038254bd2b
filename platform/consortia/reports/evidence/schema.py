"""The public schema of an industry as facts, and as Croissant metadata (MLCommons Croissant 1.1, JSON-LD).

Made of the schema alone: columns, bounds and categories that everybody may know, whatever the rows hold.
"""

from __future__ import annotations

from typing import Any, Final

from clients.schema import Schema

__all__ = ["croissant", "schema_of"]

_TYPES: Final = {
    "number": "sc:Float",
    "integer": "sc:Integer",
    "category": "sc:Text",
    "flag": "sc:Boolean",
    "text": "sc:Text",
}
#: As Croissant 1.1 prints it (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html, appendix 1).
_CONTEXT: Final = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{word: f"cr:{word}" for word in (
        *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileObject"),
        *("fileProperty", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
        *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate"),
        *("separator", "source", "subField", "transform"),
    )},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "sc": "https://schema.org/",
}  # fmt: skip


def schema_of(schema: Schema) -> dict[str, Any]:
    """Return what the schema says to everybody, with the bounds of the target."""
    found = schema.describe()
    found["target"] |= {"low": schema.target.low, "high": schema.target.high}
    found["shape"] = None if schema.shape is None else str(schema.shape)
    return found


def croissant(industry: str, title: str, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the Croissant metadata of an industry's schema.

    Parameters
    ----------
    facts : dict
        Of `schema_of`.
    """
    lists = [_enumeration(column) for column in facts["columns"] if column["categories"]]
    if facts["target"]["classes"]:
        lists.append(_enumeration({"name": facts["target"]["name"], "categories": facts["target"]["classes"]}))
    fields = [_field(column) for column in facts["columns"]] + [_target(facts["target"])]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": industry,
        "description": (
            f"{title}. The public schema of the tables that participants hold at home. The rows are not published."
        ),
        "version": f"{facts['version']}.0.0",
        "distribution": [
            {
                "@type": "cr:FileSet",
                "@id": "tables",
                "name": "tables",
                "description": "Each participant's own table. It stays at home; nobody can download it.",
                "encodingFormat": "text/csv",
                "includes": "*.csv",
            }
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "rows",
                "name": "rows",
                "description": f"One row of a participant's table; the schema's unit of privacy: {facts['unit']}.",
                "field": fields,
            },
            *lists,
        ],
    }


def _field(column: dict[str, Any]) -> dict[str, Any]:
    name, says = column["name"], []
    if column["measure"]:
        says.append(f"In {column['measure']}.")
    if column["low"] is not None:
        says.append(f"Public bounds {column['low']:g} to {column['high']:g}.")
    says.append("A value may be missing." if column["nullable"] else "No value may be missing.")
    if column["sensitive"]:
        says.append("Personal data of a special kind.")
    if column["identifier"]:
        says.append(f"An identifier; rule: {column['identifier']}.")
    says.append("The model sees it." if column["feature"] else "The model does not see it.")
    return _column(name, " ".join(says), _TYPES[column["dtype"]], referenced=bool(column["categories"]))


def _target(target: dict[str, Any]) -> dict[str, Any]:
    kind = "sc:Float" if target["kind"] == "regression" else "sc:Text"
    return _column(target["name"], f"The target, {target['kind']}.", kind, referenced=bool(target["classes"]))


def _column(name: str, says: str, kind: str, *, referenced: bool) -> dict[str, Any]:
    field = {
        "@type": "cr:Field",
        "@id": f"rows/{name}",
        "name": name,
        "description": says,
        "dataType": kind,
        "source": {"fileSet": {"@id": "tables"}, "extract": {"column": name}},
    }
    return {**field, "references": {"field": {"@id": f"{_id(name)}/name"}}} if referenced else field


def _enumeration(column: dict[str, Any]) -> dict[str, Any]:
    name = _id(column["name"])
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"The values that {column['name']} can take.",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/name"},
        "field": [{"@type": "cr:Field", "@id": f"{name}/name", "name": f"{name}/name", "dataType": "sc:Text"}],
        "data": [{f"{name}/name": value} for value in column["categories"]],
    }


def _id(name: str) -> str:
    return f"values-of-{name}"
