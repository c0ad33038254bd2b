"""Tests metrics released under DP: a histogram of evaluation units plus noise of the charged size.

A participant measures models that the audit sent, on rows that the audit wrote. The counts are made a second time, so
what is left over must be the noise that the evaluation units' own account was charged, rounded to whole numbers. Units
of many rows count as many as the policy lets them, training rows not at all. With hardly any noise the final histogram
is told apart by a public column too (everywhere, if the contract does so): each group's is looked at as one. A
coordinator that asks for more evaluations than the account holds gets none of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from clients import registry
from clients._groups import Grouping
from clients.dataset import Table
from consortia.audit import statistics
from consortia.audit.probe import Bench, Sent, altered, first_private, random_model
from consortia.audit.recount import recounted
from consortia.audit.reference import Array
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.rows import Pool
from consortia.audit.settings import Audit
from consortia.metrics import groups, score_bins
from consortia.participant.evaluation import module_scorer
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import build_module, load_state

_TRAINING, _EVALUATION = 1.0, 0.5  # epsilon
_LIFE = 1.5  # runs of the evaluation account
_BINS = 16
_ROWS, _MOST = 8, 3  # of a unit: in the file, and that count
_UNITS = 8  # of a partition


class _Probe(NamedTuple):
    """A run's evaluation budget, its rounds, and how many runs: of an audit, and of a quick one."""

    epsilon: float
    rounds: int
    runs: int
    quick: int


_HARDLY_ANY = ", hardly any noise"
#: The budget of a real run; so little noise that a row more or less shows; Laplace noise alone, of one whole number.
_PROBES: Mapping[str, _Probe] = {
    "": _Probe(_EVALUATION, 6, 6, 2),
    _HARDLY_ANY: _Probe(60.0, 6, 2, 1),
    ", one release a run": _Probe(1.0, 1, 24, 12),
}
#: Partition of a release, and of the split.
_PARTS = {"validation": "validation", "evaluation": "test"}


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry."""
    findings = Findings("metrics")
    noise: list[Array] = []
    for participant in audit.one_per_industry():
        if not score_bins.has_bins(registry.get(participant.industry).schema.target):
            findings.notes.append(
                f"{participant.industry}: the target has no public bounds, so no metric leaves under DP"
            )
            continue
        pool = audit.pool(participant)
        for unit in ("record", *pool.unit_columns[:1]):
            subject = f"{participant.name}, by {unit}"
            progress(subject)
            for what, probe in _PROBES.items():
                noise += _releases(audit, participant, unit, findings, subject + what, probe)
        progress(f"{participant.name}: a greedy coordinator")
        findings.checks += _greedy(audit, participant)
    if noise:  # tails are rare: all releases together
        cells = np.concatenate([one.ravel() for one in noise])
        found = f"{cells.size} cells, the largest {np.abs(cells).max():.2f}"
        law = "the noise of all histograms reaches as far as the law"
        findings.checks.append(Check(law, "everybody", "standard normal numbers", found, statistics.tails_p(cells)))
    return findings


def _bench(
    audit: Audit, participant: RosterParticipant, unit: str = "record", epsilon: float = _EVALUATION, runs: float = 1e6
) -> Bench:
    return audit.bench(
        participant,
        unit=unit,
        max_rows_per_unit=None if unit == "record" else _MOST,
        epsilon=_TRAINING,
        delta=audit.probe_delta(participant),
        evaluation=(epsilon, runs * epsilon),
    )


def _contract(audit: Audit, participant: RosterParticipant, rounds: int, grouping: Grouping | None = None) -> Contract:
    changes: dict[str, Any] = {"rounds": rounds, "local_steps": 1}
    terms: dict[str, Any] = {"metrics": "dp", "every": 1, "bins": _BINS}
    if grouping is not None:
        told = {"column": grouping.column, **({"cuts": list(grouping.cuts)} if grouping.cuts else {})}
        terms["groups"] = {participant.industry: told}
    return altered(audit.contract, participant.industry, evaluation=terms, **changes)


def _grouping(pool: Pool, subject: str) -> Grouping | None:
    """Return by what the final histogram is told apart: as the contract does, else by a public column in one probe."""
    found = groups.possible(pool.client.schema) if subject.endswith(_HARDLY_ANY) else []
    return pool.grouping or next(iter(found), None)


def _rows(pool: Pool, unit: str, grouping: Grouping | None = None) -> tuple[pd.DataFrame, dict[str, Table]]:
    """Return a participant's file, and the rows of each evaluation partition that count."""
    if unit == "record":
        frames = {part: pool.frame.iloc[pool.of(part)[: 4 * _UNITS]] for part in ("train", "validation", "test")}
        counted = frames
    else:
        frames, counted = {}, {}
        for part in ("train", "validation", "test"):
            rows = [int(row) for row in pool.of("train")[:_UNITS]]
            # The rows of a unit are alike, so it does not matter which of them count.
            frames[part] = pool.by_unit(unit, [[row] * _ROWS for row in rows], part)
            counted[part] = pool.by_unit(unit, [[row] * _MOST for row in rows], part)
    return pd.concat(frames.values()), {
        name: pool.encode(counted[part], unit, grouping=grouping) for name, part in _PARTS.items()
    }


