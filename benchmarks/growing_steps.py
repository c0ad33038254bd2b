"""Twelve monthly top-ups of a run of steps beside one run of all customers, at an equal ε for each customer.

    python benchmarks/growing_steps.py [--seeds 3] [--rounds 20] [--rows 2000] [--epsilon 3 1]

Ten banks of one population (synthetic loans) with the committed terms of `banks-network`. A month's run starts at the
model of the month before and trains on a twelfth of the customers, with their budget. Twelve months are twelve times
the rounds, so one run of all customers is also made with as many rounds. AUC on 4,000 customers of nobody.
Coordinator, training and noise are the platform's; participants train in this process without ledger and outbox.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import attacks
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

from clients import bank
from clients.dataset import Table, prepare
from clients.models import predict
from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from consortia.coordinator.rounds import Coordinator
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import State, build_module, initial_groups, load_state
from privacy.randomness import numpy_generator

NAMES, MONTHS, TRAIN = tuple(f"bank-{place}" for place in range(10)), 12, 0.6


def scenario(epsilon: float, rows: int, rounds: int) -> Scenario:
    """Return ten banks that declare as many units as give `rows` training customers."""
    data = load_scenario("banks-network").with_overrides(rounds=rounds).model_dump(mode="python", by_alias=True)
    (one, *_) = data["roster"]
    data["roster"] = [{**one, "name": name, "units": round(rows / TRAIN), "epsilon": epsilon} for name in NAMES]
    data["contract"] |= {"round": {"attempts": 1}}
    return scenario_from_json(json.dumps(data))


def trained(what: Scenario, rows: Mapping[str, Table], start: Mapping[str, State]) -> dict[str, State]:
    """Return the groups after a run that starts at `start`."""
    parts = {name: {"train": table} for name, table in rows.items()}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        save(folder, Checkpoint(0, dict(start), {}, {}, []))
        Coordinator(what, "run", folder, attacks.Participants(what, parts, "", "none")).run(resume=True)
        state = load_latest(folder)
    assert state is not None
    return state.groups


def table_of(rows: int, seed: int, name: str) -> Table:
    """Return customers of one population, each a unit."""
    frame = bank.synthesise(numpy_generator("growing-steps-benchmark", seed, name), rows, "other")
    return prepare(bank.CLIENT, frame.reset_index(drop=True), key=b"growing steps")


def played(epsilon: float, seed: int, rows: int, rounds: int) -> list[float]:
    """Return AUCs: of one run of all, of one with as many rounds as twelve, and after each of twelve months."""
    whole, monthly = scenario(epsilon, rows, rounds), scenario(epsilon, round(rows / MONTHS), rounds)
    tables, test = {name: table_of(rows, seed, name) for name in NAMES}, table_of(4000, seed, "nobody")

    def auc(groups: Mapping[str, State]) -> float:
        module = build_module(whole.contract, "bank")
        load_state(module, groups["bank"])
        return float(roc_auc_score(test.target.numpy(), np.asarray(predict(module, test.inputs))))

    start = initial_groups(whole.contract, ["bank"])
    out = [auc(trained(scenario(epsilon, rows, many), tables, start)) for many in (rounds, rounds * MONTHS)]
    for month in range(MONTHS):
        new = {name: table.take(np.arange(len(table)) % MONTHS == month) for name, table in tables.items()}
        start = trained(monthly, new, start)
        out.append(auc(start))
    return out


def main() -> int:
    """Print a line for each budget: means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--rows", type=int, default=2000, help="training customers of each bank")
    parser.add_argument("--epsilon", nargs="*", type=float, default=[3.0, 1.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for epsilon in options.epsilon:
        seeds = range(options.seeds)
        found = np.array([played(epsilon, seed, options.rows, options.rounds) for seed in seeds])
        one, longer, months = found[:, 0], found[:, 1], found[:, 2:]
        told: dict[str, object] = {"one": float(one.mean()), "one, 12 x rounds": float(longer.mean())}
        told |= {"months": months.mean(axis=0).round(4).tolist()}
        lost = (longer - months[:, -1]).round(4).tolist()
        print(
            json.dumps({"epsilon": epsilon, "rounds": options.rounds, **told, "lost to the longer": lost}), flush=True
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
