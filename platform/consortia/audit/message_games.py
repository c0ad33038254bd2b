"""Neighbour games from the message to the sum, at a participant with its own file, policy and ledger.

One scene is one run: the same model in every round, the whole file once, then the file without one of its units. The
learning rate is so small that no parameter moves, so every step of every round starts from the same model: the game
fixes what was released before (invariant 16) and asks about the next release.

Beside updates a round may release a histogram of evaluation units and, once a run, the number of training units. What
one partition's account paid for must not move with a unit of another partition, to the last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clients import registry
from clients.dataset import RECORD
from consortia.audit import games
from consortia.audit.games import Game
from consortia.audit.probe import Bench, altered, first_private, shared_start
from consortia.audit.reference import clipped, parameter_names, unit_gradients, unit_terms
from consortia.audit.scenes import HOSTILE, MODELS, TAME, Deck, Units, model_of
from consortia.audit.settings import Audit, Noise
from consortia.metrics import groups, score_bins
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import State
from privacy.observation import Note, observing

_ROUNDS = 8  # messages of a scene
_EPSILON = 8.0
#: In float32 it is zero: no parameter moves at all.
STILL = 1e-60
_CAP = 3  # rows of a unit that count, where the policy limits them
#: Scopes of a network whose head stays at home.
HEAD = {"encoder": "industry", "trunk": "industry", "head": "private"}
#: What a scene may release: (name, changes of the contract).
KINDS: dict[str, dict[str, Any]] = {
    "embedded": {},
    "private head": {"scopes": HEAD},
    "FedRep": {"scopes": HEAD, "local_steps": 3, "private_steps": 1},
    "size": {"strategy": {"name": "fedavg", "weighting": "noised"}},
    "metrics": {"evaluation": {"metrics": "dp", "every": 1, "bins": 8}},
    "groups": {"evaluation": {"metrics": "dp", "every": 1, "bins": 8}},
}
#: Those with a histogram of evaluation units; "groups" tells the final one apart by a column.
_MEASURED = ("metrics", "groups")


@dataclass(frozen=True)
class Told:
    """One answer: its header's status, what the ledger charged for it, and what was noised for it."""

    status: str
    train: list[Mapping[str, Any]]
    aside: list[Mapping[str, Any]]
    notes: list[Note]


@dataclass(frozen=True)
class Scene:
    """One run of the game, by its seed."""

    participant: RosterParticipant
    kind: str
    noise: Noise
    unit: str
    weights: str
    contract: Contract
    model: State
    units: dict[str, Units]
    cap: int | None
    recipe: str


def draw(audit: Audit, participant: RosterParticipant, deck: Deck, kind: str, seed: int) -> Scene:
    """Return the scene of a seed."""
    random = np.random.default_rng(seed)
    columns = audit.pool(participant).unit_columns
    unit = columns[0] if columns and random.random() < 0.7 else RECORD
    noise: Noise = "secure" if random.random() < 0.5 else "float"
    weights = str(random.choice(TAME + HOSTILE))
    rules = audit.contract.industries[participant.industry]
    networks = [rules.model.model_dump(mode="json"), *MODELS]
    network = networks[int(random.integers(len(networks)))]
    if "private" in str(KINDS[kind].get("scopes", "")) and network["kind"] == "linear":
        network = {"kind": "mlp", "hidden": [6, 4]}
    gradient = kind != "size" and audit.contract.strategy.strategy().fit.gradient
    terms: dict[str, Any] = {
        "rounds": _ROUNDS,
        "local_steps": 1 if gradient else int(random.choice([1, 2])),
        "sampling_rate": 1.0,
        "learning_rate": STILL,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "clip": float(random.choice([rules.clip, 0.3, 0.01])),
        "model": network,
        **KINDS[kind],
    }
    if gradient:
        terms |= {"local_steps": 1, **({"strategy": {"name": "fedavg"}} if kind == "FedRep" else {})}
    if kind == "FedRep":
        terms |= KINDS[kind]
    if kind == "groups":
        found = groups.possible(registry.get(participant.industry).schema)
        one = found[int(random.integers(len(found)))]
        told = {"column": one.column, **({"cuts": list(one.cuts)} if one.cuts else {})}
        terms["evaluation"] = {**terms["evaluation"], "groups": {participant.industry: told}}
    contract = altered(audit.contract, participant.industry, **terms)
    cap = _CAP if unit != RECORD and (kind in _MEASURED or random.random() < 0.3) else None
    units = {"train": deck.units(random, unit, "train", int(random.choice([6, 12, 30])))}
    if kind in _MEASURED:
        units |= {part: deck.units(random, unit, part, 6) for part in ("validation", "test")}
    model = model_of(weights, shared_start(contract, participant.industry), random)
    shape = f"{network['kind']} {network.get('hidden', '')}"
    recipe = f"{participant.name}, {kind}, seed {seed}: {noise} noise, by {unit}, {shape}"
    recipe += f", {weights} weights, clip {terms['clip']:g}, {units['train'].count} units"
    return Scene(participant, kind, noise, unit, weights, contract, model, units, cap, recipe)


