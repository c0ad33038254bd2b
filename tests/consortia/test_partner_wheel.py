"""Whatever a partner adds, in a wheel of its own and in a checkout: from nothing to a run and a passed suite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from privacy.ledger import Ledger

pytestmark = pytest.mark.end_to_end
ROOT = Path(__file__).resolve().parents[2]


def _python(*arguments: str, cwd: Path, path: list[Path], home: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=cwd,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, path)),
            "OMP_NUM_THREADS": "1",
            **({"CONSORTIA_HOME": str(home)} if home else {}),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _reads_lines(folder: Path) -> None:
    """Write a scenario in `trial` whose first participant has its rows as lines of JSON."""
    policies = folder / "trial" / "policies" / "linear"
    shutil.copytree(ROOT / "scenarios" / "policies" / "linear", policies)
    shutil.copy(ROOT / "scenarios" / "linear.toml", folder / "trial")
    rows = [{"x": number / 100 - 1, "y": 3 * (number / 100 - 1) + 2} for number in range(200)]
    (folder / "trial" / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    policy = policies / "line-a.toml"
    source = f'"jsonlines:{folder}/trial/rows.jsonl?encoding=utf-8"'
    policy.write_text(policy.read_text().replace('"synthetic:200"', source))


def _on_processes_and_audited(scenario: str, package: Path, path: list[Path]) -> None:
    """Run a scenario of the wheel on Flower's processes, each of which imports the wheel, and audit it."""
    homes = package.parent / "homes"
    _python("-m", "consortia.cli", "budget", "init", "--scenario", scenario, cwd=package, path=path, home=homes)
    words = ("run", scenario, "--engine", "flower")
    assert "completed after 2 rounds" in _python("-m", "consortia.cli", *words, cwd=package, path=path, home=homes)
    for home in homes.iterdir():
        with Ledger.open(home / "ledger.db", home.name) as ledger:
            entries = ledger.entries()
        assert [(entry.state, len(entry.events)) for entry in entries] == [("committed", 2), ("committed", 1)]
    words = ("audit", scenario, "--quick", "--only", "statistics")
    audited = _python("-m", "consortia.cli", *words, cwd=package, path=path)
    assert "statistics │ 4 " in audited
    assert "clean; chance of a false alarm" in audited


#: What is started, by what name, what is run to see it, and what the output then says.
SEAMS = [
    ("client", "insurer", ("run", "insurer", "--rounds", "3"), "insurer-north"),
    ("strategy", "part-way", ("run", "part-way", "--rounds", "3"), "part-way-used-car"),
    ("metric", "f1_score", ("run", "f1-score", "--rounds", "3"), "F1 score"),
    ("learner", "near-centres", ("run", "near-centres"), "completed after 2 rounds"),
    ("source", "jsonlines", ("run", "trial/linear.toml"), "line-a"),
    ("tracker", "lines", ("run", "linear", "--track", "lines"), "completed"),
]


@pytest.mark.parametrize(("what", "name", "words", "says"), SEAMS, ids=[seam[0] for seam in SEAMS])
def test_a_partner_ships_a_wheel(what: str, name: str, words: tuple[str, ...], says: str, tmp_path: Path) -> None:
    path = [ROOT, ROOT / "platform"]
    _python("-m", "consortia.cli", "new", what, name, "--wheel", cwd=tmp_path, path=path)
    package = tmp_path / f"consortia-{name.replace('_', '-')}"
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    _python(
        *(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(package)),
        cwd=tmp_path,
        path=[],
    )
    (wheel,) = wheels.glob("*.whl")
    _python(*(*pip, "install", "--no-deps", "--target", str(site), str(wheel)), cwd=tmp_path, path=[])
    for file in (package / f"consortia_{name.replace('-', '_')}").glob("*"):
        file.unlink()  # what runs is the installed wheel
    if what == "source":
        _reads_lines(package)
    output = _python("-m", "consortia.cli", *words, cwd=package, path=[*path, site])
    assert says in output
    if what == "learner":
        _on_processes_and_audited(name, package, [*path, site])
    if what == "tracker":
        (kept,) = package.glob("runs/linear-*/lines.jsonl")
        assert '"name": "round seconds", "round": 30' in kept.read_text()
    _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=package, path=[*path, site])


@pytest.mark.parametrize(("what", "name", "words", "says"), SEAMS, ids=[seam[0] for seam in SEAMS])
def test_the_start_of_something_new_in_a_checkout_runs_at_once(
    what: str, name: str, words: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    for folder in ("platform", "clients", "strategies", "privacy", "scenarios"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = [tmp_path, tmp_path / "platform"]
    _python("-m", "consortia.cli", "new", what, name, cwd=tmp_path, path=path)
    if what == "source":
        _reads_lines(tmp_path)
    assert says in _python("-m", "consortia.cli", *words, cwd=tmp_path, path=path)
    (test,) = tmp_path.glob(f"tests/*/test_{name.replace('-', '_')}.py")
    _python("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(test), cwd=tmp_path, path=path)
    _python("-m", "ruff", "check", ".", cwd=tmp_path, path=path)
    _python("-m", "ruff", "format", "--check", ".", cwd=tmp_path, path=path)


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
