"""One message of noisy sums at a participant: sum, charge, noise, release. Its own part stays for the end.

Guarantees
----------
* A message is answered within the walls of `consortia.participant.handle`; each block has an event of its own, which is
  reserved before a row is summed.
* How far one unit moves a block is proved in `consortia.learners.sums.statistics` and, of statistics before training,
  in `consortia.learners.statistics.layout`; it does not depend on the centre and the radius that a coordinator sent.
  Only that they are finite, and the radius > 0, is checked.
* Noise is on the public grid of `privacy.secure_noise`, in simulations too.
* What it sent, exactly as it was sent, lies in the run's folder until the closing evaluation took it off the sum
  (`consortia.participant.sums_at_home`, `consortia.participant.statistics_at_home`). In a secure sum that is a secret:
  the words before the masks.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia.common.errors import RefusedError
from consortia.learners.blocks import deviations, noised
from consortia.learners.shares import Blocks
from consortia.learners.sums.model import CENTRE, RADIUS
from consortia.learners.sums.statistics import first_message, second_message
from consortia.messages.sums import contribution, in_state
from consortia.participant.context import Work
from consortia.participant.data import Partitions
from consortia.participant.own_sums import Sent, keep, rows_of
from consortia.terms.recipe import blocks_of, layout, recipe
from consortia.terms.scopes import build_module, check_like
from privacy.egress import Release
from privacy.errors import PrivacyError
from privacy.events import Event, GaussianRelease
from privacy.ledger import Ledger, RunPlan

__all__ = ["answer", "check_received", "events_of", "exact_blocks", "releases_of"]

Array = NDArray[np.float64]


def answer(work: Work, ledger: Ledger, plan: RunPlan, parts: Partitions) -> bytes:
    """Answer a message with blocks that have noise of one's own; return the reply as the outbox keeps it."""
    request, started = work.request, time.perf_counter()
    rule = blocks_of(request.contract, request.industry)
    check_received(work)
    events = events_of(work, plan)
    reservation = work.reserve(ledger, request.run_id, events, work.lifetime(plan.non_private))
    blocks = exact_blocks(work, parts)
    if not plan.non_private:
        multipliers = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]
        blocks = noised(rule, request.round, blocks, multipliers, reservation.noise(rule.shares.what))
    tensors = in_state(rule, request.round, blocks)
    if request.round == rule.shares.messages:
        noise = (
            deviations(rule, request.round, plan.noise_multiplier) if plan.noise_multiplier else (0.0,) * len(blocks)
        )
        keep(work.home, request.run_id, Sent(contribution(tensors), tuple(blocks), noise))
    reply = work.sealed(work.header(plan, "OK"), releases_of(rule, request.round, events, tensors))
    ledger.commit(reservation, reply)
    work.log_round(f"{rule.shares.what}, message {request.round}", time.perf_counter() - started)
    return work.sent(ledger, request.run_id)


def check_received(work: Work) -> None:
    """Refuse a message whose model cannot be centred on: asked before the reservation, so it costs nothing."""
    request = work.request
    own = {} if request.contract.sums is None else build_module(request.contract, request.industry).state_dict()
    try:
        check_like(own, request.model)
        if own and not float(request.model[RADIUS]) > 0:
            raise ValueError(f"{RADIUS}: wanted a number > 0, got another")
        if request.control:
            raise ValueError("noisy sums: wanted nothing beside the model")
    except ValueError as error:
        raise RefusedError("BAD_MESSAGE", str(error)) from None


def events_of(work: Work, plan: RunPlan) -> tuple[Event, ...]:
    """Return what the message costs: the events of its blocks, as the plan lists them."""
    terms = work.request.contract.noisy_sums
    if terms is None:
        raise PrivacyError("noisy sums: wanted a contract of such a learner; nothing is released")
    return terms.shares.events(work.request.round, plan.noise_multiplier, plan.unit)


def releases_of(rule: Blocks, message: int, events: Sequence[Event], tensors: Mapping[str, Tensor]) -> list[Release]:
    """Return each block with the event that pays for it; without noise one event pays for the message."""
    kind = rule.shares.what
    if len(events) == 1:
        return [Release(kind, tensors, events[0])]
    return [
        Release(kind, {name: tensors[name]}, event) for name, event in zip(rule.names(message), events, strict=True)
    ]


def exact_blocks(work: Work, parts: Partitions) -> list[Array]:
    """Return the exact blocks of the message: the training partition's, in this call alone."""
    request, rows = work.request, rows_of(parts.train)
    torch.set_num_threads(1)
    if request.contract.statistics is not None:
        return [layout(request.contract, request.industry).vector(rows)]
    rule = recipe(request.contract, request.industry)
    if request.round == 1:
        return [first_message(rule.columns, rows)]
    centre, radius = request.model[CENTRE], request.model[RADIUS]
    return list(second_message(rule.columns, rule.outcome, rows, centre, radius))
