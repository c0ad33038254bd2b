"""Copies of the source tree with a mistake in them, and the audit of one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from audit_mutants import ROOT, Mutant
from audited_scenario import SCENARIO


def tree(target: Path, mutant: Mutant | None, scenario: str = SCENARIO) -> Path:
    """Copy the source tree to `target` with the mistake in it, beside a scenario; its text has to stand there once."""
    for folder in ("platform", "privacy", "clients", "strategies", "scenarios"):
        shutil.copytree(ROOT / folder, target / folder)  # compiled modules, too: compiling all takes seconds
    (target / "audited.toml").write_text(scenario, encoding="utf-8")
    for file, old, new in mutant.edits if mutant else ():
        text = (target / file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{mutant and mutant.name}: wanted {old!r} once in {file}, got {text.count(old)}"
        (target / file).write_text(text.replace(old, new), encoding="utf-8")
        Path(cache_from_source(str(target / file))).unlink(missing_ok=True)
    return target


def audit(folder: Path, *options: str, scenario: str = "") -> tuple[int, dict[str, Any], str]:
    """Run `consortia audit` of the tree in `folder` as a process; return exit status, its JSON, and what it said."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{folder / 'platform'}", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-P", "-m", "consortia.cli", "audit", scenario or str(folder / "audited.toml")]
    done = subprocess.run(
        [*command, "--json", *options], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    result = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    return done.returncode, result, done.stderr
