"""Find rounds, steps, learning rate and clip of the committed scenarios, on training rows only.

    python benchmarks/search_settings.py --data ../shared/data [--quick] [hospitals|banks|factories ...]

Every configuration is trained as a participant trains (`train_round`: Poisson draws at a public rate, one clip for
each unit's gradient over all parameters, noise solved by PLD for the whole plan, SGD from a zero head, FedAvg by
declared units), on the features of the product's own schemas, in many replicates at once. It is scored by
cross-validation *inside* the training rows, once without noise and once at the scenario's ε:

    rule: the configuration with the largest min(CV non-private, CV private)

| scenario | training rows | folds | score |
|---|---|---|---|
| hospitals | FLamby's training part, 100 (quick: 20) random partitions | 5, stratified | mean accuracy over centres |
| banks | .6 by keyed hash, split seeds 1000-1039 (quick: 1000-1019) | 3, by keyed hash | mean AUC over sites |
| factories | .6 by keyed hash, split seeds 1000-1003 (quick: 1000-1001) | 3, by keyed hash | mean AUC over sites |

Test rows of the splits that `targets.py` reports on are never scored, but splits 1000... and 42... are draws from
the same public rows. The features were screened in the same way beforehand and are not searched again here.
`docs/design/0002-settings.md` has the measured tables, where the committed setting is not the strict winner and
why, and what else to know before believing it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from clients import registry
from clients.dataset import Table, assign, prepare
from clients.industry import ModelSpec, effective_schema
from clients.models import build
from clients.sources import parse_source, read
from consortia.terms.scenario import Scenario, load_scenario
from privacy.accounting import solve_noise_multiplier
from privacy.randomness import numpy_generator, seeded_generator

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """One configuration of the grid."""

    rounds: int
    steps: int
    rate: float
    learning_rate: float
    clip: float
    hidden: tuple[int, ...] = ()

    def __str__(self) -> str:
        shape = f" hidden {self.hidden}" if self.hidden else ""
        return (
            f"rounds {self.rounds} steps {self.steps} q {self.rate:g} lr {self.learning_rate:g} "
            f"clip {self.clip:g}{shape}"
        )


def _grid(**axes: tuple) -> list[Setting]:
    return [Setting(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]


GRIDS = {
    "hospitals-network": _grid(
        rounds=(10, 15, 20), steps=(1, 2, 5), rate=(1.0,), learning_rate=(0.25, 0.5, 1.0, 2.0), clip=(0.5, 1.0)
    ),
    "banks-network": _grid(
        rounds=(20,), steps=(1, 2, 5), rate=(1.0,), learning_rate=(0.25, 0.5, 1.0, 2.0), clip=(0.5, 1.0, 2.0)
    ),
    "factories-network": _grid(
        rounds=(20,),
        steps=(10, 20, 30),
        rate=(0.2,),
        learning_rate=(1.0, 2.0, 3.0, 4.0),
        clip=(0.5, 1.0),
        hidden=((16, 8), (32, 16)),
    ),
}
QUICK = {
    "hospitals-network": _grid(
        rounds=(20,), steps=(1, 2), rate=(1.0,), learning_rate=(0.25, 0.5, 1.0, 2.0), clip=(0.5, 1.0)
    ),
    "banks-network": _grid(rounds=(20,), steps=(1, 2, 5), rate=(1.0,), learning_rate=(0.25, 0.5, 1.0), clip=(0.5, 1.0)),
    "factories-network": _grid(
        rounds=(20,), steps=(20, 30), rate=(0.2,), learning_rate=(2.0, 3.0, 4.0), clip=(0.5,), hidden=((32, 16),)
    ),
}
REPLICATES = {"hospitals-network": (100, 20), "banks-network": (40, 20), "factories-network": (4, 2)}
FOLDS = {"hospitals-network": 5, "banks-network": 3, "factories-network": 3}


@dataclass(frozen=True)
class Site:
    """A participant's rows and, for each of B replicates, which are trained on and which are held out.

    x (n, d), y (n,), train (B, n), held (B, n); `declared` is the public number of training units.
    """

    x: Tensor
    y: Tensor
    train: Tensor
    held: Tensor
    declared: float


def load_sites(scenario: Scenario, data: Path, quick: bool) -> list[Site]:
    """Each participant's rows with the folds of every replicate; rows outside the training part are in neither."""
    folds = FOLDS[scenario.name]
    repeats = REPLICATES[scenario.name][quick]
    contract = scenario.contract
    sites = []
    for participant in scenario.roster:
        client, rules = registry.get(participant.industry), contract.industries[participant.industry]
        table = prepare(
            client, read(parse_source(f"public:{data}"), client, participant.site), filter=rules.filter or None
        )
        train, held = [], []
        for repeat in range(repeats):
            if rules.split == "hash":
                part, fold = _hashed_folds(table, contract.split.train, folds, 1000 + repeat)
            else:
                part = client.splits[rules.split](table.target.numpy(), participant.site) == "train"
                fold = _stratified_folds(table, part, folds, f"{participant.name}/{repeat}")
            train += [part & (fold != k) for k in range(folds)]
            held += [part & (fold == k) for k in range(folds)]
        # A published split takes its validation rows from the training part, which is all used here.
        share = contract.split.train + (0 if rules.split == "hash" else contract.split.validation)
        sites.append(
            Site(
                table.inputs["features"],
                table.target,
                torch.from_numpy(np.array(train)),
                torch.from_numpy(np.array(held)),
                round(participant.units * share) * (folds - 1) / folds,
            )
        )
    return sites


