"""A network trained on public images, frozen below noisy sums, beside the same network trained by DP-SGD.

    python benchmarks/frozen_encoder.py [--epsilon 1 ...] [--seeds 5] [--ways sums ...] [--known 10] [--receipts]
                                        [--out FILE.jsonl]
    python benchmarks/frozen_encoder.py --table FILE.jsonl

The data are scikit-learn's handwritten digits (real images, no download). By seed, 200 of the 1,797 images are public,
and the network of the scenario `digits` is trained on them. With `--known 5` it is 600, of which only those of 0 to 4
count: the network never saw 5 to 9, and its own head cannot name them. All other images, of all ten digits, are dealt
to five offices as unevenly as in `digits`. `public` is the accuracy of the file's network as it is.

Ways: `sums` of the network's outputs, the same as a `secure` sum, and sums of the 64 `pixels`; DP-SGD of the whole
network from a random start (`random`), from the file (`file`), and of its head alone (`head`), with the steps of
`digits` at each of `RATES`; the table shows each. `released` is the accuracy of the model of released numbers alone on
everybody's test images, its mean over the offices; `federated` is that of the model that an office ends with: after
sums it is finished on its own rows. With `--receipts` also what each office has alone and joined; it takes far longer.
Call it again to go on: what the file has is not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest import mock

import numpy as np
import pandas as pd
import safetensors.torch
import tomli_w
import torch
from network_scenarios import lines_of, no_search, partitions

from clients import registry
from clients.dataset import prepare
from clients.digits import DIGITS, OFFICES, ROWS, SCHEMA, read
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute
from consortia.engines.runner import prepare as prepared
from consortia.participant import baseline
from consortia.participant.evaluation import module_scorer, score_metrics
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import starting_module

WAYS: Final = ("sums", "secure", "pixels", "random", "file", "head")
RATES: Final = (0.5, 2.0)
SUMS: Final = ("sums", "secure", "pixels")
#: How many images are public, by how many digits the network has seen.
PUBLIC: Final[Mapping[int, int]] = {10: 200, 5: 600}
_STEPS: Final = 300


def rows(seed: int, known: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the public images, and those of each office."""
    import sklearn.datasets

    folder = Path(sklearn.datasets.__file__).parent / "data"
    whole = pd.concat([read(folder, office) for office in OFFICES], ignore_index=True)
    whole = whole.iloc[np.random.default_rng(seed).permutation(len(whole))]
    public, rest = whole[: PUBLIC[known]], whole[PUBLIC[known] :]
    starts = [*OFFICES.values(), ROWS]
    ends = [round(start * len(rest) / ROWS) for start in starts]
    offices = {name: rest[ends[place] : ends[place + 1]] for place, name in enumerate(OFFICES)}
    return public[public[SCHEMA.target.name].isin(DIGITS[:known])], offices


def terms() -> dict[str, Any]:
    """Return the contract of `digits` as it is written."""
    found: dict[str, Any] = json.loads(load_scenario("digits").contract.canonical())
    return found


