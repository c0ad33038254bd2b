"""Neighbour games with mechanisms beside DP-SGD: means, histograms, scores, logistic regression, chosen answers.

See `step_games`; rows and changes are of any size, and neighbours are those of the mechanism's own relation.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients import registry
from clients.industry import effective_schema
from clients.models import build
from clients.spec import ModelSpec
from consortia.audit import games
from consortia.audit.games import Game
from consortia.audit.scenes import AMPLIFYING, DEEP, model_of
from consortia.metrics import groups
from consortia.metrics.score_bins import has_bins
from consortia.participant.metrics_release import measure
from consortia.terms.evaluation import EvaluationTerms, GroupTerms
from consortia.terms.vertical import ModelPrivacy
from consortia.vertical.assistance import FOLDS
from consortia.vertical.private_model import assist_privately, model_event
from privacy.central import CentralPlan, noisy_mean
from privacy.dp_logistic import train_logistic
from privacy.events import LaplaceRelease
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.observation import Note, observing
from privacy.randomized_response import respond
from privacy.randomness import fresh_generator, fresh_key, seeded_generator

#: Sizes of rows and changes: denormal in float32, and up to what it holds.
SCALES = (1e-42, 1e-20, 1e-3, 1.0, 1.0, 1.0, 30.0, 1e6, 1e18)


def any_clip(random: np.random.Generator) -> float:
    """Return a clip."""
    return float(random.choice([1e-3, 0.2, 1.0, 7.0]))


def central(seed: int) -> list[Game]:
    """`privacy.central.noisy_mean`: a participant's change of any size, or one that is not finite."""
    random = np.random.default_rng(seed)
    clip, count, size = any_clip(random), int(random.integers(1, 9)), int(random.choice([1, 5, 300]))
    changes = [torch.from_numpy(random.normal(size=size) * random.choice([*SCALES, np.inf])) for _ in range(count)]
    plan = CentralPlan(noise_multiplier=1.3, clip=clip, sampling_rate=1.0, units=5)

    def notes(some: list[Tensor]) -> list[Note]:
        with observing() as found:
            noisy_mean(some, size, plan, fresh_generator(games.CONTEXT))
        return list(found)

    whole, out = notes(changes), []
    for left in {0, count - 1}:
        less = notes([change for place, change in enumerate(changes) if place != left])
        ratio = max(games.moved(whole, less, 1.3), games.clip_ratio(whole, less, clip))
        recipe = f"step game central, seed {seed}: {count} changes of {size}, clip {clip:g}, without {left}"
        out.append(Game("coordinator, noisy mean", recipe, ratio))
    return out


def histogram(seed: int) -> list[Game]:
    """`privacy.histogram.noisy_histogram`: units of more rows than count, rows outside every cell."""
    random = np.random.default_rng(seed)
    units, cells, limit = int(random.integers(1, 9)), int(random.choice([1, 4, 32])), int(random.integers(1, 5))
    owner = np.repeat(np.arange(units), random.integers(0, 12, units))
    owner = random.permutation(owner) if random.random() < 0.5 else owner
    cell = random.integers(-1, cells + 1, len(owner))
    if random.random() < 0.5:
        cell[:] = 0
    noise = HistogramNoise("laplace" if random.random() < 0.5 else "gaussian", float(random.uniform(0.2, 9)))

    def notes(keep: Any) -> list[Note]:
        with observing() as found:
            noisy_histogram(cell[keep], cells, owner[keep], rows_per_unit=limit, noise=noise, context=games.CONTEXT)
        return list(found)

    whole, out = notes(owner >= 0), []
    for left in {0, units - 1}:
        ratio = games.moved(whole, notes(owner != left), noise.multiplier)
        recipe = f"step game histogram, seed {seed}: {cells} cells, {limit} rows a unit, {noise}, without {left}"
        out.append(Game("histogram", recipe, ratio))
    return out


