"""The docs run: every page's commands and Python blocks from top to bottom, and the site builds and stays offline."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_blocks import ROOT, missing, script

pytestmark = pytest.mark.end_to_end
DOCS = ROOT / "docs"
#: How-to pages whose commands no other test runs; `budgets.md` is run by tests/consortia/test_tuning.py.
RUN = (
    ROOT / "README.md",
    *sorted((DOCS / "tutorials").glob("*.md")),
    *(
        DOCS / "how_to" / f"{name}.md"
        for name in ("audit", "industry", "metrics", "policy", "python", "reports", "secure_sums")
    ),
)


def checkout(folder: Path) -> dict[str, str]:
    """Copy what a reader's checkout has into `folder`; return an environment in which `consortia` is that copy."""
    for name in ("platform", "clients", "strategies", "privacy", "scenarios", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name)  # compiled modules, too: their sources keep size and time
    programs = folder / ".bin"
    programs.mkdir()
    for name, words in (("python", ""), ("consortia", "-P -m consortia.cli")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CONSORTIA_")}
    return kept | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{folder}{os.pathsep}{folder / 'platform'}",
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.long
@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path) -> None:
    environment = checkout(tmp_path)
    done = subprocess.run(
        ["bash", "-c", script(page)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert not missing(page, done.stdout)


def test_the_site_builds_strictly_and_asks_nobody(tmp_path: Path) -> None:
    """`--strict` makes every broken link, missing anchor and page outside the navigation an error."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.findall(r"<(?:script|img|iframe|link)[^>]* (?:src|href)=\"(?:https?:)?//[^\"]*\"", text), page
    for sheet in (tmp_path / "site").rglob("*.css"):
        assert not re.search(r"@import|url\(\"?(?:https?:)?//", sheet.read_text(encoding="utf-8")), sheet
    command_line = (tmp_path / "site" / "reference" / "cli.html").read_text(encoding="utf-8")
    assert "consortia budget set" in command_line
    assert "<!-- made" not in command_line
    assert "check_client" in (tmp_path / "site" / "reference" / "python.html").read_text(encoding="utf-8")
