"""Defines what a participant does for each pair of learner and trust mode: a table with one entry for each pair.

A mode is called after the checks of `consortia.participant.handle`: policy, ledger witness, lifetime, outbox.
Everything that it sends was charged (`Work.reserve`) and passed the release gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from consortia.common.errors import RefusedError
from consortia.learners.blocks.shares import OWN_KIND
from consortia.participant import local, secure_sum, statistics_at_home, sums
from consortia.participant.context import Work
from consortia.participant.partitions import Partitions
from consortia.participant.unpaid_requests import Measurement
from consortia.terms.contract import Contract
from privacy.ledger import Ledger, RunPlan


def _no_opening(work: Work, ledger: Ledger, plan: RunPlan) -> bytes:
    raise RefusedError("BAD_MESSAGE", f"{work.request.kind} belongs to secure sums, and this contract has none")


def _nothing(work: Work, ledger: Ledger) -> None:
    pass


@dataclass(frozen=True)
class TrustMode:
    """The participant's half of a trust mode.

    Attributes
    ----------
    answer : answers a message that needs rows: train, or a message before it.
    opening : answers a message that needs only keys.
    end : called by the final evaluation, at the end of a run.
    close : answers the final evaluation; None if a model is measured.
    """

    answer: Callable[[Work, Ledger, RunPlan, Partitions], bytes]
    opening: Callable[[Work, Ledger, RunPlan], bytes] = _no_opening
    end: Callable[[Work, Ledger], None] = _nothing
    close: Callable[[Work, Ledger, Measurement], bytes] | None = None


_OWN_NOISE = TrustMode(local.train)
_OWN_SUMS = TrustMode(sums.answer)
_SECURE = TrustMode(secure_sum.answer, secure_sum.opening, secure_sum.end)
#: By learner (those of packages are one kind) and trust. With a trusted coordinator a participant sends its clipped
#: change without noise.
MODES: Mapping[tuple[str, str], TrustMode] = MappingProxyType(
    {
        ("gradient", "local"): _OWN_NOISE,
        ("gradient", "coordinator"): _OWN_NOISE,
        ("gradient", "aggregate"): _SECURE,
        ("sums", "local"): _OWN_SUMS,
        ("sums", "aggregate"): _SECURE,
        ("additive", "local"): _OWN_SUMS,
        ("additive", "aggregate"): _SECURE,
        (OWN_KIND, "local"): _OWN_SUMS,
        (OWN_KIND, "aggregate"): _SECURE,
        ("statistics", "local"): replace(_OWN_SUMS, close=statistics_at_home.close),
        ("statistics", "aggregate"): replace(_SECURE, close=statistics_at_home.close),
    }
)


def mode_of(contract: Contract) -> TrustMode:
    """Return the participant's half of a contract's trust mode."""
    terms = contract.noisy_sums
    return MODES[contract.learner if terms is None else terms.shares.what, contract.trust]