def scores(seed: int) -> list[Game]:
    """`metrics_release.measure`: a model that makes a cell of rounding, on so few rows that matrix kernels differ."""
    random = np.random.default_rng(seed)
    industry = str(random.choice([name for name in registry.names() if has_bins(registry.get(name).schema.target)]))
    client, widths = registry.get(industry), DEEP[int(random.integers(len(DEEP)))]
    width = effective_schema(client, filter="").width
    kind = "autoencoder" if client.schema.target.kind == "anomaly" else "mlp"
    module = build(client, ModelSpec(kind=kind, hidden=widths), width, seeded_generator("game"))
    kind = str(random.choice(AMPLIFYING))
    module.load_state_dict(model_of(kind, module.state_dict(), random))
    n = int(random.integers(2, 6))
    x, y = torch.from_numpy(random.normal(size=(n, width))).float(), torch.from_numpy(random.integers(0, 2, n))
    event = LaplaceRelease(noise_multiplier=1.0, partition="evaluation", unit="record")
    due: Any = SimpleNamespace(event=event)
    terms: Any = SimpleNamespace(unit=event.unit, max_rows_per_unit=None)
    request: Any = SimpleNamespace(
        industry=industry,
        contract=SimpleNamespace(evaluation=EvaluationTerms(metrics="dp", bins=int(random.choice([8, 24])))),
    )

    def notes(keep: Tensor) -> list[Note]:
        table = SimpleNamespace(inputs={"features": x[keep]}, target=y[keep], unit_index=np.arange(int(keep.sum())))
        parts: Any = SimpleNamespace(test=table)
        with observing() as found:
            measure(due, request, module, parts, terms, "game", games.CONTEXT)
        return list(found)

    whole, out = notes(torch.ones(n, dtype=torch.bool)), []
    for left in range(n):
        ratio = games.moved(whole, notes(torch.arange(n) != left), event.noise_multiplier)
        recipe = f"step game scores, seed {seed}: {industry}, {kind} weights, widths {widths}, {n} rows, without {left}"
        out.append(Game("metrics, scores", recipe, ratio))
    return out


def grouped(seed: int) -> list[Game]:
    """`metrics_release.measure` by group: units of many rows, which are in several groups."""
    random = np.random.default_rng(seed)
    schema = registry.get("bank").schema
    grouping = groups.possible(schema)[int(random.integers(3))]
    told = GroupTerms(column=grouping.column, cuts=grouping.cuts)
    evaluation = EvaluationTerms(metrics="dp", bins=8, groups={"bank": told})
    owner = np.repeat(np.arange(4), random.integers(1, 7, 4))
    n, width, limit = len(owner), effective_schema(registry.get("bank"), filter="").width, int(random.integers(1, 4))
    x, y = torch.from_numpy(random.normal(size=(n, width))).float(), torch.from_numpy(random.integers(0, 2, n))
    code = random.integers(0, len(grouping.names(schema)), n)
    module = build(registry.get("bank"), ModelSpec(kind="linear"), width, seeded_generator("game"))
    event = LaplaceRelease(noise_multiplier=1.0, partition="evaluation", unit="customer")
    due: Any = SimpleNamespace(event=event)
    terms: Any = SimpleNamespace(unit=event.unit, max_rows_per_unit=limit)
    request: Any = SimpleNamespace(industry="bank", contract=SimpleNamespace(evaluation=evaluation))

    def notes(keep: Any) -> list[Note]:
        table = SimpleNamespace(inputs={"features": x[keep]}, target=y[keep], unit_index=owner[keep], groups=code[keep])
        parts: Any = SimpleNamespace(test=table)
        with observing() as found:
            measure(due, request, module, parts, terms, "game", games.CONTEXT)
        return list(found)

    whole, out = notes(owner >= 0), []
    for left in range(4):
        ratio = games.moved(whole, notes(owner != left), event.noise_multiplier)
        recipe = f"step game grouped, seed {seed}: by {grouping.column}, {limit} rows a unit, without {left}"
        out.append(Game("metrics, by group", recipe, ratio))
    return out


