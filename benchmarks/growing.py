"""Twelve monthly releases of new customers beside one release of all of them, at an equal ε for each customer.

Ten banks with 2,000 training customers each, made-up rows of the bank's schema, AUC of the released model on 20,000
further customers. Sums, noise, weights and model are the product's own. Prints a line for each budget: the AUC of one
release, of twelve, the difference with its 95 % interval over seeds, and what noise correlated over the months would
give (square-root factorisation, each customer in one month: not in the product).

    python benchmarks/growing.py --seeds 10
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from clients import registry
from clients.bank import PURPOSES, synthesise
from clients.dataset import prepare
from clients.models import predict
from consortia.common.jobs import side_by_side
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.participant_view import ParticipantView
from consortia.coordinator.sums import before_top_up, local_round
from consortia.learners.blocks.release import noised
from consortia.learners.blocks.rows import Rows
from consortia.learners.sums.model import frozen
from consortia.messages.blocks import in_state
from consortia.terms.costs import noise_multiplier
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_data
from consortia.terms.scopes import State, build_module, initial_groups, load_state
from privacy.events import GaussianRelease
from privacy.noise_context import NoiseContext

BANK, MONTHS = "bank", 12
#: Training units that a roster declares are a share of all units.
TRAIN = 0.6


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status: 1 where the mean difference at the largest budget is above .01."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--rows", type=int, default=2000, help="training customers of each bank")
    parser.add_argument("--epsilon", default="1,3")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at the same time")
    parser.add_argument("--json", action="store_true")
    told = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = [line(float(text), told.seeds, told.rows, told.jobs) for text in told.epsilon.split(",")]
    for one in found:
        print(json.dumps(one) if told.json else text_of(one))
    return int(float(found[-1]["lost"]) > 0.01)


def line(epsilon: float, seeds: int, rows: int, jobs: int) -> dict[str, object]:
    """Return the mean AUCs at one budget."""
    scores = np.array(
        list(side_by_side(partial(played, epsilon, rows=rows), range(seeds), jobs))
    )  # (seeds, 2 + MONTHS)
    one, correlated, months = scores[:, 0], scores[:, 1], scores[:, 2:]
    lost = one - months[:, -1]
    half = 1.96 * float(lost.std(ddof=1)) / math.sqrt(seeds) if seeds > 1 else math.nan
    return {
        "epsilon": epsilon,
        "seeds": seeds,
        "one release": float(one.mean()),
        "twelve releases": float(months[:, -1].mean()),
        "lost": float(lost.mean()),
        "interval": [float(lost.mean()) - half, float(lost.mean()) + half],
        "correlated noise": float(correlated.mean()),
        "after each month": months.mean(axis=0).round(4).tolist(),
    }


def text_of(one: Mapping[str, object]) -> str:
    """Return a line for people."""
    low, high = one["interval"]  # type: ignore[misc]
    return (
        f"ε {one['epsilon']}: one release {one['one release']:.4f}, twelve {one['twelve releases']:.4f}, lost "
        f"{one['lost']:+.4f} ({low:+.4f} to {high:+.4f}, {one['seeds']} seeds); correlated noise would give "
        f"{one['correlated noise']:.4f}; after each month {one['after each month']}"
    )


def played(epsilon: float, seed: int, rows: int) -> list[float]:
    """Return AUCs: of one release of all, of twelve with correlated noise, and after each of twelve months."""
    scenario = banks(epsilon, rows)
    generator = np.random.default_rng(seed)
    tables = {one.name: rows_of(generator, rows, one.site) for one in scenario.roster}
    test = [prepare(registry.get(BANK), synthesise(generator, 4000, site), unit="customer_id") for site in PURPOSES]
    inputs = {"features": torch.cat([table.inputs["features"] for table in test])}
    target = np.concatenate([table.target.numpy() for table in test])

    def auc(group: State) -> float:
        module = build_module(scenario.contract, BANK)
        load_state(module, group)
        return float(roc_auc_score(target, np.asarray(predict(module, inputs))))

    whole = released(scenario, begin(scenario), tables, (1, 2), (seed, 0), 1.0)
    out = [auc(whole.groups[BANK])]
    for size, kept in ((correlated_size(), False), (1.0, True)):
        state = begin(scenario)
        current = scenario
        for month in range(MONTHS):
            part = {name: slice_of(table, month) for name, table in tables.items()}
            if month:
                memory = {BANK: before_top_up(current, BANK, state.memory[BANK])}
                state = Checkpoint(1, state.groups, memory, {}, [])
                current = further(scenario, state.groups[BANK], month + 1)
            state = released(current, state, part, (2,) if month else (1, 2), (seed, 1 + month), size)
            if kept:
                out.append(auc(state.groups[BANK]))
        if not kept:
            out.append(auc(state.groups[BANK]))
    return out


def correlated_size() -> float:
    """Return by what the noise of a month shrinks, so that the sum of all has the variance of correlated noise.

    C is the square root of the matrix of prefix sums, with coefficients binom(2k, k) / 4^k. A unit in one month moves C
    by a column's norm, and the last sum's noise is the last row's norm: together ``sum of c_k^2`` in deviation.
    """
    squares = sum((math.comb(2 * k, k) / 4**k) ** 2 for k in range(MONTHS))
    return squares / math.sqrt(MONTHS)


def banks(epsilon: float, rows: int) -> Scenario:
    """Return ten banks, two of each purpose."""
    data = load_scenario("banks").model_dump(mode="json", by_alias=True, exclude_none=True)
    first = data["roster"][0]
    data["roster"] = [
        {**first, "name": f"bank-{place}", "site": list(PURPOSES)[place % 5], "units": round(rows / TRAIN)}
        | {"epsilon": epsilon, "delta": 1e-5}
        for place in range(10)
    ]
    data["contract"]["sums"]["grows"] = True
    return scenario_from_data(data, "banks that grow")


def further(scenario: Scenario, group: State, release: int) -> Scenario:
    """Return the scenario of a month's release, a twelfth of whose customers is new."""
    data = scenario.model_dump(mode="python", by_alias=True)
    first = {"run": "banks-1", "contract": scenario.contract.sha256(), "frozen": {BANK: frozen(group)}}
    data["contract"]["sums"]["builds_on"] = {**first, "release": release}
    for one in data["roster"]:
        one["units"] = round(one["units"] / MONTHS)
    return scenario_from_data(data, "a further release")