def file_of(folder: Path, public: pd.DataFrame, seed: int, known: int) -> dict[str, str]:
    """Train the network on the public images without privacy, write it, and return `init`."""
    contract = load_scenario("digits").contract.model_copy(update={"seed": seed})
    module, table = starting_module(contract, "digits"), prepare(registry.get("digits"), public)
    # A head of zeros, and outputs for digits that never come, would drive every unit to its limit.
    torch.nn.init.normal_(module.head.weight, std=0.3, generator=torch.Generator().manual_seed(seed))
    solver = torch.optim.Adam(module.parameters(), 0.003)
    for _ in range(_STEPS):
        solver.zero_grad()
        torch.nn.functional.cross_entropy(module(table.inputs)[:, :known], table.target).backward()
        solver.step()
    file = folder / "public.safetensors"
    safetensors.torch.save_file(module.state_dict(), file)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def contract_of(way: str, rate: float, init: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Return the contract of a way."""
    whole = terms()
    own = whole["industries"]["digits"]
    if way in SUMS:
        network = {} if way == "pixels" else {"model": own["model"], "init": dict(init)}
        secure = {"trust": "aggregate", "secure": {"colluders": 1, "min_cohort": 3, "spare": 0}}
        found = {"schema": 1, "wire": 1, "seed": seed, "learner": "sums", "industries": {"digits": network}}
        return found | (secure if way == "secure" else {})
    own |= {"learning_rate": rate} | ({} if way == "random" else {"init": dict(init)})
    own |= {"freeze": ["encoder.*"]} if way == "head" else {}
    return {key: value for key, value in {**whole, "seed": seed}.items() if value is not None}


def job_of(
    folder: Path, contract: Mapping[str, Any], offices: Mapping[str, pd.DataFrame], epsilon: float
) -> tuple[Job, Options]:
    """Write rows, scenario and policies; return the run."""
    kind = "sums" if contract.get("learner") == "sums" else "update"
    budget = {"epsilon": epsilon, "delta": 1e-4}
    (folder / "policies" / "trial").mkdir(parents=True)
    roster = []
    for name, frame in offices.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
        roster.append(
            {"name": name, "industry": "digits", "dataset": "images", "site": name, "units": len(frame), **budget}
        )
        data = {
            "industry": "digits",
            "source": f"csv:{folder / name}.csv",
            "site": name,
            "unit": "record",
            "declared_units": len(frame),
        }
        policy = {
            "schema": 1,
            "participant": name,
            "demo": True,
            "dataset": {"images": data},
            "budget": {"run": budget, "lifetime": {"epsilon": 4 * epsilon, "delta": 4e-4}},
            "allow": {"releases": [kind], "contracts": "any"},
        }
        if contract.get("trust") == "aggregate":
            policy["secure"] = {"min_cohort": 3, "colluders": 1, "max_attempts": 3}
        (folder / "policies" / "trial" / f"{name}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    scenario = {"schema": 1, "name": "trial", "title": "Trial", "contract": _plain(contract), "roster": roster}
    (folder / "trial.toml").write_text(tomli_w.dumps(scenario), encoding="utf-8")
    seed = int(contract["seed"])
    options = Options(scenario=str(folder / "trial.toml"), out=folder / "runs", seed=seed, split_seed=seed)
    return prepared(options), options


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items() if one is not None}
    return value


def measure(way: str, rate: float, epsilon: float, seed: int, known: int, *, receipts: bool) -> dict[str, Any]:
    """Run one way once; return the means over the offices."""
    started = time.process_time()
    public, offices = rows(seed, known)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        init = file_of(folder, public, seed, known)
        job, options = job_of(folder, contract_of(way, rate, init, seed), offices, epsilon)
        searched = mock.MagicMock() if receipts else mock.patch.object(baseline, "of_run", no_search)
        with searched:
            found = execute(job, options).result["participants"].values()
        lines = [one["metrics"]["accuracy"] for one in found]
        shown = ("federated", "local", "control", "joined") if receipts else ("federated",)
        out = {"way": way, "rate": rate, "epsilon": epsilon, "seed": seed, "known": known, "receipts": receipts}
        out |= {model: statistics.fmean(line[model] for line in lines) for model in shown}
        if receipts:
            out["gain"] = statistics.fmean(line["joined"] - line["control"] for line in lines)
        out["released"] = _released(job) if way in SUMS else out["federated"]
        if way == "sums":
            out["public"] = _public(job)
    return out | {"cpu_seconds": time.process_time() - started}


def _public(job: Job) -> float:
    """Return the accuracy of the file's network as it is, on everybody's test images."""
    scores = module_scorer(starting_module(job.scenario.contract, "digits").eval())
    client = registry.get("digits")
    return statistics.fmean(
        score_metrics(client, scores(part.test), part.test)["accuracy"] or 0.0 for part in partitions(job).values()
    )


def _released(job: Job) -> float:
    """Return the accuracy of the model of released sums alone: what the coordinator has."""
    from consortia.models.source import of_coordinator

    model = of_coordinator(str(job.folder), "digits").model
    client, values = registry.get("digits"), []
    for part in partitions(job).values():
        with torch.no_grad():
            scores = np.asarray(model(part.test.inputs["features"]), dtype=np.float64)
        values.append(score_metrics(client, scores, part.test)["accuracy"] or 0.0)
    return statistics.fmean(values)


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The runs of a file as a Markdown table: a line for each way, rate and budget."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["epsilon"], line["known"], line["way"], line["rate"] or "", line["receipts"]].append(line)
    shown = ("public", "released", "federated", "local", "control", "joined", "gain")
    heads = ("ε", "known", "way", "rate", "receipts", "seeds", *shown, "CPU s")
    text = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for key, found in sorted(groups.items(), key=str):
        cells = [_cell([line[name] for line in found if name in line]) for name in shown]
        seconds = f"{statistics.fmean(line['cpu_seconds'] for line in found):.0f}"
        text.append(f"| {' | '.join((*map(str, key), str(len(found)), *cells, seconds))} |")
    return "\n".join(text)


def _cell(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "–" if not values else f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def main() -> int:
    """Measure; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, nargs="*", default=[1.0])
    parser.add_argument("--ways", nargs="*", default=WAYS, choices=WAYS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--known", type=int, default=10, choices=PUBLIC)
    parser.add_argument("--receipts", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("frozen_encoder.jsonl"))
    parser.add_argument("--table", type=Path, help="print the table of a file and end")
    options = parser.parse_args()
    if options.table is not None:
        print(table(lines_of(options.table)))
        return 0
    torch.set_num_threads(1)
    keys = ("way", "rate", "epsilon", "seed", "known", "receipts")
    there = {tuple(line[key] for key in keys) for line in lines_of(options.out)}
    for seed in range(options.seeds):
        for epsilon in options.epsilon:
            for way in options.ways:
                for rate in (0.0,) if way in SUMS else RATES:
                    if (way, rate, epsilon, seed, options.known, options.receipts) in there:
                        continue
                    line = measure(way, rate, epsilon, seed, options.known, receipts=options.receipts)
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
                    print(json.dumps(line), file=sys.stderr, flush=True)
    print(table(lines_of(options.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
