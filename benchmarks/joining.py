"""Whether joining by noisy sums pays: alone, control, federated, stacked, by budget, with the mechanism as deployed.

    python benchmarks/joining.py --data DATA [--sets german,heart,cards,ai4i] [--seeds 10] [--epsilons 1,3,8]
                                 [--noise shared,local] [--out FILE.jsonl]
    python benchmarks/joining.py --table FILE.jsonl

Each line of the file is one run of real participants: policies, ledgers, messages, secure noise, and for `shared` real
fixed point and masks (mode one, t = 1). Rows are dealt anew for each seed: German credit to five banks by purpose,
heart to its four centres, AI4I to three factories (1500, 1500, 700 training rows), card defaults to ten banks of 200 to
2,000 training rows each. All training rows train; test rows are others. `alone` is the best of logistic regression,
random forest and gradient boosting by 5-fold cross-validation of the AUC; `control` stacks the best of another family;
`stacked` stacks the federated score. Stacks are logistic, shrunk to equal weights, and see own rows out of fold only.
The table has means over participants in thousandths of AUC, with 95 % t intervals over seeds. Net: less the control.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
import torch
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from clients import registry
from clients.dataset import Table, assign, prepare
from consortia import client_app
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.coordinator.sums import beside
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.participant.sums_at_home import SumsAtHome
from consortia.terms.scenario import Scenario, scenario_from_toml
from consortia.terms.scopes import build_module, load_state
from privacy.ledger import Ledger

Array = NDArray[np.float64]
DELTA = 1e-5
FOLDS = 5

#: Card defaults as an industry: amounts on a logarithmic scale with round public bounds.
CARDS = """
import numpy as np
import pandas as pd
from clients.industry import IndustryClient
from clients.schema import Column, Derived, Schema, Target

BILLS = [f"BILL_AMT{month}" for month in range(1, 7)]
PAID = [f"PAY_AMT{month}" for month in range(1, 7)]
LABEL = "default.payment.next.month"

def log(name):
    return lambda frame: np.sign(frame[name]) * np.log1p(frame[name].abs())

def amount(name, low, high):
    return Derived(name=f"log {name}", low=low, high=high, function=log(name))

SCHEMA = Schema(
    name="cards", version=1,
    columns=(
        *(Column(name=n, dtype="number", low=-1e6, high=1e6) for n in ("LIMIT_BAL", *BILLS, *PAID)),
        Column(name="SEX", dtype="category", categories=("1", "2")),
        Column(name="MARRIAGE", dtype="category", categories=("0", "1", "2", "3")),
        Column(name="AGE", dtype="integer", low=20, high=70),
        *(Column(name=n, dtype="integer", low=-2, high=4) for n in ("PAY_0", *(f"PAY_{m}" for m in range(2, 7)))),
    ),
    derived=(
        amount("LIMIT_BAL", 9, 14), *(amount(n, -7, 13) for n in BILLS), *(amount(n, 0, 12) for n in PAID),
    ),
    target=Target(name=LABEL, kind="binary", classes=("pays", "defaults"), mapping={"0": "pays", "1": "defaults"}),
).select(("SEX", "MARRIAGE", "AGE", "PAY_0", *(f"PAY_{m}" for m in range(2, 7)), "log LIMIT_BAL",
          *(f"log {n}" for n in BILLS + PAID)))
CLIENT = IndustryClient(
    name="cards", title="Cards", schema=SCHEMA, sites=("all",), dataset="default_credit", metrics=("auc",),
    read=lambda folder, site: pd.read_csv(folder / "UCI_Credit_Card.csv", dtype=str),
    synthesise=lambda generator, rows, site: None,
)
"""


@dataclass(frozen=True)
class Deal:
    """How one set is dealt.

    Attributes
    ----------
    folder : of the public data.
    sizes : training rows of each participant; empty where 70 % of a site's rows train.
    pooled : participants draw from all sites alike and share one test set.
    """

    industry: str
    folder: str
    prevalence: float
    sites: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    pooled: bool = False


SETS = {
    "german": Deal("bank", "bank/german_credit", 0.3, ("new-car", "used-car", "furniture", "radio-tv", "other")),
    "heart": Deal("hospital", "hospital/heart", 0.5, ("cleveland", "hungarian", "switzerland", "va")),
    "ai4i": Deal("factory", "factory/ai4i2020", 0.03, ("L", "M", "H"), (1500, 1500, 700)),
    "cards": Deal(
        "cards",
        "bank/default_credit",
        0.2,
        ("all",),
        tuple(int(n) for n in np.round(np.geomspace(200, 2000, 10))),
        pooled=True,
    ),
}


@lru_cache
def frames(data: Path, name: str) -> dict[str, pd.DataFrame]:
    """Return the raw rows of each site."""
    deal = SETS[name]
    client = registry.get(deal.industry)
    return {site: client.read(data / deal.folder, site) for site in deal.sites}


def dealt(data: Path, name: str, seed: int) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Return name, training rows and test rows of each participant."""
    deal, random, out = SETS[name], np.random.default_rng(1000 + seed), []
    if deal.pooled:
        (everything,) = frames(data, name).values()
        order = random.permutation(len(everything))
        test, order = everything.iloc[order[:6000]], order[6000:]
        for number, size in enumerate(deal.sizes, start=1):
            out.append((f"member-{number}", everything.iloc[order[:size]], test))
            order = order[size:]
        return out
    for place, (site, frame) in enumerate(frames(data, name).items()):
        order = random.permutation(len(frame))
        held = min(3000 if deal.sizes else len(frame), round(0.3 * len(frame)))
        train = order[held:][: deal.sizes[place] if deal.sizes else None]
        out.append((site.lower(), frame.iloc[train], frame.iloc[order[:held]]))
    return out


