"""`consortia new`: creates an industry, strategy, metric, source, learner or tracker that runs at once."""

from __future__ import annotations

import importlib
import keyword
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated, Final

import typer

from consortia.common.console import friendly, tell
from consortia.common.errors import InputError
from consortia.learners.blocks.shares import OWN_KIND

app = typer.Typer(help="Write the start of something new.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(help="Its name: lower-case letters and digits.")]
_Folder = Annotated[Path, typer.Option(help="Where to write.")]
_Wheel = Annotated[bool, typer.Option("--wheel", help="Write a package of its own instead, found by its entry point.")]


@dataclass(frozen=True)
class _Seam:
    """Where the parts of something new go in a checkout.

    Attributes
    ----------
    package : str
        Of the module, such as "clients.metrics".
    tests : str
        Folder of the test.
    registry : str
        Module that knows the names.
    attribute : str
        Name of the value in the module; empty for a class that is named after the value.
    table : bool
        Whether the registry has a table of names, which gets a line; industries are found by their files.
    scenario : bool
        Whether a scenario shows it.
    between : str
        What may join the words of a name.
    """

    package: str
    tests: str
    registry: str
    attribute: str = ""
    table: bool = True
    scenario: bool = False
    between: str = ""


_SEAMS: Final = {
    "client": _Seam("clients", "tests/clients", "clients.registry", "CLIENT", table=False, scenario=True),
    "strategy": _Seam("strategies", "tests/strategies", "strategies.registry", scenario=True, between="-"),
    "metric": _Seam(
        "clients.metrics", "tests/clients", "clients.metric_registry", "METRIC", scenario=True, between="_"
    ),
    "learner": _Seam("consortia.learners", "tests/consortia", "consortia.terms.learners", scenario=True, between="-"),
    "source": _Seam("clients.sources", "tests/clients", "clients.source_registry"),
    "tracker": _Seam("consortia.reports.trackers", "tests/consortia", "consortia.reports.trackers"),
}


_ROUNDS: Final = 'rounds = 20\nstrategy = {{ name = "{}" }}\n'
_STEPS: Final = """model = { kind = "linear" }
local_steps = 2
sampling_rate = 1.0
clip = 1.0
learning_rate = 1.0
"""


@app.callback()
def _group() -> None:
    """Write the start of something new."""


@app.command(epilog="Example: consortia new client insurer && consortia run insurer")
@friendly
def client(
    name: _Name,
    folder: _Folder = Path(),
    wheel: _Wheel = False,
    places: Annotated[
        list[str] | None,
        typer.Option("--from", help="Rows: a file, a folder or a pattern; then the client is a file without Python."),
    ] = None,
    target: Annotated[str, typer.Option(help="With --from: the column that is predicted.")] = "",
    kind: Annotated[
        str, typer.Option(help="With --from: binary, multiclass or regression, where the guess is wrong.")
    ] = "",
    unit: Annotated[str, typer.Option(help="With --from: the column that says whose row it is.")] = "record",
    identifier: Annotated[list[str] | None, typer.Option(help="With --from: a column that is dropped.")] = None,
    epsilon: Annotated[str, typer.Option(help="With --from: proposed budgets, one or one for each file.")] = "2",
    compose: Annotated[
        bool, typer.Option("--compose", help="Write the compose file, too, and print the steps to containers.")
    ] = False,
) -> None:
    """Write an industry client, its test and a scenario with demonstration policies that run at once."""
    if places:
        from consortia.cli.new_from_rows import write_client

        if wheel or kind not in {"", "binary", "multiclass", "regression"}:
            raise InputError("--from: wanted no --wheel, and --kind binary, multiclass or regression; got another")
        wanted = {"target": target, "kind": kind, "unit": unit, "identifiers": identifier or [], "epsilon": epsilon}
        if compose:
            _check_checkout(folder)
        write_client(name, folder, places, **wanted)  # type: ignore[arg-type]
    else:
        if compose and wheel:
            raise InputError("--compose: wanted no --wheel, whose client goes into the image by wheels/; got both")
        if compose:
            _check_checkout(folder)
        _write("client", name, folder, wheel=wheel)
    if compose:
        _to_containers(name, from_rows=bool(places))


def _check_checkout(folder: Path) -> None:
    """Refuse containers where no image can be built: it takes `clients/` of the checkout in which one works."""
    if folder.resolve() != Path().resolve() or not Path("platform", "Dockerfile").is_file():
        raise InputError(
            f"--compose: wanted a checkout of consortia as the folder in which you work, got {folder.resolve()}; the "
            "image is built from it"
        )


def _to_containers(name: str, *, from_rows: bool) -> None:
    """Write the compose file of the new scenario, and print what is left to do."""
    from consortia.cli.compose import compose

    slug = re.sub("[-_]", "-", name)
    compose(slug)
    steps = [
        *([f"consortia client confirm {name}"] if from_rows else []),
        f"consortia home init --scenario {slug} --data data --home homes --containers",
        f"make up SCENARIO={slug}",
        f"make receipts SCENARIO={slug}",
    ]
    tell(
        f"in containers: put each participant's file into data/PARTICIPANT/, then {' && '.join(steps)}   (on synthetic "
        "rows without the home init)"
    )


@app.command(epilog="Example: consortia new strategy part-way && consortia run part-way")
@friendly
def strategy(name: _Name, folder: _Folder = Path(), wheel: _Wheel = False) -> None:
    """Write a strategy, its test and a scenario that trains with it at once."""
    _write("strategy", name, folder, wheel=wheel)


@app.command(epilog="Example: consortia new metric f1 && consortia run f1")
@friendly
def metric(name: _Name, folder: _Folder = Path(), wheel: _Wheel = False) -> None:
    """Write a metric, its test and a scenario whose receipts lead with it."""
    _write("metric", name, folder, wheel=wheel)


@app.command(epilog="Example: consortia new source jsonlines")
@friendly
def source(name: _Name, folder: _Folder = Path(), wheel: _Wheel = False) -> None:
    """Write a source of rows and its test; a policy names it as `source = "NAME:…"`."""
    _write("source", name, folder, wheel=wheel)


@app.command(epilog="Example: consortia new learner centres && consortia run centres")
@friendly
def learner(name: _Name, folder: _Folder = Path(), wheel: _Wheel = False) -> None:
    """Write a learner of noisy sums, its test and a scenario that trains with it at once."""
    _write("learner", name, folder, wheel=wheel)


@app.command(epilog="Example: consortia new tracker lines && consortia run linear --track lines")
@friendly
def tracker(name: _Name, folder: _Folder = Path(), wheel: _Wheel = False) -> None:
    """Write a tracker of runs and its test; `consortia run … --track NAME` feeds it."""
    _write("tracker", name, folder, wheel=wheel)


def _write(what: str, name: str, folder: Path, *, wheel: bool) -> None:
    seam = _SEAMS[what]
    identifier, slug = re.sub("[-_]", "_", name), re.sub("[-_]", "-", name)
    words = rf"[a-z][a-z0-9]*(?:[{seam.between}][a-z0-9]+)*" if seam.between else "[a-z][a-z0-9]*"
    if not re.fullmatch(words, name) or not 2 <= len(name) <= 30 or keyword.iskeyword(identifier):
        joined = f", joined by {seam.between!r}" if seam.between else ""
        near = re.sub("[^a-z0-9]+", seam.between, name.lower()).strip("-_")
        advice = f"; take {near!r}, for instance" if near != name and re.fullmatch(words, near) else ""
        raise InputError(f"new {what}: wanted a name of 2 to 30 small letters and digits{joined}, got {name!r}{advice}")
    if name in importlib.import_module(seam.registry).names():
        raise InputError(f"new {what}: wanted a new name, got {name!r}, which exists already")
    registry = folder / _path(seam.registry)
    if not registry.is_file() and not wheel:
        raise InputError(
            f"new {what}: wanted a checkout of consortia in {folder.resolve()}, got none; go there, or write a "
            "package of your own with --wheel"
        )
    base = folder / f"consortia-{slug}" if wheel else folder
    class_name = "".join(word.capitalize() for word in identifier.split("_"))
    values = {
        "what": what,
        "name": name,
        "slug": slug,
        "identifier": identifier,
        "title": name.replace("_", " ").capitalize(),
        "class_name": class_name,
        "module": f"consortia_{identifier}" if wheel else f"{seam.package}.{identifier}",
        "attribute": seam.attribute or class_name,
        "group": f"consortia.{'strategies' if what == 'strategy' else what + 's'}",
    }
    code = base / values["module"] / "__init__.py" if wheel else base / _path(values["module"])
    files = {
        code: _fill(f"{what}.py.txt", values),
        (base / "tests" if wheel else base / seam.tests) / f"test_{identifier}.py": _fill(
            f"test_{what}.py.txt", values
        ),
    }
    if seam.scenario:
        files |= _scenario(what, base, values)
    if wheel:
        files[base / "pyproject.toml"] = _fill("pyproject.toml.txt", values)
    if taken := [str(file) for file in files if file.exists()]:
        raise InputError(f"new {what}: wanted to write {', '.join(taken)}, got files there; move them away")
    if seam.table and not wheel:
        files[registry] = _with_line(registry, what, values)
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        tell(f"wrote {file}")
    shown = {
        "source": f'a policy with source = "{name}:PATH"; python -m pytest {"tests" if wheel else seam.tests}',
        "tracker": f"consortia run linear --track {name}",
    }.get(what, f"consortia run {slug}")
    steps = [f"pip install -e {base}", f"cd {base}", shown] if wheel else [shown]
    tell("next: " + " && ".join(steps))


def _scenario(what: str, base: Path, values: dict[str, str]) -> dict[Path, str]:
    """Return a scenario that shows it, with demonstration policies."""
    name, slug = values["name"], values["slug"]
    industry = name if what == "client" else "bank"
    strategy = name if what == "strategy" else "fedavg"
    sites = ("north", "south") if what == "client" else ("new-car", "used-car")
    values = {
        **values,
        "industry": industry,
        "first": sites[0],
        "second": sites[1],
        "training": f'learner = "{name}"\n' if what == "learner" else _ROUNDS.format(strategy),
        "steps": "" if what == "learner" else _STEPS,
        "release": OWN_KIND if what == "learner" else "update",
        "metrics": f'metrics = ["{name}"]\n' if what == "metric" else "",
        "scenario_title": f"Two sites of the industry {industry}"
        + ("" if what == "client" else f", with the {what} {name}"),
    }
    files = {base / "scenarios" / f"{slug}.toml": _fill("scenario.toml.txt", values)}
    for site, epsilon in zip(sites, (2.0, 4.0), strict=True):
        participant = f"{slug}-{site}"
        of_site = {"participant": participant, "site": site, "epsilon": str(epsilon), "lifetime": str(4 * epsilon)}
        files[base / "scenarios" / "policies" / slug / f"{participant}.toml"] = _fill(
            "policy.toml.txt", {**values, **of_site}
        )
    return files


def _with_line(registry: Path, what: str, values: dict[str, str]) -> str:
    """Return the registry's text with one more line in its table."""
    text = registry.read_text(encoding="utf-8")
    marks = re.findall(rf"^ *# `consortia new {what}` adds .*\n", text, flags=re.MULTILINE)
    if len(marks) != 1:
        raise InputError(
            f"new {what}: wanted the comment `consortia new {what}` in the table of {registry}, got {len(marks)} of "
            "them; put it back as its last line"
        )
    indent = " " * (len(marks[0]) - len(marks[0].lstrip()))
    line = f'{indent}"{values["name"]}": "{values["module"]}:{values["attribute"]}",\n'
    return text.replace(marks[0], line + marks[0])


def _path(module: str) -> Path:
    """Return a module's place in a checkout, `platform/` being a source root; of a package its `__init__.py`."""
    path = Path("platform" if module.startswith("consortia.") else "", *module.split("."))
    return path / "__init__.py" if module == "consortia.reports.trackers" else path.with_suffix(".py")


def _fill(template: str, values: dict[str, str]) -> str:
    text = (resources.files("consortia") / "templates" / template).read_text(encoding="utf-8")
    filled = Template(text).substitute(values)
    # Where a module of one's own belongs among the imports depends on its name.
    return re.sub(
        r"(?:^from \S+ import .*\n)+", lambda found: "".join(sorted(found[0].splitlines(True))), filled, flags=re.M
    )