def play(audit: Audit, deck: Deck, scene: Scene, seed: int) -> list[Game]:
    """Play the scene; one game for each unit that is left out."""
    random = np.random.default_rng([seed, 1])
    bench = audit.bench(
        scene.participant,
        unit=scene.unit,
        epsilon=_EPSILON,
        delta=audit.probe_delta(scene.participant),
        noise=scene.noise,
        max_rows_per_unit=scene.cap,
        evaluation=(_EPSILON, 1e6) if scene.kind in _MEASURED else None,
    )
    if scene.kind == "size":
        return _sizes(audit, bench, deck, scene)
    rounds = 0

    def ask(left_out: tuple[str, int] | None, kind: str = "train") -> Told:
        nonlocal rounds
        rounds += 1
        parts = [
            units.without(left_out[1]) if left_out and left_out[0] == part else units.frame
            for part, units in scene.units.items()
        ]
        source = audit.pool(scene.participant).write(pd.concat([*parts, *_filler(deck, scene)]))
        return answer(bench, scene, f"run-{seed}", rounds, source, kind)

    if scene.kind in _MEASURED:
        ask(None)  # no metric of a model that nobody trained leaves in the first round
    whole = ask(None)
    out: list[Game] = _second_count(audit, scene, whole)
    for part, unit in _left_out(scene, random, _ROUNDS - rounds - (1 if scene.kind in _MEASURED else 0)):
        out += compare(scene, whole, ask((part, unit)), part, unit)
    if scene.kind in _MEASURED:
        out += _evaluations(audit, scene, bench, deck, seed, random)
    return out


def scene(audit: Audit, participant: RosterParticipant, deck: Deck, kind: str, seed: int) -> list[Game]:
    """Draw and play the scene of a seed."""
    return play(audit, deck, draw(audit, participant, deck, kind, seed), seed)


def _filler(deck: Deck, scene: Scene) -> list[pd.DataFrame]:
    if scene.unit == RECORD:
        return [deck.filler()] if scene.kind not in _MEASURED else []
    row = deck.filler().copy()
    row[scene.unit] = deck.names(scene.unit, "test")[-1]
    return [row]


def answer(bench: Bench, scene: Scene, run_id: str, number: int, source: Any, kind: str = "train") -> Told:
    """Send one message and return what it made of it."""
    request = bench.message(scene.contract, run_id, number, scene.model, kind=kind)
    with observing() as notes:
        sent = bench.ask(request, source)
    digest = hashlib.sha256(sent.reply).hexdigest()
    events = [
        event for entry in bench.export()["entries"] if entry["reply_sha256"] == digest for event in entry["events"]
    ]
    train = [event for event in events if event["partition"] == "train"]
    return Told(sent.header.get("status", ""), train, [e for e in events if e["partition"] != "train"], notes)


