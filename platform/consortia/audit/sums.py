"""Tests secure sums: members with their own ledgers and keys, the real loop, and the sum that it opens.

In both modes, one and two. Nobody sees a member's part, so the laws are those of what opens: without rows it is noise
of the size that the contract's shares add up to, with rows the clipped units of all members besides. A member's own
part is played as a neighbour game: what its share of the noise is added to may move by what the noise of the others,
less the colluders' and who may drop out, was charged for. Then the recount: each masked part has one event, the same
request gets the same bytes free of charge, and the run keeps its budget.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch

from consortia.audit import games, statistics
from consortia.audit.games import Game
from consortia.audit.message_games import STILL
from consortia.audit.noise_laws import noise_laws
from consortia.audit.probe import Bench, shared_start
from consortia.audit.recount import recounted
from consortia.audit.reference import Array, clipped, flat, parameter_names, unit_gradients
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.scenes import HOSTILE, TAME, Deck, model_of
from consortia.audit.settings import Audit
from consortia.coordinator.rounds import Answer, Coordinator
from consortia.messages.envelope import decode
from consortia.participant.handle import handle
from consortia.participant.identity import pin_each_other
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, settled
from consortia.terms.scopes import State
from consortia.terms.settle import layout
from privacy.noise_context import NoiseContext
from privacy.observation import Note, observing
from privacy.randomness import KeyStream
from privacy.secure_sum.sharing import share

_EPSILON = 8.0
_MEMBERS = 5
_ROUNDS, _QUICK_ROUNDS = 8, 4
_UNITS = 8
#: By how many clips a step moves a parameter at most: far above what float32 rounds.
_MOVE = 0.5
MODES: Mapping[str, dict[str, Any]] = {"one": {"mode": "one", "drops": 0}, "two": {"mode": "two", "drops": 1}}

Source = Callable[[str, int], Path]


@dataclass
class Town:
    """Members of one sum, played by the coordinator's own loop.

    Attributes
    ----------
    models : shared parameters that were sent in each round, and those of the closing evaluation.
    notes : by (member, round), what was noised for the masked part.
    parts : by member, every masked part.
    free : whether each request, asked again at once, got the same bytes and was not charged.
    """

    scenario: Scenario
    benches: dict[str, Bench]
    models: list[State] = field(default_factory=list)
    notes: dict[tuple[str, int], list[Note]] = field(default_factory=dict)
    parts: dict[str, list[bytes]] = field(default_factory=dict)
    free: bool = True

    def run(self, run_id: str, source: Source) -> None:
        """Play one run; each member reads what `source` names for it and the round."""
        self.models, self.notes = [], {}

        def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> Sequence[Answer]:
            del kind, deadline
            return [Answer(name, self._answer(name, data, source)) for name, data in envelopes.items()]

        folder = next(iter(self.benches.values())).home.folder / f"coordinator-{run_id}"
        Coordinator(self.scenario, run_id, folder, exchange).run()

    def _answer(self, name: str, data: bytes, source: Source) -> bytes:
        envelope = decode(data)
        kind, number = envelope.header["kind"], int(envelope.header["round"])
        if kind in {"train", "evaluate"} and len(self.models) < number:
            self.models.append(dict(envelope.tensors))
        with observing() as notes:
            reply = handle(data, self.benches[name].home, f"csv:{source(name, number)}")
        if kind == "train":
            self.notes[name, number] = list(notes)
            before = len(self.benches[name].export()["entries"])
            again = handle(data, self.benches[name].home, f"csv:{source(name, number)}")
            self.free &= again == reply and len(self.benches[name].export()["entries"]) == before
            self.parts.setdefault(name, []).append(reply)
        return reply


def town(
    audit: Audit,
    mode: str,
    participants: Sequence[RosterParticipant],
    rounds: int,
    *,
    step: float,
    units: Mapping[str, str] = MappingProxyType({}),
    **terms: Any,
) -> Town:
    """Return members of the scenario under a contract of that mode.

    Parameters
    ----------
    step : the learning rate, that of all industries.
    units : the privacy unit of a member, where it is no record.
    terms : further changes of every industry's terms.
    """
    data = json.loads(audit.scenario.to_json())
    contract = data["contract"]
    contract |= {"rounds": rounds, "strategy": {"name": "fedavg"}, "stopping": None}
    contract["secure"] = {"colluders": 1, "min_cohort": 3, "spare": 1, **(contract.get("secure") or {}), **MODES[mode]}
    for key in ("noise", "largest_clip", "smallest_clip", "rows"):
        contract["secure"].pop(key, None)
    for rules in contract["industries"].values():
        rules |= {"learning_rate": step, "sampling_rate": 1.0, "init": None, **terms}
    data["roster"] = [{**participant.model_dump(mode="json"), "epsilon": _EPSILON} for participant in participants]
    scenario = settled(Scenario.model_validate_json(json.dumps(data)), anew=True)
    benches = {
        participant.name: audit.bench(participant, epsilon=_EPSILON, unit=units.get(participant.name, "record"))
        for participant in scenario.roster
    }
    pin_each_other({name: bench.home for name, bench in benches.items()})
    return Town(scenario, benches)


def members(audit: Audit, mode: str) -> list[RosterParticipant]:
    """Return participants for a sum of that mode: of one industry, few, all of them private; [] if too few."""
    terms = audit.contract.secure_terms
    least = max(terms.min_cohort, terms.colluders + 2) + int(MODES[mode]["drops"])
    for first in audit.one_per_industry():
        participants = [
            participant
            for participant in audit.participants()
            if participant.industry == first.industry and not participant.non_private
        ]
        if len(participants) >= least:
            return participants[: max(least, _MEMBERS)]
    return []


def run(audit: Audit, progress: Progress) -> Findings:
    """Check both modes."""
    findings = Findings("sums")
    shares: list[Array] = []
    for mode in MODES:
        participants = members(audit, mode)
        if not participants:
            findings.notes.append(f"mode {mode}: the roster has too few members of one industry for it")
            continue
        for what in ("without rows", "with rows"):
            subject = f"mode {mode}, {what}"
            progress(subject)
            shares += _law(audit, mode, participants, findings, subject, empty=what == "without rows")
    findings.checks.append(_secrets())
    if shares:  # tails are rare: all shares together
        numbers = np.concatenate(shares)
        found = f"{numbers.size} numbers, the largest {np.abs(numbers).max():.2f}"
        law = "the shares' noise reaches as far as the law"
        findings.checks.append(Check(law, "all members", "standard normal numbers", found, statistics.tails_p(numbers)))
    return findings


def _law(
    audit: Audit, mode: str, participants: Sequence[RosterParticipant], findings: Findings, subject: str, *, empty: bool
) -> list[Array]:
    industry = participants[0].industry
    rules = audit.contract.industries[industry]
    rounds = _QUICK_ROUNDS if audit.quick else _ROUNDS
    expected = math.fsum(audit.contract.split.training_units(participant.units) for participant in participants)
    rate = _MOVE * expected / rules.clip
    # Many numbers a round: a share that is a little too small shows in few rounds.
    made = town(audit, mode, participants, rounds, step=rate, model={"kind": "mlp", "hidden": [12]})
    sources, tables = {}, {}
    for place, participant in enumerate(participants):
        pool = audit.pool(participant)
        rows = [int(row) for row in pool.of("train")[:_UNITS]]
        frame = pool.frame.iloc[[*([] if empty else rows * (1 + place)), *pool.of("test")[:3]]]
        sources[participant.name] = pool.write(frame)
        tables[participant.name] = pool.encode(pool.frame.iloc[rows], "record")
    made.run("law", lambda name, _: sources[name])
    contract = made.scenario.contract
    (group,) = layout(contract, industry).items() if len(layout(contract, industry)) == 1 else ((None, None),)
    if group[0] is None:
        findings.notes.append(f"{industry}: several groups are summed; their law was not tried")
        return []
    names = [name for name, _ in group[1]]
    deviation = sum_deviation(contract, len(participants))
    rest: list[Array] = []
    shares: list[Array] = []
    apart = 0.0
    for number, (before, after) in enumerate(pairwise(made.models), 1):
        total = (flat(before, names) - flat(after, names)) * expected / rate
        rounding = (np.spacing(np.abs(flat(after, names)).astype(np.float32)).astype(float) * expected / rate) ** 2 / 12
        wanted = np.zeros(len(total))
        for place, participant in enumerate(participants):
            if not empty:
                clip = min(rules.clip, float(contract.secure_terms.noise or 0) / _sigma(made, participant))
                gradients = _in_order(contract, industry, before, tables[participant.name], names)
                wanted += (1 + place) * clipped(gradients, clip).sum(axis=0)
        rest.append((total - wanted) / np.sqrt(deviation**2 + rounding))
        notes = [
            note
            for participant in participants
            for note in made.notes[participant.name, number]
            if note.where == "share"
        ]
        told = np.sum([note.noised + note.noise for note in notes if note.noise is not None], axis=0)
        apart = max(apart, float((np.abs(told - total) / (np.sqrt(12 * rounding) + 1e-9 * deviation)).max()))
        shares += [note.noise / note.deviation for note in notes if note.noise is not None]
    law = "what opens is the clipped units of all members, plus noise of the promised size"
    complete = len(made.models) == rounds + 1
    findings.checks += [
        fact("every sum of an honest cohort opens", subject, complete, wanted=rounds + 1, got=len(made.models)),
        *noise_laws(np.array(rest), subject, law, "the rest of a sum", "sums"),
        fact("what opens is what the members added", subject, apart <= 1, wanted="float32's rounding", got=apart),
    ]
    findings.checks += _share_laws(np.array(shares), subject)
    findings.checks += _recount(audit, made, subject)
    return shares


def _share_laws(noise: Array, subject: str) -> list[Check]:
    """Each member's share of the noise by itself: in a sum of several a cut tail would not show.

    Parameters
    ----------
    noise : (n_shares, d), in its own deviations.
    """
    found = f"mean square {np.square(noise).mean():.4g} over {noise.size} numbers"
    wanted = "standard normal numbers"
    return [
        Check("a share has the noise that it says", subject, "mean square 1", found, statistics.size_p(noise)),
        Check("a share's noise is Gaussian", subject, wanted, found, statistics.shape_p(noise)),
        Check("a share's noise is unrelated", subject, "no lag, no mirror", found, statistics.lags_p(noise)),
        Check("no two shares share noise", subject, "independent noise", found, statistics.alike_p(noise)),
    ]


def _secrets() -> Check:
    """Whether two secrets are shared by two polynomials: by one, a single share would tell their difference."""
    context = NoiseContext(purpose="audit", message="two secrets", attempt=0, ledger="")
    stream, holders = KeyStream(context), _MEMBERS
    one, other = (share(bytes([number]) * 32, holders, 3, stream) for number in (1, 2))
    apart = {int.from_bytes(a, "big") - int.from_bytes(b, "big") for a, b in zip(one, other, strict=True)}
    law = "no two secrets have one polynomial"
    return fact(law, "shares of keys", len(apart) == holders, wanted=f"{holders} differences", got=len(apart))


def sum_deviation(contract: Contract, members: int) -> float:
    """Return the noise of an honest sum, as the contract promises it: 1.01 S is left without colluders and drop-outs.

    Computed here, so that a mistake in the size of a share does not hide itself.
    """
    terms = contract.secure_terms
    return 1.01 * (terms.noise or 0.0) * math.sqrt(members / (members - terms.colluders - terms.drops))


def _in_order(contract: Contract, industry: str, state: State, table: Any, names: Sequence[str]) -> Array:
    """Return each unit's gradient (n_units, d), in the order in which parameters are summed."""
    gradients = unit_gradients(contract, industry, state, table)
    ends = np.cumsum([size for _, size in parameter_names(contract, industry)])
    blocks = dict(
        zip([n for n, _ in parameter_names(contract, industry)], np.split(gradients, ends[:-1], axis=1), strict=True)
    )
    return np.concatenate([blocks[name] for name in names], axis=1)


