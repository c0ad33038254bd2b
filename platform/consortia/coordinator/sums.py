"""The coordinator's half of noisy sums: their messages, and the public model of the learner `sums`.

Everything here is post-processing of what participants released. The kept state (`Checkpoint.memory`) is enough to
resume after any round. It is also enough for later models of fewer participants (`coalition`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from consortia.coordinator import blocks as learned_blocks
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.participant_view import ParticipantView
from consortia.coordinator.secure_sum.step import OpenSum
from consortia.learners.blocks.parts import Part, added
from consortia.learners.blocks.release import deviations
from consortia.learners.sums.combine import combined, precision_weights
from consortia.learners.sums.model import CENTRE, RADIUS, WEIGHTS, Recipe
from consortia.learners.sums.solution import Released, centre_and_radius, everybodys
from consortia.messages.blocks import block_noise, contribution, in_state, unscaled
from consortia.messages.sums import NO_PART, OwnPart, ToHome, split
from consortia.terms.contract import Contract
from consortia.terms.costs import noise_multiplier
from consortia.terms.recipe import blocks_of, learned, recipe
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, for_participant
from privacy.secure_sum.fixed_point import FixedPoint

__all__ = [
    "Memory",
    "before_top_up",
    "beside",
    "honest_norms",
    "kept_sum",
    "local_round",
    "parts_of",
    "released_sums",
    "secure_step",
]

Array = NDArray[np.float64]
Ask = Callable[[Mapping[str, State]], Mapping[str, State]]
#: The kept state of one industry: tensors by name.
Memory = State
#: Names of a participant's z and of the kept values of a secure sum.
_MULTIPLIER, _SUM, _UNITS, _WEIGHT, _NOISE, _CONTEXT = "multiplier", "sum", "units", "weight", "noise", "context"
#: Of a growing run: what a participant released before, as one part; `z` of its message 2 alone, and its units.
_EARLIER: Final = "earlier"
_NONE = OwnPart(NO_PART, 0.0, 0.0)


def honest_norms(contract: Contract, participant: RosterParticipant, message: int, multiplier: float) -> list[float]:
    """Return the largest norm of each block that an honest participant can send. It allows twice the declared units."""
    rule = blocks_of(contract, participant.industry)
    noise = deviations(rule, message, multiplier) if multiplier else (0.0,) * len(rule.names(message))
    return [
        2 * contract.split.training_units(participant.units) * sensitivity + deviation * (length**0.5 + 4)
        for sensitivity, deviation, length in zip(
            rule.sensitivities(message), noise, rule.lengths(message), strict=True
        )
    ]


def local_round(
    scenario: Scenario, participants: Mapping[str, ParticipantView], state: Checkpoint, message: int, ask: Ask
) -> tuple[dict[str, State], dict[str, State], list[str], list[str]]:
    """Run a message in which each participant adds its own noise. Return groups, memory, who answered and who did not.

    An industry without answers keeps its model.
    """
    accepted = ask(
        {name: for_participant(state.groups, view.participant.industry) for name, view in participants.items()}
    )
    groups, memory, kept = dict(state.groups), dict(state.memory), []
    for industry in state.groups:
        names = sorted(name for name in accepted if participants[name].participant.industry == industry)
        if not names:
            kept.append(industry)
            continue
        told = {name: _multiplier(scenario.contract, participants[name]) for name in names}
        if not scenario.contract.finished_at_home:
            own = learned(scenario.contract, industry)
            found = [
                _part(scenario.contract, participants[n].participant, told[n], accepted[n], own.names(message))
                for n in names
            ]
            groups[industry] = learned_blocks.after_parts(own, state.groups[industry], message, found)
            continue
        came = {f"{name}/{block}": tensor for name in names for block, tensor in accepted[name].items()}
        came |= {f"{name}/{_MULTIPLIER}": torch.tensor([told[name]], dtype=torch.float64) for name in names}
        memory[industry] = {**state.memory.get(industry, {}), **came}
        if scenario.contract.sums is None:  # nothing is trained
            continue
        rule, parts = recipe(scenario.contract, industry), parts_of(scenario, industry, memory[industry], message)
        weights = precision_weights(rule, list(parts.values()))
        if message == 1:
            groups[industry] = centred(rule, state.groups[industry], *added(0, list(parts.values()), weights))
        else:
            groups[industry] = with_model(rule, state.groups[industry], combined(rule, list(parts.values()), weights))
    return groups, memory, sorted(accepted), kept


def secure_step(
    contract: Contract,
    state: Checkpoint,
    industry: str,
    message: int,
    one: OpenSum,
    code: FixedPoint,
    weights: Mapping[str, float],
    units: Mapping[str, float],
) -> tuple[State, State]:
    """Return an industry's group and memory after a secure sum of its members' blocks was opened.

    Parameters
    ----------
    weights : factors that each member's blocks were multiplied with.
    units : public number of units of each member in the sum.
    """
    rule, current = blocks_of(contract, industry), state.groups[industry]
    counted = {name: weights[name] * units[name] for name in one.names}
    if not contract.finished_at_home:
        parts = (learned(contract, industry), current, message, one, code, counted)
        return learned_blocks.after_sum(*parts), {}
    kept = dict(state.memory.get(industry, {}))
    blocks = unscaled(rule, message, one.total)
    if message < rule.shares.messages:
        return centred(recipe(contract, industry), current, blocks[0], math.fsum(counted.values())), kept
    noise = block_noise(rule, message, code.share_std(one.asked) * code.step * math.sqrt(len(one.names)))
    kept |= {f"{_SUM}/{name}": tensor for name, tensor in in_state(rule, message, blocks).items()}
    for what, numbers in ((_UNITS, counted), (_WEIGHT, weights)):
        kept |= {
            f"{_SUM}/{what}/{name}": torch.tensor([number], dtype=torch.float64) for name, number in numbers.items()
        }
    kept[f"{_SUM}/{_NOISE}"] = torch.tensor(noise, dtype=torch.float64)
    kept[f"{_SUM}/{_CONTEXT}"] = torch.frombuffer(bytearray(one.context), dtype=torch.uint8)
    if contract.sums is None:  # nothing is trained
        return current, kept
    ridge = recipe(contract, industry)
    return with_model(ridge, current, _secure_released(ridge, kept)), kept


def kept_sum(kept: Memory) -> tuple[bytes, dict[str, float], list[float]]:
    """Return context, weighted units by name and noise of a secure sum; empty values if no sum was opened."""
    if f"{_SUM}/{_CONTEXT}" not in kept:
        return b"", {}, []
    return kept[f"{_SUM}/{_CONTEXT}"].numpy().tobytes(), _secure_units(kept), kept[f"{_SUM}/{_NOISE}"].tolist()


def _secure_released(rule: Recipe, kept: Memory) -> Released:
    gram, slope = split(rule, [kept[f"{_SUM}/{block}"].numpy() for block in rule.names(2)])
    noise = kept[f"{_SUM}/{_NOISE}"].tolist()
    return Released(gram, slope, noise[0], noise[1], math.fsum(_secure_units(kept).values()))


def _secure_units(kept: Memory) -> dict[str, float]:
    """Return the weighted units of everybody in a secure sum, by name."""
    prefix = f"{_SUM}/{_UNITS}/"
    return {name.removeprefix(prefix): float(units) for name, units in kept.items() if name.startswith(prefix)}


def _multiplier(contract: Contract, view: ParticipantView) -> float:
    """Return a participant's z: the declared value, but at least the one that its proposal needs.

    So a claim of less noise does not raise the weight, and a claim of more noise lowers it.
    """
    participant, declared_z = view.participant, float(view.header["noise_multiplier"])
    if participant.non_private:
        return declared_z
    return max(
        declared_z,
        noise_multiplier(contract, contract.industries[participant.industry], participant.epsilon, participant.delta),
    )


def _part(
    contract: Contract, participant: RosterParticipant, multiplier: float, blocks: State, names: Sequence[str]
) -> Part:
    return Part(
        tuple(blocks[name].numpy() for name in names),
        multiplier,
        float(contract.split.training_units(participant.units)),
    )


def parts_of(
    scenario: Scenario, industry: str, kept: Memory, message: int, names: Iterable[str] | None = None
) -> dict[str, Part]:
    """Return what participants released in a message, by name: all of them, or those in `names`.

    In a growing run the last message is the sum over all releases so far: blocks, units and variances of noise add up.
    """
    participants = {
        participant.name: participant for participant in scenario.roster if participant.industry == industry
    }
    blocks_in = blocks_of(scenario.contract, industry).names(message)
    found = {}
    for name in sorted(participants if names is None else names):
        if all(f"{name}/{block}" in kept for block in blocks_in):
            blocks = {block: kept[f"{name}/{block}"] for block in blocks_in}
            multiplier = float(kept[f"{name}/{_MULTIPLIER}"])
            found[name] = _part(scenario.contract, participants[name], multiplier, blocks, blocks_in)
        before = f"{name}/{_EARLIER}"
        if message == 2 and f"{before}/{_MULTIPLIER}" in kept:
            earlier = tuple(kept[f"{before}/{block}"].numpy() for block in blocks_in)
            numbers = (float(kept[f"{before}/{what}"]) for what in (_MULTIPLIER, _UNITS))
            found[name] = _with(Part(earlier, *numbers), found.get(name))
    return found


def _with(one: Part, other: Part | None) -> Part:
    """Return the sum of two parts of one participant, whose noise is independent and shared out alike."""
    if other is None:
        return one
    blocks = tuple(a + b for a, b in zip(one.blocks, other.blocks, strict=True))
    return Part(blocks, math.hypot(one.multiplier, other.multiplier), one.units + other.units)


def before_top_up(scenario: Scenario, industry: str, kept: Memory) -> Memory:
    """Return the memory with which a further release begins: what each participant released so far, as one part.

    A further release gives message 2 all of the budget, so the multiplier of a first one is restated: the same noise is
    ``z / sqrt(kept_share)`` there.
    """
    terms = scenario.contract.sums
    assert terms is not None
    scale = 1.0 if terms.builds_on is not None else 1 / math.sqrt(terms.kept_share)
    names = blocks_of(scenario.contract, industry).names(2)
    out: Memory = {}
    for name, part in parts_of(scenario, industry, kept, 2).items():
        numbers = {_MULTIPLIER: part.multiplier * scale, _UNITS: part.units}
        before = f"{name}/{_EARLIER}"
        out |= {f"{before}/{block}": torch.from_numpy(a) for block, a in zip(names, part.blocks, strict=True)}
        out |= {f"{before}/{what}": torch.tensor([n], dtype=torch.float64) for what, n in numbers.items()}
    return out


def centred(rule: Recipe, current: State, sums: Array, units: float) -> State:
    """Return the group with the centre and the radius from message 1."""
    largest = min(rule.columns.first_bound, rule.largest_radius)
    centre, radius = centre_and_radius(sums, units, np.asarray(rule.columns.squared), largest)
    return {**current, CENTRE: torch.from_numpy(centre), RADIUS: torch.tensor([radius], dtype=torch.float64)}


def with_model(rule: Recipe, current: State, released: Released) -> State:
    """Return the group with the model of the released sums alone."""
    return {**current, WEIGHTS: torch.from_numpy(everybodys(released, rule.outcome))}


def released_sums(
    scenario: Scenario, industry: str, kept: Memory, names: Iterable[str] | None = None
) -> Released | None:
    """Return an industry's released sums, of all participants or of those in `names`; None if nothing was released."""
    rule = recipe(scenario.contract, industry)
    if f"{_SUM}/{_CONTEXT}" in kept:
        return _secure_released(rule, kept)
    parts = list(parts_of(scenario, industry, kept, 2, names).values())
    return combined(rule, parts, precision_weights(rule, parts)) if parts else None


