"""One message of the learner `sums` at a participant: sum, charge, noise, release. Its own part stays for the end.

Guarantees
----------
* A message is answered within the walls of `consortia.participant.handle`; each block has an event of its own, which is
  reserved before a row is summed.
* How far one unit moves a block is proved in `consortia.learners.sums.statistics`; it does not depend on the centre and
  the radius that a coordinator sent. Only that they are finite, and the radius > 0, is checked.
* Noise is on the public grid of `privacy.secure_noise`, in simulations too.
* What it sent, exactly as it was sent, lies in the run's folder until the closing evaluation took it off the sum
  (`consortia.participant.sums_at_home`). In a secure sum that is a secret: the words before the masks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.common.errors import RefusedError
from consortia.learners.sums.model import CENTRE, RADIUS, Recipe
from consortia.learners.sums.release import deviations, noised
from consortia.learners.sums.statistics import first_message, second_message
from consortia.messages.sums import BLOCKS, contribution, in_state
from consortia.participant.context import Work
from consortia.participant.data import Partitions
from consortia.participant.own_sums import Sent, keep, rows_of
from consortia.terms.recipe import recipe
from consortia.terms.scopes import build_module, check_like
from privacy.egress import Release
from privacy.errors import PrivacyError
from privacy.events import Event, GaussianRelease
from privacy.ledger import Ledger, RunPlan

__all__ = ["answer", "blocks_of", "check_received", "events_of", "releases_of"]

Array = NDArray[np.float64]


def answer(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Answer a message with blocks that have noise of one's own; return the reply as the outbox keeps it."""
    request, started = work.request, time.perf_counter()
    rule = recipe(request.contract, request.industry)
    check_received(work)
    events = events_of(work, plan)
    reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private))
    blocks = blocks_of(work, parts)
    if not plan.non_private:
        multipliers = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]
        blocks = noised(rule, request.round, blocks, multipliers, reservation.noise("sums"))
    tensors = in_state(request.round, blocks)
    if request.round == 2:
        gram, slope = blocks
        noise = deviations(rule, 2, plan.noise_multiplier) if plan.noise_multiplier else (0.0, 0.0)
        keep(work.home, request.run_id, Sent(contribution(tensors), gram, slope, *noise))
    reply = work.sealed(work.header(plan, "OK"), releases_of(events, tensors))
    ledger.commit(reservation, reply)
    work.log_round(f"sums, message {request.round}", time.perf_counter() - started)
    return work.sent(ledger, request.run_id)


def check_received(work: Work) -> None:
    """Refuse a message whose model cannot be centred on: asked before the reservation, so it costs nothing."""
    request = work.request
    own = build_module(request.contract, request.industry).state_dict()
    try:
        check_like(own, request.model)
        if not float(request.model[RADIUS]) > 0:
            raise ValueError(f"{RADIUS}: wanted a number > 0, got another")
        if request.control:
            raise ValueError("sums: wanted nothing beside the model")
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None


def events_of(work: Work, plan: RunPlan) -> tuple[Event, ...]:
    """Return what the message costs: the events of its blocks, as the plan lists them."""
    terms = work.request.contract.sums
    if terms is None:
        raise PrivacyError("sums: wanted a contract of this learner; nothing is released")
    return terms.shares.events(work.request.round, plan.noise_multiplier, plan.unit)


def releases_of(events: Sequence[Event], tensors: Mapping[str, Tensor]) -> list[Release]:
    """Return each block with the event that pays for it; without noise one event pays for the message."""
    if len(events) == 1:
        return [Release("sums", tensors, events[0])]
    return [Release("sums", {name: tensors[name]}, event) for name, event in zip(BLOCKS[2], events, strict=True)]


def blocks_of(work: Work, parts: Partitions) -> list[Array]:
    """Return the exact blocks of the message: the training partition's, in this call alone."""
    request, rows = work.request, rows_of(parts.train)
    rule: Recipe = recipe(request.contract, request.industry)
    torch.set_num_threads(1)
    if request.round == 1:
        return [first_message(rule.columns, rows)]
    centre, radius = request.model[CENTRE], request.model[RADIUS]
    return list(second_message(rule.columns, rule.outcome, rows, centre, radius))
