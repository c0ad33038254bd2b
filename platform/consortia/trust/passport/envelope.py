"""Signs and opens DSSE envelopes (https://github.com/secure-systems-lab/dsse) with `securesystemslib`.

Guarantee: `opened` returns a payload only if the envelope has exactly one signature, and the pinned key made it over
these bytes and this type. Each envelope has exactly one spelling: another base64 encoding of the same bytes is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from consortia.trust.passport.statement import PAYLOAD_TYPE, SignedStatement

__all__ = ["ForgedError", "opened", "signed", "strict_json"]


class ForgedError(Exception):
    """A passport, or a part of it, differs from what its signer signed. The text says how."""


def signed(statement: Mapping[str, Any], key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None) -> dict[str, Any]:
    """Return the envelope of a statement. Without a key it has no signature, and `opened` refuses it."""
    text = json.dumps(statement, sort_keys=True, separators=(",", ":"), allow_nan=False)
    envelope = Envelope(text.encode(), PAYLOAD_TYPE, {})
    if key is not None:
        envelope.sign(CryptoSigner(key))
    found: dict[str, Any] = envelope.to_dict()
    return found


def opened(envelope: SignedStatement, key: SSlibKey) -> Any:
    """Return the JSON that `key` signed.

    Raises
    ------
    ForgedError
        The envelope has no signature, several signatures, a signature of another key, or one that does not match the
        payload.
    """
    if len(envelope.signatures) != 1:
        raise ForgedError(
            f"wanted one signature, got {len(envelope.signatures)}" if envelope.signatures else "is not signed"
        )
    if envelope.signatures[0].keyid != key.keyid:
        raise ForgedError("is signed with another key than the pinned one")
    for text in (envelope.payload, envelope.signatures[0].sig):
        try:
            exact = base64.b64encode(base64.b64decode(text, validate=True)).decode() == text
        except ValueError:
            exact = False
        if not exact:
            raise ForgedError("is damaged: not in base64")
    found = Envelope.from_dict(envelope.model_dump(mode="json", by_alias=True))
    try:
        found.verify([key], 1)
    except VerificationError:
        raise ForgedError("was changed after it was signed, or the signature is forged") from None
    return strict_json(found.payload)


def strict_json(data: bytes) -> Any:
    """Return the parsed JSON. ForgedError unless every parser reads it the same way: UTF-8, no key twice, no NaN."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        reason = "a key twice" if isinstance(error, _TwiceError) else "damaged or truncated JSON"
        raise ForgedError(f"wanted JSON, got {reason}") from None


class _TwiceError(ValueError):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _TwiceError
    return found


def _no_constant(name: str) -> float:
    raise ValueError(name)
