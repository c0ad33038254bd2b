"""Neighbour games with one mechanism at a time, on numbers that no schema would let through.

The same functions that messages reach, called with rows of any size (denormal, huge, not finite), units of any number
of rows, and networks of an industry's own: convolutions, recurrent and embedding layers, norms, shared weights. Whatever
is refused before its first row is no game; what trains is held to the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from consortia.audit import games
from consortia.audit.games import Game
from consortia.audit.networks import LOSS, NETWORKS, stack
from consortia.audit.scenes import HOSTILE, model_of
from consortia.vertical.assistance import FOLDS
from consortia.vertical.contract import ModelPrivacy
from consortia.vertical.private_model import assist_privately, model_event
from privacy.central import CentralPlan, noisy_mean
from privacy.dp_logistic import train_logistic
from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.errors import PlanError
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.observation import Note, observing
from privacy.randomized_response import respond
from privacy.randomness import fresh_generator, fresh_key
from privacy.secure_sum.fixed_point import FixedPoint
from privacy.secure_sum.gradient import clipped_sum
from privacy.stacked import Dense, OneGenerator, StackedRows, train_stacked

_SCALES = (1e-42, 1e-20, 1e-3, 1.0, 1.0, 1.0, 30.0, 1e6, 1e18)
_FEATURES = 8


def _clip(random: np.random.Generator) -> float:
    return float(random.choice([1e-3, 0.2, 1.0, 7.0]))


def _rows(random: np.random.Generator, most: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (n, 8), target (n,) and unit (n,) of some units: cancelling, constant or natural rows each."""
    count = int(random.choice([1, 2, 3, most]))
    sizes = random.integers(1, 8, count) if random.random() < 0.7 else np.ones(count, dtype=np.int64)
    if random.random() < 0.4:
        sizes[:] = 1
        sizes[-1] = int(random.integers(2, 18))
    blocks, targets = [], []
    for size in sizes:
        x = random.normal(size=(int(size), _FEATURES)) * random.choice(_SCALES)
        y = random.integers(0, 2, int(size)).astype(np.float64)
        kind = random.choice(["natural", "constant", "cancelling", "broken"], p=[0.4, 0.25, 0.3, 0.05])
        if kind == "constant":
            x[:] = x[0]
        if kind == "cancelling":
            half = len(x) // 2
            x[half : 2 * half], y[half : 2 * half] = x[:half], 1 - y[:half]
            x[:, 0] += random.choice([0.0, 1e-6]) * np.arange(len(x))
        if kind == "broken":
            x[0, 0] = random.choice([np.nan, np.inf])
        blocks.append(x)
        targets.append(y)
    with np.errstate(over="ignore"):
        features = torch.from_numpy(np.concatenate(blocks)).float()
    units = torch.from_numpy(np.repeat(np.arange(count), sizes))
    return features, torch.from_numpy(np.concatenate(targets)).float(), units


def _less(unit: Tensor, left: int) -> tuple[Tensor, Tensor]:
    """Return which rows stay without a unit, and their units, renumbered."""
    keep = unit != left
    rest = unit[keep]
    return keep, torch.where(rest > left, rest - 1, rest)


def _inputs(name: str, x: Tensor) -> dict[str, Tensor]:
    if name.startswith("embedding"):
        tokens = x.nan_to_num(0.0, 0.0, 0.0).abs().mul(7).clamp(max=19).to(torch.int64)
        return {"x": tokens}
    return {"x": x}


def _module(random: np.random.Generator) -> tuple[str, nn.Module]:
    name = str(random.choice(list(NETWORKS)))
    module = NETWORKS[name]()
    size = float(random.choice([0.0, 0.5, 0.5, 5.0, 1e3, 1e6]))
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return f"{name}, weights {size:g}", module


def dp_sgd(seed: int) -> list[Game]:
    """`privacy.dp_sgd.train_private` on networks of every kind."""
    random = np.random.default_rng(seed)
    name, module = _module(random)
    recipe = f"step game dp_sgd, seed {seed}: {name}"
    return _trained(random, recipe, name, module, _rows(random), _clip(random))


