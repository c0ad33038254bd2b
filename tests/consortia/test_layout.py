"""Traps of the layout that break everything at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_platform_has_no_init_file() -> None:
    # With one, this folder would replace the standard library's module `platform`, which torch imports.
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_the_standard_librarys_platform_wins_from_the_repository_root() -> None:
    code = "import platform; assert platform.system(), platform"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_no_file_is_too_long() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {lines}"
        for folder in ("platform", "clients", "privacy", "strategies", "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    assert not long
