"""Tests the mechanism: with known gradients a release is the clipped sum plus noise, over the normaliser.

Every unit is drawn (q = 1, one step), so the sum is no matter of chance: it is computed a second time by plain
autograd, one unit after the other, and what is left over must be the noise that the ledger claims. The probes have
units of one row and of many, gradients far above the clip and below it, the scenario's own model and one with a
private head over two rounds. One more asks how far a single unit moves the release.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from clients.dataset import Table
from consortia.audit import adaptive, statistics
from consortia.audit.noise_laws import in_words, noise_laws
from consortia.audit.probe import altered, random_model
from consortia.audit.reference import Array, clipped, unit_gradients
from consortia.audit.release import Observed, observe
from consortia.audit.result import Check, Findings, Progress
from consortia.audit.rows import Pool
from consortia.audit.settings import Audit, Noise
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant

_EPSILON = 8.0
_ROUNDS, _QUICK_ROUNDS = 8, 4
_UNITS = 12
_ROWS = 8  # of one unit
_COPIES = 12  # equal units, whose gradients add up
_MOST_UNITS = 4000
_OTHERS = 30  # rows of each partition that does not train: so many that their sum would stand out of the noise
#: Scales of the random models: gradients small and large.
_SCALES = (0.3, 10.0)


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry."""
    findings = Findings("mechanism")
    for participant in audit.one_per_industry():
        findings.checks += adaptive.checks(audit, participant)
        pool = audit.pool(participant)
        units = ("record", *pool.unit_columns[:1])
        if len(units) == 1:
            findings.notes.append(f"{participant.industry}: no column can be a unit of several rows; units are records")
        for unit in units:
            for what, changes in audit.models().items():
                subject = f"{participant.name}, by {unit}, {what}"
                progress(subject)
                rules = audit.contract.industries[participant.industry]
                terms = {
                    "rounds": _rounds(audit),
                    "local_steps": 1,
                    "sampling_rate": 1.0,
                    # One step: any rate tells the same, if the noise is large enough for float32.
                    "learning_rate": max(rules.learning_rate, 1e-3 * participant.units / rules.clip),
                    **changes,
                }
                if what != "own model":
                    terms["clip"] = 0.6 * rules.clip  # another one, since 1 hides a factor that is missing
                contract = altered(audit.contract, participant.industry, **terms)
                for noise in _kinds(audit, participant, (unit == "record") == (what == "own model")):
                    told = f"{subject}, {noise} noise"
                    _whole(audit, participant, contract, unit, findings, told, noise)
                    if what == "own model":
                        _one_unit(audit, participant, contract, unit, findings, told, noise)
                        if unit == "record":
                            _crowd(audit, participant, contract, findings, told, noise)
    return findings


def _kinds(audit: Audit, participant: RosterParticipant, first: bool) -> tuple[Noise, ...]:
    return (audit.noise_of(participant, first),) if audit.quick else ("secure", "float")


def _rounds(audit: Audit) -> int:
    return _QUICK_ROUNDS if audit.quick else _ROUNDS


def frame_of(pool: Pool, unit: str, units: Sequence[Sequence[int]]) -> pd.DataFrame:
    """Rows of training units; by record each row is a unit."""
    if unit != "record":
        return pool.by_unit(unit, units)
    return pool.frame.iloc[[row for rows in units for row in rows]]


def _play(
    audit: Audit,
    participant: RosterParticipant,
    contract: Contract,
    unit: str,
    frame: pd.DataFrame,
    findings: Findings,
    subject: str,
    noise: Noise,
) -> list[Observed]:
    """One run over all its rounds, with a random model in each: what was released, its form checked."""
    # Rows of the other partitions are in the file too: they must not count.
    pool = audit.pool(participant)
    others = pool.frame.iloc[[*pool.of("validation")[:_OTHERS], *pool.of("test")[:_OTHERS]]].copy()
    if unit != "record":
        others = others.iloc[:0]
    source = pool.write(pd.concat([frame, others]))
    bench = audit.bench(participant, unit=unit, epsilon=_EPSILON, delta=audit.probe_delta(participant), noise=noise)
    sents = []
    for number in range(1, contract.rounds + 1):
        model = random_model(contract, participant.industry, audit.random, _SCALES[number % len(_SCALES)])
        sents.append(bench.train(contract, "mechanism", number, model, source))
    seen, checks = observe(bench, contract, sents, subject)
    findings.checks += checks
    return seen


