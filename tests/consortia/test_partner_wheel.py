"""A partner's industry in a wheel of its own, and a new industry in a checkout: from nothing to a run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).resolve().parents[2]


def _python(*arguments: str, cwd: Path, path: list[Path]) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_partner_ships_its_industry_in_a_wheel(tmp_path: Path) -> None:
    path = [ROOT, ROOT / "platform"]
    _python("-m", "consortia.cli", "new", "client", "insurer", "--wheel", cwd=tmp_path, path=path)
    package = tmp_path / "consortia-insurer"
    site = tmp_path / "site"
    _python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(package)),
        cwd=tmp_path,
        path=[],
    )
    output = _python("-m", "consortia.cli", "run", "insurer", "--rounds", "3", cwd=package, path=[*path, site])
    assert "insurer-north" in output
    assert "synthetic" in output
    _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package, path=[*path, site])


def test_the_wheel_carries_the_scenarios_and_runs_from_any_folder(tmp_path: Path) -> None:
    site = tmp_path / "site"
    _python(
        *("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(site), str(ROOT)),
        cwd=tmp_path,
        path=[],
    )
    assert (site / "consortia" / "_scenarios" / "cross-industry.toml").is_file()
    assert not (site / "platform").exists()
    output = _python("-m", "consortia.cli", "run", "linear", cwd=tmp_path, path=[site])
    assert "completed" in output


def test_a_new_industry_in_a_checkout_runs_at_once(tmp_path: Path) -> None:
    for folder in ("platform", "clients", "strategies", "privacy", "scenarios"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    path = [tmp_path, tmp_path / "platform"]
    _python("-m", "consortia.cli", "new", "client", "insurer", cwd=tmp_path, path=path)
    output = _python("-m", "consortia.cli", "run", "insurer", "--rounds", "3", cwd=tmp_path, path=path)
    assert "insurer-south" in output
    _python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "tests/clients/test_insurer.py"),
        cwd=tmp_path,
        path=path,
    )
