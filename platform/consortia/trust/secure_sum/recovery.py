"""The member's half of mode `two`: opens a sum although some members dropped out.

Formal guarantees
-----------------
In addition to those of `consortia.trust.secure_sum.protocol`, against the same coordinator and the same t colluding
members:

* A member opens at most one sum in each round: the sum of its last attempt, which its ledger charged.
* For a member that is alive it reveals shares of that member's own mask key. For a member that dropped out it reveals
  shares of its keys with the living. It never reveals both for one member, and never a key that is used after the
  attempt.
* If somebody is missing, a quorum of T members must have signed the same set of the living. Every member signs one set
  in a round. T is computed from the run's whole roster, so two different sets, cohorts or attempts cannot both reach
  it.
* At most d members of a cohort may be missing, so noise of at least sigma C remains besides the colluders' shares.

The coordinator may claim that a member dropped out although its words came. Then no honest member reveals a share of
that member's own mask key. The mask stays on the words, and they reveal nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consortia.common.errors import RefusedError
from consortia.trust.secure_sum.protocol import Member, Outbox, Rules, SumRequest, box_key, verify
from privacy.secure_sum.masks import PROTOCOL, fields
from privacy.secure_sum.sharing import open_box, threshold
from privacy.secure_sum.store import RunKeys


@dataclass(frozen=True)
class OpenRequest:
    """What the coordinator requests after the words of an attempt came.

    Attributes
    ----------
    sum : the request of the attempt.
    alive : members whose words came.
    votes : signatures of `alive` by name; needed if somebody is missing.
    boxes : shares that the living members sealed for this member, by the name of the sealer.
    """

    sum: SumRequest
    alive: tuple[str, ...]
    votes: Mapping[str, bytes]
    boxes: Mapping[str, bytes]

    def to_json(self) -> str:
        """Return the text that is sent."""
        data = {
            "sum": replace(self.sum, roster=None).to_json(),
            "alive": self.alive,
            "votes": {name: base64.b64encode(vote).decode() for name, vote in self.votes.items()},
            "boxes": {name: base64.b64encode(box).decode() for name, box in self.boxes.items()},
        }
        return json.dumps(data, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> OpenRequest:
        """Read `to_json`; RefusedError BAD_MESSAGE for anything else."""
        try:
            data: dict[str, Any] = json.loads(text)
            return cls(
                SumRequest.from_json(data["sum"]),
                tuple(map(str, data["alive"])),
                {str(name): base64.b64decode(vote) for name, vote in data["votes"].items()},
                {str(name): base64.b64decode(box) for name, box in data["boxes"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RefusedError("BAD_MESSAGE", "the request to open a sum cannot be read") from None


def statement(context: bytes, alive: tuple[str, ...]) -> bytes:
    """Return the bytes that a member signs. They say that this attempt is opened over these members."""
    return fields(PROTOCOL, "alive", context, *sorted(alive))


def confirm(member: Member, request: OpenRequest, rules: Rules, outbox: Outbox) -> bytes:
    """Sign a set of the living. A member signs one set in a round.

    Raises
    ------
    RefusedError
        ALREADY_UNMASKED, ALREADY_VOTED, or why the set cannot be opened.
    """
    view = statement(_checked(member, request, rules, outbox)[1], request.alive)
    number = request.sum.round
    if member.store.view(member.run, number, "open") not in {None, view.hex()}:
        raise RefusedError("ALREADY_UNMASKED", "another sum of this round was opened")
    if not member.store.settle_view(member.run, number, "vote", view.hex()):
        raise RefusedError("ALREADY_VOTED", "this member signed another set of the living in this round")
    return member.identity.sign(view, ec.ECDSA(hashes.SHA384()))


def unmask(member: Member, request: OpenRequest, rules: Rules, outbox: Outbox) -> bytes:
    """Return this member's shares: of each living member's own mask key, then of its keys with each missing member, in
    the order of names.

    Raises
    ------
    RefusedError
        ALREADY_UNMASKED, VIEW_CHANGED, NO_AGREEMENT, BAD_SHARE, or why the set cannot be opened.
    """
    keys, context = _checked(member, request, rules, outbox)
    number, everybody, alive = request.sum.round, request.sum.everybody, sorted(request.alive)
    view = statement(context, request.alive)
    if member.store.view(member.run, number, "vote") not in {None, view.hex()}:
        raise RefusedError("VIEW_CHANGED", "this member signed another set of the living in this round")
    if len(alive) < len(everybody):
        agreed = [name for name in alive if _signed(member, rules, name, request.votes.get(name, b""), view)]
        if len(agreed) < quorum(keys, rules):
            raise RefusedError("NO_AGREEMENT", f"{len(agreed)} valid signatures of the set of the living, too few")
    out = b""
    for name in alive:
        others = [name, *(other for other in everybody if other != name)]
        try:
            key = box_key(keys, context, name, member.name, member.name)
            shares = open_box(key, request.boxes[name], len(others))
        except (KeyError, ValueError):
            raise RefusedError("BAD_SHARE", f"the shares of {name} are not those that it sealed") from None
        told = dict(zip(others, shares, strict=True))
        out += b"".join(share for other, share in told.items() if other == name or other not in alive)
    if not member.store.settle_view(member.run, number, "open", view.hex()):
        raise RefusedError("ALREADY_UNMASKED", "another sum of this round was opened")
    return out


def quorum(keys: RunKeys, rules: Rules) -> int:
    """Return T, computed from the run's whole roster."""
    return threshold(len(keys.pairs) + 1, rules.code.colluders)


def _checked(member: Member, request: OpenRequest, rules: Rules, outbox: Outbox) -> tuple[RunKeys, bytes]:
    """Check that an attempt may be opened over `request.alive`; return its secrets and context."""
    asked, alive = request.sum, set(request.alive)
    if not rules.code.drops:
        raise RefusedError("BAD_MESSAGE", "a sum of mode one opens by itself")
    keys, mine, context, _ = member.bound(replace(asked, roster=None), rules)
    made = member.store.last(member.run) == (asked.round, asked.attempt)
    if not made or outbox.reply(asked.round, context.hex()) is None:
        raise RefusedError("UNKNOWN_ATTEMPT", "this member's last attempt is a different one")
    if member.name not in alive or len(alive) != len(request.alive) or not alive <= set(asked.everybody):
        raise RefusedError(
            "BAD_COHORT", "wanted each living member once, this member among them, and only members of the attempt"
        )
    if len(alive) < quorum(keys, rules):
        raise RefusedError("COHORT_TOO_SMALL", f"{len(alive)} are alive, {quorum(keys, rules)} must be")
    for label, names in asked.cohorts.items():
        left = len(alive & set(names))
        if len(names) - left > rules.code.drops:
            raise RefusedError("MORE_DROPS_THAN_NOISE_COVERS", f"{len(names) - left} of a cohort are missing")
        if left - rules.code.colluders < 2 or (label in mine and left < rules.min_cohort):
            raise RefusedError("COHORT_TOO_SMALL", f"{left} of a cohort are alive")
    return keys, context


def _signed(member: Member, rules: Rules, name: str, vote: bytes, view: bytes) -> bool:
    """Return whether a member signed the view. The key is the one that the owner pinned, or this member's own for
    itself."""
    own = member.identity.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        verify(own if name == member.name else rules.peers[name], vote, view)
    except RefusedError:
        return False
    return True
