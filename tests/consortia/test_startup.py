"""Commands that train nothing load no library that trains: modules are counted, no clock is asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from consortia.cli import build_app
from consortia.cli.commands import COMMANDS

HEAVY = ("torch", "opacus", "flwr", "pandas", "dp_accounting", "numpy", "scipy", "sklearn", "pyarrow", "matplotlib")
CODE = """
import sys
from consortia.cli import main
try:
    main()
except SystemExit as end:
    print("status", end.code, "loaded", *sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def _run(*arguments: str, home: Path, **further: str) -> tuple[int, set[str], int]:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={"CONSORTIA_HOME": str(home), "PATH": "", "PYTHONPATH": ":".join(sys.path), **further},
    )
    _, status, _, *loaded = done.stderr.splitlines()[-1].split()
    return int(status), set(loaded) & set(HEAVY), len(loaded)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("--help", 0),
        ("budget --help", 0),
        ("nonsense", 2),
        ("run nonsense", 2),
        ("run linear --engine bogus", 2),
        ("run banks --rounds 0", 2),
        ("run banks --epsilon nobody=1", 2),
        ("run banks --engine flower", 2),
        ("check nonsense", 2),
        ("check banks --rounds 0", 2),
        ("budget show", 2),
        ("budget show nobody", 2),
        ("budget history nobody", 2),
        ("budget set nobody --run 1", 2),
        ("receipt nobody", 2),
        ("verify nothing.json --keys nowhere", 2),
        ("participant list", 0),
        ("new --help", 0),
        ("new strategy fedavg", 2),
        ("new metric auc", 2),
        ("new source csv", 2),
        ("new tracker mlflow", 2),
    ],
)
def test_no_heavy_library_is_loaded(words: str, status: int, tmp_path: Path) -> None:
    got, heavy, packages = _run(*words.split(), home=tmp_path)
    assert (got, heavy) == (status, set())
    assert packages < 200


@pytest.mark.parametrize(
    ("words", "most"),
    [
        ("check banks", {"torch", "numpy"}),
        pytest.param("check secure-banks", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
        pytest.param("check banks-network", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
        pytest.param("check shared-heart", {"torch", "numpy"}, marks=pytest.mark.end_to_end),
    ],
)
def test_a_plan_that_was_shown_before_needs_no_accountant_no_frames_and_no_opacus(
    words: str, most: set[str], tmp_path: Path
) -> None:
    made = CliRunner().invoke(build_app(words.split()), words.split(), env={"XDG_CACHE_HOME": str(tmp_path)})
    assert made.exit_code == 0
    status, heavy, _ = _run(*words.split(), home=tmp_path, XDG_CACHE_HOME=str(tmp_path))
    assert (status, heavy) == (0, most)


@pytest.mark.parametrize("words", [["--help"], ["budget", "--help"]])
def test_help_says_what_the_commands_say(words: list[str]) -> None:
    # Without words every command is imported, and speaks for itself.
    short = CliRunner().invoke(build_app(words), words).output
    assert short == CliRunner().invoke(build_app(), words).output
    assert all(name in short for name in (COMMANDS if words == ["--help"] else COMMANDS["budget"].inside))


def test_only_the_command_that_is_named_is_there() -> None:
    named = build_app(["budget", "show", "--help"])
    assert "--json" in CliRunner().invoke(named, ["budget", "show", "--help"]).output
    assert "--json" not in CliRunner().invoke(named, ["run", "--help"]).output


def test_importing_consortia_loads_nothing_heavy() -> None:
    code = "import sys, consortia; dir(consortia); consortia.ArgumentError; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & set(HEAVY)


def test_a_launcher_that_waits_has_loaded_nothing_that_trains() -> None:
    code = "import sys, consortia.deploy.launcher, consortia.deploy.courier; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in done.stdout.split()} & {"torch", "opacus", "pandas", "sklearn"}
