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
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joining_sets import SETS, dealt, home_of, install_cards, scenario_of, table_of
from numpy.typing import NDArray
from scipy import stats
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from clients.dataset import Table, assign
from consortia import client_app
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.coordinator.sums import beside
from consortia.messages.exchange import Answer
from consortia.participant.identity import pin_each_other
from consortia.participant.sums_at_home import SumsAtHome
from consortia.terms.scopes import build_module, load_state

Array = NDArray[np.float64]
FOLDS = 5


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
        install_cards(Path(scratch))
        if options.table is None:
            measure(options)
        print(table(options.table or options.out))


if __name__ == "__main__":
    main()
