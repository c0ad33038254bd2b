"""Messages of noisy sums in a vectorised simulation, and models that are finished at home.

Nothing is batched: a block is a few hundred numbers, and what a thousand messages cost (envelopes, files, ledgers) is
saved all the same. The exact blocks, their noise on the public grid and their events are the other engines' own.

Guarantees
----------
* A message is charged before a row is summed, block by block as its plan lists them.
* Each message of each participant has a key stream of its own from fresh entropy.
"""

from __future__ import annotations

from typing import Final

from consortia.engines.vectorized.participants import Place
from consortia.learners.blocks.release import deviations, noised
from consortia.messages.blocks import contribution, in_state
from consortia.messages.envelope import message_key
from consortia.participant.own_sums import Sent, rows_of
from consortia.participant.sums_at_home import SumsAtHome
from consortia.terms.contract import Contract
from consortia.terms.recipe import blocks_of
from consortia.terms.scopes import State
from privacy.errors import PrivacyError
from privacy.events import GaussianRelease
from privacy.noise_context import NoiseContext

__all__ = ["at_home", "released"]

_NO_LEDGER: Final = ""


def released(contract: Contract, place: Place, message: int, model: State) -> State:
    """Charge a message, then return its blocks with the participant's own noise; keep what is taken off at the end.

    Raises
    ------
    BudgetExhaustedError
        Nothing was summed.
    """
    terms, plan, name = contract.noisy_sums, place.plan, place.participant.name
    if terms is None:
        raise PrivacyError("noisy sums: wanted a contract of such a learner; nothing is released")
    rule = blocks_of(contract, place.participant.industry)
    events = terms.shares.events(message, plan.noise_multiplier, plan.unit)
    place.account.charge(message, events)
    blocks = rule.exact(message, rows_of(place.parts.train), model)
    noise = (0.0,) * len(blocks)
    if not plan.non_private:
        key = message_key(model, plan.run_id, str(message), name)
        context = NoiseContext(purpose=rule.shares.what, message=key, attempt=0, ledger=_NO_LEDGER)
        multipliers = [event.noise_multiplier for event in events if isinstance(event, GaussianRelease)]
        blocks = noised(rule, message, blocks, multipliers, context)
        noise = deviations(rule, message, plan.noise_multiplier)
    tensors = in_state(rule, message, blocks)
    if contract.finished_at_home and message == terms.shares.messages:
        place.sent.append(Sent(contribution(tensors), tuple(blocks), noise))
    return tensors


def at_home(contract: Contract, place: Place, model: State, beside: State) -> SumsAtHome:
    """Return what finishes the learner `sums` on a participant's own rows."""
    part = place.sent[-1] if place.sent else None
    return SumsAtHome.of(place.participant.name, part, contract, place.participant.industry, model, beside)
