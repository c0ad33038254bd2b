"""Put mistakes into copies of the source tree and see whether `consortia audit` finds them.

    PYTHONPATH=.:platform:tests/helpers python benchmarks/audit_power.py [--quick] [NAME ...]

Prints one line for each mistake: found or not, by which instruments, in how many seconds. Exits 1 when one was missed.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from audit_mutants import FURTHER, LISTED, audit, tree


def main() -> int:
    """Try every mistake, or those named."""
    options = [a for a in sys.argv[1:] if a.startswith("--")]
    names = [a for a in sys.argv[1:] if not a.startswith("--")]
    missed = 0
    for mutant in (*LISTED, *FURTHER):
        if names and mutant.name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            status, result, said = audit(tree(Path(folder), mutant), *options)
        found = {i["instrument"]: i["violations"] for i in result.get("instruments", []) if i["violations"]}
        missed += not found
        seconds = time.perf_counter() - started
        print(f"{'found ' if found else 'MISSED'} {mutant.name}: exit {status}, {seconds:.0f} s", flush=True)
        for instrument, violations in found.items():
            worst = violations[0]
            print(f"    {instrument}: {worst['subject']}: {worst['law']}: got {worst['got']}", flush=True)
        if not found:
            print("   ", said.strip()[-600:], flush=True)
    print(f"{missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
