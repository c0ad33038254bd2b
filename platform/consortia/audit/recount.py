"""Compares what left, what was charged, what is stored and what is reported.

The audit plays a coordinator that asks too much: the same message again (also from another process), other models in
the same round, more runs than a lifetime holds, several at once, and it kills a participant in the middle of its
training. It keeps every byte that came back. Epsilon is counted anew with dp-accounting's own accountant from the
exported ledger and from the capture, and compared with the promise: the smallest of proposal and policy.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import dp_accounting
import pandas as pd
from dp_accounting.pld import PLDAccountant

from clients import registry
from consortia.audit.probe import Bench, Child, Sent, altered, forked, random_model
from consortia.audit.result import Check, Findings, Progress, fact
from consortia.audit.settings import Audit
from consortia.messages.envelope import decode, encode
from consortia.metrics import score_bins
from consortia.participant.handle import handle
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from privacy.ledger import Ledger

_TOLERANCE = 0.01
_EPSILON = 1.0
_GREEDY = 6  # messages of one round with models of their own, and runs of one lifetime
_LONG = 500  # steps of a round that is long enough to be killed in
_DIGEST = re.compile(r"[0-9a-f]{32,}")


def run(audit: Audit, progress: Progress) -> Findings:
    """Check one participant of each industry."""
    findings = Findings("recount")
    for participant in audit.one_per_industry():
        contract = _contract(audit, participant)
        progress(f"{participant.name}: a greedy coordinator")
        findings.checks += _greedy(audit, participant, contract)
        progress(f"{participant.name}: two worlds")
        findings.checks += _two_worlds(audit, participant, contract)
        progress(f"{participant.name}: a lifetime")
        findings.checks += _lifetime(audit, participant, contract, at_once=False)
        findings.checks += _lifetime(audit, participant, contract, at_once=True)
    progress("a killed participant")
    findings.checks += _killed(audit, next(audit.one_per_industry()))
    return findings


def _contract(audit: Audit, participant: RosterParticipant, **changes: Any) -> Contract:
    gradient = audit.contract.strategy.strategy().fit.gradient
    terms = {"rounds": 2, "local_steps": 1 if gradient else 2, "sampling_rate": 0.5, **changes}
    return altered(audit.contract, participant.industry, **terms)


#: Kinds that this recount counts by itself, with nothing of `privacy.events`; any other is a violation.
_COUNTED = frozenset({"poisson_gaussian", "gaussian", "laplace", "non_private"})


def recounted(events: Iterable[Mapping[str, Any]], delta: float) -> float:
    """Return epsilon of exported events of one partition, counted by dp-accounting alone.

    Infinite when something left without noise, and for a kind that is not counted here: it cannot keep any promise.
    """
    accountant = PLDAccountant(dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    sizes: dict[tuple[float, float], int] = {}
    for event in events:
        if event["kind"] == "poisson_gaussian":
            key = (event["noise_multiplier"], event["sampling_rate"])
            sizes[key] = sizes.get(key, 0) + event["steps"]
        elif event["kind"] == "gaussian":
            sizes[event["noise_multiplier"], 1.0] = sizes.get((event["noise_multiplier"], 1.0), 0) + event["count"]
        elif event["kind"] == "laplace":
            accountant.compose(dp_accounting.LaplaceDpEvent(event["noise_multiplier"]), event["count"])
        else:
            return float("inf")
    for (sigma, rate), steps in sizes.items():
        one = dp_accounting.GaussianDpEvent(sigma)
        accountant.compose(one if rate == 1 else dp_accounting.PoissonSampledDpEvent(rate, one), steps)
    return float(accountant.get_epsilon(delta))


def train_events(ledger: Mapping[str, Any], run_id: str | None = None) -> list[dict[str, Any]]:
    return [
        event
        for entry in ledger["entries"]
        if run_id is None or entry["run_id"] == run_id
        for event in entry["events"]
        if event["partition"] == "train"
    ]


def within(law: str, subject: str, spent: float, promise: float) -> Check:
    return fact(law, subject, spent <= promise * (1 + 1e-3), wanted=f"at most {promise:.4g}", got=f"{spent:.4g}")


def written(audit: Audit, participant: RosterParticipant, first: int, last: int, broken: int = 0) -> Any:
    """Write rows; the first `broken` of them once more, with a label that is none, so that they are set apart."""
    pool = audit.pool(participant)
    wrong = pool.frame.iloc[first : first + broken].copy()
    wrong[pool.client.schema.target.name] = "no label"
    return pool.write(pd.concat([pool.frame.iloc[first:last], wrong]))


def _greedy(audit: Audit, participant: RosterParticipant, contract: Contract) -> list[Check]:
    """Ask for a run's rounds, again, from another process, and then for more of the same round."""
    subject = participant.name
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    source = written(audit, participant, 0, 60)
    checks: list[Check] = []
    free = True
    models = []
    for number in range(1, contract.rounds + 1):
        model = random_model(contract, participant.industry, audit.random, 1.0)
        models.append(model)
        request = bench.message(contract, "greedy", number, model)
        first = bench.must(bench.ask(request, source))
        before = len(bench.export()["entries"])
        again = bench.ask(request, source)
        (elsewhere,) = forked([partial(handle, request, bench.home, f"csv:{source}")])
        free &= first.reply == again.reply == elsewhere and len(bench.export()["entries"]) == before
        bench.keep(request, elsewhere)
    checks.append(
        fact("the same message gets the same bytes, and is not charged again", subject, free, wanted="equal", got=free)
    )
    bench.ask(bench.message(contract, "greedy", contract.rounds + 1, models[-1], kind="evaluate"), source)
    for _ in range(_GREEDY):
        for number in range(1, contract.rounds + 1):
            model = random_model(contract, participant.industry, audit.random, 1.0)
            bench.ask(bench.message(contract, "greedy", number, model), source)
    ledger = bench.export()
    checks += accounted(bench, ledger, subject)
    charged = train_events(ledger, "greedy")
    delta = bench.delta
    left = {sent.reply for sent in bench.captured if sent.tensors}
    sigma = [event["noise_multiplier"] for event in charged] or [0.0]
    rules = contract.industries[participant.industry]
    seen = {
        "kind": "poisson_gaussian",
        "noise_multiplier": min(sigma),
        "sampling_rate": rules.sampling_rate,
        "steps": rules.local_steps * len(left),
    }
    account = recounted(charged, delta)
    capture = recounted([seen], delta)
    checks += [
        within("the run's events keep its budget", subject, account, _EPSILON),
        within("what left keeps the run's budget", subject, capture, _EPSILON),
        fact(
            "the ledger is never below what left",
            subject,
            account >= capture - 1e-6,
            wanted=f">= {capture:.4g}",
            got=f"{account:.4g}",
        ),
    ]
    return checks + _reported(bench, ledger, subject, delta, contract.rounds)