def amplified(seed: int) -> list[Game]:
    """Dense layers whose weights amplify rounding, on many units of one kind and one of another number of rows."""
    random = np.random.default_rng(seed)
    widths = [_FEATURES, *([8], [32], [32, 16], [32, 32, 32])[int(random.integers(4))], 1]
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
        layers += [nn.Linear(a, b), *([nn.Tanh()] if place < len(widths) - 2 else [])]
    module = stack(*layers)
    kind = str(random.choice(HOSTILE))
    module.load_state_dict(model_of(kind, module.state_dict(), random))
    count, size = int(random.integers(20, 160)), int(random.choice([1, 1, 2]))
    x = random.normal(size=(count, 1, _FEATURES)) if random.random() < 0.5 else np.full((count, 1, _FEATURES), 0.5)
    x = np.repeat(x, size, axis=1)
    y = np.zeros((count, size))
    if size == 2:  # nearly the same row with the other label
        x[:, 1, 0] += random.choice([0.0, 1e-7, 5e-7, 1e-6])
        y[:, 1] = 1
    odd = int(random.choice([1, 2, 5, 7, 9, 14, 17]))
    last = np.zeros((odd, _FEATURES)) if random.random() < 0.5 else random.normal(size=(odd, _FEATURES))
    rows = torch.from_numpy(np.concatenate([x.reshape(-1, _FEATURES), last])).float()
    target = torch.from_numpy(np.concatenate([y.ravel(), np.zeros(odd)])).float()
    unit = torch.from_numpy(np.concatenate([np.repeat(np.arange(count), size), np.full(odd, count)]))
    recipe = f"step game amplified, seed {seed}: {kind}, widths {widths}, {count} units of {size}, one of {odd}"
    clip = float(random.choice([0.5, 1.0]))
    if random.random() < 0.3:
        return _summed(recipe, "", module, (rows, target, unit), clip, [count])
    return _trained(random, recipe, "", module, (rows, target, unit), clip, [count])


def _trained(
    random: np.random.Generator,
    recipe: str,
    name: str,
    module: nn.Module,
    rows: tuple[Tensor, Tensor, Tensor],
    clip: float,
    lefts: list[int] | None = None,
) -> list[Game]:
    """Return the games of two steps of DP-SGD; none for a network that is refused."""
    x, y, unit = rows
    secure = bool(random.random() < 0.5)
    path = f"dp_sgd, {'secure' if secure else 'float'} noise"
    recipe += f", clip {clip:g}, {int(unit.max()) + 1} units of {len(unit)} rows"

    def notes(rows: Tensor, units: Tensor) -> list[Note]:
        plan = DpSgdPlan(sampling_rate=1.0, declared_units=5, steps=2, noise_multiplier=1.0, clip=clip)
        with observing() as found:
            train_private(
                module,
                _inputs(name, x[rows]),
                y[rows],
                units,
                int(units.max()) + 1 if len(units) else 0,
                LOSS,
                lambda parameters: torch.optim.SGD(parameters, lr=0.0),
                plan,
                fresh_generator(),
                secure=secure,
            )
        return list(found)

    try:
        whole = notes(torch.ones(len(unit), dtype=torch.bool), unit)
    except PlanError:
        return []  # refused: nothing may leave
    out = []
    for left in lefts or _some(random, unit):
        less = notes(*_less(unit, left))
        ratio = math.inf
        if len(whole) == len(less) == 2:
            pairs = [([a], [b]) for a, b in zip(whole, less, strict=True)]
            ratio = max(max(games.step_ratio(a, b, 1.0), games.clip_ratio(a, b, clip)) for a, b in pairs)
        out.append(Game(path, f"{recipe}, without {left}", ratio))
    return out


def _some(random: np.random.Generator, unit: Tensor, most: int = 3) -> list[int]:
    """Choose units to leave out, the last one always."""
    count = int(unit.max()) + 1
    return sorted({count - 1, *(int(u) for u in random.integers(count, size=most - 1))})


def secure_sum(seed: int) -> list[Game]:
    """`clipped_sum` and what the fixed point makes of it, with one member's share of the noise."""
    random = np.random.default_rng(seed)
    name, module = _module(random)
    recipe = f"step game secure_sum, seed {seed}: {name}"
    rows = _rows(random)
    return _summed(recipe, name, module, rows, _clip(random), _some(random, rows[2]), random)