def scenario_of(name: str, parts: Sequence[tuple[str, pd.DataFrame, Any]], epsilon: float, shared: bool) -> Scenario:
    """Return the scenario of one deal."""
    deal = SETS[name]
    contract: dict[str, Any] = {
        "schema": 1,
        "wire": 1,
        "learner": "sums",
        "split": {"train": 0.98, "validation": 0.0, "test": 0.02},
        "sums": {"prevalence": {deal.industry: deal.prevalence}},
        "industries": {deal.industry: {}},
    }
    if shared:
        contract |= {"trust": "aggregate", "secure": {"colluders": 1, "min_cohort": 3}}
    roster = [
        {
            "name": who,
            "industry": deal.industry,
            "dataset": "rows",
            "site": registry.get(deal.industry).sites[0],
            "units": max(10, round(len(train), -1)),  # as an owner would declare them
            "epsilon": epsilon,
            "delta": DELTA,
        }
        for who, train, _ in parts
    ]
    data = {"schema": 1, "name": f"joining-{name}", "title": name, "contract": contract, "roster": roster}
    return scenario_from_toml(tomli_w.dumps(data))


def home_of(folder: Path, scenario: Scenario, who: str, train: pd.DataFrame, seed: int) -> Home:
    """Make a participant's home with its rows."""
    seat = scenario.seat(who)
    home = Home(folder / who, who, simulation=True)
    home.create(split_seed=seed)
    source = home.folder / "rows.csv"
    train.to_csv(source, index=False)
    budget = {"epsilon": seat.epsilon, "delta": seat.delta}
    policy = {
        "schema": 1,
        "participant": who,
        "demo": True,
        "dataset": {
            "rows": {
                "industry": seat.industry,
                "source": f"csv:{source}",
                "site": seat.site,
                "declared_units": seat.units,
                "quarantine_threshold": 1.0,
            }
        },
        "budget": {"run": budget, "lifetime": budget},
        "allow": {"releases": ["sums"], "contracts": "any"},
    }
    home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
    Ledger.create(home.ledger, who).close()
    return home


def table_of(name: str, frame: pd.DataFrame) -> Table:
    """Return rows as a participant has them."""
    client = registry.get(SETS[name].industry)
    return prepare(client, frame.reset_index(drop=True), quarantine_threshold=1.0)


@dataclass(frozen=True)
class Scores:
    """Scores of one model: of the training rows out of fold, and of the test rows."""

    held: Array
    test: Array


def federated(name: str, parts: Sequence[tuple[str, Table, Table]], folder: Path, run: Mapping[str, Any]) -> list[Any]:
    """Play both messages; return for each participant its federated scores and the test scores of the shared model."""
    scenario, homes = run["scenario"], run["homes"]

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        if kind == "evaluate":  # receipts would fit their own baselines; here the models are finished below
            return [Answer(who, None, "NO_REPLY") for who in envelopes]
        return [Answer(who, client_app.answer(data, homes[who], None), "") for who, data in envelopes.items()]

    record = Coordinator(scenario, "run-1", folder / "out", exchange).run()
    contributed = {who: seat["rounds_contributed"] for who, seat in record["participants"].items()}
    if set(contributed.values()) != {2}:
        raise SystemExit(f"{name}: wanted two messages of everybody, got {contributed}")
    state = load_latest(folder / "out")
    assert state is not None
    industry = SETS[name].industry
    model, last, out = state.groups[industry], beside(scenario, state.memory), []
    shared = build_module(scenario.contract, industry)
    load_state(shared, model)
    for who, train, test in parts:
        home = SumsAtHome.of(homes[who], "run-1", scenario.contract, industry, model, last[who])
        # The participant summed the training part of its rows; at home the same rows finish the model.
        inside = assign(train.split_keys, homes[who].split_key(), {"train": 0.98, "test": 0.02}) == "train"
        fitted = home.fitted(train.take(inside))
        held = np.where(inside, 0.0, fitted.score(train))
        held[inside] = fitted.held_out
        with torch.no_grad():
            everybody = shared(test.inputs).numpy().ravel()
        out.append((Scores(held, fitted.score(test)), everybody))
    return out