def accounted(bench: Bench, ledger: Mapping[str, Any], subject: str) -> list[Check]:
    """Every reply with tensors has a committed entry with its bytes' hash; nothing hides in the bytes."""
    stored = {entry["reply_sha256"]: entry for entry in ledger["entries"] if entry["state"] == "committed"}
    carried = [sent for sent in bench.captured if sent.tensors]
    lines = [stored.get(hashlib.sha256(sent.reply).hexdigest()) for sent in carried]
    missing = sum(line is None or not line["events"] for line in lines)
    hidden = sum(encode(decode(sent.reply)) != sent.reply for sent in bench.captured)
    alien = sum(sent.header.get("status") not in {"OK", "EVALUATED"} for sent in carried)
    unit = {sent.header["unit"] for sent in carried}
    events = [event for entry in ledger["entries"] for event in entry["events"]]
    uncounted = sorted({str(event["kind"]) for event in events} - _COUNTED)
    stray = sum(event["unit"] != bench.unit or event["relation"] != "add_or_remove_one" for event in events)
    empty = sum(not entry["events"] for entry in ledger["entries"])
    return [
        fact("everything that left has an event in the ledger", subject, missing == 0, wanted=0, got=missing),
        fact("a reply holds its header and tensors and nothing else", subject, hidden == 0, wanted=0, got=hidden),
        fact("a refusal carries no tensor", subject, alien == 0, wanted=0, got=alien),
        fact("every reply names the owner's unit", subject, unit == {bench.unit}, wanted=bench.unit, got=unit),
        fact("every event has the owner's unit and relation", subject, stray == 0, wanted=0, got=stray),
        fact("no entry is without an event", subject, empty == 0, wanted=0, got=empty),
        fact(
            "every event is of a kind that the recount counts",
            subject,
            not uncounted,
            wanted=f"one of {', '.join(sorted(_COUNTED))}",
            got=", ".join(uncounted) or "no other",
        ),
    ]


