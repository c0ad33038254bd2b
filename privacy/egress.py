"""The release gate: the one place where something is allowed to leave a participant.

Guarantees
----------
* A release without an event of the ledger and without a place on the list of public constants is refused.
* A release whose kind the owner's policy does not allow is refused.
* A `private` parameter cannot be put into a reply; neither can a parameter that the scope list lacks.
* A tensor that is not finite is refused: it would tell that something happened to the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from privacy.errors import ReleaseRefusedError
from privacy.events import Event

#: What may cross without an event: functions of the policy, the plan and the message alone, never of rows.
PUBLIC_CONSTANTS = frozenset(
    {
        "wire",
        "kind",
        "participant",
        "run",
        "round",
        "contract",
        "status",
        "code",
        "incident",
        "noise_multiplier",
        "epsilon_budget",
        "delta",
        "unit",
        "non_private",
        "metrics_non_private",
        "scopes",
        # The link of the reservation in the ledger's hash chain. The counter counts what the ledger wrote for messages
        # and decisions of the owner; the head is a hash, salted with 256 secret bits, of constants, events and hashes
        # of replies that had an event (`privacy/_chain.py`). Neither is a function of rows beyond those.
        "ledger_counter",
        "ledger_head",
    }
)


@dataclass(frozen=True)
class Release:
    """Something that leaves.

    Attributes
    ----------
    kind : str
        "update" or "metrics"; the policy allows or forbids the kind.
    tensors : mapping of str to Tensor
        What leaves, by name.
    event : Event
        What it cost, as the ledger records it.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    event: Event | None


def gate(
    releases: Collection[Release],
    header: Mapping[str, str],
    *,
    allowed: Collection[str],
    charged: Collection[Event],
    shared: Collection[str],
) -> dict[str, Tensor]:
    """Return the tensors that may leave, or refuse the whole reply.

    Parameters
    ----------
    releases : collection of Release
        Everything with a cost.
    header : mapping of str to str
        Everything without one; each key must be a public constant.
    allowed : collection of str
        Release kinds of the owner's policy.
    charged : collection of Event
        The events reserved in the ledger for this very reply.
    shared : collection of str
        Names of the parameters whose scope is not private.

    Raises
    ------
    ReleaseRefusedError
        Naming the release, never a value.
    """
    if unknown := sorted(set(header) - PUBLIC_CONSTANTS):
        raise ReleaseRefusedError(f"header keys without an event: {', '.join(unknown)}; give each an event")
    out: dict[str, Tensor] = {}
    for release in releases:
        if release.kind not in allowed:
            raise ReleaseRefusedError(f"allow.releases: {release.kind!r} is not allowed by the policy")
        if release.event is None or release.event not in charged:
            raise ReleaseRefusedError(f"release {release.kind!r} has no event in the ledger; reserve it first")
        for name, tensor in release.tensors.items():
            if release.kind == "update" and name not in shared:
                raise ReleaseRefusedError(f"parameter {name!r} is private or unknown; it never leaves")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise ReleaseRefusedError(f"release {release.kind!r}: {name!r} is not finite")
            if name in out:
                raise ReleaseRefusedError(f"{name!r} would leave twice")
            out[name] = tensor
    return out
