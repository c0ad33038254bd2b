"""Answers with an update of the participant's own steps, with its own noise or without noise.

In a growing run the steps go over the units of this release alone, and the reservation of each round claims them
(`consortia.participant.cohort`). So one unit more moves the updates of its own release and no other: later releases see
it through released models only, and parallel composition charges it for that one.
"""

from __future__ import annotations

from consortia.common.errors import RefusedError
from consortia.messages import size_release
from consortia.participant import cohort, metrics_release
from consortia.participant.context import Work
from consortia.participant.partitions import Partitions
from consortia.participant.training import ready_module, train_round
from consortia.terms.scopes import LOSS
from privacy.egress import Release
from privacy.ledger import Ledger, RunPlan


def train(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Check, charge, train and release. Return the reply from the outbox."""
    request = work.request
    taken = {entry.round for entry in ledger.entries(request.run_id)} - {request.round}
    if request.contract.max_participations and len(taken) >= request.contract.max_participations:
        raise RefusedError("BUDGET_EXHAUSTED", "this run's contract allows no more participations")
    parts, claims = cohort.chosen(work, ledger, parts)
    due = metrics_release.metrics_due(request, work.open_metrics(ledger, plan), work.policy)
    module = ready_module(
        request.contract,
        request.industry,
        plan,
        parts.train,
        request.model,
        work.private_state(),
        control=request.control,
    )
    work.note_progress(module, parts)
    once = size_release.due(ledger, plan)
    aside = work.reserve_aside(ledger, due)
    events = (*plan.round_events(), *once)
    reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private), claims)
    beside = work.measured(due, aside, module, parts)  # of the received model
    outcome = train_round(
        module,
        request.contract,
        request.industry,
        plan,
        parts.train,
        request.model,
        participant=work.home.participant,
        round_number=request.round,
        noise=reservation.noise("train"),
        secure_noise=work.policy.secure_noise(simulation=work.home.simulation),
        control=request.control,
    )
    work.keep_private(outcome.private)
    releases = [Release("update", outcome.update, plan.round_event()), *beside]
    releases += size_release.release(once, parts.train, reservation.noise("size"))
    if outcome.loss is not None:
        releases.append(Release("loss", {LOSS: outcome.loss}, plan.other_events[0]))
    reply = work.sealed(work.header(plan, "OK", due), releases)
    ledger.commit(reservation, reply)
    if aside is not None:  # if killed here, the metrics stay charged as abandoned; the reply is in the outbox
        ledger.commit(aside, reply)
    work.log_round(outcome.report, outcome.seconds)
    return work.sent(ledger, request.run_id)
