"""Opens a secure sum of mode `two` at the coordinator, even if members dropped out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from consortia.common.errors import RunFailedError
from consortia.trust.secure_sum.protocol import SumRequest
from consortia.trust.secure_sum.recovery import OpenRequest
from privacy.secure_sum.fixed_point import FixedPoint, Word
from privacy.secure_sum.masks import add_mask, derive, sum_words
from privacy.secure_sum.sharing import SHARE_BYTES, box_bytes, combine, threshold

Opened = dict[str, tuple[tuple[str, ...], Word]]


@dataclass(frozen=True)
class Part:
    """The message of one member: words by label, and its boxes in sequence (mode `two`)."""

    words: Mapping[str, Word]
    boxes: bytes = b""


@dataclass(frozen=True)
class Attempt:
    """The state of one attempt.

    Attributes
    ----------
    parts : by the name of each living member.
    members : of the run's roster.
    """

    request: SumRequest
    context: bytes
    parts: Mapping[str, Part]
    code: FixedPoint
    members: int

    @property
    def alive(self) -> tuple[str, ...]:
        """The members whose words came, sorted."""
        return tuple(sorted(self.parts))

    @property
    def quorum(self) -> int:
        """How many members must sign before the sum is opened."""
        return threshold(self.members, self.code.colluders)

    def living(self, label: str) -> tuple[str, ...]:
        """Return the members of a cohort whose words came, sorted."""
        return tuple(sorted(set(self.request.cohorts[label]) & set(self.parts)))

    def box(self, sealer: str, holder: str) -> bytes:
        """Return the shares that one member sealed for another."""
        everybody = self.request.everybody
        size, index = box_bytes(len(everybody)), everybody.index(holder)
        return self.parts[sealer].boxes[index * size : (index + 1) * size]


def open_two(attempt: Attempt, ask: Callable[[str, Mapping[str, OpenRequest]], dict[str, bytes]]) -> Opened:
    """Return members and sum of every cohort; nothing if more members are lost than the noise covers. Then the attempt
    is lost.

    Parameters
    ----------
    ask : (`confirm` or `unmask`, requests by name) -> signatures or shares, by the name of the sender.

    Raises
    ------
    RunFailedError
        Too few members sent signatures or shares. Nobody opens another sum in this round; a resumed run requests this
        one again.
    """
    alive, cohorts = attempt.alive, attempt.request.cohorts
    most = max(len(names) - len(attempt.living(label)) for label, names in cohorts.items())
    if most > attempt.code.drops or len(alive) < attempt.quorum:
        return {}
    votes: dict[str, bytes] = {}
    if alive != attempt.request.everybody:
        votes = ask("confirm", {name: OpenRequest(attempt.request, alive, {}, {}) for name in alive})
        _enough(attempt, "signatures", votes)
    boxes = {name: {sealer: attempt.box(sealer, name) for sealer in alive} for name in alive}
    asked = {name: OpenRequest(attempt.request, alive, votes, boxes[name]) for name in alive}
    wanted = len(alive) * (1 + len(attempt.request.everybody) - len(alive)) * SHARE_BYTES
    shares = {name: told for name, told in ask("unmask", asked).items() if len(told) == wanted}
    _enough(attempt, "shares", shares)
    return _unmasked(attempt, shares)


def _enough(attempt: Attempt, what: str, got: Mapping[str, bytes]) -> None:
    if len(got) < attempt.quorum:
        raise RunFailedError(
            f"round {attempt.request.round}: wanted the {what} of at least {attempt.quorum} participants to open the "
            f"sum, got {len(got)}; resume the run when they are back"
        )


def _unmasked(attempt: Attempt, shares: Mapping[str, bytes]) -> Opened:
    """Return the sums of the living members. Their own masks and their masks with missing members are removed."""
    everybody, alive = attempt.request.everybody, attempt.alive
    dead = [name for name in everybody if name not in alive]
    holders = {name: everybody.index(name) + 1 for name in shares}
    keys = {}
    for index, pair in enumerate((name, other) for name in alive for other in (name, *dead)):
        at = slice(index * SHARE_BYTES, (index + 1) * SHARE_BYTES)
        keys[pair] = combine({holders[name]: told[at] for name, told in shares.items()}, attempt.quorum)
    out: Opened = {}
    for label, names in attempt.request.cohorts.items():
        living = attempt.living(label)
        total = sum_words([attempt.parts[name].words[label] for name in living])
        for name in living:
            add_mask(total, derive(keys[name, name], label), subtract=True)
            for lost in set(names) - set(living):
                add_mask(total, derive(keys[name, lost], label), subtract=lost > name)
        out[label] = (living, total)
    return out
