"""Handles one message at a participant: check, charge, train, store, release. It does not use Flower.

Guarantees (the design's invariants 1 to 3, 5 and 11)
-----------------------------------------------------
* Without a policy or a ledger, or with a contract that the policy does not allow, the reply is a refusal code and
  nothing else.
* The update of a reply was reserved before training and committed together with its bytes. The sent bytes are read back
  from the outbox. A repeated request gets the same bytes and costs nothing.
* A participant with an exhausted budget only receives.
* Some failures after the charge would repeat (training diverged). Such a round is not trained and charged again: for
  the same round and model the participant then fails at once.
* Any other failure is sent as PARTICIPANT_ERROR with an incident id. The log at home has the type of the error and its
  place in the code, never its text: a text may hold a value of a row.
"""

from __future__ import annotations

from consortia.common.errors import RefusedError
from consortia.common.logs import about
from consortia.messages.request import OPENING, READY, Request
from consortia.participant import (
    cohort,
    hopeless,
    ledger_witness,
    lifetimes,
    metrics_release,
    readiness,
    unpaid_requests,
)
from consortia.participant.context import Work
from consortia.participant.guard import guarded
from consortia.participant.home import Home
from consortia.participant.trust_modes import mode_of
from consortia.participant.unpaid_requests import Measurement
from consortia.terms.policy import effective_budget
from consortia.terms.scopes import build_module, load_state
from privacy.ledger import Ledger


def handle(data: bytes, home: Home, source: str | None = None) -> bytes:
    """Answer one message.

    Parameters
    ----------
    data : bytes
        The coordinator's envelope.
    home : Home
        The participant's folder.
    source : str, optional
        Overrides the policy's source. Whoever starts the participant sets it, never a message.

    Returns
    -------
    bytes
        The reply's envelope.
    """

    def work() -> bytes:
        request = Request.parse(data)
        about(request.run_id, request.round)
        if request.participant != home.participant:
            raise RefusedError("WRONG_PARTICIPANT", "the message is for somebody else")
        with home.exclusive(request.contract.round.deadline_seconds):
            return _answer(Work(request, home, source))

    return guarded(home.participant, work)


def _answer(work: Work) -> bytes:
    request = work.request
    ledger = work.home.open_ledger()
    ledger_witness.check(work.home, ledger, request.anchor)
    ledger_witness.note_budget(ledger, work.policy)
    lifetimes.settle(ledger, work.policy, work.dataset, work.terms.source)
    work.anchor = ledger.anchor(request.run_id)
    for run_id in (request.run_id, metrics_release.metrics_run(request.run_id)):
        stored = ledger.reply(run_id, request.round, work.key)
        if stored is not None:
            return stored
    cohort.check(work, ledger)  # before a row is read, and before its split is pinned
    if request.kind == READY:
        return readiness.answer(work, ledger)
    mode = mode_of(request.contract)
    if request.kind in OPENING:
        return mode.opening(work, ledger, work.plan(ledger))
    limits = work.policy.limits
    if request.kind == "evaluate":
        mode.end(work, ledger)
        answer = _evaluate if mode.close is None else mode.close
        return answer(work, ledger, unpaid_requests.admit(work.home, ledger, request.run_id, work.key, limits))
    if request.kind == "run-key":
        unpaid_requests.run_folder(work.home, ledger, request.run_id, limits)
    parts = work.partitions(ledger)
    hopeless.check(work)
    try:
        return mode.answer(work, ledger, work.plan(ledger), parts)
    except hopeless.REPEATS:
        hopeless.note(work)
        raise


def _evaluate(work: Work, ledger: Ledger, measurement: Measurement) -> bytes:
    """Measure at home. Answer with constants, or with metrics if contract and policy agree on them.

    The form of the answer is fixed and paid for before anything is measured. Whether a metric can be computed depends
    on the rows, and must not show.
    """
    request, parts = work.request, work.partitions(ledger)
    plan = work.plan(ledger) if ledger.plan(request.run_id) is not None else None
    module = build_module(request.contract, request.industry)
    try:
        load_state(module, {**request.model, **work.private_state()})
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None
    if plan is None:
        work.write_receipt(ledger, plan, parts, module, measurement)
        life = work.lifetime(request.proposal.epsilon is None)
        left = ledger.lifetime_left(work.dataset, life, claims=request.contract.grows)
        effective_budget(work.policy, request.proposal, left)  # refuses with BUDGET_EXHAUSTED
        raise RefusedError("NOT_TRAINED", "an evaluation of a run that never trained here")
    due = metrics_release.metrics_due(request, work.open_metrics(ledger, plan), work.policy)
    reservation = work.reserve_aside(ledger, due)
    work.write_receipt(ledger, plan, parts, module, measurement)
    if due is None or reservation is None:
        return work.sealed(work.header(plan, "EVALUATED"), [])
    reply = work.sealed(work.header(plan, "EVALUATED", due), work.measured(due, reservation, module, parts))
    ledger.commit(reservation, reply)
    return work.sent(ledger, due.account.run_id)