def _left(contract: Contract, industry: str, seen: Sequence[Observed], table: Table, copies: int = 1) -> Array:
    """What releases hold beside the clipped sum of a table's units, each `copies` times, in deviations of the noise."""
    clip = contract.industries[industry].clip
    sums = [clipped(unit_gradients(contract, industry, one.start, table), clip).sum(axis=0) for one in seen]
    return np.array([(one.total - copies * total) / one.noise for one, total in zip(seen, sums, strict=True)])


def _whole(
    audit: Audit,
    participant: RosterParticipant,
    contract: Contract,
    unit: str,
    findings: Findings,
    subject: str,
    noise: Noise,
) -> None:
    """Units of one row and of many, some of them equal."""
    pool = audit.pool(participant)
    train = pool.of("train")
    many = [list(train[:_ROWS]), *([int(train[0])] * _ROWS for _ in range(_COPIES))]
    single = [[int(row)] for row in train[_ROWS : _ROWS + _UNITS]]
    frame = frame_of(pool, unit, many + single)
    table = pool.encode(frame, unit)
    seen = _play(audit, participant, contract, unit, frame, findings, subject, noise)
    left = _left(contract, participant.industry, seen, table)
    law = "a release is the clipped sum over the public normaliser, plus the charged noise"
    findings.checks += noise_laws(left, subject, law, "what a release adds to the clipped sum", "releases")


def _crowd(
    audit: Audit, participant: RosterParticipant, contract: Contract, findings: Findings, subject: str, noise: Noise
) -> None:
    """Twice as many units as were declared: the sum has no end at any batch size."""
    pool = audit.pool(participant)
    copies = math.ceil(2 * participant.units / _UNITS)
    if copies * _UNITS > _MOST_UNITS:
        findings.notes.append(f"{participant.name}: a draw of more than {_MOST_UNITS} units was not tried")
        return
    rows = [int(row) for row in pool.of("train")[:_UNITS]]
    table = pool.encode(pool.frame.iloc[rows], "record")
    frame = frame_of(pool, "record", [rows] * copies)
    seen = _play(audit, participant, contract, "record", frame, findings, subject, noise)
    rest = _left(contract, participant.industry, seen, table, copies)
    law, wanted = "every unit counts, however many there are", "a rest of standard normal numbers"
    findings.checks.append(Check(law, subject, wanted, in_words(rest), statistics.size_p(rest)))


def _one_unit(
    audit: Audit,
    participant: RosterParticipant,
    contract: Contract,
    unit: str,
    findings: Findings,
    subject: str,
    noise: Noise,
) -> None:
    """A participant with a single training unit: along its own gradient the noisy sum may reach the clip, not more."""
    pool = audit.pool(participant)
    rows = [int(pool.of("train")[0])]
    frame = frame_of(pool, unit, [rows * _ROWS if unit != "record" else rows])
    table = pool.encode(frame, unit)
    seen = _play(audit, participant, contract, unit, frame, findings, subject, noise)
    clip = contract.industries[participant.industry].clip
    reach = []
    for one in seen:
        gradient = unit_gradients(contract, participant.industry, one.start, table)[0]
        reach.append(float(one.total @ gradient / max(np.linalg.norm(gradient), 1e-300)) / clip)
    sigma = seen[0].noise / clip
    excess = (np.mean(reach) - 1) * np.sqrt(len(reach)) / sigma
    findings.checks.append(
        Check(
            "one unit moves the noisy sum by at most the clip",
            subject,
            "at most 1 x clip",
            f"{np.mean(reach):.2f} x clip on average of {len(reach)} releases",
            float(stats.norm.sf(excess)),
        )
    )
