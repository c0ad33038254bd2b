"""From a clean clone to nine participants' table on real files: what docs/how_to/containers.md says, word by word.

Only the environment is given: `make install` finds this one, for a new one takes minutes and a package index.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from doc_blocks import ROOT, Block, blocks
from federation import PREFIX, docker, engine

PAGE = ROOT / "docs" / "how_to" / "containers.md"
NAMES = [f"clinic-{letter}" for letter in "abcdefghi"]
MOST_COMMANDS = 8


def _section() -> tuple[str, list[str]]:
    """Return the Python and the commands of the page's section."""
    found = blocks(PAGE)
    at = next(number for number, block in enumerate(found) if "make install" in block.text)
    rows, steps = found[at - 1], found[at]
    assert (rows.language, steps.language) == ("python", "sh")
    return rows.text, _commands(steps)


def _commands(block: Block) -> list[str]:
    return [line.split("  #")[0].strip() for line in block.text.splitlines()]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clean clone, with an environment that is there already: this one, in which `consortia` is the clone's."""
    folder = tmp_path / "consortia"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, words in (("python", ""), ("consortia", "-P -m consortia.cli")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', encoding="utf-8")
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f"PATH={programs}:$PATH; export PATH\n", encoding="utf-8")
    (folder / ".venv" / ".ready").touch()
    return folder


def _typed(clone: Path, rows: str, commands: list[str], more: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run what a reader types, in one shell."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CONSORTIA_", "VIRTUAL_ENV"))}
    environment = kept | {"PYTHONPATH": f"{clone}:{clone / 'platform'}", "OMP_NUM_THREADS": "1"} | more
    subprocess.run([sys.executable, "-c", rows], cwd=clone, env=environment, check=True)
    text = "\n".join(["set -eu", *commands])
    command = ["bash", "-c", text]
    return subprocess.run(
        command, cwd=clone, env=environment, capture_output=True, text=True, timeout=1700, check=False
    )


def test_it_is_at_most_eight_commands_with_the_clone() -> None:
    _, commands = _section()
    assert 1 + len(commands) <= MOST_COMMANDS
    assert [command for command in commands if "&&" in command or ";" in command] == []


@pytest.mark.end_to_end
def test_what_comes_before_the_containers(clone: Path) -> None:
    rows, commands = _section()
    at = commands.index("make up SCENARIO=screening")
    done = _typed(clone, rows, commands[:at], {})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    compose = (clone / "scenarios" / "screening.compose.yml").read_text(encoding="utf-8")
    for name in NAMES:
        policy = tomllib.loads((clone / "homes" / name / "policy.toml").read_text(encoding="utf-8"))
        assert policy["dataset"]["screening"]["source"] == "csv:/data/rows.csv"
        assert (clone / "homes" / name / "ledger.db").is_file()
        assert f"\n  {name}-app:\n" in compose


@pytest.mark.containers
def test_nine_participants_table_on_real_files(clone: Path) -> None:
    if reason := engine():
        pytest.skip(reason)
    rows, commands = _section()
    project = f"{PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
    given = {"COMPOSE_PROJECT_NAME": project, "TORCH_INDEX": os.environ.get("TORCH_INDEX", "")}
    given |= {name: os.environ[name] for name in ("CONSORTIA_BASE", "CONSORTIA_SUBNETS") if name in os.environ}
    try:
        done = _typed(clone, rows, commands, given)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (file,) = (clone / "runs").glob("*/result.json")
        record = json.loads(file.read_text())
        assert (record["status"], sorted(record["participants"])) == ("completed", NAMES)
        for name in NAMES:
            assert re.search(rf"^{name}: screening-", done.stdout, flags=re.MULTILINE), name  # its receipt
            (receipt,) = (clone / "homes" / name / "runs").glob("*/receipt.json")
            assert json.loads(receipt.read_text())["synthetic"] is False
    finally:
        docker("compose", "--project-name", project, "down", "--volumes", "--remove-orphans", "--timeout", "3")