def _releases(
    audit: Audit, participant: RosterParticipant, unit: str, findings: Findings, subject: str, probe: _Probe
) -> list[Array]:
    pool = audit.pool(participant)
    grouping = _grouping(pool, subject)
    frame, tables = _rows(pool, unit, grouping)
    source = pool.write(frame)
    bench = _bench(audit, participant, unit, probe.epsilon)
    contract = _contract(audit, participant, probe.rounds, grouping)
    rest: dict[str, list[Array]] = {name: [] for name in _PARTS}
    facts: dict[str, Check] = {}
    for number in range(probe.quick if audit.quick else probe.runs):
        for round_ in range(1, contract.rounds + 2):
            model = random_model(contract, participant.industry, audit.random, 1.0)
            kind = "train" if round_ <= contract.rounds else "evaluate"
            sent = bench.ask(bench.message(contract, f"metrics-{number}", round_, model, kind=kind), source)
            partition = "evaluation" if kind == "evaluate" else "validation" if round_ > 1 else None
            _take_apart(bench, contract, sent, partition, tables, rest, facts, audit.random, subject)
    findings.checks += facts.values()
    noise = {name: np.array(found) for name, found in rest.items() if found}
    for name, found in noise.items():
        findings.checks += _laws(found, f"{subject}, {name}")
    if noise:
        together = np.concatenate(list(noise.values()))
        findings.checks.append(
            Check(
                "no two releases share noise",
                subject,
                "independent noise",
                f"{len(together)} releases",
                statistics.alike_p(together),
            )
        )
    return list(noise.values())


def _take_apart(
    bench: Bench,
    contract: Contract,
    sent: Sent,
    partition: str | None,
    tables: dict[str, Table],
    rest: dict[str, list[Array]],
    facts: dict[str, Check],
    random: np.random.Generator,
    subject: str,
) -> None:
    """Add what a histogram holds beside the counts to `rest`, as standard normal numbers."""

    def must(law: str, holds: bool, wanted: object, got: object) -> bool:
        if law not in facts or not holds:
            facts[law] = fact(law, subject, holds, wanted=wanted, got=got)
        return holds

    histogram = sent.tensors.get(score_bins.HISTOGRAM)
    due = partition is not None
    if not must("metrics leave exactly when they are due", (histogram is not None) == due, due, sent.header):
        return
    if histogram is None or partition is None:
        return
    digest = hashlib.sha256(sent.reply).hexdigest()
    events = [
        event
        for entry in bench.export()["entries"]
        if entry["reply_sha256"] == digest
        for event in entry["events"]
        if event["partition"] != "train"
    ]
    one = must("every histogram has exactly one event in the exported ledger", len(events) == 1, 1, len(events))
    if not one:
        return
    (event,) = events
    told = (event["kind"], event["partition"], event["unit"], event["count"])
    wanted = ({"laplace", "gaussian"}, partition, bench.unit, 1)
    must("its event is noise on that partition, once", told[0] in wanted[0] and told[1:] == wanted[1:], wanted, told)
    said = (sent.header["metrics_mechanism"], float(sent.header["metrics_multiplier"]))
    must("its header says what was charged", said == (told[0], event["noise_multiplier"]), told, said)
    target = registry.get(bench.industry).schema.target
    shape: tuple[int, ...] = (score_bins.n_rows(target), _BINS)
    grouping = contract.evaluation.grouping(bench.industry) if partition == "evaluation" else None
    if grouping is not None:
        shape = (len(grouping.names(registry.get(bench.industry).schema)), *shape)
    form = (tuple(histogram.shape), str(histogram.dtype))
    if not must("its form is public", form == (shape, "torch.int64"), shape, form):
        return
    module = build_module(contract, bench.industry)
    before = {
        **first_private(contract, bench.industry, sent.model),
        **bench.private_state(sent.run_id, sent.round - 1),
        **sent.model,
    }
    load_state(module, before)
    table = tables[partition]
    cells = score_bins.cells(target, module_scorer(module)(table), np.asarray(table.target), _BINS)
    if grouping is not None and table.groups is not None:
        cells = table.groups * shape[1] * _BINS + cells
    counts = np.zeros(math.prod(shape))
    for cell in cells:
        counts[cell] += 1
    scale = event["noise_multiplier"] * (bench.max_rows_per_unit or 1)
    noise = histogram.numpy().ravel() - counts
    scores = statistics.rounded_scores(noise, scale, event["kind"], random)
    rest[partition] += list(scores.reshape(-1, shape[-2] * _BINS))  # every group's histogram for itself


