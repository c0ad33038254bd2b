"""Audit the source tree again and again: how many false alarms, and are the chances spread as they should be?

    PYTHONPATH=.:platform:tests/helpers python benchmarks/audit_false_alarms.py [RUNS] [--full]

Each run audits the small scenario of the tests with every instrument (quick unless --full). Prints the instruments that
found a violation, and for each law how many of its chances are below 1/10 and 1/100 and the smallest. Where a law is
exact a tenth and a hundredth are expected; bounds (unions over pairs, sums of products) have fewer. Exits 1 on a
false alarm.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from audited_scenario import SCENARIO

from consortia.audit.run import run
from consortia.scenario import load_scenario


def main() -> int:
    """Run, and print a table after each run, so that it can be stopped at any time."""
    numbers = [int(a) for a in sys.argv[1:] if not a.startswith("--")]
    chances: dict[str, list[float]] = defaultdict(list)
    alarms = audits = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "audited.toml"
        file.write_text(SCENARIO, encoding="utf-8")
        scenario = load_scenario(str(file))
        for number in range(1, (numbers or [20])[0] + 1):
            started = time.process_time()
            for findings in run(scenario, quick="--full" not in sys.argv):
                audits += 1
                alarms += bool(findings.violations)
                for check in findings.violations:
                    print(f"ALARM {findings.instrument}: {check}", flush=True)
                for check in findings.checks:
                    if not check.certain:
                        chances[f"{findings.instrument}: {check.law}"].append(check.p)
            seconds = time.process_time() - started
            print(
                f"run {number}: {alarms} alarms in {audits} instruments, {seconds:.0f} s of processor time", flush=True
            )
    for law, found in sorted(chances.items()):
        tenth, hundredth = (sum(p < level for p in found) for level in (0.1, 0.01))
        print(f"{law}: {len(found)} chances, {tenth} below .1, {hundredth} below .01, smallest {min(found):.2g}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main())
