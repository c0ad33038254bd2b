"""The rule of every seam: built-in and installed values by name, and one sentence for what is unknown or broken."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from packages import Packages
from typer.testing import CliRunner, Result

from consortia.terms.scenario import find_scenario
from consortia_plugins import Seam, rescan


class Unknown(Exception):
    pass


class Broken(Exception):
    pass


def _whole_number(name: str, found: Any) -> int:
    if not isinstance(found, int):
        raise ValueError(f"wanted a whole number, got {type(found).__name__}")
    return found


SEAM = Seam(
    "consortia.numbers",
    "number",
    _whole_number,
    built_in={"two": "numbers_of_ours:TWO", "one": "numbers_of_ours:ONE"},
    unknown=Unknown,
    broken=Broken,
)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    made = Packages(tmp_path / "site", monkeypatch)
    made.install("ours", "", numbers_of_ours="ONE, TWO = 1, 2")
    return made


def _says(kind: type[Exception], name: str, where: str = "") -> str:
    with pytest.raises(kind) as caught:
        SEAM.get(name, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_built_in_values_come_first_and_installed_ones_are_loaded_when_they_are_asked_for(packages: Packages) -> None:
    packages.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three="THREE = 3")
    packages.install("other", "[consortia.letters]\na = nowhere:A\n[somebody.else]\nfour = nowhere:FOUR\n")
    assert SEAM.names() == ("two", "one", "three")
    assert "numbers_of_three" not in sys.modules
    assert [SEAM.get(name) for name in SEAM.names()] == [2, 1, 3]
    assert SEAM.package("three") == "partner"
    assert SEAM.package("one") is None


def test_an_unknown_name_says_which_there_are_and_what_to_do(packages: Packages) -> None:
    packages.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n")
    assert _says(Unknown, "thre", "contract.number") == (
        "contract.number: wanted one of two, one, three, got 'thre' (did you mean 'three'?); correct the name, or "
        "install the package that brings it; after a new entry point run `pip install -e` again"
    )
    assert _says(Unknown, "x").startswith("number: wanted one of two, one, three, got 'x'; ")


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('no GPU')", "cannot be loaded from 'numbers_of_three:THREE': RuntimeError: no GPU"),
        ("import sys; sys.exit(3)", "cannot be loaded from 'numbers_of_three:THREE': SystemExit: 3"),
        ("import a_library_that_is_not_there", "ModuleNotFoundError: No module named"),
        ("THREE = (", "cannot be loaded from 'numbers_of_three:THREE': SyntaxError"),
        ("", "AttributeError"),
        ("THREE = 'three'", "wanted a whole number, got str"),
    ],
)
def test_a_broken_package_is_one_sentence_that_names_it_and_nothing_to_the_others(
    packages: Packages, code: str, told: str
) -> None:
    packages.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three=code)
    said = _says(Broken, "three")
    assert said.startswith("number 'three' of partner")
    assert told in said
    assert SEAM.get("one") == 1


def test_an_entry_point_that_names_nothing_is_a_sentence_too(packages: Packages) -> None:
    packages.install("partner", "[consortia.numbers]\nthree = not a module\n")
    assert "number 'three' of partner cannot be loaded from 'not a module'" in _says(Broken, "three")


def test_two_packages_never_share_a_name_and_none_replaces_a_built_in_value(packages: Packages) -> None:
    loaded = "raise AssertionError('loaded')"
    packages.install("first", "[consortia.numbers]\nthree = a:B\none = numbers_of_one:ONE\n", numbers_of_one=loaded)
    packages.install("second", "[consortia.numbers]\nthree = a:B\n")
    assert "number 'three': first, second all bring one" in _says(Broken, "three")
    assert "number 'one' is built in, and first brings another of that name" in _says(Broken, "one")
    assert SEAM.get("two") == 2


def test_a_package_with_an_unreadable_file_hurts_nobody_and_is_named(packages: Packages) -> None:
    packages.install("torn", "[consortia.numbers]\nthis line has no sign\n")
    packages.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three="THREE = 3")
    assert SEAM.get("three") == 3
    assert _says(Unknown, "four").endswith("; the entry points of torn cannot be read")


def test_a_second_copy_of_a_package_further_down_the_path_is_no_other_package(
    packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Packages(tmp_path / "older", monkeypatch)
    older.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three="THREE = 33")
    newer = Packages(tmp_path / "newer", monkeypatch)
    newer.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three="THREE = 3")
    assert SEAM.get("three") == 3


def test_what_is_installed_while_a_process_runs_is_found_after_a_second_look(packages: Packages) -> None:
    assert "three" not in SEAM.names()
    packages.install("partner", "[consortia.numbers]\nthree = numbers_of_three:THREE\n", numbers_of_three="THREE = 3")
    rescan()
    assert SEAM.get("three") == 3


def test_the_rule_itself_loads_nothing_heavy() -> None:
    code = "import sys, consortia_plugins; print(len({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 120


ALL = """
[consortia.clients]
broken = broken_package:VALUE
[consortia.learners]
broken = broken_package:VALUE
[consortia.mechanisms]
broken = broken_package:VALUE
[consortia.metrics]
broken = broken_package:VALUE
[consortia.sources]
broken = broken_package:VALUE
[consortia.strategies]
broken = broken_package:VALUE
[consortia.trackers]
broken = broken_package:VALUE
"""


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that brings everything, and cannot be imported."""
    Packages(tmp_path / "site", monkeypatch).install("partner", ALL, broken_package="raise OSError('moved')")


def _call(*words: object) -> Result:
    return CliRunner().invoke(APP, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.mark.end_to_end
@pytest.mark.usefixtures("broken")
def test_commands_that_do_not_need_a_broken_package_run(tmp_path: Path) -> None:
    assert _call("--help").exit_code == 0
    assert _call("check", "linear").exit_code == 0
    run = _call("run", "linear", "--epsilon", "inf", "--out", tmp_path / "runs")
    assert run.exit_code == 0, run.output
    assert "broken_package" not in sys.modules


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"fedavg"', '"broken"', ("check",)),
        ("rounds =", 'learner = "broken"\nrounds =', ("check",)),
        ("linear]\nmodel", "broken]\nmodel", ("check",)),
        ("", "", ("run", "--track", "broken")),
    ],
)
def test_a_command_that_needs_it_names_the_package(old: str, new: str, words: tuple[str, ...], tmp_path: Path) -> None:
    text = find_scenario("linear").read_text(encoding="utf-8").replace(old, new)
    file = tmp_path / "linear.toml"
    file.write_text(text.replace('industry = "linear"', 'industry = "broken"') if "model" in old else text)
    result = _call(words[0], file, *words[1:])
    assert result.exit_code in {1, 2}
    said = result.output.replace("\n", "")
    assert "'broken' of partner cannot be loaded from 'broken_package:VALUE': OSError: moved" in said, said
