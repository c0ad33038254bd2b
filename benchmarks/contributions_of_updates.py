"""Does a participant that brings nothing, or the wrong, come last? By Shapley values of kept noisy updates.

    python benchmarks/contributions_of_updates.py [--seeds 10] [--rounds 20] [--units 1000] [--epsilon inf 8 3]

Six banks of one population (synthetic loans), the committed terms of `banks-network`, `keeps_updates = true`. One of
them has made-up rows (whose labels belong to other rows), flipped labels, or the same rows as another bank.
Coordinator, training, noise, kept updates and values are the platform's; participants train in this process without
ledger and outbox. Prints in how many seeds the planted bank is last, its value below 0, and its whole interval; and
its mean place (1 is best). For the same rows: the mean place of the two, which is 3.5 where copies gain nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import attacks
import torch

from clients import bank
from clients.dataset import Table, assign, prepare
from consortia.coordinator.rounds import Coordinator
from consortia.models.contributions import Shared, contributions_of_run
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from privacy.randomness import numpy_generator, seeded_generator

NAMES = tuple(f"bank-{letter}" for letter in "abcdef")
PLANTED = ("made up", "flipped", "same rows")


def scenario(epsilon: float, units: int, rounds: int) -> Scenario:
    """Return the committed terms of `banks-network` with six banks of one size, whose updates are kept."""
    data = load_scenario("banks-network").with_overrides(rounds=rounds).model_dump(mode="python", by_alias=True)
    (one, *_) = data["roster"]
    data["roster"] = [{**one, "name": name, "units": units, "epsilon": epsilon} for name in NAMES]
    data["contract"] |= {"keeps_updates": True, "round": {"attempts": 1}}
    return scenario_from_json(json.dumps(data))


def tables(planted: str, seed: int, units: int) -> dict[str, dict[str, Table]]:
    """Return the training rows of the six; the last is the planted one."""
    out = {}
    for name in NAMES:
        same = NAMES[0] if planted == "same rows" and name == NAMES[-1] else name
        frame = bank.synthesise(numpy_generator("contributions-benchmark", seed, same), units, "other")
        key = f"contributions-{seed}".encode()
        table = prepare(bank.CLIENT, frame.reset_index(drop=True), key=key)
        out[name] = table.take(assign(table.split_keys, key, attacks.PARTS) == "train")
    last = out[NAMES[-1]]
    if planted == "flipped":
        out[NAMES[-1]] = replace(last, target=1 - last.target)
    if planted == "made up":
        order = torch.randperm(len(last.target), generator=seeded_generator("made-up", seed, "labels"))
        out[NAMES[-1]] = replace(last, target=last.target[order])
    return {name: {"train": table} for name, table in out.items()}


class Participants(attacks.Participants):
    """Everybody trains honestly on the rows that it has."""

    def __init__(self, what: Scenario, rows: Mapping[str, Mapping[str, Table]]) -> None:
        super().__init__(what, rows, "", "none")


def play(epsilon: float, planted: str, *, seed: int, rounds: int, units: int) -> Shared:
    """Run once; return who contributed."""
    what = scenario(epsilon, units, rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Coordinator(what, "run", folder, Participants(what, tables(planted, seed, units))).run()
        (folder / "scenario.json").write_text(what.to_json(), encoding="utf-8")
        (found,) = contributions_of_run(folder)
    return found


def line(epsilon: float, planted: str, found: list[Shared]) -> dict[str, object]:
    """Return what the runs of all seeds say."""
    places, below, harms = [], 0, 0
    for one in found:
        order = [who.participant for who in one.participants]
        both = [NAMES[0], NAMES[-1]] if planted == "same rows" else [NAMES[-1]]
        places.append(statistics.fmean(order.index(name) + 1 for name in both))
        mine = next(who for who in one.participants if who.participant == NAMES[-1])
        below += mine.value < 0
        harms += mine.verdict == "harms"
    last = sum(place == len(NAMES) for place in places)
    return {
        "epsilon": epsilon,
        "planted": planted,
        "seeds": len(found),
        "last": last,
        "below 0": below,
        "harms": harms,
        "mean place": round(statistics.fmean(places), 2),
    }


def main() -> int:
    """Print a line for each budget and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--epsilon", nargs="*", type=float, default=[float("inf"), 8.0, 3.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for epsilon in options.epsilon:
        for planted in PLANTED:
            found = [
                play(epsilon, planted, seed=seed, rounds=options.rounds, units=options.units)
                for seed in range(options.seeds)
            ]
            print(json.dumps(line(epsilon, planted, found)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
