"""Runs a scenario under several budgets and seeds, keeps each run, and prints a table.

On synthetic rows nothing is charged. On real rows (`--data`, or those of the homes' own policies with `--ledger` alone)
every run is charged in full to the participants' ledgers and refused unless their owners' policies say
`allow.sweeps = true` (invariant 4).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from consortia.common.disk import write_json, write_text
from consortia.common.errors import InputError
from consortia.common.jobs import side_by_side
from consortia.common.strict import listed, shown
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.policy import policy_or_input_error
from consortia.terms.scenario import Scenario, load_scenario

SWEEP_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What is swept.

    Attributes
    ----------
    scenario : str
        Name or path.
    participant : str
        Whose ε varies; empty: everybody's, all alike.
    epsilons, seeds : tuples
        A run for each pair.
    jobs : int
        Runs at the same time.
    """

    scenario: str
    participant: str
    epsilons: tuple[float, ...]
    seeds: int
    rounds: int | None = None
    data: Path | None = None
    ledger: Path | None = None
    jobs: int = 1

    def cells(self) -> list[tuple[float, int]]:
        """Every (ε, seed), seed by seed, so that an interrupted sweep has whole curves."""
        return [(value, seed) for seed in range(self.seeds) for value in self.epsilons]


def check(sweep: Sweep) -> Scenario:
    """Refuse what cannot be swept, before anything runs.

    Raises
    ------
    InputError
        Naming the option or the policy's key.
    """
    scenario = load_scenario(sweep.scenario).with_overrides(rounds=sweep.rounds)
    names = [participant.name for participant in scenario.roster]
    if sweep.participant and sweep.participant not in names:
        raise InputError(f"--participant: wanted one of {listed(names)}, got {shown(sweep.participant)}")
    if sweep.ledger is not None and sweep.jobs > 1:
        raise InputError(f"--jobs: wanted 1 with --ledger, got {sweep.jobs}; each ledger has one writer at a time")
    if sweep.data is None and sweep.ledger is None:
        return scenario
    if sweep.ledger is None:
        raise InputError(
            "--data: wanted --ledger DIR too, since on real rows each run is charged in full; leave --data out to "
            "sweep on synthetic rows"
        )
    for name in names:
        file = sweep.ledger / name / "policy.toml"
        if not policy_or_input_error(file, simulation=True).allow.sweeps:
            raise InputError(
                f"{file}: allow.sweeps: wanted true, got false; its owner has not allowed repeated runs on its rows, "
                "each of which is charged in full"
            )
    return scenario


def run(sweep: Sweep, out: Path, done: Callable[[int, int, str], None]) -> list[dict[str, Any]]:
    """Run every cell that `out` does not hold yet; return all cells.

    Parameters
    ----------
    done : callable
        Called with (cells finished, cells in all, a line about the last).

    Raises
    ------
    InputError
        `out` holds another sweep.
    """
    scenario = check(sweep)
    _claim(sweep, scenario, out)
    cells = sweep.cells()
    todo = [cell for cell in cells if not _file(out, *cell).is_file()]
    fresh = side_by_side(partial(_keep_cell, sweep, out), todo, sweep.jobs)
    for number, (value, seed) in enumerate(cells, start=1):
        kept = (value, seed) not in todo
        if not kept:
            next(fresh)
        done(number, len(cells), f"ε {value:g}, seed {seed}{' (kept)' if kept else ''}")
    return [json.loads(_file(out, value, seed).read_text(encoding="utf-8")) for value, seed in cells]


def _file(out: Path, value: float, seed: int) -> Path:
    return out / "cells" / f"epsilon-{value:g}-seed-{seed}.json"


def _claim(sweep: Sweep, scenario: Scenario, out: Path) -> None:
    """Write into the folder what it is for: runs of another contract, roster or data set never mix with these."""
    what = {
        "schema": SWEEP_SCHEMA,
        "scenario": scenario.name,
        "scenario_sha256": hashlib.sha256(scenario.to_json().encode()).hexdigest(),
        "participant": sweep.participant,
        "data": str(sweep.data.resolve()) if sweep.data else None,
    }
    if sweep.ledger is not None and sweep.data is None:
        what["ledger"] = str(sweep.ledger.resolve())
    file = out / "sweep.json"
    if file.is_file() and json.loads(file.read_text(encoding="utf-8")) != what:
        raise InputError(f"--out {out}: wanted an empty folder or this sweep's own, got another sweep's; take another")
    (out / "cells").mkdir(parents=True, exist_ok=True)
    write_json(file, what)


