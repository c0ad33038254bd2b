"""Ratios of what was measured side by side, as JSON rows and as the table of docs/reference/speed.md.

    python benchmarks/ratios.py FILE.json …

prints the table of what `dp_step.py --json` and `aggregation.py --json` wrote.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def options(description: str, quick: str, **others: str | tuple[type, str]) -> argparse.Namespace:
    """Read --quick, for what `quick` says, --json, and `others` by name: whole numbers where no type is said."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", type=Path, help="write a list of {name, value, unit, ratio, ratio_min, ratio_max}")
    for name, other in others.items():
        kind, text = other if isinstance(other, tuple) else (int, other)
        parser.add_argument(f"--{name}", type=kind, help=text)
    return parser.parse_args()


def row(name: str, own: list[float], base: list[float]) -> Found:
    """Return the median of `own` seconds and of the ratios base ÷ own, repeat by repeat, with their range."""
    ratios = [other / mine for other, mine in zip(base, own, strict=True)]
    return {
        "name": name,
        "value": statistics.median(own),
        "unit": "s",
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }


def told(one: Found) -> str:
    """Return a row as a line of text."""
    seconds = one["value"]
    own = f"{seconds * 1e6:10.1f} us" if seconds < 0.1 else f"{seconds * 1e3:10.1f} ms"
    return f"  {one['name']:64s} {own}   {one['ratio']:7.3f}  ({one['ratio_min']:.3f} to {one['ratio_max']:.3f})"


def write(found: list[Found], file: Path | None) -> None:
    """Write the rows where they were asked for."""
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def table(found: list[Found]) -> str:
    """Return the rows as a table in Markdown."""
    lines = ["| measured | median | ratio | lowest to highest |", "|---|---|---|---|"]
    for one in found:
        seconds = one["value"]
        unit, factor = ("µs", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 1 else ("s", 1)
        own = f"{seconds * factor:.3g} {unit}"
        lines.append(f"| {one['name']} | {own} | {one['ratio']:.3g} | {one['ratio_min']:.3g}–{one['ratio_max']:.3g} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table of the files that are named."""
    print(table([one for file in sys.argv[1:] for one in json.loads(Path(file).read_text(encoding="utf-8"))]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
