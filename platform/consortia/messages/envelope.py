"""Envelopes: one block of bytes in safetensors format for each message (no pickle).

The header is the safetensors metadata (text only); the body holds the tensors. Names, dtypes, shapes and integer
buffers are kept exactly. In a Flower message the envelope is one bytes value of a ConfigRecord. So a round needs few
objects, and a repeated reply is identical to the byte.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import safetensors

from consortia.common.errors import WireError
from consortia.terms.contract_fields import WIRE_VERSION

if TYPE_CHECKING:  # a waiting launcher must not load torch; the first tensor loads it
    from torch import Tensor

#: Statuses of a reply. OK carries an update or another message of the run, EVALUATED may carry released metrics, and
#: GREETED carries a new public key. No other status carries a tensor. Which status comes can depend on rows (FAILED).
STATUSES = ("OK", "READY", "EVALUATED", "GREETED", "DONE", "RECEIVE_ONLY", "REFUSED", "FAILED")

#: Why a participant refuses. The code is sent; the sentence stays in the participant's own log.
REFUSALS = (
    "NO_POLICY",
    "HOME_UNREADABLE",
    "NO_LEDGER",
    "LEDGER_BEHIND",
    "LEDGER_FORKED",
    "LEDGER_BROKEN",
    "DEMO_POLICY",
    "BAD_POLICY",
    "CONTRACT_NOT_ALLOWED",
    "RELEASE_NOT_ALLOWED",
    "NON_PRIVATE_NOT_ALLOWED",
    "DATASET_NOT_OFFERED",
    "UNIT_MISMATCH",
    "BUDGET_EXHAUSTED",
    "RETRIES_EXHAUSTED",
    "RUNS_EXHAUSTED",
    "EVALUATIONS_EXHAUSTED",
    "WRONG_PARTICIPANT",
    "BAD_MESSAGE",
    "BUNDLE_REFUSED",
    "NO_PRETRAINED_FILE",
    "NOT_TRAINED",
    "PARTICIPANT_ERROR",
    # Secure sums (`consortia.trust.secure_sum.protocol`).
    "NO_IDENTITY",
    "NO_RUN_KEY",
    "NO_ROSTER",
    "ROSTER_CHANGED",
    "OWN_KEY_NOT_ECHOED",
    "DUPLICATE_KEY",
    "UNKNOWN_PEER",
    "BAD_SIGNATURE",
    "BAD_COHORT",
    "COHORT_TOO_SMALL",
    "MODEL_MISMATCH",
    "REPLAY",
    "TOO_MANY_ATTEMPTS",
    # ... of mode two (`consortia.trust.secure_sum.recovery`).
    "UNKNOWN_ATTEMPT",
    "ALREADY_VOTED",
    "ALREADY_UNMASKED",
    "VIEW_CHANGED",
    "NO_AGREEMENT",
    "BAD_SHARE",
    "MORE_DROPS_THAN_NOISE_COVERS",
    # Vertical mode
    "VERTICAL_NOT_ALLOWED",
    "LABEL_NOT_ALLOWED",
    "SET_TOO_LARGE",
    "PEER_NOT_PINNED",
    "NO_ID_KEY",
    "INTERSECTIONS_EXHAUSTED",
    "LABEL_MESSAGES_EXHAUSTED",
    "TOO_FEW_ROWS",
    "TOO_FEW_PARTNERS",
    "SCORES_NOT_ALLOWED",
)

MAX_ENVELOPE_BYTES = 1 << 31


@dataclass(frozen=True)
class Envelope:
    """A header of text and a body of tensors."""

    header: Mapping[str, str]
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def encode(envelope: Envelope) -> bytes:
    """Return the envelope's bytes; the wire version is added to the header.

    The same envelope gives the same bytes in every process. safetensors orders the tensors itself. The metadata is one
    sorted JSON text, because safetensors writes its own metadata map in hash order, which differs between processes.
    """
    header = {"wire": str(WIRE_VERSION), **envelope.header}
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    return _save(envelope.tensors, {"consortia": text})


def _save(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    if not tensors:
        return safetensors.serialize({}, metadata)
    from safetensors.torch import save

    return save({name: t.detach().contiguous() for name, t in tensors.items()}, metadata)


def decode(data: bytes) -> Envelope:
    """Return the envelope of `data`.

    Raises
    ------
    WireError
        The bytes are not an envelope, or have another wire version (both are named).
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise WireError(f"envelope: wanted at most {MAX_ENVELOPE_BYTES} bytes, got {len(data)}")
    from safetensors.torch import load

    try:
        header = _header(data)
        tensors = load(data)
    except (struct.error, ValueError, KeyError, TypeError, RecursionError, safetensors.SafetensorError):
        raise WireError("envelope: wanted safetensors bytes with a consortia header, got something else") from None
    if not isinstance(header, dict) or not all(isinstance(v, str) for v in header.values()):
        raise WireError("envelope: wanted a header of text values")
    if header.get("wire") != str(WIRE_VERSION):
        raise WireError(
            f"wire: wanted version {WIRE_VERSION}, got {header.get('wire')!r}; use the same release of consortia"
        )
    return Envelope(header, tensors)


def kind_of(data: bytes) -> str:
    """Return the kind of message, without reading the tensors; "" if the envelope cannot be read."""
    try:
        return str(_header(data)["kind"])
    except (struct.error, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _header(data: bytes) -> Any:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["consortia"])


def message_key(model: Mapping[str, Tensor], *parts: str) -> str:
    """Return the outbox key: SHA-256 over the parts (run, round, kind, data set, contract) and every tensor."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part.encode())
    digest.update(_save(dict(sorted(model.items()))))
    return digest.hexdigest()
