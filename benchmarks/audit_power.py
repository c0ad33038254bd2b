"""Put mistakes into copies of the source tree and see which instrument of `consortia audit` and which test finds each.

    PYTHONPATH=.:platform:tests/helpers python benchmarks/audit_power.py [OPTION ...] [NAME ...]
    PYTHONPATH=.:platform:tests/helpers python benchmarks/audit_power.py --table > docs/planted-bugs.md

The full audit by default, the quick one (`--quick`), or the tests (`--tests`). An audit runs the instrument that should
see a mistake, and the others where that one does not; `--whole` runs all of them, `--expected` that one alone. What was
found goes to `--results FILE` after every one, and a mistake whose answer stands there is not tried again: stop it and
go on at any time. `--ignore TEXT` leaves violations out that the source tree itself has. `--table` prints what is
known. Exits 1 when a mistake was missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from audited_scenario import SCENARIOS
from noise_mutants import HEAVY, red
from planted_bugs import PLANTED, Planted
from spoilt_trees import audit, tree

Found = dict[str, dict[str, Any]]

_HEAD = """# Planted bugs and who sees them

Made by `benchmarks/audit_power.py --table`. Each mistake is put into a copy of the source tree, and each of three tries
is made once on that copy:

* full audit: `consortia audit --only INSTRUMENT --fail-fast` with the instrument that should see the mistake, on a
  small scenario of `tests/helpers/audited_scenario.py`. If that instrument sees nothing, all of them run.
* quick audit: the same with `--quick`.
* test: the test file, or the one test, that should see the mistake, up to the first test that fails.

A cell names the instrument or the test that saw the mistake. A dash is a try in which nothing saw it, and an empty cell
is a try that was not made. The instruments draw fresh random numbers each time, so another try may end in another way
where a mistake is small.

| mistake | scenario | full audit | quick | test |
|---|---|---|---|---|"""


def by_audit(planted: Planted, *, quick: bool, whole: bool, expected: bool, ignore: list[str]) -> dict[str, Any]:
    """Return which instruments see a mistake; `tried` names those that ran, or "all"."""
    options, said = (["--quick"] if quick else []), ""
    tries = [[]] if whole else [["--only", planted.instrument, "--fail-fast"], *([] if expected else [[]])]
    with tempfile.TemporaryDirectory() as folder:
        place = tree(Path(folder), planted.mutant, SCENARIOS[planted.scenario])
        for only in tries:
            status, result, said = audit(place, *options, *only)
            seen = {}
            for instrument in result.get("instruments", []):
                laws = [v["law"] for v in instrument["violations"] if not any(text in v["got"] for text in ignore)]
                seen |= {instrument["instrument"]: laws[0]} if laws else {}
            if seen:
                return {"seen": seen, "tried": only[1:2] or "all", "status": status}
    return {
        "seen": {},
        "tried": planted.instrument if expected else "all",
        "status": status,
        "said": said.strip()[-300:],
    }


def by_test(planted: Planted) -> dict[str, Any]:
    """Return the tests that fail with the mistake in place."""
    with tempfile.TemporaryDirectory() as folder:
        place = tree(Path(folder), planted.mutant)
        failed = red(place, [planted.test]) or red(place, [planted.test], "end_to_end")
    return {"seen": failed}


def table(found: Found) -> str:
    """Return the page: every mistake, who sees it, and what is not known yet."""
    lines = _HEAD.splitlines()
    blind = []
    for planted in PLANTED:
        known = found.get(planted.name, {})
        cells = [", ".join(known[way]["seen"]) or "—" if way in known else "" for way in ("full", "quick")]
        test = known["test"]["seen"][0] if known.get("test", {}).get("seen") else "—" if "test" in known else ""
        if cells[1] == "—":
            blind.append(planted.name)
        lines.append(
            f"| {planted.name} | {planted.scenario} | {cells[0]} | {cells[1]} | {f'`{test}`' if test else ''} |"
        )
    ways = ("full", "quick", "test")
    seen = {way: sum(bool(one.get(way, {}).get("seen")) for one in found.values()) for way in ways}
    tried = {way: sum(way in one for one in found.values()) for way in ways}
    told = ", ".join(f"{way}: {seen[way]} of {tried[way]} tried" for way in ways)
    lines += [
        "",
        f"Seen of {len(PLANTED)} mistakes: {told}.",
        "",
        "## Blind spots of the quick audit",
        "",
        *([f"* {name}" for name in blind] or ["None of those tried."]),
    ]
    return "\n".join(lines)


def main() -> int:
    """Try every mistake, or those named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--expected", action="store_true")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "planted-bugs.json")
    parser.add_argument("--ignore", action="append", default=[])
    options = parser.parse_args()
    found: Found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    if options.table:
        print(table(found))
        return 0
    for name in HEAVY if options.tests else ():
        importlib.import_module(name)
    way, missed = "test" if options.tests else "quick" if options.quick else "full", 0
    for planted in PLANTED:
        if (options.names and planted.name not in options.names) or way in found.get(planted.name, {}):
            continue
        started = time.perf_counter()
        made = (
            by_test(planted)
            if options.tests
            else by_audit(
                planted, quick=options.quick, whole=options.whole, expected=options.expected, ignore=options.ignore
            )
        )
        made["seconds"] = round(time.perf_counter() - started)
        found = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
        found.setdefault(planted.name, {})[way] = made
        options.results.write_text(json.dumps(found, indent=1), encoding="utf-8")
        missed += not made["seen"]
        print(f"{'found ' if made['seen'] else 'MISSED'} {planted.name}: {made}", flush=True)
    print(f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