def _reported(bench: Bench, ledger: Mapping[str, Any], subject: str, delta: float, rounds: int) -> list[Check]:
    """The receipt's and the ledger's own epsilon are those of the recount."""
    checks = []
    file = bench.home.run_folder("greedy") / "receipt.json"
    if file.is_file():
        told = json.loads(file.read_text(encoding="utf-8"))["epsilon"]
        # It was written after one attempt of each round.
        events = train_events(ledger, "greedy")[:rounds]
        checks.append(_equal("the receipt reports the run's epsilon", subject, told["run"], recounted(events, delta)))
        checks.append(
            fact("the receipt names the unit", subject, told["unit"] == bench.unit, wanted=bench.unit, got=told["unit"])
        )
    else:
        checks.append(fact("an evaluation leaves a receipt", subject, False, wanted="receipt.json", got="none"))
    with Ledger.open(bench.home.ledger, bench.name) as book:
        spent = book.spent(bench.dataset, delta)
    checks.append(
        _equal("the ledger reports the lifetime's epsilon", subject, spent, recounted(train_events(ledger), delta))
    )
    return checks


def _equal(law: str, subject: str, told: float | None, counted: float) -> Check:
    close = told is not None and abs(told - counted) <= _TOLERANCE * max(1.0, counted)
    return fact(law, subject, close, wanted=f"{counted:.4f}", got=told)


