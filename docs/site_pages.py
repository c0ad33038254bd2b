"""What the site takes from the code when mkdocs builds it (`hooks` of mkdocs.yml).

A written page of `docs/reference` holds a mark such as `<!-- made: cli -->`, and here is what takes its place: commands
from the typer application, scenario and policy from their pydantic models, strategies from their registry, Python from
docstrings. So the reference says what the code does. Files at the root of the repository become pages of the site too.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]

#: What a reader may import besides the names of `consortia` itself, by heading. A test imports each.
PUBLIC: Mapping[str, tuple[str, ...]] = {
    "Models": ("consortia.models.source", "consortia.models.registry", "consortia.models.edited"),
    "Industries": ("clients.industry", "clients.schema", "clients.spec"),
    "Metrics and sources of rows": (
        "clients.metrics.metric",
        "clients.metric_registry",
        "clients.sources.table",
        "clients.sources.reading",
        "clients.source_registry",
    ),
    "Learners": ("consortia.learners.own", "consortia.learners.blocks.clipped", "consortia.terms.learners"),
    "Trackers": ("consortia.reports.trackers",),
    "Strategies": ("strategies.base", "strategies.arithmetic", "strategies.registry"),
    "Values of packages": ("consortia_plugins",),
    "Conformance suites": ("consortia.testing",),
    "Privacy": (
        "privacy.events",
        "privacy.mechanism",
        "privacy.accounting",
        "privacy.filters",
        "privacy.ledger",
        "privacy.dp_sgd",
        "privacy.secure_noise",
        "privacy.egress",
    ),
}


def python() -> str:
    """Return the sections of the public names and modules; mkdocstrings fills them in."""
    import consortia

    lines = ["## consortia", ""]
    for module, names in consortia._NAMES.items():
        if module not in PUBLIC["Industries"]:
            lines += [f"::: {module}.{name}\n    options:\n      heading: consortia.{name}\n" for name in names]
    for heading, modules in PUBLIC.items():
        lines += [f"## {heading}", "", *(f"::: {module}\n" for module in modules)]
    return "\n".join(lines)


def cli() -> str:
    """Return the section of every command with its arguments, options and example."""
    import typer

    from consortia.cli import build_app

    root: Any = typer.main.get_command(build_app())
    lines = []
    for path, command in commands(root):
        lines += [f"## consortia {' '.join(path)}", "", _plain(command.help), "", _usage(path, command)]
        if table := _parameters(command):
            lines += ["", *table]
        if command.epilog:
            lines += ["", f"Example: `{_plain(command.epilog).removeprefix('Example: ')}`"]
        lines.append("")
    return "\n".join(lines)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that does something, with the words that call it."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def _usage(path: tuple[str, ...], command: Any) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [a.human_readable_name.upper() if a.required else f"[{a.human_readable_name.upper()}]" for a in arguments]
    return f"`{' '.join(['consortia', *path, *words, '[OPTIONS]'])}`"


def _parameters(command: Any) -> list[str]:
    rows = []
    for parameter in command.params:
        if parameter.param_type_name == "argument" or parameter.name == "help":
            continue
        names = ", ".join(f"`{name}`" for name in (*parameter.opts, *parameter.secondary_opts))
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.type.name.upper()}"
        default = parameter.default
        shown = "" if default in (None, False, (), [], "") or callable(default) else f" Default: `{_text(default)}`."
        required = " Required." if parameter.required else ""
        rows.append(f"| {names}{_cell(value)} | {_cell(_plain(parameter.help))}{required}{shown} |")
    return ["| option | means |", "|---|---|", *rows] if rows else []


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _plain(text: str | None) -> str:
    """Return help text as one Markdown paragraph a blank line, without rich's markup."""
    without = re.sub(r"\\(?=\[)", "", text or "")
    return "\n\n".join(" ".join(part.split()) for part in without.split("\n\n"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def tables(model: Any) -> str:
    """Return every table and key of a TOML file from its pydantic model."""
    schema = model.model_json_schema(by_alias=True)
    definitions: dict[str, Any] = {**schema.pop("$defs", {}), model.__name__: schema}
    lines = []
    for table, name in _tables(schema, definitions):
        definition = definitions[name]
        heading = f"`{table}`" if table else "The file itself"
        lines += [f"## {heading}", "", _docstring(definition.get("description", ""))]
        lines += ["", "| key | wanted | default |", "|---|---|---|"]
        required = set(definition.get("required", ()))
        for key, field in definition.get("properties", {}).items():
            default = "required" if key in required else _default(field)
            lines.append(f"| `{key}` | {_cell(_wanted(field))} | {_cell(default)} |")
        lines.append("")
    return "\n".join(lines)


def _docstring(text: str) -> str:
    """Return a docstring as paragraphs: every field that it explains stays in backticks."""
    text = re.sub(r"(?m)^Attributes\n-+$", "", inspect.cleandoc(text))
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip())


def _tables(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the path of every table of the file with the name of its model, outer ones first."""
    title = str(schema["title"])
    pending = [("", title)]
    while pending:
        path, name = pending.pop(0)
        yield path, name
        below = []
        for key, field in definitions[name].get("properties", {}).items():
            for reference, shape in _references(field):
                inner = {"one": key, "list": key, "map": f"{key}.NAME"}[shape]
                full = f"{path.strip('[]')}.{inner}" if path else inner
                below.append((f"[[{full}]]" if shape == "list" else f"[{full}]", reference))
        pending = below + pending


def _references(field: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (model, shape) of the tables that a field holds; the shape is one, list or map."""
    for part in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        if "$ref" in part:
            yield part["$ref"].rsplit("/", 1)[1], "one"
        if "$ref" in (items := part.get("items", {}) or {}):
            yield items["$ref"].rsplit("/", 1)[1], "list"
        extra = part.get("additionalProperties") or next(iter(part.get("patternProperties", {}).values()), None)
        if isinstance(extra, dict) and "$ref" in extra:
            yield extra["$ref"].rsplit("/", 1)[1], "map"


def _default(field: Mapping[str, Any]) -> str:
    if "default" not in field:
        return "none" if any(part.get("type") == "null" for part in field.get("anyOf", ())) else "empty"
    value = field["default"]
    if isinstance(value, dict):
        return "the table's defaults"
    return "none" if value is None else f"`{json.dumps(value)}`"


def _wanted(field: Mapping[str, Any]) -> str:
    """Return what a field takes, in words."""
    parts = [part for part in field.get("anyOf", ()) if part.get("type") != "null"]
    if parts:
        return " or ".join(_wanted(part) for part in parts)
    if next(_references(field), None):
        return "table" if "items" not in field else "tables"
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    kind = str(field.get("type", "value"))
    if kind == "array":
        return f"list of {_wanted(field['items'])}" if field.get("items") else "list"
    if kind == "object":
        inner = field.get("additionalProperties")
        return f"table of {_wanted(inner)}" if isinstance(inner, dict) else "table"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {_number(field[key])}" for key, sign in bounds.items() if key in field]
    if "pattern" in field:
        limits.append(f"that fits `{field['pattern']}`")
    return " ".join([words.get(kind, kind), ", ".join(limits)]).strip()


def _number(value: float) -> str:
    return "2^63 - 1" if value == 2**63 - 1 else f"{value:,.10g}".replace(",", " ")


def scenario() -> str:
    """Return the tables of a scenario's file."""
    from consortia.terms.scenario import Scenario

    return tables(Scenario)


def policy() -> str:
    """Return the tables of a policy's file."""
    from consortia.terms.policy import Policy

    return tables(Policy)


def strategies() -> str:
    """Return the options of every strategy, from the fields of its class."""
    from strategies import registry

    lines = ["| strategy | options | class |", "|---|---|---|"]
    for name in registry.NAMES:
        kind = registry.get(name)
        shown = []
        for field in dataclasses.fields(kind):
            if field.name == "arguments":
                shown.append("torch's own arguments")
            elif field.name not in registry.SERVER:
                given = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
                shown.append(f"`{field.name}{given}`")
        lines.append(f"| `{name}` | {', '.join(shown) or 'none'} | `{kind.__module__}.{kind.__name__}` |")
    return "\n".join(lines)


def rooms() -> str:
    """Return the table of the rooms of `platform/consortia`, the lowest floor first."""
    floors = runpy.run_path(str(ROOT / "tests" / "helpers" / "house.py"))["FLOORS"]
    lines = ["| floor | room | what is in it |", "|---|---|---|"]
    for floor, names in enumerate(floors, start=1):
        for name in names:
            place = ROOT / "platform" / "consortia" / name
            source = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            first = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8")))
            lines.append(f"| {floor} | `{name}` | {(first or '').splitlines()[0]} |")
    return "\n".join(lines)


def metrics() -> str:
    """Return the built-in metrics, from their values."""
    from clients import metric_registry
    from consortia.metrics.from_histograms import HISTOGRAM_METRICS

    lines = ["| metric | label | better | targets | from a noisy histogram |", "|---|---|---|---|---|"]
    for name in metric_registry.NAMES:
        metric = metric_registry.get(name)
        given = [kind for kind in metric.kinds if name in HISTOGRAM_METRICS[kind]]
        histogram = "no" if not given else "yes" if len(given) == len(metric.kinds) else f"{', '.join(given)} only"
        lines.append(f"| `{name}` | {metric.label} | {metric.better} | {', '.join(metric.kinds)} | {histogram} |")
    return "\n".join(lines)


def sources() -> str:
    """Return the built-in sources of an owner's rows, from their classes."""
    from clients import source_registry

    lines = ["| source | form | what is read |", "|---|---|---|"]
    for name in source_registry.NAMES:
        kind = source_registry.get(name)
        forms = ", ".join(f"`{form}`" for form in kind.form.split(", "))
        lines.append(f"| `{name}` | {forms} | {_cell((kind.__doc__ or '').splitlines()[0])} |")
    return "\n".join(lines)


def trackers() -> str:
    """Return the built-in trackers, from their modules' first lines; none is imported."""
    from consortia.reports import trackers as found

    folder = Path(found.__file__).parent
    texts = {name: ast.parse((folder / f"{name}.py").read_text(encoding="utf-8")) for name in found.NAMES}
    rows = [f"| `{name}` | {_cell((ast.get_docstring(text) or '').splitlines()[0])} |" for name, text in texts.items()]
    return "\n".join(["| tracker | where the values go |", "|---|---|", *rows])


#: What may stand in a page as `<!-- made: NAME -->`.
MADE: Mapping[str, Callable[[], str]] = {
    "cli": cli,
    "metrics": metrics,
    "policy": policy,
    "python": python,
    "rooms": rooms,
    "scenario": scenario,
    "sources": sources,
    "strategies": strategies,
    "trackers": trackers,
}

#: Files at the root of the repository that are pages of the site, with their places there.
ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security.md", "CHANGELOG.md": "changelog.md"}


def on_config(config: Any) -> Any:
    """Complete the navigation (mkdocs event): the design notes, and how-to pages that it does not name."""
    notes = [f"design/{path.name}" for path in sorted((ROOT / "docs" / "design").glob("*.md"))]
    for section in config.nav:
        ((title, entries),) = section.items()
        named = {place for entry in entries if isinstance(entry, dict) for place in entry.values()}
        if title == "How to":
            places = (f"how_to/{path.name}" for path in sorted((ROOT / "docs" / "how_to").glob("*.md")))
            entries += [place for place in places if place not in named]
        for entry in entries:
            if isinstance(entry, dict) and entry.get("Design notes") == "design/":
                entry["Design notes"] = notes
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie at the root of the repository (mkdocs event)."""
    from mkdocs.structure.files import File

    for name, place in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fill in what a page takes from the code, and let links to the root's files lead to their pages (mkdocs event)."""
    up = "../" * page.file.src_uri.count("/")
    for name, place in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{up}{name}", f"]({up}{place}").replace(f"]({name}", f"]({place}")
    return re.sub(r"<!-- made: (\w+) -->", lambda mark: MADE[mark[1]](), markdown)