def _summed(
    recipe: str,
    name: str,
    module: nn.Module,
    rows: tuple[Tensor, Tensor, Tensor],
    clip: float,
    lefts: list[int],
    random: np.random.Generator | None = None,
) -> list[Game]:
    """Return the games of a member's clipped sum; none for a network that is refused."""
    random = random or np.random.default_rng(0)
    x, y, unit = rows
    drops, sigma = int(random.integers(2)), float(random.uniform(0.7, 9.0))
    size = sum(p.numel() for p in module.parameters())
    code = FixedPoint(
        noise=sigma * clip, clip=clip, smallest_clip=clip, dimension=size, rows=2048, colluders=1, drops=drops
    )
    cohort = 3 + drops + int(random.integers(3))

    def note(rows: Tensor, units: Tensor) -> list[Note]:
        made = clipped_sum(
            module,
            _inputs(name, x[rows]),
            y[rows],
            units,
            int(units.max()) + 1 if len(units) else 0,
            LOSS,
            sampling_rate=1.0,
            clip=clip,
            generator=fresh_generator(),
        )
        total = torch.cat([part.flatten() for part in made.by_name.values()]).numpy()
        with observing() as found:
            code.encode(total, cohort, code.bits(cohort))
        return list(found)

    try:
        whole = note(torch.ones(len(unit), dtype=torch.bool), unit)
    except PlanError:
        return []
    out = []
    # The noise counts on all members but the colluders and who may drop out.
    z = sigma / math.sqrt(cohort - code.colluders - code.drops)
    for left in lefts:
        less = note(*_less(unit, left))
        ratio = max(games.moved(whole, less, z), games.clip_ratio(whole, less, clip))
        recipe_ = f"{recipe}, clip {clip:g}, {cohort} members, {drops} drops, without {left}"
        out.append(Game("secure sum, one share", recipe_, ratio))
    return out


def stacked(seed: int) -> list[Game]:
    """`privacy.stacked.train_stacked`: a row moves its own participant's sum, and no other's."""
    random = np.random.default_rng(seed)
    widths = [_FEATURES, *([] if random.random() < 0.4 else [int(random.choice([3, 16]))]), 1]
    size = float(random.choice([0.0, 0.5, 5.0, 1e3, 1e6]))
    participants, clip = int(random.integers(1, 4)), _clip(random)
    tables = []
    for _ in range(participants):
        x, y, _unit = _rows(random)
        tables.append((x, y))
    weights = [random.normal(size=(b, a + 1)) * size for a, b in zip(widths, widths[1:], strict=False)]
    recipe = f"step game stacked, seed {seed}: widths {widths}, weights {size:g}, clip {clip:g}, {participants} participants"

    def notes(rows: list[tuple[Tensor, Tensor]]) -> list[Note]:
        layers = [
            Dense(
                torch.from_numpy(w[:, :-1]).float().expand(participants, -1, -1).clone(),
                torch.from_numpy(w[:, -1]).float().expand(participants, 1, -1).clone(),
                tanh=place < len(weights) - 1,
            )
            for place, w in enumerate(weights)
        ]
        # So little noise that what stands beside it is not rounded away: its size is no part of this game.
        plan = DpSgdPlan(sampling_rate=1.0, declared_units=5, steps=1, noise_multiplier=1e-3, clip=clip)
        make = lambda parameters: torch.optim.SGD(parameters, lr=0.0)  # noqa: E731
        with observing() as found:
            train_stacked(
                layers, StackedRows.of(rows), LOSS, make, [plan] * participants, OneGenerator(fresh_generator())
            )
        return list(found)

    whole = notes(tables)
    owner = int(random.integers(participants))
    x, y = tables[owner]
    out = []
    for left in {0, len(y) - 1}:
        keep = torch.arange(len(y)) != left
        less = notes([(x[keep], y[keep]) if place == owner else table for place, table in enumerate(tables)])
        ratio = math.inf
        if len(whole) == len(less) == participants:
            pairs = [([a], [b]) for a, b in zip(whole, less, strict=True)]
            ratio = max(games.step_ratio(*pairs[owner], 1e-3), games.clip_ratio(*pairs[owner], clip))
            for place, pair in enumerate(pairs):
                if place != owner:  # nothing but what float32 rounds
                    ratio = max(ratio, games.moved(*pair, 1e-3) / games.SIMULATION)
        out.append(Game("stacked", f"{recipe}, without row {left} of {owner}", ratio))
    return out


