"""Neighbour games of noisy sums, for a model or as statistics: from message to noised block, with hostile models.

One scene is one participant and one message, asked with its whole file and with the file without one unit, each time as
a new run. Every block must move by no more than its own event is charged for, and must be what a second count makes of
the same rows: plain loops over units, without the learner's grid or its matrix products.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from clients.dataset import RECORD, Table
from consortia.audit import games, statistics
from consortia.audit.games import Game
from consortia.audit.probe import Bench, shared_start
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.scenes import Deck, Units
from consortia.audit.settings import Audit
from consortia.learners.additive import model as additive
from consortia.learners.additive.cells import Term
from consortia.learners.additive.model import SHAPES, START
from consortia.learners.blocks.clipped import ClippedRecipe
from consortia.learners.blocks.recipe import BlockRecipe
from consortia.learners.own import Unit
from consortia.learners.statistics.layout import Layout
from consortia.learners.sums.model import CENTRE, RADIUS, Recipe
from consortia.learners.sums.outcome import Outcome
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import State
from privacy.observation import Note, observing

_EPSILON = 8.0
_GAMES = 3  # units left out in a scene
#: What a coordinator sends with message 2: as message 1 suggests, or to strain a bound.
MODELS = ("start", "random", "far", "huge")
#: Of the second count: numbers are rounded to 2^-16 before they are added.
_TOLERANCE = 1e-3

Array = NDArray[np.float64]


def stated(contract: Contract, industry: str) -> Contract:
    """Return the contract for one industry with noise of one's own: in a secure sum the same blocks are summed."""
    data = json.loads(contract.canonical())
    kind = "" if contract.noisy_sums is None else contract.noisy_sums.shares.what
    data |= {"trust": "local", "releases": [kind], "evaluation": {"metrics": "none"}}
    data.pop("secure", None)
    data["industries"] = {industry: {**data["industries"][industry], "split": "hash"}}
    terms = data.get(contract.learner, {})  # of a package's learner all options count everywhere
    for key in ("grows", "builds_on"):  # each game is a first release on a ledger of its own
        terms.pop(key, None)
    by_industry = {key: value for key, value in terms.items() if isinstance(value, dict)}
    terms |= {key: {n: v for n, v in value.items() if n == industry} for key, value in by_industry.items()}
    return contract_from_json(json.dumps(data))


@dataclass(frozen=True)
class Told:
    """One answer: its status, the multipliers charged, what was noised, and what left."""

    status: str
    multipliers: list[float]
    notes: list[Note]
    sent: list[Array]


def ask(bench: Bench, contract: Contract, run_id: str, message: int, model: State, source: Any) -> Told:
    """Send one message as a run of its own and return what it made of it."""
    with observing() as notes:
        sent = bench.ask(bench.message(contract, run_id, message, model), source)
    digest = hashlib.sha256(sent.reply).hexdigest()
    events = [e for entry in bench.export()["entries"] if entry["reply_sha256"] == digest for e in entry["events"]]
    status = sent.header.get("status", "")
    blocks = [sent.tensors[name].numpy() for name in sorted(sent.tensors)]
    return Told(status, [float(event["noise_multiplier"]) for event in events], notes, blocks)