def _left_out(scene: Scene, random: np.random.Generator, most: int) -> list[tuple[str, int]]:
    """Choose units: always the last training unit, which may be the odd one."""
    known = [(part, unit) for part, units in scene.units.items() if part != "test" for unit in range(units.count)]
    first = ("train", scene.units["train"].count - 1)
    rest = [one for one in known if one != first]
    order = random.permutation(len(rest))[: max(0, most - 1)]
    return [first, *(rest[int(place)] for place in order)]


def compare(scene: Scene, whole: Told, less: Told, part: str, unit: int) -> list[Game]:
    """Return the games of two answers that differ in one unit of a partition."""
    path = f"{scene.kind}, {scene.noise} noise"
    recipe = f"{scene.recipe}; without {part} unit {unit}"
    clip = scene.contract.industries[scene.participant.industry].clip
    told = [split(one) for one in (whole, less)]
    if whole.status != "OK" or less.status != "OK" or None in told:
        return [Game(path, f"{recipe}: {whole.status}, {less.status}, notes that no event explains", math.inf)]
    first, second = (one for one in told if one is not None)
    if len(first.steps) != len(second.steps):
        return [Game(path, recipe, math.inf)]
    ratio = 0.0
    for one, other, z in zip(first.steps, second.steps, first.multipliers, strict=True):
        if part != "train":  # another account paid: nothing may move at all
            ratio = max(ratio, math.inf if games.moved(one, other, 1.0) else 0.0)
            continue
        ratio = max(ratio, games.step_ratio(one, other, z), games.clip_ratio(one, other, clip))
    out = [Game(path, recipe, ratio)]
    if first.metrics or second.metrics:
        away = games.moved(first.metrics, second.metrics, first.aside)
        out.append(Game("metrics", recipe, away if part == "validation" else math.inf if away else 0.0))
    return out


@dataclass(frozen=True)
class Parts:
    """The notes of an answer by what they cost: steps with their noise multipliers, the metrics' own, the size's."""

    steps: list[list[Note]]
    multipliers: list[float]
    metrics: list[Note]
    aside: float
    size: list[Note]
    size_multiplier: float


def split(told: Told) -> Parts | None:
    """Return the notes by event, None where they are not one for each thing that was charged."""
    multipliers, size_multiplier, sizes = [], 0.0, 0
    for event in told.train:
        if event["kind"] == "poisson_gaussian":
            multipliers += [float(event["noise_multiplier"])] * int(event["steps"])
        elif event["kind"] == "laplace":
            sizes += int(event["count"])
            size_multiplier = float(event["noise_multiplier"])
        else:
            return None
    metrics = sum(int(event["count"]) for event in told.aside)
    notes = list(told.notes)
    if len(notes) != metrics + len(multipliers) + sizes:
        return None
    histograms = [note.where == "histogram" for note in notes]
    steps = slice(metrics, metrics + len(multipliers))
    if any(histograms[steps]) or not all(histograms[: steps.start] + histograms[steps.stop :]):
        return None
    return Parts(
        [[note] for note in notes[steps]],
        multipliers,
        notes[: steps.start],
        float(told.aside[0]["noise_multiplier"]) if told.aside else 0.0,
        notes[steps.stop :],
        size_multiplier,
    )


