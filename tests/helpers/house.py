"""The layout of `platform/consortia`, counted: entries, import circles, arrows against the direction, long files.

`python tests/helpers/house.py` prints the numbers and exits 1 when one is over its limit. A room is a folder or a file
directly under `platform/consortia`; an arrow is one module that imports another, wherever the import stands.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

#: Who may import whom: a room imports rooms of the lines above it only, never one of its own line.
FLOORS: Final = (
    ("common",),
    ("learners",),
    ("terms", "metrics"),
    ("messages",),
    ("trust",),
    ("coordinator", "participant"),
    ("vertical", "models"),
    ("planning", "client_app", "server_app"),
    ("engines",),
    ("reports", "studies"),
    ("deploy",),
    ("audit", "dashboard", "preflight"),
    ("testing",),
    ("api", "cli"),
)
#: Folders without Python.
DATA: Final = ("templates",)
MOST_ENTRIES: Final = 24
MOST_LINES: Final = 400


@dataclass(frozen=True)
class Arrow:
    """`source` imports `target`; `lazy` when the import stands in a function."""

    source: str
    target: str
    lazy: bool


@dataclass(frozen=True)
class House:
    """What was counted.

    Attributes
    ----------
    entries : tuple of str
        Files and folders directly under the package, without `__init__.py` and `__pycache__`.
    arrows : int
        Pairs of modules.
    against : tuple of Arrow
        Arrows to a room of the same line or a later one.
    circles, room_circles : tuple of tuple of str
        Modules, and rooms, that import each other, directly or by way of others.
    long : tuple of str
        Files of more than `MOST_LINES` lines.
    homeless : tuple of str
        Rooms that `FLOORS` does not name.
    """

    entries: tuple[str, ...]
    arrows: int
    against: tuple[Arrow, ...]
    circles: tuple[tuple[str, ...], ...]
    room_circles: tuple[tuple[str, ...], ...]
    long: tuple[str, ...]
    homeless: tuple[str, ...]

    def problems(self) -> list[str]:
        """Return a sentence for each rule that does not hold."""
        found = []
        if len(self.entries) > MOST_ENTRIES:
            found.append(f"platform/consortia: wanted at most {MOST_ENTRIES} entries, got {len(self.entries)}")
        found += [f"{room}: wanted a line in FLOORS of tests/helpers/house.py, got none" for room in self.homeless]
        found += [f"{arrow.source} imports {arrow.target}, against the direction" for arrow in self.against]
        found += [f"import circle: {', '.join(circle)}" for circle in (*self.circles, *self.room_circles)]
        found += [f"{file}: wanted at most {MOST_LINES} lines" for file in self.long]
        return found


def modules_of(source_root: Path, package: str) -> dict[str, Path]:
    """Return the modules of a package by dotted name."""
    found = {}
    for path in sorted((source_root / package).rglob("*.py")):
        parts = path.relative_to(source_root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows_of(modules: Mapping[str, Path]) -> list[Arrow]:
    """Return every arrow between the modules, once a pair; lazy only when each import of the pair is."""
    lazy: dict[tuple[str, str], bool] = {}
    for name, path in modules.items():
        for target, inside in _imports(ast.parse(path.read_text(encoding="utf-8")), False):
            known = target if target in modules else target.rpartition(".")[0]
            if known in modules and known != name:
                lazy[name, known] = lazy.get((name, known), True) and inside
    return [Arrow(*pair, inside) for pair, inside in lazy.items()]


def _imports(node: ast.AST, lazy: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from ((f"{child.module}.{alias.name}", lazy) for alias in child.names)
        else:
            yield from _imports(child, lazy or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def circles_of(pairs: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that reach each other."""
    nexts: dict[str, set[str]] = {}
    for source, target in pairs:
        nexts.setdefault(source, set()).add(target)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        open_ = [start]
        while open_:
            for name in nexts.get(open_.pop(), set()) - seen:
                seen.add(name)
                open_.append(name)
        return seen

    reach = {name: reached(name) for name in nexts}
    groups = {
        tuple(sorted(other for other in there if name in reach.get(other, set())))
        for name, there in reach.items()
        if name in there
    }
    return tuple(sorted(groups))


def room_of(module: str) -> str:
    """Return the room of a module: the first name below the package."""
    return ([*module.split("."), ""])[1]


def measure(
    source_root: Path, package: str = "consortia", renamed: Mapping[str, str] | None = None, root: Path | None = None
) -> House:
    """Count the layout of a package.

    Parameters
    ----------
    renamed : mapping, optional
        Counts as if modules had these names.
    root : Path, optional
        The repository, for the lengths of all its files; else those of the package alone.
    """
    modules = modules_of(source_root, package)
    names = {name: (renamed or {}).get(name, name) for name in modules}
    arrows = [Arrow(names[a.source], names[a.target], a.lazy) for a in arrows_of(modules)]
    # The package itself is no room: only its version is in it.
    arrows = [a for a in arrows if room_of(a.source) and room_of(a.target) and a.source != a.target]
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    rooms = [(room_of(a.source), room_of(a.target)) for a in arrows]
    between = [(a, b) for a, b in rooms if a != b]
    against = [
        arrow
        for arrow, (a, b) in zip(arrows, rooms, strict=True)
        if a != b and a in floor and b in floor and floor[b] >= floor[a]
    ]
    folder = source_root / package
    entries = sorted(p.name for p in folder.iterdir() if p.name not in ("__init__.py", "__pycache__"))
    if renamed is not None:
        entries = sorted({room_of(name) for name in names.values() if room_of(name)} | set(DATA))
    folders = ("platform", "clients", "privacy", "strategies", "tests", "benchmarks")
    files = [f for part in folders for f in (root / part).rglob("*.py")] if root else list(modules.values())
    long = [str(f) for f in files if len(f.read_text(encoding="utf-8").splitlines()) > MOST_LINES]
    return House(
        entries=tuple(entries),
        arrows=len(arrows),
        against=tuple(against),
        circles=circles_of((a.source, a.target) for a in arrows),
        room_circles=circles_of(between),
        long=tuple(long),
        homeless=tuple(sorted({room for pair in rooms for room in pair} - set(floor))),
    )


def describe(house: House) -> str:
    """Return the numbers in one paragraph."""
    return (
        f"entries {len(house.entries)} (at most {MOST_ENTRIES}), arrows {house.arrows}, against the direction "
        f"{len(house.against)}, circles of modules {len(house.circles)}, circles of rooms {len(house.room_circles)}, "
        f"files over {MOST_LINES} lines {len(house.long)}"
    )


def main() -> int:
    """Print the numbers and every rule that does not hold."""
    house = measure(ROOT / "platform", root=ROOT)
    problems = house.problems()
    sys.stdout.write("\n".join([describe(house), *problems]) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
