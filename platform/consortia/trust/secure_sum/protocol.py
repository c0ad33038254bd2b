"""The member's half of a secure sum: one message a round, a cohort fixed before the noise (mode `one`).

With `code.drops` > 0 (mode `two`) the member also adds a mask of its own to the words, and sends boxes with shares of
its keys. `consortia.trust.secure_sum.recovery` opens such a sum even if members dropped out.

This module uses no Flower, no torch and no files. It decides on bytes and names alone.

Formal guarantees
-----------------
The coordinator may lie, drop messages, replay them and send different ones to different members. It may collude with at
most t of the other members. Even then a member releases, for each charged attempt, one sum over at least `min_cohort`
members with Gaussian noise of at least sigma:

* The owner's policy file pins every peer of the cohort, and each peer's run key is signed for this run and contract.
* A cohort keeps at least two shares of noise besides those of the colluders. Its noise is that of the checked contract.
* A mask context covers run, contract, roster, round, attempt, models, cohorts and encoding. It is used once: the
  attempt is marked as used on disk before anything is computed, and it is charged before the draw.
* The same request gives the same bytes again, free of charge. Every other request is a new attempt or is refused.

The guarantee does not cover wrong results: the coordinator may publish any model.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from numpy.typing import NDArray

from consortia.common.errors import RefusedError
from privacy.noise_context import NoiseContext
from privacy.randomness import KeyStream, fresh_key
from privacy.secure_sum.fixed_point import FixedPoint, Word
from privacy.secure_sum.masks import PROTOCOL, add_mask, derive, digest, fields, pair_key
from privacy.secure_sum.sharing import seal_box, share, threshold
from privacy.secure_sum.store import KeyStore, RunKeys

_MAGIC: Final = b"CSS1"
_CONTEXT: Final = 16


class Outbox(Protocol):
    """The ledger as the protocol needs it."""

    def reply(self, round_number: int, context: str) -> bytes | None:
        """Return the committed bytes of that context, None when there are none."""
        ...

    def reserve(self, round_number: int, context: str) -> NoiseContext:
        """Charge the attempt, or raise. Return the context that its draw and noise are bound to."""
        ...

    def commit(self, round_number: int, context: str, data: bytes) -> bytes:
        """Store the bytes and return those that may be sent."""
        ...


@dataclass(frozen=True)
class SumRequest:
    """What the coordinator asks for.

    Attributes
    ----------
    attempt : 0 for the first of a round.
    cohorts : members by label. A label is a group of parameters, or `group#number` where a group has several cohorts.
    models : hash of every group's parameters, by group; hex.
    roster : signed run keys by name; None if the member stored them before.
    """

    round: int
    attempt: int
    cohorts: Mapping[str, tuple[str, ...]]
    models: Mapping[str, str]
    roster: Mapping[str, tuple[bytes, bytes]] | None = None

    @property
    def everybody(self) -> tuple[str, ...]:
        """Return the members of all cohorts, sorted."""
        return tuple(sorted({name for names in self.cohorts.values() for name in names}))

    def to_json(self) -> str:
        """Return the text that is sent."""
        roster = None
        if self.roster is not None:
            roster = {name: [key.hex(), signature.hex()] for name, (key, signature) in self.roster.items()}
        data = {"round": self.round, "attempt": self.attempt, "cohorts": self.cohorts, "models": self.models}
        return json.dumps({**data, **({} if roster is None else {"roster": roster})}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "SumRequest":
        """Read `to_json`; RefusedError BAD_MESSAGE for anything else."""
        try:
            data: dict[str, Any] = json.loads(text)
            keys = data.get("roster")
            request = cls(
                int(data["round"]),
                int(data["attempt"]),
                {str(label): tuple(map(str, names)) for label, names in data["cohorts"].items()},
                {str(group): str(value) for group, value in data["models"].items()},
                None if keys is None else {str(n): (bytes.fromhex(k), bytes.fromhex(s)) for n, (k, s) in keys.items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise RefusedError("BAD_MESSAGE", "the secure sum's request cannot be read") from None
        if request.round < 1 or request.attempt < 0:
            raise RefusedError("BAD_MESSAGE", "a secure sum's round or attempt is negative")
        return request


@dataclass(frozen=True)
class Rules:
    """The requirements of the owner and of the checked contract for a cohort. No value comes from a message.

    Attributes
    ----------
    peers : public identity key of every peer that the owner pinned (DER), by name.
    min_cohort, colluders : from the owner; `code.colluders` is from the contract.
    max_attempts : per round.
    groups : groups of parameters that this member shares.
    """

    peers: Mapping[str, bytes]
    min_cohort: int
    colluders: int
    max_attempts: int
    groups: frozenset[str]
    code: FixedPoint


def group_of(label: str) -> str:
    """Return the group of parameters that a cohort's label stands for."""
    return label.partition("#")[0]