def _laws(noise: Array, subject: str) -> list[Check]:
    found = f"mean square {np.square(noise).mean():.4f} over {noise.size} cells"
    wanted = "standard normal numbers"
    per_release = min(1.0, min(statistics.size_p(one) for one in noise) * len(noise))
    return [
        Check("a histogram is the counts plus the charged noise", subject, "mean square 1", found, p)
        for p in (statistics.size_p(noise), per_release)
    ] + [
        Check("what a histogram adds to the counts is centred", subject, "mean 0", found, statistics.mean_p(noise)),
        Check("its noise has the charged law", subject, wanted, found, statistics.shape_p(noise)),
        Check("its noise reaches as far as the law", subject, wanted, found, statistics.tails_p(noise)),
        Check("its cells' noise is unrelated", subject, "no lag, no mirror", found, statistics.lags_p(noise)),
    ]


def _greedy(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """Ask for evaluations with other models, again, and in more runs than the evaluation units' lifetime holds."""
    pool = audit.pool(participant)
    source = pool.write(_rows(pool, "record")[0])
    bench = _bench(audit, participant, runs=_LIFE)
    contract = _contract(audit, participant, 2)
    free = True
    for number in range(math.ceil(_LIFE) + 1):
        for round_ in (1, 2, 2, 3, 3):
            model = random_model(contract, participant.industry, audit.random, 1.0)
            kind = "train" if round_ <= contract.rounds else "evaluate"
            request = bench.message(contract, f"greedy-{number}", round_, model, kind=kind)
            sent = bench.ask(request, source)
            if score_bins.HISTOGRAM in sent.tensors:
                before = len(bench.export()["entries"])
                free &= bench.ask(request, source).reply == sent.reply
                free &= len(bench.export()["entries"]) == before
    ledger = bench.export()
    left = {sent.reply for sent in bench.captured if score_bins.HISTOGRAM in sent.tensors}
    paid = [
        (entry["run_id"], event)
        for entry in ledger["entries"]
        for event in entry["events"]
        if event["partition"] != "train"
    ]
    spent = []
    for partition in _PARTS:
        mine = [(run_id, event) for run_id, event in paid if event["partition"] == partition]
        by_run = [recounted([e for r, e in mine if r == run_id], bench.delta) for run_id in {r for r, _ in mine}]
        # The filter proves (E, 1.01 D).
        life = recounted([event for _, event in mine], 0.999 / bench.declared_units * 1.01)
        spent.append((max(by_run, default=0.0), life))
    run_, life = max(one for one, _ in spent), max(one for _, one in spent)
    return [
        fact(
            "the same message gets the same histogram, and is not charged again", participant.name, free, wanted="equal"
        ),
        fact(
            "every histogram that left was paid for",
            participant.name,
            len(paid) >= len(left) > 0,
            wanted=f"at least {len(left)} events",
            got=len(paid),
        ),
        fact(
            "a run's histograms keep its budget",
            participant.name,
            run_ <= _EVALUATION * 1.001,
            wanted=_EVALUATION,
            got=run_,
        ),
        fact(
            "all histograms together keep the evaluation units' lifetime",
            participant.name,
            life <= _LIFE * _EVALUATION * 1.001,
            wanted=_LIFE * _EVALUATION,
            got=life,
        ),
    ]