def logistic(seed: int) -> list[Game]:
    """`train_logistic`: one row is replaced by any other."""
    random = np.random.default_rng(seed)
    n, width, clip, steps = int(random.integers(1, 40)), int(random.choice([1, 4])), any_clip(random), 3
    x = random.normal(size=(n, width)) * random.choice([1e-300, 1e-3, 1.0, 1e3, 1e150])
    y = random.integers(0, 2, n)
    other, label = x.copy(), y.copy()
    row = int(random.integers(n))
    other[row] = random.choice([-x[row], random.normal(size=width) * 1e6, np.zeros(width)])
    label[row] = 1 - y[row]

    def notes(a: Any, b: Any) -> list[Note]:
        with observing() as found:  # a rate that moves no weight: every step starts from the same model
            train_logistic(
                a,
                b,
                noise_multiplier=1.7,
                steps=steps,
                generator=fresh_generator(games.CONTEXT),
                clip=clip,
                rate=1e-300,
            )
        return list(found)

    whole, less = notes(x, y), notes(other, label)
    ratio = math.inf
    if len(whole) == len(less) == steps:
        ratio = max(games.moved([a], [b], 1.7) for a, b in zip(whole, less, strict=True)) / (1 + games.OWN)
    recipe = f"step game logistic, seed {seed}: {n} rows, clip {clip:g}, row {row} replaced"
    return [Game("logistic, one row replaced", recipe, ratio)]


def folds(seed: int) -> list[Game]:
    """`assist_privately`: the vertical partner's models, each of all folds but its own."""
    random = np.random.default_rng(seed)
    terms = ModelPrivacy(epsilon=2.0, delta=1e-5, steps=1)
    n = int(random.integers(10, 60))
    x, labels = random.normal(size=(n, 3)), random.integers(-1, 2, n)
    other, changed, row = x.copy(), labels.copy(), int(random.integers(n))
    other[row] = random.normal(size=3) * 1e3
    if labels[row] >= 0:
        changed[row] = 1 - labels[row]

    def notes(a: Any, b: Any) -> list[Note]:
        with observing() as found:
            assist_privately(a, b, terms, games.CONTEXT)
        return list(found)

    event = model_event(terms, "record")
    whole, less = notes(x, labels), notes(other, changed)
    ratio = math.inf
    if len(whole) == FOLDS:
        # Equal Gaussians are one of their number's root: a row is in all models but that of its own fold.
        ratio = games.moved(whole, less, event.noise_multiplier) / math.sqrt(event.count)
    return [Game("vertical model, one row replaced", f"step game folds, seed {seed}: folds of {n} rows", ratio)]


def response(seed: int) -> list[Game]:
    """`respond`: the odds of an answer, to the last of 64 bits, and that no other row has a part in them."""
    random = np.random.default_rng(seed)
    classes, epsilon = int(random.choice([2, 4, 10])), float(random.choice([0.01, 0.5, 2.0, 8.0]))
    n = int(random.integers(1, 6))
    values, row = random.integers(0, classes, n), int(random.integers(n))

    def told(word: int) -> int:
        def entropy(length: int) -> bytes:
            return (word.to_bytes(8, "little") * (length // 8))[:length]

        return int(respond(values, classes, epsilon, entropy=entropy)[row])

    low, high = 0, 2**64 - 1
    while high - low > 1:  # words below a threshold keep the value
        middle = (low + high) // 2
        low, high = (middle, high) if told(middle) == values[row] else (low, middle)
    keep = high / 2**64
    odds = keep / ((1 - keep) / (classes - 1)) if keep < 1 else math.inf
    recipe = f"step game response, seed {seed}: {classes} values at epsilon {epsilon:g}"
    out = [Game("randomised response", recipe, math.log(odds) / epsilon if odds > 0 else 0.0)]
    bits = {length: fresh_key(games.CONTEXT) * (length // 32 + 1) for length in (8 * n,)}
    changed = values.copy()
    others = np.arange(n) != row
    changed[others] = random.integers(0, classes, int(others.sum()))
    answers = [respond(v, classes, epsilon, entropy=lambda k: bits[8 * n][:k])[row] for v in (values, changed)]
    out.append(Game("randomised response", f"{recipe}, other rows", 0.0 if answers[0] == answers[1] else math.inf))
    return out