def _second_count(audit: Audit, scene: Scene, whole: Told) -> list[Game]:
    """Compare the observed sums with the claimed ones: plain autograd, unit by unit, each clipped once."""
    parts = split(whole)
    path = f"{scene.kind}, {scene.noise} noise"
    if parts is None or whole.status != "OK":
        return [Game(path, f"{scene.recipe}: {whole.status}, notes that no event explains", math.inf)]
    if scene.weights not in TAME:
        return []
    pool, industry = audit.pool(scene.participant), scene.participant.industry
    rules = scene.contract.industries[industry]
    start = {**first_private(scene.contract, industry, scene.model), **scene.model}
    table = pool.encode(scene.units["train"].frame, scene.unit, scene.cap)
    gradients = unit_gradients(scene.contract, industry, start, table)
    terms = {} if scene.unit == "record" else unit_terms(scene.contract, industry, start, table)
    names = [name for name, size in parameter_names(scene.contract, industry) for _ in range(size)]
    private = np.array([name not in scene.model for name in names])
    off = 0.0
    for place, (note,) in enumerate(parts.steps):
        moved = np.ones_like(private)
        if rules.private_steps:
            moved = private if place < rules.private_steps else ~private
        layers = {name.rpartition(".")[0] for name, one in zip(names, moved, strict=True) if one}
        root = np.sqrt(sum(terms[layer] ** 2 for layer in layers)) if terms else None
        total = clipped(gradients[:, moved], rules.clip, root).sum(axis=0)
        tolerance = (1e-5 if note.where == "grid" else 1e-3) + 4e-6 / rules.clip
        off = max(off, games.distance(note.exact, total, rules.clip * len(gradients), tolerance))
    return [Game(path, f"{scene.recipe}; counted a second time", 0.0, off)]


def _sizes(audit: Audit, bench: Bench, deck: Deck, scene: Scene) -> list[Game]:
    """The size leaves with a run's first reply: every file is a run of its own."""
    out, told = [], []
    units = scene.units["train"]
    for number, left in enumerate((None, units.count - 1, 0)):
        frame = units.frame if left is None else units.without(left)
        source = audit.pool(scene.participant).write(pd.concat([frame, *_filler(deck, scene)]))
        told.append((left, answer(bench, scene, f"size-{number}", 1, source)))
    again = answer(bench, scene, "size-0", 2, source)
    parts = split(again)
    once = parts is not None and not parts.size
    out.append(Game("size", f"{scene.recipe}; in a second round", 0.0 if once else math.inf))
    whole = split(told[0][1])
    for left, one in told[1:]:
        other = split(one)
        recipe = f"{scene.recipe}; without train unit {left}"
        if whole is None or other is None or not whole.size:
            out.append(Game("size", f"{recipe}: notes that no event explains", math.inf))
            continue
        out.append(Game("size", recipe, games.moved(whole.size, other.size, whole.size_multiplier)))
    return out


def _evaluations(
    audit: Audit, scene: Scene, bench: Bench, deck: Deck, seed: int, random: np.random.Generator
) -> list[Game]:
    """The closing evaluation: a histogram of the test units, once with all of them and once without one."""
    pool, found = audit.pool(scene.participant), []
    which = (None, ("test", int(random.integers(scene.units["test"].count))), ("train", 0))
    for number, left in enumerate(which):
        run_id, frames = f"end-{seed}-{number}", []
        for part, units in scene.units.items():
            frames.append(units.without(left[1]) if left is not None and left[0] == part else units.frame)
        source = pool.write(pd.concat([*frames, *_filler(deck, scene)]))
        answer(bench, scene, run_id, 1, source)
        found.append(answer(bench, scene, run_id, _ROUNDS + 1, source, kind="evaluate"))
    whole, out = split(found[0]), []
    for left, told in zip(which[1:], found[1:], strict=True):
        other, recipe = split(told), f"{scene.recipe}; evaluated without {left}"
        if whole is None or other is None or told.status != "EVALUATED" or not whole.metrics:
            out.append(Game("metrics", f"{recipe}: notes that no event explains", math.inf))
            continue
        away = games.moved(whole.metrics, other.metrics, whole.aside)
        out.append(Game("metrics", recipe, away if left and left[0] == "test" else math.inf if away else 0.0))
    return out


def playable(audit: Audit, participant: RosterParticipant) -> tuple[dict[str, str], Sequence[str]]:
    """Return why a kind cannot be played at a participant, and the kinds that can."""
    skipped = {}
    if not score_bins.has_bins(registry.get(participant.industry).schema.target):
        skipped["metrics"] = "the target has no public bounds, so no metric leaves under DP"
    if not groups.possible(registry.get(participant.industry).schema):
        skipped["groups"] = "the target or the columns of the schema give no public groups"
    return skipped, [kind for kind in KINDS if kind not in skipped]
