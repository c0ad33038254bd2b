"""Handles one message of noisy sums at a participant: charge, sum, add noise, release. Its own part is kept for the end
of the run.

Guarantees
----------
* A message is answered under the guarantees of `consortia.participant.handle`. Each block has its own event, which is
  reserved before a row is summed.
* `consortia.learners.sums.statistics`, `consortia.learners.additive.histograms` and
  `consortia.learners.statistics.layout` prove how far one unit can change a block. This does not depend on the received
  model; the participant only checks that its numbers are finite and its radius is > 0. The contribution of a package's
  learner is clipped to its declared sensitivity (`consortia.learners.blocks.clipped`).
* Noise is on the public grid of `privacy.secure_noise`, in simulations too.
* In a growing run the rows are those of the units that this release claims (`consortia.participant.cohort`).
* For the learners `sums` and `statistics` the run's folder keeps the sent blocks, exactly as they were sent, until the
  final evaluation has subtracted them from the sum. Then they are deleted (`consortia.participant.sums_at_home`,
  `consortia.participant.statistics_at_home`). In a secure sum they are secret: the words before the masks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.common.errors import RefusedError
from consortia.learners.blocks.recipe import BlockRecipe
from consortia.learners.blocks.release import deviations, noised
from consortia.messages.blocks import contribution, in_state
from consortia.participant import cohort
from consortia.participant.context import Work
from consortia.participant.own_sums import Sent, keep, rows_of
from consortia.participant.partitions import Partitions
from consortia.terms.recipe import blocks_of
from consortia.terms.scopes import build_module, check_like, travelling
from privacy.egress import Release
from privacy.errors import PrivacyError
from privacy.events import Event, GaussianRelease
from privacy.ledger import Ledger, RunPlan

__all__ = ["answer", "check_received", "events_of", "exact_blocks", "kept_at_home", "releases_of"]

Array = NDArray[np.float64]


def answer(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Answer a message with blocks that have the participant's own noise. Return the reply from the outbox."""
    request, started = work.request, time.perf_counter()
    rule = blocks_of(request.contract, request.industry)
    check_received(work)
    cohort.check_message(work)
    parts, claims = cohort.chosen(work, ledger, parts)
    events = events_of(work, plan)
    reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private), claims)
    blocks = exact_blocks(work, parts)
    if not plan.non_private:
        multipliers = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]
        blocks = noised(rule, request.round, blocks, multipliers, reservation.noise(rule.shares.what))
    tensors = in_state(rule, request.round, blocks)
    if kept_at_home(work):
        noise = (
            deviations(rule, request.round, plan.noise_multiplier) if plan.noise_multiplier else (0.0,) * len(blocks)
        )
        keep(work.home, request.run_id, Sent(contribution(tensors), tuple(blocks), noise))
    reply = work.sealed(work.header(plan, "OK"), releases_of(rule, request.round, events, tensors))
    ledger.commit(reservation, reply)
    work.log_round(f"{rule.shares.what}, message {request.round}", time.perf_counter() - started)
    return work.sent(ledger, request.run_id)


def check_received(work: Work) -> None:
    """Refuse a message with an unusable model. The check comes before the reservation, so it costs nothing."""
    request = work.request
    trained = request.contract.statistics is None
    own = travelling(build_module(request.contract, request.industry), request.contract) if trained else {}
    try:
        check_like(own, request.model)
        blocks_of(request.contract, request.industry).check_model(request.model)
        if request.control:
            raise ValueError(f"{request.contract.learner}: wanted nothing beside the model")
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None


def events_of(work: Work, plan: RunPlan) -> tuple[Event, ...]:
    """Return the cost of the message: the events of its blocks, as the plan lists them."""
    terms = work.request.contract.noisy_sums
    if terms is None:
        raise PrivacyError("noisy sums: wanted a contract of such a learner; nothing is released")
    return terms.shares.events(work.request.round, plan.noise_multiplier, plan.unit)


def kept_at_home(work: Work) -> bool:
    """Return whether the own part of the message is subtracted from the sum at the end: the last message of some
    learners. In a growing run the coordinator leaves it out instead, with those of earlier releases."""
    contract = work.request.contract
    terms = contract.noisy_sums
    last = terms is not None and work.request.round == terms.shares.messages
    return last and contract.finished_at_home and not contract.grows


def releases_of(
    rule: BlockRecipe, message: int, events: Sequence[Event], tensors: Mapping[str, Tensor]
) -> list[Release]:
    """Return each block with the event that pays for it. Without noise one event pays for the whole message."""
    kind = rule.shares.what
    if len(events) == 1:
        return [Release(kind, tensors, events[0])]
    return [
        Release(kind, {name: tensors[name]}, event) for name, event in zip(rule.names(message), events, strict=True)
    ]


def exact_blocks(work: Work, parts: Partitions) -> list[Array]:
    """Return the exact blocks of the message, computed from the training partition in this call."""
    request = work.request
    rule = blocks_of(request.contract, request.industry)
    torch.set_num_threads(1)
    return rule.exact(request.round, rows_of(parts.train), request.model)
