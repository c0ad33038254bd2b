"""Says what a participant does by learner and trust of a contract: one table, one entry for each pair.

A mode answers within the walls that `consortia.participant.handle` put up before: policy, ledger witness, lifetime,
outbox. Whatever it sends was charged (`Work.reserve`) and passed the release gate.
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
    answer : a message that needs rows: train, or what comes before it.
    opening : a message that needs keys only.
    end : what the closing evaluation ends.
    close : answers the closing evaluation; None where a model is measured.
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
    """Return what a participant does under a contract."""
    terms = contract.noisy_sums
    return MODES[contract.learner if terms is None else terms.shares.what, contract.trust]
