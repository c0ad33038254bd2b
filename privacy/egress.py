"""The release gate: the only place where something may leave a participant.

Guarantees
----------
* A release without an event of the ledger and without a place on the list of public constants is refused.
* A release whose kind the owner's policy does not allow is refused.
* A release is typed: its event says which kinds of releases its mechanism makes (`Event.releases`), and the kind from
  which partition (`KINDS`). Early stopping and calibration curves read a released histogram; they are no release of
  their own.
* A `private` parameter cannot be put into a reply; neither can a parameter that the scope list lacks.
* A metric or a loss whose name schema and contract do not have is refused: what compares models at home (`joined`,
  `control`, a net gain) has no name to leave by.
* A tensor that is not finite is refused: it would tell that something happened to the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from privacy.errors import ReleaseRefusedError
from privacy.events import Event, check_known

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
        "metrics_mechanism",
        "metrics_multiplier",
        "metrics_rows_per_unit",
        "metrics_partition",
        "metrics_epsilon",
        "metrics_delta",
        "scopes",
        # The public key of one run of secure sums and its signature.
        "run_key",
        "signature",
        # Shares of random keys that open a sum whose event was charged when its words were made.
        "shares",
        # The link of the reservation in the ledger's hash chain. The counter counts what the ledger wrote for messages
        # and decisions of the owner; the head is a hash, salted with 256 secret bits, of constants, events and hashes
        # of replies that had an event (`privacy/_chain.py`). Neither is a function of rows beyond those.
        "ledger_counter",
        "ledger_head",
    }
)


@dataclass(frozen=True)
class Kind:
    """What a kind of release may be. The events say which kinds they can pay for (`Event.releases`).

    Attributes
    ----------
    partitions : tuple of str
        Partitions that it may read.
    prefix : str
        What the names of its tensors begin with; "" for parameters, whose names the scope list has.
    allowed_as : str
        The word of the policy's `allow.releases` that covers it, when it is not the kind's own name.
    listed : bool
        Whether each tensor's name has to be one of those that `gate` is given as `measured`.
    """

    partitions: tuple[str, ...]
    prefix: str = ""
    allowed_as: str = ""
    listed: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "update": Kind(("train",)),
        # Sums of columns, of their squares and products (the learner `sums`).
        "sums": Kind(("train",), "sums."),
        # Counts and gradients by public cell.
        "additive": Kind(("train",), "additive."),
        # Counts of public cells and moments, before training.
        "statistics": Kind(("train",), "statistics."),
        # Sums of a learner that a package brings, clipped by the platform.
        "blocks": Kind(("train",), "blocks."),
        "metrics": Kind(("validation", "evaluation"), "metrics.", listed=True),
        # The number of training units, once a run.
        "size": Kind(("train",), "size."),
        # Vertical mode: sealed for one other participant; what is inside was charged to an account of its own.
        "intersection": Kind(("train",), "sealed/"),
        "labels": Kind(("train",), "sealed/"),
        "scores": Kind(("train",), "sealed/"),
        "loss": Kind(("train",), "loss/", allowed_as="metrics", listed=True),
    }
)


@dataclass(frozen=True)
class Release:
    """Something that leaves.

    Attributes
    ----------
    kind : str
        One of `KINDS`; the policy allows or forbids the kind.
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
    measured: Collection[str] = (),
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
        The events reserved in the ledger for this very reply; each pays for one release.
    shared : collection of str
        Names of the parameters whose scope is not private.
    measured : collection of str
        Names that a metric or a loss may have, by schema and contract.

    Raises
    ------
    ReleaseRefusedError
        Naming the release, never a value.
    """
    if unknown := sorted(set(header) - PUBLIC_CONSTANTS):
        raise ReleaseRefusedError(f"header keys without an event: {', '.join(unknown)}; give each an event")
    out: dict[str, Tensor] = {}
    paid = list(charged)
    for release in releases:
        terms = KINDS.get(release.kind)
        if terms is None:
            raise ReleaseRefusedError(f"release {release.kind!r}: wanted one of {', '.join(KINDS)}")
        if (terms.allowed_as or release.kind) not in allowed:
            raise ReleaseRefusedError(f"allow.releases: {release.kind!r} is not allowed by the policy")
        if release.event is None or release.event not in paid:
            raise ReleaseRefusedError(f"release {release.kind!r} has no event in the ledger; reserve it first")
        paid.remove(release.event)
        _check_type(release.kind, terms, release.event)
        for name, tensor in release.tensors.items():
            if not name.startswith(terms.prefix):
                raise ReleaseRefusedError(f"release {release.kind!r}: {name!r} is not of that kind")
            if terms.listed and name not in measured:
                raise ReleaseRefusedError(f"release {release.kind!r}: schema and contract have no {name!r}")
            if release.kind == "update" and name not in shared:
                raise ReleaseRefusedError(f"parameter {name!r} is private or unknown; it never leaves")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                why = "; training diverged: lower learning_rate" if release.kind == "update" else ""
                raise ReleaseRefusedError(f"release {release.kind!r}: {name!r} is not finite{why}")
            if name in out:
                raise ReleaseRefusedError(f"{name!r} would leave twice")
            out[name] = tensor
    return out


def _check_type(kind: str, terms: Kind, event: Event) -> None:
    """Refuse a release that another mechanism made, or that read another partition, than its kind allows."""
    check_known(event)
    if kind not in event.releases or event.partition not in terms.partitions:
        raise ReleaseRefusedError(
            f"release {kind!r}: a {type(event).__name__} of the {event.partition} partition cannot back it"
        )
