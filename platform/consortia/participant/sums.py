"""One message of a learner of noisy sums at a participant: charge, sum, noise, release.

Guarantees
----------
* A message is answered within the walls of `consortia.participant.handle`; each block has an event of its own, which is
  reserved before a row is summed.
* How far one unit moves a block is proved in `consortia.learners.sums.statistics` and in
  `consortia.learners.additive.histograms`; it does not depend on the model that a coordinator sent. Only that its
  numbers are finite, and a radius > 0, is checked.
* Noise is on the public grid of `privacy.secure_noise`, in simulations too.
* What it sent of the learner `sums`, exactly as it was sent, lies in the run's folder until the closing evaluation took
  it off the sum (`consortia.participant.sums_at_home`). In a secure sum that is a secret: the words before the masks.
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
from consortia.learners.sums.model import MESSAGES
from consortia.messages.blocks import contribution, in_state
from consortia.participant.context import Work
from consortia.participant.data import Partitions
from consortia.participant.own_sums import Sent, keep, rows_of
from consortia.terms import recipe
from consortia.terms.scopes import build_module, check_like
from privacy.egress import Release
from privacy.errors import PrivacyError
from privacy.events import Event, GaussianRelease
from privacy.ledger import Ledger, RunPlan

__all__ = ["answer", "blocks_of", "check_received", "events_of", "kept_at_home"]

Array = NDArray[np.float64]


def answer(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Answer a message with blocks that have noise of one's own; return the reply as the outbox keeps it."""
    request, started = work.request, time.perf_counter()
    rule = recipe.blocks_of(request.contract, request.industry)
    check_received(work)
    events = events_of(work, plan)
    reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private))
    blocks = blocks_of(work, parts)
    if not plan.non_private:
        multipliers = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]
        blocks = noised(rule, request.round, blocks, multipliers, reservation.noise("sums"))
    tensors = in_state(rule, request.round, blocks)
    if kept_at_home(work):
        gram, slope = blocks
        noise = deviations(rule, 2, plan.noise_multiplier) if plan.noise_multiplier else (0.0, 0.0)
        keep(work.home, request.run_id, Sent(contribution(tensors), gram, slope, *noise))
    reply = work.sealed(work.header(plan, "OK"), releases_of(rule.names(request.round), events, tensors))
    ledger.commit(reservation, reply)
    work.log_round(f"{request.contract.learner}, message {request.round}", time.perf_counter() - started)
    return work.sent(ledger, request.run_id)


def check_received(work: Work) -> None:
    """Refuse a message whose model nothing can be summed with: asked before the reservation, so it costs nothing."""
    request = work.request
    own = build_module(request.contract, request.industry).state_dict()
    try:
        check_like(own, request.model)
        recipe.blocks_of(request.contract, request.industry).check_model(request.model)
        if request.control:
            raise ValueError(f"{request.contract.learner}: wanted nothing beside the model")
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None


def events_of(work: Work, plan: RunPlan) -> tuple[Event, ...]:
    """Return what the message costs: the events of its blocks, as the plan lists them."""
    terms = work.request.contract.block_terms
    if terms is None:
        raise PrivacyError("sums: wanted a contract of a learner of noisy sums; nothing is released")
    return terms.shares.events(work.request.round, plan.noise_multiplier, plan.unit)


def kept_at_home(work: Work) -> bool:
    """Return whether one's own part of the message is wanted at the end: of the learner `sums`, the last one."""
    return work.request.contract.sums is not None and work.request.round == MESSAGES


def releases_of(names: Sequence[str], events: Sequence[Event], tensors: Mapping[str, Tensor]) -> list[Release]:
    """Return each block with the event that pays for it; without noise one event pays for the message."""
    if len(events) == 1:
        return [Release("sums", tensors, events[0])]
    return [Release("sums", {name: tensors[name]}, event) for name, event in zip(names, events, strict=True)]


def blocks_of(work: Work, parts: Partitions) -> list[Array]:
    """Return the exact blocks of the message: the training partition's, in this call alone."""
    request = work.request
    rule: BlockRecipe = recipe.blocks_of(request.contract, request.industry)
    torch.set_num_threads(1)
    return rule.exact(request.round, rows_of(parts.train), request.model)