def rows_of(generator: np.random.Generator, rows: int, site: str) -> Rows:
    """Return a bank's customers, one row each."""
    frame = synthesise(generator, rows, site)
    frame["customer_id"] = [f"c{number}" for number in range(len(frame))]
    table = prepare(registry.get(BANK), frame, unit="customer_id")
    return Rows(table.inputs["features"], table.target, table.unit_index)


def slice_of(rows: Rows, month: int) -> Rows:
    """Return the customers of one month."""
    count = len(rows.target)
    part = slice(count * month // MONTHS, count * (month + 1) // MONTHS)
    features, target = rows.features[part], rows.target[part]
    return Rows(features, target, torch.arange(len(target)))


def begin(scenario: Scenario) -> Checkpoint:
    """Return the coordinator's state before anything was released."""
    return Checkpoint(0, initial_groups(scenario.contract, [BANK]), {}, {}, [])


def released(
    scenario: Scenario,
    state: Checkpoint,
    tables: Mapping[str, Rows],
    messages: Sequence[int],
    place: tuple[int, int],
    size: float,
) -> Checkpoint:
    """Play the messages of one release; `size` scales the noise (1 is what the budget needs)."""
    contract, rule = scenario.contract, recipe(scenario.contract, BANK)
    one = scenario.roster[0]
    z = noise_multiplier(contract, contract.industries[BANK], one.epsilon, one.delta)
    views = {n: ParticipantView(scenario.participant(n), header={"noise_multiplier": repr(z)}) for n in tables}
    assert contract.noisy_sums is not None
    for message in messages:
        events = contract.noisy_sums.shares.events(message, z * size, "customer_id")
        each = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]

        def answers(sent: Mapping[str, State], message: int = message, each: list[float] = each) -> dict[str, State]:
            found = {}
            for number, (name, model) in enumerate(sent.items()):
                where = NoiseContext(
                    purpose="sums", message=f"{place}/{message}/{name}", attempt=number, ledger="0" * 64
                )
                blocks: list[NDArray[np.float64]] = rule.exact(message, tables[name], model)
                found[name] = in_state(rule, message, noised(rule, message, blocks, each, where))
            return found

        groups, memory, _, _ = local_round(scenario, views, state, message, answers)
        state = Checkpoint(message, groups, memory, {}, [])
    return state


if __name__ == "__main__":
    raise SystemExit(main())
