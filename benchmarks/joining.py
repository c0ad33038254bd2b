"""Whether joining pays: alone, control, federated, joined, by learner and budget, with the mechanism as deployed.

    python benchmarks/joining.py --data DATA [--sets german,heart,cards,ai4i] [--seeds 10] [--epsilons 1,3,8]
                                 [--noise shared,local] [--learner sums|additive|steps|network|auto,…] [--out FILE]
    python benchmarks/joining.py --table FILE.jsonl

Each line of the file is one run of real participants: policies, ledgers, messages, secure noise, and for `shared` real
fixed point and masks (mode one, t = 1). Rows are dealt anew for each seed: German credit to five banks by purpose,
heart to its four centres, AI4I to three factories (1500, 1500, 700 training rows), card defaults to ten banks of 200 to
2,000 training rows each; `cards-5x200`, `cards-5x1000` and `cards-5x4000` are five banks with as many rows each.
`cleveland` is the 297 complete rows of that centre, 208 of them dealt to three; its ε, at δ 1e-6, is that of replacing
a record (`joining_sets.added_or_removed`). The learner `network` is gradients of the model that `joining_sets` names;
with shared noise one step a round; `steps` is the recipe `consortia.terms.few_steps`. Call it again to go on: what the
file has is not run again.

All training rows train; test rows are others. `released` is the shared model as anybody can have it. `alone`, `control`
and `joined` are those of a receipt (`consortia.participant.baseline`, `.joined`), with stacks that see own rows out of
fold only, but for released models, which saw them under their noise; `--released-only` measures none of these. The
table has means over participants in thousandths of AUC, with 95 % t intervals over seeds. Net: less the control.
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
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joining_sets import SETS, dealt, home_of, install_cards, scenario_of, table_of
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from clients import registry
from clients.dataset import Table, assign
from consortia import client_app
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.coordinator.sums import beside
from consortia.messages.exchange import Answer
from consortia.participant.baseline import Baseline, baseline
from consortia.participant.evaluation import module_scorer
from consortia.participant.forecast_at_home import own_numbers
from consortia.participant.identity import pin_each_other
from consortia.participant.joined import control, joined
from consortia.participant.own_model import Scorer
from consortia.participant.own_sums import sent
from consortia.participant.sums_at_home import SumsAtHome
from consortia.terms.scopes import build_module, load_state

Array = NDArray[np.float64]


def federated(name: str, parts: Sequence[tuple[str, Table, Table]], folder: Path, run: Mapping[str, Any]) -> list[Any]:
    """Play all messages; return for each participant its federated model and the test scores of the shared one."""
    scenario, homes = run["scenario"], run["homes"]

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        if kind == "evaluate":  # receipts would fit their own baselines; here the models are finished below
            return [Answer(who, None, "NO_REPLY") for who in envelopes]
        return [Answer(who, client_app.answer(data, homes[who], None), "") for who, data in envelopes.items()]

    record = Coordinator(scenario, "run-1", folder / "out", exchange).run()
    contributed = {who: participant["rounds_contributed"] for who, participant in record["participants"].items()}
    if set(contributed.values()) != {scenario.rounds}:
        raise SystemExit(f"{name}: wanted {scenario.rounds} messages of everybody, got {contributed}")
    state = load_latest(folder / "out")
    assert state is not None
    industry = SETS[name].industry
    model, last, out = state.groups[industry], {}, []
    if scenario.contract.sums is not None:
        last = beside(scenario, state.memory)
    shared = build_module(scenario.contract, industry)
    load_state(shared, model)
    for who, train, test in parts:
        with torch.no_grad():
            everybody = shared(test.inputs).numpy().ravel()
        if scenario.contract.sums is None:  # what was released is what everybody uses
            out.append((module_scorer(shared), everybody))
            continue
        home = SumsAtHome.of(who, sent(homes[who], "run-1"), scenario.contract, industry, model, last[who])
        # The participant summed the training part of its rows; at home the same rows finish the model.
        inside = assign(train.split_keys, homes[who].split_key(), {"train": 0.98, "test": 0.02}) == "train"
        fitted = home.fit(train.take(inside))
        held = np.where(inside, 0.0, fitted(train))
        held[inside] = fitted.held_out
        out.append((replace(fitted, held_out=held), everybody))
    return out


def scored(own: Baseline, fed: Scorer, test: Table, name: str) -> dict[str, float]:
    """Return the test AUC of each model of one participant, by the product's own baseline and stack; all rows train."""
    client, nothing = registry.get(SETS[name].industry), test.take([])
    both, second = joined(client, own, fed, nothing), control(client, own, nothing)
    models = {"alone": own.alone.scorer, "control": second.scorer, "federated": fed, "joined": both.scorer}
    return {kind: auc(test.target.numpy(), model(test)) for kind, model in models.items()}


def remembered(own: Baseline) -> Baseline:
    """Return the baseline with models that score a table once: they are the same at every budget."""

    def once(scorer: Scorer) -> Scorer:
        known: dict[int, tuple[Table, Array]] = {}

        def scores(rows: Table) -> Array:
            if id(rows) not in known:
                known[id(rows)] = rows, scorer(rows)  # the table, too, so that its id stays its own
            return known[id(rows)][1]

        return replace(scorer, scores=scores)

    second = own.second and replace(own.second, scorer=once(own.second.scorer))
    return replace(own, alone=replace(own.alone, scorer=once(own.alone.scorer)), second=second)