def central(seed: int) -> list[Game]:
    """`privacy.central.noisy_mean`: a participant's change of any size, or one that is not finite."""
    random = np.random.default_rng(seed)
    clip, count, size = _clip(random), int(random.integers(1, 9)), int(random.choice([1, 5, 300]))
    changes = [torch.from_numpy(random.normal(size=size) * random.choice([*_SCALES, np.inf])) for _ in range(count)]
    plan = CentralPlan(noise_multiplier=1.3, clip=clip, sampling_rate=1.0, units=5)

    def notes(some: list[Tensor]) -> list[Note]:
        with observing() as found:
            noisy_mean(some, size, plan, fresh_generator())
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
            noisy_histogram(cell[keep], cells, owner[keep], rows_per_unit=limit, noise=noise)
        return list(found)

    whole, out = notes(owner >= 0), []
    for left in {0, units - 1}:
        ratio = games.moved(whole, notes(owner != left), noise.multiplier)
        recipe = f"step game histogram, seed {seed}: {cells} cells, {limit} rows a unit, {noise}, without {left}"
        out.append(Game("histogram", recipe, ratio))
    return out


def logistic(seed: int) -> list[Game]:
    """`train_logistic`, and the vertical partner's folds of it: one row is replaced by any other."""
    random = np.random.default_rng(seed)
    n, width, clip, steps = int(random.integers(1, 40)), int(random.choice([1, 4])), _clip(random), 3
    x = random.normal(size=(n, width)) * random.choice([1e-300, 1e-3, 1.0, 1e3, 1e150])
    y = random.integers(0, 2, n)
    other, label = x.copy(), y.copy()
    row = int(random.integers(n))
    other[row] = random.choice([-x[row], random.normal(size=width) * 1e6, np.zeros(width)])
    label[row] = 1 - y[row]

    def notes(a: Any, b: Any) -> list[Note]:
        with observing() as found:  # a rate that moves no weight: every step starts from the same model
            train_logistic(a, b, noise_multiplier=1.7, steps=steps, generator=fresh_generator(), clip=clip, rate=1e-300)
        return list(found)

    whole, less = notes(x, y), notes(other, label)
    ratio = math.inf
    if len(whole) == len(less) == steps:
        ratio = max(games.moved([a], [b], 1.7) for a, b in zip(whole, less, strict=True)) / (1 + games.OWN)
    recipe = f"step game logistic, seed {seed}: {n} rows, clip {clip:g}, row {row} replaced"
    return [Game("logistic, one row replaced", recipe, ratio), *_folds(random, seed)]


def _folds(random: np.random.Generator, seed: int) -> list[Game]:
    terms = ModelPrivacy(epsilon=2.0, delta=1e-5, steps=1)
    n = int(random.integers(10, 60))
    x, labels = random.normal(size=(n, 3)), random.integers(-1, 2, n)
    other, changed, row = x.copy(), labels.copy(), int(random.integers(n))
    other[row] = random.normal(size=3) * 1e3
    if labels[row] >= 0:
        changed[row] = 1 - labels[row]

    def notes(a: Any, b: Any) -> list[Note]:
        with observing() as found:
            assist_privately(a, b, terms)
        return list(found)

    event = model_event(terms, "record")
    whole, less = notes(x, labels), notes(other, changed)
    ratio = math.inf
    if len(whole) == FOLDS:
        # Equal Gaussians are one of their number's root: a row is in all models but that of its own fold.
        ratio = games.moved(whole, less, event.noise_multiplier) / math.sqrt(event.count)
    return [Game("vertical model, one row replaced", f"step game logistic, seed {seed}: folds of {n} rows", ratio)]


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
    bits = {length: fresh_key() * (length // 32 + 1) for length in (8 * n,)}
    changed = values.copy()
    others = np.arange(n) != row
    changed[others] = random.integers(0, classes, int(others.sum()))
    answers = [respond(v, classes, epsilon, entropy=lambda k: bits[8 * n][:k])[row] for v in (values, changed)]
    out.append(Game("randomised response", f"{recipe}, other rows", 0.0 if answers[0] == answers[1] else math.inf))
    return out


#: By name, with how many of a hundred games each gets.
STEPS: Mapping[str, tuple[Callable[[int], list[Game]], int]] = {
    "dp_sgd": (dp_sgd, 30),
    "amplified": (amplified, 15),
    "secure_sum": (secure_sum, 15),
    "stacked": (stacked, 15),
    "central": (central, 8),
    "histogram": (histogram, 8),
    "logistic": (logistic, 5),
    "response": (response, 4),
}