def _hashed_folds(table: Table, share: float, folds: int, seed: int) -> tuple[Bools, NDArray[np.int64]]:
    key = f"search {seed}".encode()
    part = assign(table.split_keys, key, {"train": share, "rest": 1 - share}) == "train"
    names = {str(k): 1 / folds for k in range(folds)}
    return part, assign(table.split_keys, key + b" folds", names).astype(np.int64)


def _stratified_folds(table: Table, part: Bools, folds: int, seed: str) -> NDArray[np.int64]:
    fold = np.zeros(len(table), dtype=np.int64)
    generator = numpy_generator("search", seed)
    for value in (0, 1):
        rows = generator.permutation(np.flatnonzero(part & (table.target.numpy() == value)))
        fold[rows] = np.arange(len(rows)) % folds
    return fold


def initial(scenario: Scenario, setting: Setting, replicates: int) -> list[Tensor]:
    """The product's own initial network, once a replicate: [weight (B, in, out), bias (B, 1, out), ...]."""
    industry = scenario.roster[0].industry
    client, rules = registry.get(industry), scenario.contract.industries[industry]
    width = effective_schema(client, filter=rules.filter or None).width
    spec = ModelSpec(kind="mlp" if setting.hidden else "linear", hidden=setting.hidden)
    generator = seeded_generator("search", scenario.name)
    layers = []
    for _ in range(replicates):
        module = build(client, spec, width, generator)
        layers.append([m for m in module.modules() if isinstance(m, nn.Linear)])
    parameters = []
    for same in zip(*layers, strict=True):
        parameters.append(torch.stack([layer.weight.detach().T for layer in same]))
        parameters.append(torch.stack([layer.bias.detach()[None] for layer in same]))
    return parameters