def candidates(rows: int) -> dict[str, Any]:
    """Return what a participant may fit alone."""
    trees = {"n_estimators": 100, "min_samples_leaf": 5, "n_jobs": 1, "random_state": 0}
    boost = {"learning_rate": 0.08, "min_samples_leaf": 10, "l2_regularization": 1.0, "early_stopping": False}
    return {
        "logistic .01": LogisticRegression(C=0.01, max_iter=500),
        "logistic .1": LogisticRegression(C=0.1, max_iter=500),
        "logistic 1": LogisticRegression(C=1.0, max_iter=500),
        "forest": RandomForestClassifier(**trees),
        "boosting": HistGradientBoostingClassifier(max_iter=40, max_leaf_nodes=6, random_state=0, **boost),
        "boosting, deeper": HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=12, random_state=0, **boost),
    }


def alone(train: Table, test: Table, seed: int) -> tuple[Scores, Scores]:
    """Return the scores of the best model by cross-validation, and of the best of another family."""
    x, y = train.inputs["features"].numpy(), train.target.numpy()
    fold = folds(y, seed)
    found = []
    for name, model in candidates(len(y)).items():
        held = np.zeros(len(y))
        for number in range(FOLDS):
            inside = fold != number
            if len(np.unique(y[inside])) == 2:
                held[~inside] = model.fit(x[inside], y[inside]).predict_proba(x[~inside])[:, 1]
        found.append((auc(y, held), name, held, model))
    found.sort(key=lambda one: -one[0])
    second = next(one for one in found if one[1].split()[0].rstrip(",") != found[0][1].split()[0].rstrip(","))
    best, other = (
        Scores(held, model.fit(x, y).predict_proba(test.inputs["features"].numpy())[:, 1])
        for _, _, held, model in (found[0], second)
    )
    return best, other


def folds(y: Array, seed: int) -> NDArray[np.int64]:
    """Return a fold for each row, each class dealt evenly."""
    random, fold = np.random.default_rng(seed), np.zeros(len(y), dtype=np.int64)
    for one in np.unique(y):
        rows = random.permutation(np.flatnonzero(y == one))
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold


def auc(y: Array, scores: Array) -> float:
    """Return the AUC; NaN with fewer than three rows of a class."""
    count = np.bincount(y.astype(int), minlength=2)
    return float(roc_auc_score(y, scores)) if min(count) >= 3 else math.nan


def stacked(y: Array, own: Scores, other: Scores, strength: float = 10.0) -> Array:
    """Return test scores of a logistic of two standardised scores, shrunk to equal slopes, none below 0."""

    def standard(scores: Scores) -> tuple[Array, Array]:
        held, test = (_logit(each) for each in (scores.held, scores.test))
        middle, spread = held.mean(), held.std() + 1e-9
        return (held - middle) / spread, (test - middle) / spread

    (a, at), (b, bt) = standard(own), standard(other)
    start = _logistic(np.column_stack([np.ones(len(y)), (a + b) / 2]), y, 1.0, np.zeros(2))
    equal = np.array([start[0], start[1] / 2, start[1] / 2])
    slopes = np.maximum(_logistic(np.column_stack([np.ones(len(y)), a, b]), y, strength, equal)[1:], 0)
    return at * slopes[0] + bt * slopes[1] if slopes.any() else (at + bt) / 2


def _logit(p: Array) -> Array:
    bounded = np.clip(p, 1e-4, 1 - 1e-4)
    return np.asarray(np.log(bounded) - np.log1p(-bounded))


