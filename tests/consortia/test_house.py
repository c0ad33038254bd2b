"""The script that counts the layout sees what it must count."""

from __future__ import annotations

from pathlib import Path

from house import ROOT, Arrow, circles_of, describe, measure


def _package(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        file = root / "consortia" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        (file.parent / "__init__.py").touch()
    return root


def test_this_repository_keeps_its_layout() -> None:
    assert not measure(ROOT / "platform", root=ROOT).problems()


def test_an_import_in_the_direction_is_no_problem(tmp_path: Path) -> None:
    root = _package(
        tmp_path,
        {"terms/policy.py": "from consortia.common import errors\n", "common/errors.py": "", "common/more.py": ""},
    )
    found = measure(root)
    assert not found.problems(), found
    assert describe(found).startswith("entries 2 (at most 24), arrows 1, against the direction 0")


def test_an_arrow_against_the_direction_counts_in_a_function_too(tmp_path: Path) -> None:
    source = "def ask():\n    from consortia.participant.home import Home\n    return Home\n"
    root = _package(tmp_path, {"coordinator/rounds.py": source, "participant/home.py": "Home = 1\n"})
    assert measure(root).against == (Arrow("consortia.coordinator.rounds", "consortia.participant.home", True),)


def test_circles_of_modules_and_of_rooms_count(tmp_path: Path) -> None:
    root = _package(
        tmp_path,
        {
            "terms/a.py": "from consortia.terms import b\n",
            "terms/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import consortia.terms.a\n",
            "reports/x.py": "from consortia.deploy import y\n",
            "deploy/y.py": "",
            "deploy/z.py": "import consortia.reports.x\n",
        },
    )
    found = measure(root)
    assert found.circles == (("consortia.terms.a", "consortia.terms.b"),)
    assert found.room_circles == (("deploy", "reports"),)


def test_two_circles_are_two() -> None:
    assert circles_of([("a", "b"), ("b", "a"), ("b", "c"), ("c", "d"), ("d", "c")]) == (("a", "b"), ("c", "d"))


def test_entries_lines_and_rooms_without_a_place_count(tmp_path: Path) -> None:
    files = {f"room{number}.py": "" for number in range(25)} | {"terms/a.py": "from consortia import room1\n" * 401}
    problems = measure(_package(tmp_path, files)).problems()
    assert "platform/consortia: wanted at most 24 entries, got 26" in problems
    assert "room1: wanted a line in FLOORS of tests/helpers/house.py, got none" in problems
    assert any(problem.endswith("a.py: wanted at most 400 lines") for problem in problems)