def _keep_cell(sweep: Sweep, out: Path, cell: tuple[float, int]) -> None:
    """Run a cell and write its file, which is complete or not there at all."""
    write_json(_file(out, *cell), _run_cell(sweep, *cell, out))


def _run_cell(sweep: Sweep, value: float, seed: int, out: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=out, prefix=".run-") as folder:
        options = Options(
            scenario=sweep.scenario,
            data=sweep.data,
            rounds=sweep.rounds,
            # Charged homes accept a contract by its hash, which a seed would change: there only the noise differs.
            seed=seed if sweep.ledger is None else None,
            epsilon=(f"{sweep.participant}={value:g}" if sweep.participant else f"{value:g}",),
            ledger=sweep.ledger,
            out=Path(folder),
            proposed_policies=True,
        )
        result = execute(prepare(options), options).result
    participants = {}
    for name, participant in result["participants"].items():
        metric = participant.get("headline")
        found = participant["metrics"].get(metric, {}) if metric else {}
        participants[name] = {
            "metric": metric,
            "federated": found.get("federated"),
            "local": found.get("local"),
            "state": participant["state"],
            "epsilon": {key: participant["epsilon"][key] for key in ("run", "delta", "unit", "non_private")},
        }
    return {
        "schema": SWEEP_SCHEMA,
        "epsilon": None if math.isinf(value) else value,
        "seed": seed,
        "status": result["status"],
        "synthetic": result["synthetic"],
        "charged": result["charged"],
        "participants": participants,
    }


@dataclass(frozen=True)
class Point:
    """One participant at one swept ε: mean over seeds with a 95 % interval of the mean (Student's t)."""

    epsilon: float | None
    participant: str
    metric: str
    mean: float
    low: float
    high: float
    smallest: float
    largest: float
    seeds: int
    local: float | None
    own_epsilon: float | None
    delta: float
    unit: str | None
    receive_only: int


def points(cells: Iterable[dict[str, Any]]) -> list[Point]:
    """Return the table of a sweep; participants without any number are left out.

    A small test part may have both classes under one seed and only one under another. Then another metric leads. The
    metric of most seeds counts; the other seeds are left out.
    """
    groups: dict[tuple[float, str], list[dict[str, Any]]] = {}
    for cell in cells:
        value = math.inf if cell["epsilon"] is None else cell["epsilon"]
        for name, seen in cell["participants"].items():
            groups.setdefault((value, name), []).append(seen)
    found = []
    for (value, name), group in groups.items():
        known = Counter(seen["metric"] for seen in group if seen["federated"] is not None)
        if not known:
            continue
        ((metric, _),) = known.most_common(1)
        alike = [seen for seen in group if seen["metric"] == metric]
        numbers = [seen["federated"] for seen in alike if seen["federated"] is not None]
        mean, low, high = _interval(numbers)
        alone = [seen["local"] for seen in alike if seen["local"] is not None]
        spent = [seen["epsilon"]["run"] for seen in group if seen["epsilon"]["run"] is not None]
        found.append(
            Point(
                epsilon=None if math.isinf(value) else value,
                participant=name,
                metric=metric,
                mean=mean,
                low=low,
                high=high,
                smallest=min(numbers),
                largest=max(numbers),
                seeds=len(numbers),
                local=sum(alone) / len(alone) if alone else None,
                own_epsilon=sum(spent) / len(spent) if spent else None,
                delta=group[0]["epsilon"]["delta"],
                unit=group[0]["epsilon"]["unit"],
                receive_only=sum(seen["state"] != "ACTIVE" for seen in group),
            )
        )
    return found


def _interval(numbers: Sequence[float]) -> tuple[float, float, float]:
    from scipy.stats import t

    n = len(numbers)
    mean = sum(numbers) / n
    if n < 2:
        return mean, math.nan, math.nan
    spread = math.sqrt(sum((x - mean) ** 2 for x in numbers) / (n - 1) / n)
    half = float(t.ppf(0.975, n - 1)) * spread
    return mean, mean - half, mean + half


