"""The docs are true: what exists is named, what is named exists, commands parse, links lead somewhere, files fit."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import typer
from command_line import APP
from doc_blocks import MISSES, NOT_RUN, PAGES, ROOT, blocks, commands, missing, script, why_not_run, words
from markdown.extensions.toc import slugify
from own_learners import centres
from packages import Packages

from clients import metric_registry, registry, source_registry
from clients.declared import ClientFile
from clients.networks import registry as networks
from clients.spec import ModelSpec
from consortia.common.errors import InputError
from consortia.common.strict import parse
from consortia.reports import trackers
from consortia.terms import learners
from consortia.terms.choice import asks
from consortia.terms.policy import Policy
from consortia.terms.scenario import Scenario, committed_scenarios
from strategies import registry as strategies
from strategies.registry import NAMES

DOCS = ROOT / "docs"
SHELL = {".", "cat", "cd", "cp", "export", "head", "kubectl", "mkdir", "mv", "sed"}
#: Of a host's administrator, on the pages about systemd, backups and containers.
SHELL |= {"chown", "iptables", "systemctl", "systemd-analyze", "tar", "useradd"}


@cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def command_line() -> click.Group:
    group: Any = typer.main.get_command(APP)
    return group


@cache
def site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", DOCS / "site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["site_pages"] = module
    spec.loader.exec_module(module)
    return module


def test_the_readme_is_short_and_names_the_three_uses_early() -> None:
    lines = read(ROOT / "README.md").splitlines()
    assert len(lines) <= 150
    early = "\n".join(lines[:45])
    for use in ("docker compose up", "consortia new client", "consortia budget set"):
        assert use in early
    assert len(read(ROOT / "CONTRIBUTING.md").splitlines()) <= 120


@pytest.mark.parametrize("name", [*committed_scenarios(), *registry.names()])
def test_scenarios_and_clients_are_named(name: str) -> None:
    assert f"`{name}`" in read(DOCS / "reference" / "scenarios.md")


@pytest.mark.parametrize("name", NAMES)
def test_strategies_are_named(name: str) -> None:
    assert f"`{name}`" in read(DOCS / "reference" / "strategies.md")


def test_every_command_is_named_and_every_subcommand_is_in_the_reference() -> None:
    index = read(DOCS / "index.md")
    for name in command_line().commands:
        assert f"consortia {name}" in index, name
    made = site_pages().cli()
    for path, command in site_pages().commands(command_line()):
        section = made.split(f"## consortia {' '.join(path)}\n", 1)[1].split("\n## ", 1)[0]
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert f"`{parameter.opts[0]}`" in section, (path, parameter.name)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    """Names and options exist, paths of the repository too; nothing runs."""
    for command in commands(page):
        for simple in words(command):
            check_simple(simple)


def check_simple(simple: list[str]) -> None:
    program, *arguments = simple
    if program == "consortia":
        check_consortia(arguments)
    elif program == "make":
        makefile = read(ROOT / "Makefile")
        assert re.search(rf"^{arguments[0]}:", makefile, flags=re.MULTILINE), simple
    elif program == "docker" and arguments[:2] == ["network", "connect"]:
        assert arguments[-2].startswith("consortia-"), simple  # a network of a scenario's project
    elif program == "docker":
        assert arguments[0] == "compose"
        if arguments[1] == "exec":  # a launcher's container
            assert arguments[2].endswith("-app"), simple
            check_simple(arguments[3:])
            return
        assert arguments[1] in {"up", "run", "logs"}
        services = [word for word in arguments[2:] if not word.startswith("-")]
        templates = ROOT / "platform" / "consortia" / "templates"
        known = read(templates / "kit_compose.yml.txt") + read(templates / "compose.yml.txt")
        assert (ROOT / "docker-compose.yml").is_file()
        for service in services:
            assert re.search(rf"^  {service}:", known, flags=re.MULTILINE), simple
    elif program in {"python", ".ci/run"}:
        file = program if program == ".ci/run" else arguments[0]
        assert file == "-m" or (ROOT / file).is_file(), simple
    else:
        assert program in SHELL, simple


def check_consortia(arguments: list[str]) -> None:
    """Parse a command line as the program would, up to running it."""
    command: Any = command_line()
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, name
        command = command.commands[name]
    command.parse_args(click.Context(command), list(arguments))


def test_a_command_that_is_none_is_found() -> None:
    for wrong in (["budget", "shew", "x"], ["run", "banks-network", "--rouns", "3"], ["budget", "plan"]):
        with pytest.raises((AssertionError, click.UsageError, SystemExit)):
            check_consortia(wrong)
    with pytest.raises(AssertionError):
        check_simple(["make", "nothing"])
    with pytest.raises(AssertionError):
        check_simple(["docker", "compose", "run", "--rm", "nobody"])


def test_no_exception_is_left_over() -> None:
    every = [command for page in PAGES for command in commands(page)]
    for pattern, reason in NOT_RUN.items():
        assert any(re.search(pattern, command) for command in every), pattern
        for file in re.findall(r"tests/\S+\.py", reason):
            assert (ROOT / file).is_file(), reason
    assert set(MISSES) <= set(every)
    assert why_not_run("consortia check banks") is None


def test_a_page_is_one_script_and_what_it_shows_must_be_said(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nexport A=1   # kept for the next block\nmake up\n```\n```text\ntwo … four\nsix\n```\n"
        "```python\nx = 1\n```\n```python\nprint(x)\n```\n",
        encoding="utf-8",
    )
    assert "make up" not in script(page)
    assert script(page).index("export A=1") < script(page).index("x = 1\n") < script(page).index("print(x)")
    assert missing(page, "@@ 0\ntwo │ three │ four\n@@ 1\nsix\n") == ["six"]
    assert not missing(page, "@@ 0\nsix\ntwo three\nfour\n@@ 1\n")


def tables() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(blocks(page)):
            if block.language == "toml":
                yield pytest.param(block.text, id=f"{page.stem}-{number}")


@pytest.mark.parametrize("text", list(tables()))
def test_a_file_of_the_docs_has_known_keys_and_values(text: str) -> None:
    data = tomllib.loads(text)
    if "project" in data:
        return
    if asks(data.get("contract", {})):
        data["contract"]["learner"] = "sums"  # in a file it may be left to the rule
    model = Scenario if "contract" in data else ClientFile if "columns" in data else Policy
    try:
        with learners.lent("centres", centres().Centres):  # what docs/how_to/learners.md adds
            parse(model, data, "page")  # type: ignore[type-var]
    except InputError as error:
        # A page shows a part of a file, and `…` for what only a reader knows; nothing else may be wrong.
        wrong = [problem for problem in error.problems if "wanted a value, got none" not in problem]
        assert not [problem for problem in wrong if "…" not in problem]


def test_the_whole_policy_and_the_whole_scenario_are_whole() -> None:
    (policy, *_) = (block for block in blocks(DOCS / "how_to" / "policy.md") if block.language == "toml")
    assert parse(Policy, tomllib.loads(policy.text), "page").participant == "hospital-a"
    (scenario, *_) = (block for block in blocks(DOCS / "how_to" / "scenarios.md") if block.language == "toml")
    assert len(parse(Scenario, tomllib.loads(scenario.text), "page").roster) == 2


SEAM_PAGES = {
    "industry": ("clients", registry.get),
    "strategies": ("strategies", strategies.get),
    "own_metrics": ("metrics", metric_registry.get),
    "networks": ("networks", lambda name: networks.get(f"{networks.OWN}{name}")),
    "learners": ("learners", learners.get),
    "sources": ("sources", source_registry.get),
    "trackers": ("trackers", trackers.get),
}


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", SEAM_PAGES)
def test_the_python_of_a_seams_page_passes_its_conformance_suite(name: str) -> None:
    names: dict[str, Any] = {"__name__": f"page_{name}"}
    sources = [block.text for block in blocks(DOCS / "how_to" / f"{name}.md") if block.language == "python"]
    # A dataclass looks its own module up.
    sys.modules[str(names["__name__"])] = ModuleType(str(names["__name__"]))
    for source in sources:
        exec(source, names)
    assert any(re.search(r"^check_\w+\(", source, flags=re.MULTILINE) for source in sources)
    if name == "industry":
        assert len(sources[0].splitlines()) < 40
        module = names["WITH_OWN_MODULE"].encoder(7, ModelSpec(kind="mlp", hidden=(5, 3)))
        assert (module[0].in_features, module[0].out_features) == (7, 5)


@pytest.mark.parametrize("name", SEAM_PAGES)
def test_the_entry_point_of_a_seams_page_is_found(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(DOCS / "how_to" / f"{name}.md")
    group, get = SEAM_PAGES[name]
    code = next(block.text for block in found if block.language == "python")
    projects = [tomllib.loads(block.text) for block in found if block.language == "toml"]
    ((points,),) = [data["project"]["entry-points"].values() for data in projects if "project" in data]
    (assigned,) = points.items()
    module = assigned[1].partition(":")[0]
    lines = f"[consortia.{group}]\n{assigned[0]} = {assigned[1]}\n"
    Packages(tmp_path / "site", monkeypatch).install("partner", lines, **{module: code})
    assert get(assigned[0]) is getattr(importlib.import_module(module), assigned[1].partition(":")[2])


LINKED = (*PAGES, ROOT / "CHANGELOG.md", *sorted((DOCS / "design").glob("*.md")))


@pytest.mark.parametrize("page", LINKED, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)|<img [^>]*src=\"([^\"]+)\"", text):
        file, _, anchor = "".join(target).partition("#")
        if file.startswith("http"):
            continue
        place = page.parent / file if file else page
        assert place.exists(), f"{page.name}: {file}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", read(place), flags=re.MULTILINE)
            assert anchor in {slugify(heading, "-") for heading in headings}, f"{page.name}: {file}#{anchor}"


def test_every_public_module_can_be_imported_and_says_what_it_is() -> None:
    for modules in site_pages().PUBLIC.values():
        for name in modules:
            assert importlib.import_module(name).__doc__, name


def test_every_key_of_a_file_is_in_its_reference() -> None:
    for made, model in ((site_pages().scenario(), Scenario), (site_pages().policy(), Policy)):
        schema = model.model_json_schema(by_alias=True)
        for definition in (schema, *schema["$defs"].values()):
            for key in definition.get("properties", {}):
                assert f"| `{key}` |" in made, key
    assert "| `epsilon` | number > 0 | required |" in site_pages().policy()
    assert "## `[[roster]]`" in site_pages().scenario()
    assert "| `fedprox` | `mu` |" in site_pages().strategies()
    assert "| `auc` | AUC | higher | binary, anomaly | yes |" in site_pages().metrics()
    assert "| `csv` | `csv:PATH?separator=;&decimal=,&encoding=latin-1` | CSV files:" in site_pages().sources()
    assert "| `excel` | `excel:PATH?sheet=NAME&header=1` | One sheet of a workbook" in site_pages().sources()
    assert "| `mlflow` | MLflow: " in site_pages().trackers()


def test_every_page_is_in_the_navigation() -> None:
    navigation = read(ROOT / "mkdocs.yml")
    for page in DOCS.rglob("*.md"):
        if page.parent.name not in {"design", "how_to"}:  # docs/site_pages.py adds these where they are not named
            assert str(page.relative_to(DOCS)) in navigation, page


def test_the_files_that_the_architecture_names_exist() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text))
    assert len(named) > 15
    assert not [name for name in named if not any((ROOT / at / name).is_file() for at in ("", "platform/consortia"))]


def test_the_tests_that_the_guarantees_name_exist() -> None:
    for target in re.findall(r"`(tests/[\w./]+)`", read(DOCS / "guarantees.md")):
        assert (ROOT / target).exists(), target
