"""The neighbour game of noisy sums inside a secure sum: what a member's share of the noise is added to, block by block.

The audit is the coordinator of a cohort, and asks one member for its masked part of a message: once with its whole file
and once without one unit, each time as a new run, with the same model. Every block of the scaled vector may move by no
more than its own event is charged for, when as many shares of noise count as the contract promises.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from clients.dataset import RECORD
from consortia.audit import sums
from consortia.audit.games import Game
from consortia.audit.probe import Bench, shared_start
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit
from consortia.audit.statistics_games import MODELS, model_of
from consortia.messages.envelope import decode, encode
from consortia.participant.identity import pin_each_other
from consortia.terms.contract import Contract
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, settled
from consortia.terms.scopes import State
from consortia.trust.secure_sum.models import hash_of
from consortia.trust.secure_sum.protocol import SumRequest
from privacy.observation import Note, observing

_EPSILON = 8.0
_MODE = "one"


def members(audit: Audit) -> list[RosterParticipant]:
    """Return participants for a sum; [] where the roster has too few of one industry."""
    return sums.members(audit, _MODE)


def play(audit: Audit, participants: Sequence[RosterParticipant], decks: Mapping[str, Deck], seed: int) -> list[Game]:
    """Draw and play the scene of a seed."""
    random = np.random.default_rng([seed, 11])
    participant = participants[int(random.integers(len(participants)))]
    deck, pool = decks[participant.name], audit.pool(participant)
    unit = pool.unit_columns[0] if pool.unit_columns and random.random() < 0.7 else RECORD
    contract = _settled(audit, participants)
    benches = {
        one.name: audit.bench(one, epsilon=_EPSILON, unit=unit if one is participant else RECORD)
        for one in participants
    }
    pin_each_other({name: bench.home for name, bench in benches.items()})
    rule = blocks_of(contract, participant.industry)
    message = int(random.choice([1, rule.shares.messages]))
    kind = "no" if contract.statistics is not None else str(random.choice(MODELS))
    model = model_of(kind, rule, shared_start(contract, participant.industry), random)
    units = deck.units(random, unit, "train", 12)
    filler = deck.filler().copy()
    if unit != RECORD:
        filler[unit] = deck.names(unit, "test")[-1]
    files = {one.name: audit.pool(one).write(decks[one.name].filler()) for one in participants}

    def answered(left: int | None) -> tuple[list[Note], list[float]]:
        frame = units.frame if left is None else units.without(left)
        sources = {**files, participant.name: pool.write(pd.concat([frame, filler]))}
        return _ask(benches, participant.name, contract, f"blocks-{seed}-{left}", message, model, sources)

    path = f"{rule.shares.what} in a secure sum, message {message}"
    text = f"{participant.name}, {path}, seed {seed}: by {unit}, {kind} model, {units.count} units"
    whole, out = answered(None), []
    terms = contract.secure_terms
    counted = len(participants) - terms.colluders - terms.drops
    for left in {units.count - 1, int(random.integers(units.count))}:
        less = answered(left)
        ratio = _ratio(whole, less, rule.lengths(message), counted)
        out.append(Game(path, f"{text}; without unit {left}", ratio))
    return out


def _settled(audit: Audit, participants: Sequence[RosterParticipant]) -> Contract:
    """Return the contract with a sum of these members."""
    data = json.loads(audit.scenario.to_json())
    contract = data["contract"]
    terms = audit.contract.noisy_sums
    assert terms is not None
    contract |= {"releases": [terms.shares.what], "evaluation": {"metrics": "none"}, "stopping": None}
    contract["secure"] = {"colluders": 1, "min_cohort": 3, **(contract.get("secure") or {}), **sums.MODES[_MODE]}
    data["roster"] = [{**one.model_dump(mode="json"), "epsilon": _EPSILON} for one in participants]
    return settled(Scenario.model_validate_json(json.dumps(data)), anew=True).contract


def _ask(
    benches: Mapping[str, Bench],
    name: str,
    contract: Contract,
    run_id: str,
    message: int,
    model: State,
    sources: Mapping[str, Path],
) -> tuple[list[Note], list[float]]:
    """Return what one member noised for its masked part, and the multipliers that its ledger charged."""
    roster = {}
    for one, bench in benches.items():
        told = bench.ask(bench.message(contract, run_id, 1, model, kind="run-key"), sources[one]).header
        roster[one] = (bytes.fromhex(told["run_key"]), bytes.fromhex(told["signature"]))
    bench = benches[name]
    cohorts = {bench.industry: tuple(sorted(benches))}
    asked = SumRequest(message, 0, cohorts, {bench.industry: hash_of(model)}, roster)
    envelope = decode(bench.message(contract, run_id, message, model))
    request = encode(type(envelope)({**envelope.header, "secure": asked.to_json()}, envelope.tensors))
    with observing() as notes:
        bench.ask(request, sources[name])
    entries = [entry for entry in bench.export()["entries"] if entry["run_id"] == run_id]
    charged = [float(event["noise_multiplier"]) for entry in entries for event in entry["events"]]
    return [note for note in notes if note.where == "share"], charged


def _ratio(
    whole: tuple[list[Note], list[float]], less: tuple[list[Note], list[float]], lengths: Sequence[int], counted: int
) -> float:
    """Return by how much the block that moves furthest does so, over what its event is charged for."""
    (first, charged), (second, same) = whole, less
    if len(first) != 1 or len(second) != 1 or charged != same or len(charged) != len(lengths):
        return math.inf
    one, other = first[0], second[0]
    if one.noised.shape != other.noised.shape or one.deviation != other.deviation or not one.deviation > 0:
        return math.inf
    blocks = np.split(one.noised - other.noised, np.cumsum(lengths)[:-1])
    noise = one.deviation * math.sqrt(counted)
    found = max(
        float(np.linalg.norm(block)) * multiplier / noise for block, multiplier in zip(blocks, charged, strict=True)
    )
    return found if math.isfinite(found) else math.inf
