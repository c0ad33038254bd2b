"""`consortia new`: creates a new industry that runs at once."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from clients import registry
from consortia.common.console import friendly, out
from consortia.common.errors import InputError

app = typer.Typer(help="Write the start of something new.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Write the start of something new."""


@app.command(epilog="Example: consortia new client insurer && consortia run insurer")
@friendly
def client(
    name: Annotated[str, typer.Argument(help="Name of the industry: lower-case letters, digits, underscores.")],
    folder: Annotated[Path, typer.Option(help="Where to write.")] = Path(),
    wheel: Annotated[
        bool, typer.Option("--wheel", help="Write a package of its own instead, found by its entry point.")
    ] = False,
) -> None:
    """Write an industry client, its test and a scenario with demonstration policies that run at once."""
    if not re.fullmatch(r"[a-z][a-z0-9]{1,20}", name) or keyword.iskeyword(name):
        raise InputError(f"new client: wanted a name like 'insurer' (letters and digits), got {name!r}")
    if name in registry.names():
        raise InputError(f"new client: wanted a new name, got {name!r}, which exists already")
    in_tree = (folder / "clients" / "registry.py").is_file()
    if not in_tree and not wheel:
        raise InputError(
            f"new client: wanted a checkout of consortia in {folder.resolve()}, got none; go there, or write a "
            "package of your own with --wheel"
        )
    base = folder / f"consortia-{name}" if wheel else folder
    module = f"consortia_{name}" if wheel else f"clients.{name}"
    code = base / f"consortia_{name}" / "__init__.py" if wheel else base / "clients" / f"{name}.py"
    test = base / "tests" / f"test_{name}.py" if wheel else base / "tests" / "clients" / f"test_{name}.py"
    values = {"name": name, "title": name.capitalize(), "module": module}
    files = {
        code: _fill("client.py.txt", values),
        test: _fill("test_client.py.txt", values),
        base / "scenarios" / f"{name}.toml": _fill("scenario.toml.txt", values),
    }
    for site, epsilon in (("north", 2.0), ("south", 4.0)):
        participant = f"{name}-{site}"
        files[base / "scenarios" / "policies" / name / f"{participant}.toml"] = _fill(
            "policy.toml.txt",
            {
                **values,
                "participant": participant,
                "site": site,
                "epsilon": str(epsilon),
                "lifetime": str(4 * epsilon),
            },
        )
    if wheel:
        files[base / "pyproject.toml"] = _fill("pyproject.toml.txt", values)
    if taken := [str(file) for file in files if file.exists()]:
        raise InputError(f"new client: wanted to write {', '.join(taken)}, got files there; move them away")
    for file, text in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        out.print(f"wrote {file}", highlight=False, soft_wrap=True)
    steps = [f"pip install -e {base}", f"cd {base}", f"consortia run {name}"] if wheel else [f"consortia run {name}"]
    out.print("next: " + " && ".join(steps), highlight=False, soft_wrap=True)


def _fill(template: str, values: dict[str, str]) -> str:
    text = (resources.files("consortia") / "templates" / template).read_text(encoding="utf-8")
    return Template(text).substitute(values)