def _two_worlds(audit: Audit, participant: RosterParticipant, contract: Contract) -> list[Check]:
    """Twice the same rows, and once others: whatever stands in a header must not tell which."""
    pool = audit.pool(participant)
    half = len(pool.frame) // 2
    headers: list[list[Mapping[str, str]]] = []
    shapes: list[list[Any]] = []
    if score_bins.has_bins(registry.get(participant.industry).schema.target):
        contract = _contract(audit, participant, evaluation={"metrics": "dp", "every": 1})
    model = random_model(contract, participant.industry, audit.random, 1.0)
    for first, last in ((0, half), (0, half), (half, half + half // 3)):
        bench = audit.bench(
            participant, epsilon=_EPSILON, delta=audit.probe_delta(participant), evaluation=(_EPSILON, 2 * _EPSILON)
        )
        source = written(audit, participant, first, last, broken=3 if first else 0)
        for number in range(1, contract.rounds + 1):
            bench.must(bench.ask(bench.message(contract, "world", number, model), source))
        bench.ask(bench.message(contract, "world", contract.rounds + 1, model, kind="evaluate"), source)
        headers.append([sent.header for sent in bench.captured])
        shapes.append([_shape(sent) for sent in bench.captured])
    told = []
    for one, same, other in zip(*headers, strict=True):
        if not set(one) == set(same) == set(other):
            told.append("which keys there are")
        for key in set(one) & set(same) & set(other):
            values = (one[key], same[key], other[key])
            # Chance may stand in a header as a digest only; anything else is a function of public constants.
            if len(set(values)) > 1 and not all(_DIGEST.fullmatch(value) for value in values):
                told.append(key)
    even = shapes[0] == shapes[1] == shapes[2]
    return [
        fact(
            "a header tells nothing about rows",
            participant.name,
            not told,
            wanted="equal headers",
            got=sorted(set(told)),
        ),
        fact("names, shapes and lengths tell nothing about rows", participant.name, even, wanted="equal", got=even),
    ]


def _shape(sent: Sent) -> Any:
    return len(sent.reply), {name: (tuple(t.shape), str(t.dtype)) for name, t in sent.tensors.items()}


def _lifetime(audit: Audit, participant: RosterParticipant, contract: Contract, *, at_once: bool) -> list[Check]:
    """More runs than the lifetime holds, one after the other or at once."""
    life = 2.0 * _EPSILON
    bench = audit.bench(
        participant,
        epsilon=_EPSILON,
        delta=audit.probe_delta(participant),
        lifetime=(life, 2 * audit.probe_delta(participant)),
    )
    source = written(audit, participant, 0, 40)
    model = random_model(contract, participant.industry, audit.random, 1.0)
    requests = [
        [bench.message(contract, f"life-{run_}", number, model) for number in range(1, contract.rounds + 1)]
        for run_ in range(4 if at_once else _GREEDY)
    ]

    def play(messages: list[bytes]) -> list[bytes]:
        return [handle(message, bench.home, f"csv:{source}") for message in messages]

    if at_once:
        replies = forked([partial(play, messages) for messages in requests], together=True)
    else:
        replies = [play(messages) for messages in requests]
    for messages, answers in zip(requests, replies, strict=True):
        for message, answer in zip(messages, answers, strict=True):
            bench.keep(message, answer)
    ledger = bench.export()
    subject = f"{participant.name}, {'runs at once' if at_once else 'runs one after the other'}"
    # The filter proves (E, 1.01 D).
    spent = recounted(train_events(ledger), 2 * bench.delta * 1.01)
    return [
        *accounted(bench, ledger, subject),
        within("all runs together keep the lifetime", subject, spent, life),
    ]


def _killed(audit: Audit, participant: RosterParticipant) -> list[Check]:
    """Kill a participant in the middle of its training: what it had taken is charged already, and stays so."""
    contract = _contract(
        audit, participant, rounds=2, local_steps=_LONG, strategy={"name": "fedavg"}, learning_rate=1e-3
    )
    bench = audit.bench(participant, epsilon=_EPSILON, delta=audit.probe_delta(participant))
    source = written(audit, participant, 0, 200)

    def ask(run_id: str) -> bytes:
        return bench.message(contract, run_id, 1, random_model(contract, participant.industry, audit.random, 1.0))

    def entries(run_id: str) -> list[dict[str, Any]]:
        return [entry for entry in bench.export()["entries"] if entry["run_id"] == run_id]

    bench.must(bench.ask(ask("warm"), source))
    whole = Child(lambda: handle(ask("whole"), bench.home, f"csv:{source}")).finish()[1]
    charged, spent = [], 0.0
    for attempt in range(5):
        request = ask(f"killed-{attempt}")
        child = Child(partial(handle, request, bench.home, f"csv:{source}"))
        # Loading and planning are a small part of so long a round: past the middle it trains.
        was_alive = child.kill_after(0.6 * whole)
        found = entries(f"killed-{attempt}")
        if was_alive and not any(entry["state"] == "committed" for entry in found):
            charged.append(bool(found and found[0]["events"]))
            bench.ask(request, source)
            after = entries(f"killed-{attempt}")
            charged.append(len(after) == len(found) + 1)
            bench.ask(
                bench.message(
                    contract, f"killed-{attempt}", 2, random_model(contract, participant.industry, audit.random, 1.0)
                ),
                source,
            )
            spent = recounted(
                [event for entry in entries(f"killed-{attempt}") for event in entry["events"]], bench.delta
            )
            break
    if not charged:
        return []
    return [
        fact(
            "budget is taken before training, and stays taken when a process dies",
            participant.name,
            all(charged),
            wanted="a reservation, and another one for the next attempt",
            got=charged,
        ),
        within("a run's attempts keep its budget, the ones that died included", participant.name, spent, _EPSILON),
    ]