def scene(audit: Audit, participant: RosterParticipant, deck: Deck, seed: int) -> list[Game]:
    """Draw and play the scene of a seed."""
    random = np.random.default_rng([seed, 5])
    columns = audit.pool(participant).unit_columns
    unit = columns[0] if columns and random.random() < 0.7 else RECORD
    contract = stated(audit.contract, participant.industry)
    rule = blocks_of(contract, participant.industry)
    messages = range(1, rule.shares.messages + 1) if isinstance(rule, ClippedRecipe) else [1, 2, 2]
    message, kind = int(random.choice(messages)), str(random.choice(MODELS))
    if audit.contract.statistics is not None:
        message, kind = 1, "no"
    bench = audit.bench(participant, unit=unit, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    units = deck.units(random, unit, "train", int(random.choice([6, 12, 30])))
    model = model_of(kind, rule, shared_start(contract, participant.industry), random)
    path = f"{audit.contract.learner}, message {message}"
    recipe_text = f"{participant.name}, {path}, seed {seed}: by {unit}, {kind} model, {units.count} units"
    filler = deck.filler().copy()
    if unit != RECORD:
        filler[unit] = deck.names(unit, "test")[-1]

    def told(left_out: int | None) -> Told:
        frame = units.frame if left_out is None else units.without(left_out)
        source = audit.pool(participant).write(pd.concat([frame, filler]))
        return ask(bench, contract, f"statistics-{seed}-{left_out}", message, model, source)

    whole = told(None)
    out = [
        _second_count(audit, participant, contract, message, model, units, unit, whole, f"{recipe_text}; counted again")
    ]
    chosen = [units.count - 1, *random.permutation(units.count - 1)[: _GAMES - 1].tolist()]
    return out + [_compare(whole, told(left), path, f"{recipe_text}; without unit {left}") for left in chosen]


def model_of(kind: str, rule: BlockRecipe, start: State, random: np.random.Generator) -> State:
    """Return a model that a participant accepts, of a kind of `MODELS`."""
    state = {name: tensor.clone() for name, tensor in start.items()}
    if isinstance(rule, ClippedRecipe):
        return _own_model(kind, rule, state, random)
    if SHAPES in state:
        size = {"start": 0.0, "random": 0.3, "far": 10.0, "huge": 1e6}[kind]
        state[SHAPES] = torch.from_numpy(random.uniform(-size, size, tuple(state[SHAPES].shape)))
    if CENTRE not in state:
        return state
    width = len(state[CENTRE])
    size, radius = {"start": (0.0, 1.0), "random": (1.0, 2.0), "far": (100.0, 1e-3), "huge": (1e6, 1e6)}[kind]
    state[CENTRE] = torch.from_numpy(random.uniform(-size, size, width))
    state[RADIUS] = torch.tensor([radius], dtype=torch.float64)
    return state


def _own_model(kind: str, rule: ClippedRecipe, start: State, random: np.random.Generator) -> State:
    """Return a model for a package's learner; its start, where its own check refuses the one that was drawn."""
    size = {"start": 0.0, "random": 0.3, "far": 10.0, "huge": 1e6}[kind]
    state = {
        name: torch.from_numpy(random.uniform(-size, size, tuple(tensor.shape))).to(tensor.dtype)
        if size and tensor.is_floating_point()
        else tensor
        for name, tensor in start.items()
    }
    try:
        rule.check_model(state)
    except ValueError:
        return start
    return state


def _compare(whole: Told, less: Told, path: str, text: str) -> Game:
    """Return the game of two answers that differ in one unit: the block that moves furthest over its charge."""
    if whole.status != "OK" or less.status != "OK" or len(whole.notes) != len(whole.multipliers):
        return Game(path, f"{text}: {whole.status}, {less.status}, blocks that no event pays for", math.inf)
    if whole.multipliers != less.multipliers or len(less.notes) != len(whole.notes):
        return Game(path, f"{text}: another charge", math.inf)
    pairs = zip(whole.notes, less.notes, whole.multipliers, strict=True)
    return Game(path, text, max(games.moved([one], [other], z) for one, other, z in pairs))


def _second_count(
    audit: Audit,
    participant: RosterParticipant,
    contract: Contract,
    message: int,
    model: State,
    units: Units,
    unit: str,
    whole: Told,
    text: str,
) -> Game:
    path = f"{contract.learner}, message {message}"
    table = audit.pool(participant).encode(units.frame, unit)
    counted = count(blocks_of(contract, participant.industry), message, table, model)
    if whole.status != "OK" or len(whole.notes) != len(counted):
        return Game(path, f"{text}: {whole.status}", math.inf)
    off = 0.0
    for note, block in zip(whole.notes, counted, strict=True):
        off = max(off, games.distance(note.exact, block, max(1.0, float(np.linalg.norm(block))), _TOLERANCE))
    return Game(path, text, 0.0, off)


def count(rule: BlockRecipe, message: int, table: Table, model: State) -> list[Array]:
    """Return the blocks of a message by plain loops over units and rows."""
    if isinstance(rule, additive.Recipe):
        return [_by_cell(rule, message, table, model)]
    if isinstance(rule, Layout):
        return [_of_columns(rule, table)]
    if isinstance(rule, ClippedRecipe):
        return _of_units(rule, message, table, model)
    assert isinstance(rule, Recipe)
    columns, index = rule.columns, np.asarray(table.unit_index)
    features = table.inputs["features"] if rule.encoder is None else rule.encoder.outputs(table.inputs["features"])
    x = columns.expand(features).numpy()
    deviations = rule.outcome.deviations(table.target).numpy()
    size = columns.size
    total: list[Array] = [np.zeros(length) for length in rule.lengths(message)]
    for one in range(table.n_units):
        rows = np.flatnonzero(index == one)
        for row in rows:
            if message == 1:
                vector = np.r_[x[row], x[row][columns.squared.numpy()] ** 2]
                total[0] += vector / max(1.0, float(np.linalg.norm(vector)) / columns.first_bound) / len(rows)
                continue
            vector = np.r_[0.5, x[row] - model[CENTRE].numpy()]
            vector = vector / max(float(np.linalg.norm(vector)), float(model[RADIUS]))
            pairs = [vector[i] * vector[j] * math.sqrt(2) for i in range(size) for j in range(i + 1, size)]
            total[0] += np.r_[vector**2, pairs] / len(rows)
            total[1] += np.outer(vector, deviations[row]).ravel() / len(rows)
    return total


def _of_units(rule: ClippedRecipe, message: int, table: Table, model: State) -> list[Array]:
    """Return the blocks of a package's learner: what each unit adds, shortened, without the platform's grid."""
    total: list[Array] = [np.zeros(length) for length in rule.lengths(message)]
    index, features = np.asarray(table.unit_index), table.inputs["features"].double().numpy()
    target, numbers = table.target.double().numpy(), {name: tensor.numpy() for name, tensor in model.items()}
    for one in range(table.n_units):
        rows = np.flatnonzero(index == one)
        try:
            added = rule.own.adds(message, Unit(features[rows], target[rows]), numbers)
            found = [np.asarray(block, dtype=np.float64) for block in added]
        except Exception:  # noqa: BLE001, S112 - it adds nothing
            continue
        same = [block.shape for block in found] == [block.shape for block in total]
        if same and all(np.isfinite(block).all() for block in found):
            for place, (block, longest) in enumerate(zip(found, rule.sensitivities(message), strict=True)):
                largest = float(np.abs(block).max()) or 1.0
                total[place] += block / max(1.0, largest * float(np.linalg.norm(block / largest)) / longest)
    return total


def _of_columns(rule: Layout, table: Table) -> Array:
    """Return the cells and moments of statistics by plain loops over units, rows and columns."""
    features, target, index = table.inputs["features"].double(), table.target.double(), np.asarray(table.unit_index)
    total = np.zeros(rule.length)
    for row in range(len(table)):
        share, x = 1 / int((index == index[row]).sum()), features[row : row + 1]
        outcome = rule.outcome
        y = 0.0
        if outcome is not None:
            y = (2 * float(target[row]) - outcome.low - outcome.high) / (outcome.high - outcome.low)
            y = min(max(y, -1.0), 1.0)
        for column in rule.stated:
            value = x if column is not outcome else x.new_tensor([[y]])
            cell = int(column.cell(value)[0])
            split = rule.split_of(column)
            code = int(target[row]) if split > 1 else 0
            total[rule.slices[column.name, "cells"].start + cell * split + code] += share
            if (column.name, "outcome") in rule.slices:
                total[rule.slices[column.name, "outcome"].start + cell] += y * share / 2
            if column.kind == "number" and not bool(column.absent(value)[0]):
                v, start = float(value[0, column.places[0]]), rule.slices[column.name, "moments"].start
                total[start] += v * share / 2
                total[start + 1] += (2 * v * v - 1) * share / 2
    return total


def _by_cell(rule: additive.Recipe, message: int, table: Table, model: State) -> Array:
    """Return the counts or gradients by cell, each term's cell found from the scaled features of a row."""
    features, index = table.inputs["features"].double().numpy(), np.asarray(table.unit_index)
    total = np.zeros((rule.cells.size, 1 if message == 1 else rule.outputs))
    for row, unit in enumerate(index):
        places, before = [], 0
        for term in rule.cells.terms:
            places.append(before + _cell(term, features[row, list(term.features)]))
            before += term.cells
        left = np.ones(1)
        if message > 1:
            score = model[SHAPES].numpy()[places].sum(axis=0) + model[START].numpy()
            left = _left(rule.outcome, float(table.target[row]), np.clip(score, -16, 16))
            left = left / max(1.0, float(np.linalg.norm(left)) / rule.clip)
        for place in places:
            total[place] += left / np.count_nonzero(index == unit)
    return total.ravel()


def _cell(term: Term, values: Array) -> int:
    if term.kind == "category":
        none = term.rest and values.max() <= 0.5
        return len(values) if none else int(values.argmax())
    if term.missing and values[1] > 0.5:
        return term.cells - 1
    if term.kind == "flag":
        return int(values[0] > 0.5)
    bins = [min(term.bins - 1, math.floor((min(1.0, max(-1.0, x)) + 1) / 2 * term.bins)) for x in values.tolist()]
    return int(bins[0] * term.bins + bins[1] if term.kind == "pair" else bins[0])


def _left(outcome: Outcome, target: float, score: Array) -> Array:
    """Return target less prediction."""
    if outcome.kind == "regression":
        return np.asarray(np.clip((target - outcome.middle) / outcome.half, -1, 1) - score)
    if outcome.kind == "binary":
        return np.asarray(target - 1 / (1 + np.exp(-score)))
    odds = np.exp(score - score.max())
    return np.asarray((np.arange(len(score)) == int(target)) - odds / odds.sum())


def run(audit: Audit, progress: Progress) -> Findings:
    """Compare what left with a second count: the rest must be Gaussian of the charged size, in every block."""
    findings = Findings("statistics")
    for participant in audit.one_per_industry():
        progress(participant.name)
        contract, pool = stated(audit.contract, participant.industry), audit.pool(participant)
        rule, model = blocks_of(contract, participant.industry), shared_start(contract, participant.industry)
        bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
        frame = pool.frame.iloc[[*pool.of("train")[:30].tolist(), *pool.of("test")[:4].tolist()]]
        table, source = pool.encode(pool.frame.iloc[pool.of("train")[:30]], RECORD), pool.write(frame)
        rest: list[Array] = []
        for number in range(4 if audit.quick else 12):
            message = 1 + number % rule.shares.messages
            told = ask(bench, contract, f"noise-{number}", message, model, source)
            exact = count(rule, message, table, model)
            bounds = rule.sensitivities(message)
            rest += [
                (sent - block) / (bound * z)
                for sent, block, bound, z in zip(told.sent, exact, bounds, told.multipliers, strict=True)
            ]
        numbers = np.concatenate(rest)
        said = f"mean square {np.square(numbers).mean():.4g} over {numbers.size} numbers"
        same = np.array([block[: min(map(len, rest))] for block in rest])
        laws = {
            "noise has the charged size": statistics.size_p(numbers),
            "noise is centred": statistics.mean_p(same),
            "noise is Gaussian": statistics.shape_p(numbers),
            "no two blocks share noise": statistics.alike_p(same),
        }
        findings.checks += [Check(law, participant.name, "standard normal numbers", said, p) for law, p in laws.items()]
    return findings