def forward(parameters: list[Tensor], x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits (B, n) and the inputs of every layer [(B, n, width)] for x (n, d) or (B, n, d)."""
    value = x.expand(len(parameters[0]), *x.shape[-2:])
    inputs = [value]
    for weight, bias in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        value = torch.tanh(torch.baddbmm(bias, value, weight))
        inputs.append(value)
    return torch.baddbmm(parameters[-1], value, parameters[-2]).squeeze(-1), inputs


def gradients(parameters: list[Tensor], x: Tensor, y: Tensor, taken: Tensor, clip: float | None) -> list[Tensor]:
    """Sum over the taken rows (B, n) of each row's gradient of the logistic loss, clipped jointly."""
    logits, inputs = forward(parameters, x)
    errors = [(torch.sigmoid(logits) - y)[..., None]]
    for layer in range(len(parameters) // 2 - 1, 0, -1):
        errors.insert(0, (errors[0] @ parameters[2 * layer].transpose(1, 2)) * (1 - inputs[layer] ** 2))
    scale = taken.to(logits.dtype)
    if clip is not None:
        # A row's gradient of a dense layer is an outer product, so its norm is a product of norms.
        square = sum((a.square().sum(-1) + 1) * e.square().sum(-1) for a, e in zip(inputs, errors, strict=True))
        scale = scale * torch.clamp(clip / (torch.as_tensor(square).sqrt() + 1e-12), max=1)
    summed = []
    for a, e in zip(inputs, errors, strict=True):
        scaled = e * scale[..., None]
        summed += [a.transpose(1, 2) @ scaled, scaled.sum(1, keepdim=True)]
    return summed


def train(sites: list[Site], start: list[Tensor], setting: Setting, sigmas: list[float] | None) -> list[Tensor]:
    """Federated averaging of all replicates; without `sigmas` neither clip nor noise, as a non-private run."""
    torch.manual_seed(0)
    model = [tensor.clone() for tensor in start]
    total = sum(site.declared for site in sites)
    for _ in range(setting.rounds):
        update = [torch.zeros_like(tensor) for tensor in model]
        for number, site in enumerate(sites):
            local = [tensor.clone() for tensor in model]
            for _ in range(setting.steps):
                x, y, taken = site.x, site.y.expand(site.train.shape), site.train
                if setting.rate < 1:
                    drawn = (torch.rand(taken.shape) < setting.rate) & taken
                    rows = drawn.float().topk(max(1, int(drawn.sum(1).max())), dim=1).indices
                    x, y, taken = site.x[rows], site.y[rows], drawn.gather(1, rows)
                summed = gradients(local, x, y, taken, None if sigmas is None else setting.clip)
                if sigmas is not None:
                    summed = [g.add_(torch.randn(g.shape), alpha=sigmas[number] * setting.clip) for g in summed]
                rate = setting.learning_rate / (setting.rate * site.declared)
                local = [old.sub(g, alpha=rate) for old, g in zip(local, summed, strict=True)]
            share = site.declared / total
            update = [u.add(new - old, alpha=share) for u, new, old in zip(update, local, model, strict=True)]
        model = [old + step for old, step in zip(model, update, strict=True)]
    return model


def score(sites: list[Site], model: list[Tensor], metric: str) -> float:
    """Mean over sites and replicates on the held-out rows; an AUC of one class is left out."""
    means = []
    for site in sites:
        logits, y = forward(model, site.x)[0].numpy(), site.y.numpy()
        values = []
        for scores, held in zip(logits, site.held.numpy(), strict=True):
            if metric == "accuracy":
                values.append(float(((scores[held] > 0) == y[held]).mean()))
            elif 0 < y[held].sum() < held.sum():
                values.append(float(roc_auc_score(y[held], scores[held])))
        means.append(float(np.mean(values)))
    return float(np.mean(means))


def search(name: str, data: Path, quick: bool) -> None:
    """Score the grid and print it, best first."""
    scenario = load_scenario(name)
    (rules,) = scenario.contract.industries.values()
    schedule = (scenario.contract.rounds, rules.local_steps, rules.sampling_rate)
    committed = Setting(*schedule, rules.learning_rate, rules.clip, rules.model.hidden)
    sites = load_sites(scenario, data, quick)
    metric = "accuracy" if name == "hospitals-network" else "auc"
    scored: dict[Setting, tuple[float, float]] = {}
    # The clip changes nothing in a non-private run: it is trained once for all clips.
    plain: dict[Setting, float] = {}
    for setting in dict.fromkeys([*(QUICK if quick else GRIDS)[name], committed]):
        started = time.perf_counter()
        start = initial(scenario, setting, len(sites[0].train))
        same = replace(setting, clip=math.inf)
        if same not in plain:
            plain[same] = score(sites, train(sites, start, setting, None), metric)
        plan = {"sampling_rate": setting.rate, "steps": setting.steps * setting.rounds}
        sigmas = [solve_noise_multiplier(epsilon=s.epsilon, delta=s.delta, **plan) for s in scenario.roster]
        scored[setting] = plain[same], score(sites, train(sites, start, setting, sigmas), metric)
        print(f"{name} {setting}: {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    print(f"\n{name}: CV {metric} non-private and at the scenario's ε; {len(sites[0].train)} replicates\n")
    print("| setting | non-private | private | min |\n|---|---|---|---|")
    for setting, (without, noisy) in sorted(scored.items(), key=lambda item: -min(item[1])):
        mark = " **committed**" if setting == committed else ""
        print(f"| {setting}{mark} | {without:.4f} | {noisy:.4f} | {min(without, noisy):.4f} |")


def main() -> int:
    """Search the scenarios asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", choices=[*GRIDS, []], default=[])
    parser.add_argument("--data", type=Path, required=True, help="the folder of the public data sets")
    parser.add_argument(
        "--quick", action="store_true", help="a small grid and fewer replicates: one minute instead of six"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for name in options.scenarios or GRIDS:
            search(name, options.data, options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