def _logistic(x: Array, y: Array, strength: float, towards: Array) -> Array:
    """Return Newton's solution of a logistic regression whose slopes are pulled towards given ones."""
    weights, penalty = towards.copy(), np.r_[1e-6, np.full(x.shape[1] - 1, strength)]
    for _ in range(25):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (p - y) + penalty * (weights - towards)
        curve = (x * np.maximum(p * (1 - p), 1e-4)[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def measure(options: argparse.Namespace) -> None:
    """Run every set, seed, budget and kind of noise that the file lacks."""
    done = {tuple(r[k] for k in ("set", "seed", "epsilon", "noise")) for r in _read(options.out)}
    for seed in range(options.seeds):
        for name in options.sets:
            arms = [
                (epsilon, noise)
                for epsilon in options.epsilons
                for noise in options.noise
                if (name, seed, epsilon, noise) not in done
            ]
            if not arms:
                continue
            frames_ = dealt(options.data, name, seed)
            parts = [(who, table_of(name, train), table_of(name, test)) for who, train, test in frames_]
            own = [alone(train, test, seed) for _, train, test in parts]
            for epsilon, noise in arms:
                started = time.perf_counter()
                with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
                    folder = Path(scratch)
                    scenario = scenario_of(name, frames_, epsilon, noise == "shared")
                    homes = {who: home_of(folder, scenario, who, train, seed) for who, train, _ in frames_}
                    if noise == "shared":
                        pin_each_other(homes)
                    made = federated(name, parts, folder, {"scenario": scenario, "homes": homes})
                rows = []
                for (who, train, test), (best, second), (fed, everybody) in zip(parts, own, made, strict=True):
                    y, seen = train.target.numpy(), test.target.numpy()
                    rows.append(
                        {
                            "participant": who,
                            "rows": len(y),
                            "alone": auc(seen, best.test),
                            "control": auc(seen, stacked(y, best, second)),
                            "released": auc(seen, everybody),
                            "federated": auc(seen, fed.test),
                            "stacked": auc(seen, stacked(y, best, fed)),
                        }
                    )
                line = {"set": name, "seed": seed, "epsilon": epsilon, "noise": noise, "participants": rows}
                line["seconds"] = time.perf_counter() - started
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(name, seed, epsilon, noise, f"{line['seconds']:.1f} s", flush=True)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def table(file: Path) -> str:
    """Return the table of a file, in Markdown."""
    arms: dict[tuple[str, str, float], list[dict[str, Any]]] = defaultdict(list)
    for line in _read(file):
        arms[line["set"], line["noise"], line["epsilon"]].append(line)
    kinds = ("released", "federated", "stacked")
    lines = [
        "| set | noise | ε | seeds | alone | control | released | federated | stacked | net | worst participant |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, noise, epsilon), found in sorted(arms.items()):
        means = {kind: np.array([_mean(line, kind) for line in found]) for kind in ("alone", "control", *kinds)}
        gains = np.array([[p["stacked"] - p["alone"] for p in line["participants"]] for line in found])
        cells = [_interval(means[kind] - means["alone"]) for kind in ("control", *kinds)]
        net, worst = _interval(means["stacked"] - means["control"]), 1e3 * np.nanmin(np.nanmean(gains, axis=0))
        first = f"| {name} | {noise} | {epsilon:g} | {len(found)} | {means['alone'].mean():.3f} "
        lines.append(f"{first}| {' | '.join(cells)} | {net} | {worst:+.0f} |")
    return "\n".join(lines)


def _mean(line: Mapping[str, Any], kind: str) -> float:
    return float(np.nanmean([one[kind] for one in line["participants"]]))


def _interval(values: Array) -> str:
    if len(values) < 2:
        return f"{1e3 * values.mean():+.0f}"
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{1e3 * values.mean():+.0f}±{1e3 * reach:.0f}"


def _install_cards(folder: Path) -> None:
    """Make the benchmark's own industry an installed partner's, as a wheel would."""
    info = folder / "cards-1.0.dist-info"
    info.mkdir()
    (folder / "joining_cards.py").write_text(CARDS, encoding="utf-8")
    (info / "METADATA").write_text("Name: cards\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[consortia.clients]\ncards = joining_cards:CLIENT\n", encoding="utf-8")
    sys.path.insert(0, str(folder))


def main() -> None:
    """Measure, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    words = {"type": lambda text: text.split(",")}
    parser.add_argument("--data", type=Path, help="folder of the public data")
    parser.add_argument("--sets", default=list(SETS), **words)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epsilons", default=[1.0, 3.0], type=lambda text: [float(e) for e in text.split(",")])
    parser.add_argument("--noise", default=["shared", "local"], **words)
    parser.add_argument("--out", type=Path, default=Path("joining.jsonl"))
    parser.add_argument("--table", type=Path, help="print the table of this file only")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
        _install_cards(Path(scratch))
        if options.table is None:
            measure(options)
        print(table(options.table or options.out))


if __name__ == "__main__":
    main()
