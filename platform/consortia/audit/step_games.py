"""Neighbour games with one mechanism at a time, on numbers that no schema would allow.

The same functions that messages reach, called with rows of any size (denormal, huge, not finite), units of any number
of rows, and networks of an industry's own: convolutions, recurrent and embedding layers, norms, shared weights. What is
refused before its first row is no game; what trains is held to the same bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from consortia.audit import games
from consortia.audit.games import Game
from consortia.audit.mechanism_games import (
    SCALES,
    any_clip,
    central,
    folds,
    grouped,
    histogram,
    logistic,
    response,
    scores,
)
from consortia.audit.networks import FEATURES, HIDDEN, HUGE, LOSS, NETWORKS, stack
from consortia.audit.scenes import AMPLIFYING, DEEP, HOSTILE, model_of
from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.errors import PlanError
from privacy.observation import Note, observing
from privacy.randomness import fresh_generator
from privacy.secure_sum.fixed_point import FixedPoint
from privacy.secure_sum.gradient import clipped_sum
from privacy.stacked import Dense, OneGenerator, StackedRows, train_stacked

#: Rows (n, 8) as a network takes them.
Inputs = Callable[[Tensor], dict[str, Tensor]]
_PLAIN = NETWORKS["linear"].inputs


def _rows(random: np.random.Generator, most: int = 9) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (n, 8), target (n,) and unit (n,) of some units: cancelling, constant or natural rows each."""
    count = int(random.choice([1, 2, 3, most]))
    sizes = random.integers(1, 8, count) if random.random() < 0.7 else np.ones(count, dtype=np.int64)
    if random.random() < 0.4:
        sizes[:] = 1
        sizes[-1] = int(random.integers(2, 18))
    blocks, targets = [], []
    for size in sizes:
        x = random.normal(size=(int(size), FEATURES)) * random.choice(SCALES)
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


def _table(inputs: Inputs, x: Tensor, y: Tensor, units: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, int]:
    """Return what training takes of a data set: inputs, target, the rows' units, and how many of these."""
    return inputs(x), y, units, int(units.max()) + 1 if len(units) else 0


def _module(random: np.random.Generator) -> tuple[str, Inputs, nn.Module]:
    name = str(random.choice(list(NETWORKS)))
    size = float(random.choice([0.0, 0.5, 0.5, 5.0, 1e3, 1e6]))
    return f"{name}, weights {size:g}", NETWORKS[name].inputs, _weighted(random, NETWORKS[name].make(), size)