def auc(y: Array, scores: Array) -> float:
    """Return the AUC; NaN with fewer than three rows of a class."""
    count = np.bincount(y.astype(int), minlength=2)
    return float(roc_auc_score(y, scores)) if min(count) >= 3 else math.nan


def measure(options: argparse.Namespace) -> None:
    """Run every set, seed, budget and kind of noise that the file lacks, each written as it is done."""
    _without_half_a_line(options.out)
    done = {tuple(r[k] for k in ("set", "seed", "epsilon", "noise", "learner")) for r in _read(options.out)}
    for seed in range(options.first, options.first + options.seeds):
        for name in options.sets:
            arms = [
                (epsilon, noise, learner)
                for epsilon in options.epsilons
                for noise in options.noise
                for learner in options.learner
                if (name, seed, epsilon, noise, learner) not in done
            ]
            if not arms:
                continue
            frames_ = dealt(options.data, name, seed)
            parts = [(who, table_of(name, train), table_of(name, test)) for who, train, test in frames_]
            own: list[Baseline] = []
            for epsilon, noise, learner in arms:
                started = time.process_time()
                with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as scratch:
                    folder = Path(scratch)
                    scenario = scenario_of(name, frames_, epsilon, noise == "shared", learner)
                    homes = {who: home_of(folder, scenario, who, train, seed) for who, train, _ in frames_}
                    if noise == "shared":
                        pin_each_other(homes)
                    made = federated(name, parts, folder, {"scenario": scenario, "homes": homes})
                if not options.released_only:
                    own = own or _owned(name, frames_, parts)
                rows = [
                    {
                        "participant": who,
                        "rows": len(train),
                        "released": auc(test.target.numpy(), everybody),
                        **(_beside(name, own[place], fed, train, test) if own else {}),
                    }
                    for place, ((who, train, test), (fed, everybody)) in enumerate(zip(parts, made, strict=True))
                ]
                line = {"set": name, "seed": seed, "epsilon": epsilon, "noise": noise, "learner": learner}
                line |= {"trained": scenario.contract.learner, "participants": rows}
                line["cpu_seconds"] = time.process_time() - started
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
                print(name, seed, epsilon, noise, learner, f"{line['cpu_seconds']:.1f} s of CPU", flush=True)


def _owned(name: str, frames_: Sequence[Any], parts: Sequence[tuple[str, Table, Table]]) -> list[Baseline]:
    """Return each participant's own models, the same at every budget and beside every learner."""
    contract = scenario_of(name, frames_, 1.0, False).contract
    return [remembered(baseline(contract, SETS[name].industry, part, who)) for who, part, _ in parts]


def _beside(name: str, own: Baseline, fed: Scorer, train: Table, test: Table) -> dict[str, Any]:
    """Return what one participant's own rows say: numbers for a forecast, and the AUC of each of its models."""
    contract = scenario_of(name, [("one", range(len(train)), None)], 1.0, False).contract
    numbers = asdict(own_numbers(contract, SETS[name].industry, train, own))
    return {"own": numbers, **scored(own, fed, test, name)}


def _without_half_a_line(file: Path) -> None:
    """Cut off what was being written when an earlier call was ended; that run is made again."""
    if file.is_file():
        whole = file.read_bytes()
        file.write_bytes(whole[: whole.rfind(b"\n") + 1])


def _read(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; those without a learner are of an older one, of sums alone."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [{"learner": "sums", **json.loads(line)} for line in lines]


def table(file: Path) -> str:
    """Return the table of a file, in Markdown."""
    arms: dict[tuple[str, str, float, str], list[dict[str, Any]]] = defaultdict(list)
    for line in _read(file):
        arms[line["set"], line["noise"], line["epsilon"], line["learner"]].append(line)
    kinds = ("released", "federated", "joined")
    heads = ("set", "noise", "ε", "learner", "seeds", "released, AUC", "alone", "control", *kinds, "net")
    heads += ("worst participant",)
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for (name, noise, epsilon, learner), found in sorted(arms.items()):
        reached = np.array([_mean(line, "released") for line in found])
        first = f"| {name} | {noise} | {epsilon:g} | {learner} | {len(found)} | {reached.mean():.3f} "
        if any("alone" not in one for line in found for one in line["participants"]):
            lines.append(first + "| " * 7 + "|")
            continue
        means = {kind: np.array([_mean(line, kind) for line in found]) for kind in ("alone", "control", *kinds)}
        gains = np.array([[p["joined"] - p["alone"] for p in line["participants"]] for line in found])
        cells = [_interval(means[kind] - means["alone"]) for kind in ("control", *kinds)]
        net, worst = _interval(means["joined"] - means["control"]), 1e3 * np.nanmin(np.nanmean(gains, axis=0))
        lines.append(f"{first}| {means['alone'].mean():.3f} | {' | '.join(cells)} | {net} | {worst:+.0f} |")
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
    parser.add_argument("--sets", default=["german", "heart", "ai4i", "cards"], **words)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--learner", default=["sums"], **words)
    parser.add_argument("--released-only", action="store_true", help="no models of one's own")
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
