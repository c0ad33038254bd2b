"""The member's half of a secure sum: one message a round, a cohort fixed before the noise (mode `one`).

With `code.drops` > 0 (mode `two`) the words carry a mask of the member's own too, and boxes with shares of its keys go
along; what opens such a sum although members dropped out is in `consortia.trust.secure_sum.recovery`.

No Flower, no torch, no files: what is decided here is decided on bytes and names.

Formal guarantees
-----------------
Against a coordinator that lies, drops, replays and splits, together with at most t of the other members, a member
releases per charged attempt one sum over at least `min_cohort` members with Gaussian noise of at least sigma:

* every peer of the cohort is pinned in the owner's policy file, and its run key is signed for this run and contract;
* a cohort leaves at least two shares of noise beside the colluders', and its noise is that of the checked contract;
* a mask context covers run, contract, roster, round, attempt, models, cohorts and encoding, and is used once: the
  attempt is used up durably before anything is computed, and charged before the draw;
* the same request gives the same bytes again, free of charge; everything else is a new attempt or a refusal.

It says nothing about wrong results: the coordinator may publish any model.
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
        """Charge the attempt, or raise; return what its draw and noise are bound to."""
        ...

    def commit(self, round_number: int, context: str, data: bytes) -> bytes:
        """Store the bytes and return what may be sent."""
        ...


@dataclass(frozen=True)
class SumRequest:
    """What the coordinator asks for.

    Attributes
    ----------
    attempt : 0 for the first of a round.
    cohorts : members by label. A label is a group of parameters, or `group#number` where a group has several cohorts.
    models : hash of every group's parameters, by group; hex.
    roster : signed run keys by name, or None when the member has stored them already.
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
        """Return the text that crosses."""
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
    """What the owner and the checked contract ask of a cohort; nothing of it comes from a message.

    Attributes
    ----------
    peers : public identity key of every peer that the owner pinned (DER), by name.
    min_cohort, colluders : the owner's; `code.colluders` is the contract's.
    max_attempts : per round.
    groups : groups of parameters that this member has a part in.
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
    """Return what the masks of one attempt are bound to: everything that members must agree on."""
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
                raise RefusedError("REPLAY", "this run's key is deleted, the run is over")
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
        sums : draws afresh for the attempt and returns the clipped sum by group; called once, after the charge.
        keep : gets the context, the words of each cohort before any mask is added, and the cohort's size. The words are
            a secret: whoever has them knows this member's share of the noise.

        Raises
        ------
        RefusedError
            With a code that names the reason; nothing was charged, unless `sums` itself raises.
        """
        keys, mine, context, bits = self.bound(request, rules)
        sent = outbox.reply(request.round, context.hex())
        if sent is not None:
            return sent
        last_round, last_attempt = self.store.last(self.run)
        if request.round < last_round or (request.round == last_round and request.attempt <= last_attempt):
            raise RefusedError("REPLAY", "this attempt was made already, or a later round was")
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
        """Return the run's secrets, the labels of this member, the context and the bits of an attempt that may be."""
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
        """Return a box for every member of the attempt, itself included, in the order of names.

        Each holds the holder's shares of the own mask's key and of the keys with all others, in the order of names.
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
        """Return the run's secrets, bound to its roster; check the roster where it comes the first time."""
        keys = self.store.run(self.run)
        if keys is None or keys.contract != self.contract:
            raise RefusedError("NO_RUN_KEY", "a sum was asked for before the run key was, or after the run's end")
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
            # Twice in one group would release one gradient twice.
            raise RefusedError("BAD_COHORT", "wanted this participant in one cohort of each group, and in one at all")
        if not {group_of(label) for label in mine} <= rules.groups:
            raise RefusedError("BAD_COHORT", "a cohort sums parameters that this participant does not share")
        if rules.code.colluders < rules.colluders:
            raise RefusedError(
                "COHORT_TOO_SMALL",
                f"secure.colluders = {rules.colluders}, the contract's noise counts on {rules.code.colluders} only",
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
            raise RefusedError("COHORT_TOO_SMALL", "fewer members than must agree on what is opened")
        if not set(request.everybody) - {self.name} <= rules.peers.keys():
            raise RefusedError("UNKNOWN_PEER", "a member of a cohort is no longer pinned")
        return mine


def box_key(keys: RunKeys, context: bytes, sealer: str, holder: str, name: str) -> bytes:
    """Return the key of one member's box for another, or for itself, as the member `name` of the two derives it."""
    peer = sealer if holder == name else holder
    return derive(keys.private if peer == name else keys.pairs[peer], "box", context, sealer, holder)


def pack(context: bytes, body: bytes) -> bytes:
    """Return a masked part as it crosses: four bytes, half of the context's hash, the words."""
    return _MAGIC + context[:_CONTEXT] + body


def unpack(data: bytes) -> tuple[bytes, bytes] | None:
    """Return context and words of a masked part, None when the bytes are something else."""
    if data[: len(_MAGIC)] != _MAGIC or len(data) < len(_MAGIC) + _CONTEXT:
        return None
    return data[len(_MAGIC) : len(_MAGIC) + _CONTEXT], data[len(_MAGIC) + _CONTEXT :]


def model_hash(data: bytes) -> str:
    """Return the hash of one group's parameters, as serialised."""
    return hashlib.sha256(data).hexdigest()