def _weighted(random: np.random.Generator, module: nn.Module, size: float) -> nn.Module:
    generator = torch.Generator().manual_seed(int(random.integers(2**31)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return module


def dp_sgd(seed: int) -> list[Game]:
    """`privacy.dp_sgd.train_private` on networks of every kind."""
    random = np.random.default_rng(seed)
    name, inputs, module = _module(random)
    recipe = f"step game dp_sgd, seed {seed}: {name}"
    return trained(random, recipe, inputs, module, _rows(random), any_clip(random))


def hidden(seed: int) -> list[Game]:
    """Networks that mix rows where no example shows it: many rows, one unit of huge ones among them."""
    random = np.random.default_rng(seed)
    out = []
    for name in HIDDEN:
        count, size = int(random.integers(10, 16)), int(random.integers(1, 4))
        x = torch.from_numpy(random.normal(size=(count * size, FEATURES))).float()
        unit, odd = torch.arange(count).repeat_interleave(size), int(random.integers(count // 2))
        x[unit == odd] = 10 * HUGE
        y = torch.from_numpy(random.integers(0, 2, len(unit))).float()
        module = _weighted(random, NETWORKS[name].make(), 0.5)
        recipe = f"step game hidden, seed {seed}: {name}"
        out += trained(random, recipe, NETWORKS[name].inputs, module, (x, y, unit), any_clip(random), [odd])
    return out


def amplified(seed: int) -> list[Game]:
    """Dense layers whose weights amplify rounding, on units of one kind and one of another number of rows.

    Many units: what each adds for being counted in another way adds up. Few: matrix kernels round two rows in another
    way than three, and deep layers make a sign of that.
    """
    random = np.random.default_rng(seed)
    few = bool(random.random() < 0.5)
    networks = DEEP if few else ((8,), (32,), *DEEP)
    widths = [FEATURES, *networks[int(random.integers(len(networks)))], 1]
    layers: list[nn.Module] = []
    for place, (a, b) in enumerate(pairwise(widths)):
        layers += [nn.Linear(a, b), *([nn.Tanh()] if place < len(widths) - 2 else [])]
    module = stack(*layers)
    kind = str(random.choice(AMPLIFYING if few else (*HOSTILE, "small")))
    module.load_state_dict(model_of(kind, module.state_dict(), random))
    count, size = int(random.integers(1, 5) if few else random.integers(20, 160)), int(random.choice([1, 1, 2]))
    natural = few or random.random() < 0.5
    x = random.normal(size=(count, 1, FEATURES)) if natural else np.full((count, 1, FEATURES), 0.5)
    x = np.repeat(x, size, axis=1)
    y = np.repeat(random.integers(0, 2, (count, 1)) if few else np.zeros((count, 1)), size, axis=1)
    if size == 2:  # nearly the same row with the other label
        x[:, 1, 0] += random.choice([0.0, 1e-7, 5e-7, 1e-6])
        y[:, 1] = 1 - y[:, 0]
    odd = 1 if few else int(random.choice([1, 2, 5, 7, 9, 14, 17]))
    last = random.normal(size=(odd, FEATURES)) if few or random.random() < 0.5 else np.zeros((odd, FEATURES))
    rows = torch.from_numpy(np.concatenate([x.reshape(-1, FEATURES), last])).float()
    target = torch.from_numpy(np.concatenate([y.ravel(), np.full(odd, random.integers(2))])).float()
    unit = torch.from_numpy(np.concatenate([np.repeat(np.arange(count), size), np.full(odd, count)]))
    recipe = f"step game amplified, seed {seed}: {kind}, widths {widths}, {count} units of {size}, one of {odd}"
    clip = float(random.choice([0.5, 1.0]))
    if random.random() < 0.3:
        return summed(recipe, _PLAIN, module, (rows, target, unit), clip, [0, count])
    return trained(random, recipe, _PLAIN, module, (rows, target, unit), clip, [0, count])


def cancelling(seed: int) -> list[Game]:
    """Huge rows that cancel but for the last bits: a norm that is lost in rounding bounds nothing."""
    random = np.random.default_rng(seed)
    module = stack(nn.Linear(FEATURES, 1))
    bias, size = 10 ** float(random.uniform(-12, -6)), float(random.choice([1e6, 1e9, 1e18, 1e18]))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(bias if parameter.dim() == 1 else 0)
    count = int(random.integers(1, 5))
    x = torch.from_numpy(random.normal(size=(count, FEATURES)) * size).float().repeat_interleave(2, 0)
    unit, y = torch.arange(count).repeat_interleave(2), torch.tensor([0.0, 1.0]).repeat(count)
    recipe = f"step game cancelling, seed {seed}: rows of {size:g}, output {bias:.2g}"
    return trained(random, recipe, _PLAIN, module, (x, y, unit), any_clip(random), [count - 1])


def trained(
    random: np.random.Generator,
    recipe: str,
    inputs: Inputs,
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
                *_table(inputs, x[rows], y[rows], units),
                LOSS,
                lambda parameters: torch.optim.SGD(parameters, lr=0.0),
                plan,
                fresh_generator(games.CONTEXT),
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
    name, inputs, module = _module(random)
    recipe = f"step game secure_sum, seed {seed}: {name}"
    rows = _rows(random)
    return summed(recipe, inputs, module, rows, any_clip(random), _some(random, rows[2]), random)


def summed(
    recipe: str,
    inputs: Inputs,
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
            *_table(inputs, x[rows], y[rows], units),
            LOSS,
            sampling_rate=1.0,
            clip=clip,
            generator=fresh_generator(games.CONTEXT),
        )
        total = torch.cat([part.flatten() for part in made.by_name.values()]).numpy()
        with observing() as found:
            code.encode(total, cohort, code.bits(cohort), games.CONTEXT)
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
    widths = [FEATURES, *([] if random.random() < 0.4 else [int(random.choice([3, 16]))]), 1]
    size = float(random.choice([0.0, 0.5, 5.0, 1e3, 1e6]))
    participants, clip = int(random.integers(1, 4)), any_clip(random)
    tables = []
    for _ in range(participants):
        x, y, _unit = _rows(random)
        tables.append((x, y))
    weights = [random.normal(size=(b, a + 1)) * size for a, b in pairwise(widths)]
    recipe = (
        f"step game stacked, seed {seed}: widths {widths}, weights {size:g}, clip {clip:g}, {participants} participants"
    )

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
                layers,
                StackedRows.of(rows),
                LOSS,
                make,
                [plan] * participants,
                OneGenerator(fresh_generator(games.CONTEXT)),
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


#: By name, with each one's share of the scenes.
STEPS: Mapping[str, tuple[Callable[[int], list[Game]], int]] = {
    "dp_sgd": (dp_sgd, 24),
    "amplified": (amplified, 20),
    "cancelling": (cancelling, 6),
    "hidden": (hidden, 6),
    "secure_sum": (secure_sum, 15),
    "stacked": (stacked, 15),
    "central": (central, 8),
    "histogram": (histogram, 8),
    "scores": (scores, 8),
    "grouped": (grouped, 4),
    "logistic": (logistic, 4),
    "folds": (folds, 1),
    "response": (response, 4),
}
