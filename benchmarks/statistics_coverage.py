"""Whether the intervals of `consortia statistics` hold, and how often equal sites are said to differ.

    python benchmarks/statistics_coverage.py --repetitions 1000 --out coverage.json

Sites are drawn from one population of synthetic rows, so they are equal; each repetition draws rows and noise afresh
and goes the learner's own way: vector, grid noise, statistics, verdicts. It prints, for each kind of number, how often
the exact value of the same rows lies in the printed 95 % interval, and in how many repetitions any column at all says
*differ*: between sites that add their own noise, and at home, own rows against the rest. Exits 1 where coverage is
below .936 or a placebo says *differ* in more than .064 of the repetitions (1,000 of them: .95 and .05 by two standard
errors). `--unequal` draws the last site from another one of the industry's sites: how often *differ* is then found.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clients import registry
from clients.dataset import Table, prepare
from consortia.learners.blocks.noise import solve
from consortia.learners.blocks.release import deviations, noised
from consortia.learners.statistics.differ import sites_differ
from consortia.learners.statistics.estimates import Released, statistics_of
from consortia.learners.statistics.layout import Layout, layout_of
from consortia.learners.statistics.shares import ONE_BLOCK
from consortia.learners.sums.statistics import Rows
from privacy.noise_context import NoiseContext

NOISE = NoiseContext(purpose="benchmark", message="benchmark", attempt=0, ledger="")
#: Industry, sites, training units of each, epsilon.
CASES = (("hospital", 3, 400, 2.0), ("bank", 3, 1500, 1.0), ("smart_home", 3, 800, 2.0), ("hospital", 4, 150, 8.0))
POPULATION = 6000
DELTA = 1e-5
LEAST, MOST = 0.936, 0.064


def main() -> None:
    """Repeat every case and print its shares."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--cases", type=int, nargs="*", default=list(range(len(CASES))))
    parser.add_argument("--unequal", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = [repeat(*CASES[case], options.repetitions, options.seed, unequal=options.unequal) for case in options.cases]
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if not options.unequal:
        raise SystemExit(
            any(min(one["coverage"].values()) < LEAST or max(one["differ"].values()) > MOST for one in found)
        )


def repeat(
    industry: str, sites: int, units: int, epsilon: float, times: int, seed: int, *, unequal: bool
) -> dict[str, Any]:
    """Return the shares of one case."""
    client, random = registry.get(industry), np.random.default_rng([seed, units, sites])
    layout = layout_of(client.schema, 8)
    names = [client.sites[0]] * sites
    if unequal:
        names[-1] = client.sites[-1]
    tables = {name: prepare(client, client.synthesise(random, POPULATION, name)) for name in set(names)}
    z = solve(ONE_BLOCK, epsilon, DELTA)
    deviation = deviations(layout, 1, z)[0]
    inside, seen, differ = Counter[str](), Counter[str](), Counter[str]()
    started = time.perf_counter()
    for _ in range(times):
        exact = [layout.vector(_drawn(tables[name], units, random)) for name in names]
        sent = [Released(layout, noised(layout, 1, [v], [z], NOISE)[0], deviation) for v in exact]
        truths = _numbers(statistics_of(Released(layout, exact[0], 0.0)))
        for kind, value, low, high in _estimates(statistics_of(sent[0])):
            truth = next(truths)
            if truth is None:
                continue
            seen[kind] += 1
            inside[kind] += low - 1e-6 <= truth <= high + 1e-6
            differ[f"{kind}: too noisy"] += value is None
        rest = [_together(layout, [one for other, one in enumerate(sent) if other != place]) for place in range(sites)]
        between = sites_differ(layout, {str(place): (sent[place], rest[place]) for place in range(sites)})
        own = Released(layout, exact[-1], 0.0)
        home = sites_differ(layout, {"own": (own, rest[-1])})
        for where, verdicts in (("between sites", between), ("at home", home)):
            differ[where] += any(verdict.differ for verdict in verdicts.values())
            differ[f"{where}: none to compare"] += all(verdict.differ is None for verdict in verdicts.values())
    out = {
        "industry": industry,
        "sites": sites,
        "units": units,
        "epsilon": epsilon,
        "repetitions": times,
        "unequal": unequal,
        "deviation": deviation,
        "coverage": {kind: inside[kind] / seen[kind] for kind in sorted(seen)},
        "numbers": dict(seen),
        "differ": {where: differ[where] / times for where in ("between sites", "at home")},
        "none to compare": {
            where: differ[f"{where}: none to compare"] / times for where in ("between sites", "at home")
        },
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps(out), flush=True)
    return out


def _drawn(table: Table, units: int, random: np.random.Generator) -> Rows:
    chosen = torch.from_numpy(random.integers(0, len(table), units))
    return Rows(table.inputs["features"][chosen], table.target[chosen], torch.arange(units))


def _together(layout: Layout, sites: list[Released]) -> Released:
    noise = math.sqrt(math.fsum(one.deviation**2 for one in sites))
    return Released(layout, np.sum([one.vector for one in sites], axis=0), noise)


def _estimates(found: Mapping[str, Any]) -> Iterator[tuple[str, float | None, float, float]]:
    """Yield kind, value and interval of every statistic, in one order."""

    def one(kind: str, estimate: Mapping[str, Any]) -> tuple[str, float | None, float, float]:
        return kind, estimate["value"], estimate["low"], estimate["high"]

    yield one("units", found["units"])
    columns = dict(found["columns"])
    for estimate in found["target"].get("shares", {}).values():
        yield one("target share", estimate)
    if "cells" in found["target"]:
        columns["target"] = found["target"]
    for column in columns.values():
        if column["missing"] is not None:
            yield one("missing share", column["missing"])
        for cell in column["cells"]:
            yield one("count", cell["count"])
            yield one("share", cell["share"])
            for estimate in cell.get("target", {}).values():
                yield one("target rate", estimate)
        for kind in ("mean", "spread"):
            if kind in column:
                yield one(kind, column[kind])


def _numbers(found: Mapping[str, Any]) -> Iterator[float | None]:
    return (value for _, value, _, _ in _estimates(found))


if __name__ == "__main__":
    main()