def key_statement(run: str, contract: str, name: str, key: bytes) -> bytes:
    """Return the bytes that an identity signs for its run key."""
    return fields(PROTOCOL, "key", run, contract, name, key)


def verify(public: bytes, signature: bytes, statement: bytes) -> None:
    """Refuse with BAD_SIGNATURE unless `public` (DER, elliptic curve) signed `statement`."""
    try:
        key = serialization.load_der_public_key(public)
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RefusedError("BAD_SIGNATURE", "a pinned key is no elliptic-curve key")
        key.verify(signature, statement, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        raise RefusedError("BAD_SIGNATURE", "a run key is not signed by the pinned identity") from None


def roster_hash(roster: Mapping[str, tuple[bytes, bytes]]) -> str:
    """Return the hash of all names and run keys."""
    return digest("roster", *[part for name in sorted(roster) for part in (name, roster[name][0])]).hex()


def context_of(run: str, contract: str, roster: str, request: SumRequest, code: FixedPoint, bits: int) -> bytes:
    """Return the hash that binds the masks of one attempt. It covers everything that members must agree on."""
    parts: list[str | int | bytes] = ["round", run, contract, roster, request.round, request.attempt]
    parts += ["models", *[part for group in sorted(request.models) for part in (group, request.models[group])]]
    for label in sorted(request.cohorts):
        parts += ["cohort", label, *sorted(request.cohorts[label])]
    parts += ["code", repr(code), bits]
    return digest(*parts)


class Member:
    """One participant in one run.

    Parameters
    ----------
    name : its name on the roster.
    identity : its long-term signing key.
    """

    def __init__(self, name: str, identity: ec.EllipticCurvePrivateKey, store: KeyStore, run: str, contract: str):
        self.name = name
        self.identity = identity
        self.store = store
        self.run = run
        self.contract = contract

    def hello(self) -> tuple[bytes, bytes]:
        """Return the public run key and its signature: the same for every call of a run.

        Raises
        ------
        RefusedError
            REPLAY for a run that ended here, CONTRACT_NOT_ALLOWED for another contract of the same run.
        """
        known = self.store.run(self.run)
        if known is None:
            if self.store.last(self.run) != (0, -1):
                raise RefusedError("REPLAY", "the run is over: its key was deleted")
            key = X25519PrivateKey.generate()
            self.store.begin(self.run, self.contract, key.private_bytes_raw())
            known = RunKeys(self.contract, key.private_bytes_raw(), "", {})
        if known.contract != self.contract:
            raise RefusedError("CONTRACT_NOT_ALLOWED", "the run key was made for another contract")
        public = X25519PrivateKey.from_private_bytes(known.private).public_key().public_bytes_raw()
        statement = key_statement(self.run, self.contract, self.name, public)
        return public, self.identity.sign(statement, ec.ECDSA(hashes.SHA384()))

    def masked(
        self,
        request: SumRequest,
        rules: Rules,
        outbox: Outbox,
        sums: Callable[[NoiseContext], Mapping[str, NDArray[np.float64]]],
        keep: Callable[[bytes, Word, int], None] = lambda context, words, cohort: None,
    ) -> bytes:
        """Return this member's masked part of one attempt.

        Parameters
        ----------
        sums : makes new draws for the attempt and returns the clipped sum by group. It is called once, after the
            charge.
        keep : gets the context, the words of each cohort before any mask is added, and the cohort's size. The words are
            secret: they reveal this member's share of the noise.

        Raises
        ------
        RefusedError
            The code names the reason. Nothing was charged, unless `sums` itself raises.
        """
        keys, mine, context, bits = self.bound(request, rules)
        sent = outbox.reply(request.round, context.hex())
        if sent is not None:
            return sent
        last_round, last_attempt = self.store.last(self.run)
        if request.round < last_round or (request.round == last_round and request.attempt <= last_attempt):
            raise RefusedError("REPLAY", "this attempt, or a later round, was made before")
        if request.attempt >= rules.max_attempts:
            raise RefusedError("TOO_MANY_ATTEMPTS", f"secure.max_attempts = {rules.max_attempts} a round")
        self.store.burn(self.run, request.round, request.attempt, context.hex())
        noise = outbox.reserve(request.round, context.hex())
        totals = sums(noise)
        seeds = {peer: derive(keys.pairs[peer], "mask", context) for peer in request.everybody if peer != self.name}
        own = fresh_key(noise.to("own mask")) if rules.code.drops else b""
        body = bytearray()
        for label in mine:
            cohort = request.cohorts[label]
            share_of = noise.to(f"share of {label}")
            words = rules.code.encode(totals[group_of(label)], len(cohort), bits, share_of)
            keep(context, words.copy(), len(cohort))
            for peer in cohort:
                if peer != self.name:
                    add_mask(words, derive(seeds[peer], label), subtract=peer < self.name)
            if own:
                add_mask(words, derive(own, label), subtract=False)
            body += words.astype(words.dtype.newbyteorder("<")).tobytes()
        if own:
            body += self._boxes(own, seeds, keys, rules, context, KeyStream(noise.to("shares of keys")))
        return outbox.commit(request.round, context.hex(), pack(context, bytes(body)))

    def bound(self, request: SumRequest, rules: Rules) -> tuple[RunKeys, list[str], bytes, int]:
        """Check an attempt; return the run's secrets, the labels of this member, the context and the number of bits."""
        keys = self._enrolled(request, rules)
        mine = self._labels(request, rules, keys)
        bits = max(rules.code.bits(len(request.cohorts[label])) for label in request.cohorts)
        return keys, mine, context_of(self.run, self.contract, keys.roster, request, rules.code, bits), bits

    def end(self) -> None:
        """Delete the run key."""
        self.store.end(self.run)

    def _boxes(
        self, own: bytes, seeds: Mapping[str, bytes], keys: RunKeys, rules: Rules, context: bytes, stream: KeyStream
    ) -> bytes:
        """Return a box for every member of the attempt, this one included, in the order of names.

        Each box holds its receiver's shares of this member's own mask key and of its keys with all others, in the order
        of names.
        """
        everybody = sorted([*seeds, self.name])
        least = threshold(len(keys.pairs) + 1, rules.code.colluders)
        secrets = [own, *(seeds[name] for name in sorted(seeds))]
        shares = zip(*(share(secret, len(everybody), least, stream) for secret in secrets), strict=True)
        return b"".join(
            seal_box(box_key(keys, context, self.name, holder, self.name), held)
            for holder, held in zip(everybody, shares, strict=True)
        )

    def _enrolled(self, request: SumRequest, rules: Rules) -> RunKeys:
        """Return the run's secrets, bound to its roster. Check the roster when it comes for the first time."""
        keys = self.store.run(self.run)
        if keys is None or keys.contract != self.contract:
            raise RefusedError("NO_RUN_KEY", "a sum was requested before the run key, or after the end of the run")
        if request.roster is None:
            if not keys.roster:
                raise RefusedError("NO_ROSTER", "the first request of a run must carry the roster")
            return keys
        found = roster_hash(request.roster)
        if keys.roster:
            if keys.roster != found:
                raise RefusedError("ROSTER_CHANGED", "the keys of this run changed")
            return keys
        private = X25519PrivateKey.from_private_bytes(keys.private)
        own = private.public_key().public_bytes_raw()
        if request.roster.get(self.name, (b"", b""))[0] != own:
            raise RefusedError("OWN_KEY_NOT_ECHOED", "the roster has another key for this participant")
        if len({key for key, _ in request.roster.values()}) != len(request.roster):
            raise RefusedError("DUPLICATE_KEY", "two members of the roster have one key")
        pairs = {}
        for name, (key, signature) in request.roster.items():
            if name == self.name:
                continue
            if name not in rules.peers:
                raise RefusedError("UNKNOWN_PEER", f"{name} is not pinned; add it to secure.peers to sum with it")
            verify(rules.peers[name], signature, key_statement(self.run, self.contract, name, key))
            try:
                pairs[name] = pair_key(private, key, self.run, self.contract, found, *sorted((name, self.name)))
            except ValueError:
                raise RefusedError("BAD_SIGNATURE", f"the run key of {name} is no X25519 key") from None
        self.store.bind(self.run, found, pairs)
        return RunKeys(keys.contract, keys.private, found, pairs)

    def _labels(self, request: SumRequest, rules: Rules, keys: RunKeys) -> list[str]:
        """Return the labels whose cohort this member is in, after checking each of them."""
        mine = sorted(label for label, names in request.cohorts.items() if self.name in names)
        if not set(request.everybody) <= {*keys.pairs, self.name}:
            raise RefusedError("BAD_COHORT", "a cohort names somebody who is not on the roster")
        if not mine or len({group_of(label) for label in mine}) != len(mine):
            # A member in two cohorts of one group would release its gradient twice.
            raise RefusedError(
                "BAD_COHORT", "wanted this participant in one cohort of each group, and in at least one group"
            )
        if not {group_of(label) for label in mine} <= rules.groups:
            raise RefusedError("BAD_COHORT", "a cohort sums parameters that this participant does not share")
        if rules.code.colluders < rules.colluders:
            raise RefusedError(
                "COHORT_TOO_SMALL",
                f"secure.colluders = {rules.colluders}, but the contract's noise covers only {rules.code.colluders}",
            )
        for label in mine:
            names = request.cohorts[label]
            if len(set(names)) != len(names):
                raise RefusedError("BAD_COHORT", "a cohort names somebody twice")
            if len(names) < rules.min_cohort or len(names) - rules.code.colluders - rules.code.drops < 2:
                raise RefusedError(
                    "COHORT_TOO_SMALL",
                    f"{len(names)} members; secure.min_cohort = {rules.min_cohort}, and {rules.code.colluders} "
                    f"colluders and {rules.code.drops} drop-outs must leave two shares of noise",
                )
        if rules.code.drops and len(request.everybody) < threshold(len(keys.pairs) + 1, rules.code.colluders):
            raise RefusedError("COHORT_TOO_SMALL", "the attempt has fewer members than must sign before it is opened")
        if not set(request.everybody) - {self.name} <= rules.peers.keys():
            raise RefusedError("UNKNOWN_PEER", "a member of a cohort is no longer pinned")
        return mine


def box_key(keys: RunKeys, context: bytes, sealer: str, holder: str, name: str) -> bytes:
    """Return the key of one member's box for another or for itself. The member `name`, one of the two, derives it."""
    peer = sealer if holder == name else holder
    return derive(keys.private if peer == name else keys.pairs[peer], "box", context, sealer, holder)


def pack(context: bytes, body: bytes) -> bytes:
    """Return a masked part as it is sent: four bytes, half of the context's hash, the words."""
    return _MAGIC + context[:_CONTEXT] + body


def unpack(data: bytes) -> tuple[bytes, bytes] | None:
    """Return context and words of a masked part; None for any other bytes."""
    if data[: len(_MAGIC)] != _MAGIC or len(data) < len(_MAGIC) + _CONTEXT:
        return None
    return data[len(_MAGIC) : len(_MAGIC) + _CONTEXT], data[len(_MAGIC) + _CONTEXT :]


def model_hash(data: bytes) -> str:
    """Return the hash of one group's parameters, as serialised."""
    return hashlib.sha256(data).hexdigest()
