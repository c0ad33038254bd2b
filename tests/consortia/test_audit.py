"""`consortia audit` from outside: clean on the source tree, exit 1 on each of eleven mistakes put into a copy of it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from audit_mutants import LISTED, ROOT, Mutant
from audited_scenario import SCENARIOS
from command_line import APP
from mutant_texts import check_text
from planted_bugs import PLANTED, Planted
from spoilt_trees import audit, tree
from typer.testing import CliRunner

from consortia.audit.run import INSTRUMENTS


@pytest.mark.long
@pytest.mark.end_to_end
def test_eleven_mistakes_are_found_and_the_source_tree_is_clean(tmp_path: Path) -> None:
    """Every instrument looks at the tree as it is, and one at each mistake; `docs/planted-bugs.md` has all of them."""
    looks = {planted.name: planted.instrument for planted in PLANTED}

    def attempt(mutant: Mutant | None) -> tuple[str, int, bool, str]:
        name = mutant.name if mutant else "clean"
        folder = tree(tmp_path / name.replace("/", "by").replace(" ", "-"), mutant)
        only = ("--only", looks[name]) if mutant else ()
        status, result, said = audit(folder, "--quick", "--fail-fast", *only)
        violated = any(instrument["violations"] for instrument in result.get("instruments", []))
        return name, status, violated, said

    assert len(LISTED) == 11
    with ThreadPoolExecutor(2) as pool:
        results = {name: rest for name, *rest in pool.map(attempt, (None, *LISTED))}
    assert results.pop("clean")[:2] == [0, False]
    missed = {name: said for name, (status, violated, said) in results.items() if (status, violated) != (1, True)}
    assert not missed, missed


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_the_text_that_a_mistake_replaces_stands_there_once(planted: Planted) -> None:
    check_text(planted.mutant, ROOT)


def test_every_mistake_has_a_scenario_an_instrument_and_a_test() -> None:
    assert len(PLANTED) >= 30
    assert len({planted.name for planted in PLANTED}) == len(PLANTED)
    for planted in PLANTED:
        file, _, name = planted.test.partition("::")
        assert planted.scenario in SCENARIOS, planted
        assert planted.instrument in INSTRUMENTS, planted
        assert (ROOT / file).exists(), planted
        assert not name or f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), planted


def test_no_instrument_names_a_mistake() -> None:
    folder = ROOT / "platform" / "consortia" / "audit"
    text = "\n".join(path.read_text(encoding="utf-8").lower() for path in folder.glob("*.py"))
    for planted in PLANTED:
        assert planted.name not in text


def test_bad_input_is_a_sentence_and_status_2() -> None:
    runner = CliRunner()
    for arguments in (["audit", "no-such-scenario"], ["audit", "banks-network", "--only", "luck"]):
        assert runner.invoke(APP, arguments).exit_code == 2
