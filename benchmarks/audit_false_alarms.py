"""Audit the source tree again and again: how many false alarms, and are the chances spread as they should be?

    PYTHONPATH=.:platform:tests/helpers python benchmarks/audit_false_alarms.py [RUNS] [--full] [--jobs N] [NAME ...]

Each run audits a small scenario of the tests (local, sums, coordinator, vertical; all of them unless some are named)
with every instrument that has something to look at (quick unless --full). An instrument of an honest tree alarms with a
chance of at most ALPHA, so R audits of I instruments have an alarm with a chance of at most R x I x ALPHA; the last
line says how much that is here. Prints the instruments that found a violation, and for each law how many of its chances
are below 1/10 and 1/100 and the smallest. Where a law is exact a tenth and a hundredth are expected; bounds (unions
over pairs, sums of products) have fewer. Exits 1 on a false alarm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from audited_scenario import SCENARIOS

from consortia.audit.result import ALPHA
from consortia.audit.run import run
from consortia.terms.scenario import load_scenario


def main() -> int:
    """Run, and print a line after each run, so that it can be stopped at any time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="?", type=int, default=20)
    parser.add_argument("scenarios", nargs="*", default=list(SCENARIOS))
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--jobs", type=int, default=1, help="instruments at the same time")
    options = parser.parse_args()
    chances: dict[str, list[float]] = defaultdict(list)
    alarms = audits = 0
    with tempfile.TemporaryDirectory() as folder:
        for number in range(1, options.runs + 1):
            for name in options.scenarios:
                started = time.perf_counter()
                file = Path(folder) / f"{name}.toml"
                file.write_text(SCENARIOS[name], encoding="utf-8")
                for findings in run(load_scenario(str(file)), quick=not options.full, jobs=options.jobs):
                    audits += not findings.skipped
                    alarms += bool(findings.violations)
                    for check in findings.violations:
                        print(f"ALARM {findings.instrument}: {check}", flush=True)
                    for check in findings.checks:
                        if not check.certain:
                            chances[f"{findings.instrument}: {check.law}"].append(check.p)
                spent = time.perf_counter() - started
                print(f"run {number}, {name}: {alarms} alarms in {audits} instruments, {spent:.0f} s", flush=True)
    for law, found in sorted(chances.items()):
        tenth, hundredth = (sum(p < level for p in found) for level in (0.1, 0.01))
        print(f"{law}: {len(found)} chances, {tenth} below .1, {hundredth} below .01, smallest {min(found):.2g}")
    print(f"chance of an alarm in {audits} instruments of an honest tree: at most {min(1.0, ALPHA * audits):.3f}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