def beside(scenario: Scenario, memory: Mapping[str, Memory]) -> dict[str, State]:
    """Return what each participant receives with the last message: the released sums, and its own part of them.

    In a growing run it receives the sums of the others alone, since its own part comes from several releases.
    """
    out: dict[str, State] = {}
    for industry in {participant.industry for participant in scenario.roster}:
        kept = memory.get(industry, {})
        released = released_sums(scenario, industry, kept)
        if released is None:
            continue
        if scenario.contract.grows:
            out |= _others(scenario, industry, kept)
            continue
        own = _own_parts(scenario, industry, kept)
        for participant in scenario.roster:
            if participant.industry == industry:
                out[participant.name] = ToHome(released, own.get(participant.name, _NONE)).to_tensors()
    return out


def _others(scenario: Scenario, industry: str, kept: Memory) -> dict[str, State]:
    """Return to each participant the sums without its own part, under the weights that everybody's have."""
    rule, parts = recipe(scenario.contract, industry), parts_of(scenario, industry, kept, 2)
    weights = dict(zip(parts, precision_weights(rule, list(parts.values())), strict=True))
    out: dict[str, State] = {}
    for one in (participant.name for participant in scenario.roster if participant.industry == industry):
        rest = [name for name in parts if name != one]
        blocks = tuple(np.zeros(length) for length in rule.lengths(2))
        found = combined(
            rule, [parts[n] for n in rest] or [Part(blocks, 0.0, 0.0)], [weights[n] for n in rest] or [0.0]
        )
        out[one] = ToHome(found, _NONE).to_tensors()
    return out


def _own_parts(scenario: Scenario, industry: str, kept: Memory) -> dict[str, OwnPart]:
    """Return which part of an industry's released sums is whose."""
    if f"{_SUM}/{_CONTEXT}" in kept:
        key = kept[f"{_SUM}/{_CONTEXT}"].numpy().tobytes()
        return {name: OwnPart(key, 1.0, units) for name, units in _secure_units(kept).items()}
    rule, parts = recipe(scenario.contract, industry), parts_of(scenario, industry, kept, 2)
    names, found = rule.names(2), {}
    for (name, part), weight in zip(parts.items(), precision_weights(rule, list(parts.values())), strict=True):
        key = contribution({block: kept[f"{name}/{block}"] for block in names})
        found[name] = OwnPart(key, weight, weight * part.units)
    return found