def write_tables(sweep: Sweep, table: Sequence[Point], cells: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Write `sweep.csv` and `sweep.md`; return their paths."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Point.__dataclass_fields__))
    writer.writeheader()
    for point in table:
        writer.writerow({k: "inf" if k == "epsilon" and v is None else v for k, v in asdict(point).items()})
    write_text(out / "sweep.csv", text.getvalue())
    write_text(out / "sweep.md", markdown(sweep, table, cells))
    return [out / "sweep.csv", out / "sweep.md"]


def caption(sweep: Sweep, table: Sequence[Point], cells: Sequence[dict[str, Any]]) -> str:
    """Return what the numbers are: data, seeds, and what an ε of this table means."""
    rows = "synthetic rows" if cells[0]["synthetic"] else "real rows, each run charged in full"
    deltas = ", ".join(f"{d:g}" for d in sorted({p.delta for p in table}))
    units = ", ".join(sorted({p.unit for p in table if p.unit}))
    return (
        f"{rows}; {sweep.seeds} seeds; mean with a 95 % interval over seeds; ε of one run, δ {deltas}, add/remove one "
        f"unit: {units}"
    )


def markdown(sweep: Sweep, table: Sequence[Point], cells: Sequence[dict[str, Any]]) -> str:
    """Return the table for people: a line for each ε, a column for each participant."""
    names = list(dict.fromkeys(point.participant for point in table))
    who = sweep.participant or "everybody"
    lines = [f"# {Path(sweep.scenario).stem}: ε of {who} against everybody's metric", ""]
    by = {(point.epsilon, point.participant): point for point in table}
    heads = [f"{name} ({by[next(k for k in by if k[1] == name)].metric})" for name in names]
    lines += [f"| ε of {who} | " + " | ".join(heads) + " |", "|---|" + "---|" * len(names)]
    for value in dict.fromkeys(point.epsilon for point in table):
        row = [cell_text(by.get((value, name))) for name in names]
        lines.append(f"| {'∞ (non-private)' if value is None else f'{value:g}'} | " + " | ".join(row) + " |")
    alone = []
    for name in names:
        known = [point.local for point in table if point.participant == name and point.local is not None]
        alone.append(f"{sum(known) / len(known):.3f}" if known else "–")
    lines.append("| local model, alone | " + " | ".join(alone) + " |")
    return "\n".join([*lines, "", caption(sweep, table, cells) + ".", ""])


def cell_text(point: Point | None) -> str:
    """Return a point for a table; a dash for none."""
    if point is None:
        return "–"
    interval = "" if math.isnan(point.low) else f" [{point.low:.3f}, {point.high:.3f}]"
    return f"{point.mean:.3f}{interval}" + (f" (receive-only {point.receive_only}x)" if point.receive_only else "")


def plot(sweep: Sweep, table: Sequence[Point], cells: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """Draw `sweep.svg` and `sweep.png`; nothing when matplotlib (the extra `plot`) is not installed."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    finite = [point for point in table if point.epsilon is not None]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name in dict.fromkeys(point.participant for point in finite):
        mine = sorted((p.epsilon or 0.0, p.mean, p.low, p.high) for p in finite if p.participant == name)
        x, y = [m[0] for m in mine], [m[1] for m in mine]
        error = [[0.0 if math.isnan(m[2]) else m[1] - m[2] for m in mine] for _ in range(2)]
        own = name == sweep.participant
        label = f"{name} (its ε varies)" if own else name
        axes.errorbar(x, y, yerr=error, label=label, marker="o", markersize=4, capsize=3, linewidth=2.5 if own else 1.2)
    axes.set_xscale("log")
    ticks = sorted({point.epsilon for point in finite if point.epsilon is not None})
    axes.set_xticks(ticks, [f"{value:g}" for value in ticks])
    axes.minorticks_off()
    axes.set_xlabel(f"ε of {sweep.participant or 'everybody'} in one run")
    axes.set_ylabel(", ".join(sorted({point.metric for point in table})))
    axes.set_title(f"{Path(sweep.scenario).stem}\n{caption(sweep, table, cells)}", fontsize=8)
    axes.legend(fontsize=8)
    files = [out / "sweep.svg", out / "sweep.png"]
    for file in files:
        figure.savefig(file, dpi=150)
    return files