def _sigma(made: Town, participant: RosterParticipant) -> float:
    """Return the noise multiplier that a member's ledger charged."""
    events = [e for entry in made.benches[participant.name].export()["entries"] for e in entry["events"]]
    return float(events[0]["noise_multiplier"]) if events else math.inf


def _recount(audit: Audit, made: Town, subject: str) -> list[Check]:
    missing = 0
    spent = []
    for name, parts in made.parts.items():
        bench = made.benches[name]
        before = bench.export()
        stored = {entry["reply_sha256"]: entry for entry in before["entries"] if entry["state"] == "committed"}
        for reply in parts:
            entry = stored.get(hashlib.sha256(reply).hexdigest())
            missing += entry is None or len(entry["events"]) != 1
        events = [e for entry in before["entries"] for e in entry["events"]]
        spent.append(recounted(events, audit.scenario.participant(name).delta))
    worst = max(spent, default=math.inf)
    return [
        fact("every masked part has exactly one event", subject, missing == 0, wanted=0, got=missing),
        fact("the same request gets the same part, free", subject, made.free, wanted=True, got=made.free),
        fact(
            "the members' events keep the run's budget", subject, worst <= _EPSILON * 1.001, wanted=_EPSILON, got=worst
        ),
    ]


def play(audit: Audit, mode: str, decks: Mapping[str, Deck], seed: int) -> list[Game]:
    """Play one scene of one member's part: all rounds start from the same model, whatever was summed."""
    random = np.random.default_rng(seed)
    participants = members(audit, mode)
    participant = participants[int(random.integers(len(participants)))]
    deck = decks[participant.name]
    columns = audit.pool(participant).unit_columns
    unit = columns[0] if columns and random.random() < 0.7 else "record"
    rounds = 6
    weights = str(random.choice(TAME + HOSTILE))
    model = model_of(weights, shared_start(audit.contract, participant.industry), random)
    file = audit.folder / f"start-{mode}-{seed}.safetensors"
    file.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.items()}))
    start = {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
    made = town(audit, mode, participants, rounds, step=STILL, units={participant.name: unit}, init=start)
    bench = made.benches[participant.name]
    units = deck.units(random, unit, "train", 12)
    lefts = [units.count - 1, *(int(u) for u in random.integers(units.count, size=rounds - 2))]
    filler = deck.filler().copy()
    if unit != "record":
        filler[unit] = deck.names(unit, "test")[-1]
    pool = audit.pool(participant)
    files = [
        pool.write(pd.concat([frame, filler])) for frame in (units.frame, *(units.without(left) for left in lefts))
    ]
    other = {one.name: audit.pool(one).write(decks[one.name].filler()) for one in participants}
    made.run(
        f"game-{seed}", lambda name, number: files[min(number, rounds) - 1] if name == participant.name else other[name]
    )
    charged = [e for entry in bench.export()["entries"] for e in entry["events"]]
    sigma = float(charged[0]["noise_multiplier"])
    contract = made.scenario.contract
    counted = len(participants) - contract.secure_terms.colluders - contract.secure_terms.drops
    whole, out = made.notes.get((participant.name, 1), []), []
    for place, left in enumerate(lefts):
        less = made.notes.get((participant.name, place + 2), [])
        # Of the members' shares as many count as the contract promises; private parts have noise of their own.
        ratio = math.inf
        if whole and len(whole) == len(less) and len(charged) == rounds:
            shares = [pair for pair in zip(whole, less, strict=True) if pair[0].where == "share"]
            own = [pair for pair in zip(whole, less, strict=True) if pair[0].where != "share"]
            parts = [
                games.moved([a for a, _ in pairs], [b for _, b in pairs], sigma / math.sqrt(one))
                for pairs, one in ((shares, counted), (own, 1))
            ]
            clip = min(contract.secure_terms.largest_clip or 0.0, (contract.secure_terms.noise or 0.0) / sigma)
            ratio = max(math.hypot(*parts), games.clip_ratio(whole, less, clip))
        how = f"mode {mode}, by {unit}, {weights} weights"
        recipe = f"{participant.name}, sums, seed {seed}: {how}, without train unit {left}"
        out.append(Game(f"secure sums, mode {mode}", recipe, ratio))
    return out
