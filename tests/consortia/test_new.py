"""`consortia new`: what is written where, and what is refused before anything is written."""

from __future__ import annotations

import ast
import shutil
import tomllib
from pathlib import Path

import pytest
from command_line import APP
from typer.testing import CliRunner, Result

from consortia.cli.new import _SEAMS, _path

ROOT = Path(__file__).resolve().parents[2]


def call(*words: str) -> Result:
    return CliRunner().invoke(APP, ["new", *words], env={"COLUMNS": "200"})


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The registries of a checkout: what a new value's line goes into."""
    for seam in _SEAMS.values():
        file = tmp_path / _path(seam.registry)
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / _path(seam.registry), file)
    return tmp_path


NEW = {
    "client": "insurer",
    "strategy": "part-way",
    "metric": "f1_score",
    "learner": "near-centres",
    "source": "jsonlines",
    "tracker": "lines",
}


@pytest.mark.parametrize(("what", "name"), NEW.items())
def test_a_line_more_in_the_table_and_nothing_else_is_changed(what: str, name: str, checkout: Path) -> None:
    seam = _SEAMS[what]
    registry = checkout / _path(seam.registry)
    before = registry.read_text(encoding="utf-8").splitlines()
    result = call(what, name, "--folder", str(checkout))
    assert result.exit_code == 0, result.output
    after = registry.read_text(encoding="utf-8").splitlines()
    added = [line.strip() for line in after if line not in before]
    module = f"{seam.package}.{name.replace('-', '_')}"
    wanted = f'"{name}": "{module}:{seam.attribute or name.title().replace("-", "")}",'
    assert added == ([wanted] if seam.table else [])
    assert len(after) == len(before) + seam.table
    assert (checkout / _path(module)).is_file()
    for file in checkout.rglob("*.py"):
        ast.parse(file.read_text(encoding="utf-8"))
    assert bool(list(checkout.glob("scenarios/*.toml"))) == seam.scenario
    again = call(what, name, "--folder", str(checkout))
    assert again.exit_code == 2
    assert "wanted to write" in again.output
    assert registry.read_text(encoding="utf-8").splitlines() == after


@pytest.mark.parametrize(("what", "name"), NEW.items())
def test_a_wheel_names_its_value(what: str, name: str, tmp_path: Path) -> None:
    result = call(what, name, "--folder", str(tmp_path), "--wheel")
    assert result.exit_code == 0, result.output
    (project,) = tmp_path.glob("*/pyproject.toml")
    data = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    assert data["name"] == project.parent.name == f"consortia-{name.replace('_', '-')}"
    ((group, points),) = data["entry-points"].items()
    assert group == {"strategy": "consortia.strategies"}.get(what, f"consortia.{what}s")
    module, _, attribute = points[name].partition(":")
    code = (project.parent / module / "__init__.py").read_text(encoding="utf-8")
    assert f"class {attribute}" in code or f"\n{attribute} = " in code


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("strategy", "fedavg"), "new strategy: wanted a new name, got 'fedavg', which exists already"),
        (("metric", "auc"), "new metric: wanted a new name, got 'auc'"),
        (("learner", "sums"), "new learner: wanted a new name, got 'sums', which exists already"),
        (("learner", "gradient"), "got 'gradient', which exists already"),
        (("source", "csv"), "new source: wanted a new name, got 'csv'"),
        (("tracker", "mlflow"), "new tracker: wanted a new name, got 'mlflow'"),
        (
            ("metric", "f1-score"),
            "small letters and digits, joined by '_', got 'f1-score'; take 'f1_score', for instance",
        ),
        (("strategy", "part_way"), "joined by '-', got 'part_way'"),
        (("source", "My Source"), "new source: wanted a name of 2 to 30 small letters and digits, got 'My Source'"),
        (("tracker", "lambda"), "got 'lambda'"),
        (("strategy", "x" * 31), "new strategy: wanted a name of 2 to 30"),
        (("metric", "f1"), "wanted a checkout of consortia in"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    result = call(*words, "--folder", str(tmp_path))
    assert result.exit_code == 2
    assert told in result.output
    assert not list(tmp_path.iterdir())


def test_a_table_without_its_mark_is_named_and_left_alone(checkout: Path) -> None:
    registry = checkout / "clients" / "metric_registry.py"
    text = registry.read_text(encoding="utf-8").replace("# `consortia new metric` adds", "# adds")
    registry.write_text(text, encoding="utf-8")
    result = call("metric", "f1", "--folder", str(checkout))
    assert result.exit_code == 2
    assert "wanted the comment `consortia new metric` in the table of" in result.output
    assert registry.read_text(encoding="utf-8") == text
    assert not (checkout / "clients" / "metrics" / "f1.py").exists()
