"""Members and a coordinator of the secure sum's protocol, over the code under test: the genuine one or a broken copy.

`code` holds the modules by name: fixed_point, noise, masks, accounting, store, protocol.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consortia.errors import RefusedError

RUN, CONTRACT = "run-1", "c" * 64
#: Noise multiplier of epsilon 3 at delta 1e-5 over 32 rounds without subsampling (privacy.accounting).
SIGMA = 7.86935
IDENTITIES = [ec.generate_private_key(ec.SECP384R1()) for _ in range(21)]


def public_of(identity: ec.EllipticCurvePrivateKey) -> bytes:
    return identity.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


class Books:
    """A ledger that counts: what was charged, what was stored."""

    def __init__(self) -> None:
        self.charged: list[tuple[int, str]] = []
        self.out: dict[tuple[int, str], bytes] = {}
        self.refuse = False

    def reply(self, number: int, context: str) -> bytes | None:
        return self.out.get((number, context))

    def reserve(self, number: int, context: str) -> None:
        if self.refuse:
            raise RefusedError("BUDGET_EXHAUSTED", "")
        self.charged.append((number, context))

    def commit(self, number: int, context: str, data: bytes) -> bytes:
        assert (number, context) in self.charged, "stored before it was charged"
        self.out[number, context] = data
        return data


class World:
    """n members and a coordinator that does what a test wants."""

    def __init__(self, code: Any, n: int, *, dim: int = 60, t: int = 1, sigma: float = 2.0, run: str = RUN) -> None:
        self.code = code
        self.names = [f"org-{i:02d}" for i in range(n)]
        self.point = code.fixed_point.FixedPoint(
            noise=sigma, clip=1.0, smallest_clip=1.0, dimension=dim, rows=2000, colluders=t
        )
        self.identities = dict(zip(self.names, IDENTITIES, strict=False))
        self.public = {name: public_of(key) for name, key in self.identities.items()}
        self.connections = {name: sqlite3.connect(":memory:", isolation_level=None) for name in self.names}
        self.books = {name: Books() for name in self.names}
        rng = np.random.default_rng(0)
        self.sums = {name: rng.normal(0, 1, dim) for name in self.names}
        self.before: Callable[[str], None] = lambda name: None
        self.enter(run)

    def enter(self, run: str) -> None:
        self.run = run
        store = self.code.store.KeyStore
        self.members = {
            name: self.code.protocol.Member(name, self.identities[name], store(self.connections[name]), run, CONTRACT)
            for name in self.names
        }
        self.roster = {name: member.hello() for name, member in self.members.items()}

    def rules(self, name: str, **changes: Any) -> Any:
        rules = {
            "peers": {peer: key for peer, key in self.public.items() if peer != name},
            "min_cohort": 3,
            "colluders": 1,
            "max_attempts": 3,
            "groups": frozenset({"*"}),
            "code": self.point,
        }
        return self.code.protocol.Rules(**{**rules, **changes})

    def request(self, number: int = 1, attempt: int = 0, cohort: Any = None, model: str = "m1", **changes: Any) -> Any:
        fields = {
            "round": number,
            "attempt": attempt,
            "cohorts": {"*": tuple(cohort or self.names)},
            "models": {"*": model},
            "roster": self.roster,
        }
        return self.code.protocol.SumRequest(**{**fields, **changes})

    def ask(self, name: str, request: Any = None, **rules: Any) -> bytes:
        def sums() -> Mapping[str, np.ndarray]:
            self.before(name)
            return {"*": self.sums[name]}

        wire = self.code.protocol.SumRequest.from_json((request or self.request()).to_json())
        return self.members[name].masked(wire, self.rules(name, **rules), self.books[name], sums)

    def words(self, data: bytes) -> np.ndarray:
        unpacked = self.code.protocol.unpack(data)
        assert unpacked is not None
        return np.frombuffer(unpacked[1], f"<u{len(unpacked[1]) // len(self.sums[self.names[0]])}")

    def total(self, replies: Mapping[str, bytes]) -> np.ndarray:
        return self.point.decode(self.code.masks.sum_words([self.words(data) for data in replies.values()]))

    def truth(self, names: Any = None) -> np.ndarray:
        return np.sum([self.sums[name] for name in names or self.names], axis=0)

    def refuses(self, code: str, name: str, request: Any = None, *, charges: int | None = None, **rules: Any) -> None:
        """The request is refused with that code, and neither ledger nor outbox moved."""
        book = self.books[name]
        before = (list(book.charged), dict(book.out))
        with pytest.raises(RefusedError) as caught:
            self.ask(name, request, **rules)
        assert caught.value.code == code, caught.value
        assert (book.charged, book.out) == before


def genuine() -> Any:
    """Return the modules as they are."""
    import consortia.secure.protocol as protocol
    from privacy.secure_sum import accounting, fixed_point, masks, noise, store

    return SimpleNamespace(
        accounting=accounting, fixed_point=fixed_point, masks=masks, noise=noise, store=store, protocol=protocol
    )


_ORDER = ("noise", "fixed_point", "masks", "accounting", "store", "protocol")


def broken(name: str, module: str, old: str, new: str) -> Any:
    """Return copies of the modules in which `old`, one place of one of them, is replaced by `new`.

    The copies import each other, under names of their own; the genuine modules stay as they are.
    """
    made = {}
    for stem in _ORDER:
        source = Path(str(getattr(genuine(), stem).__file__)).read_text(encoding="utf-8")
        if stem == module:
            assert source.count(old) == 1, f"{module}: {old!r} stands {source.count(old)} times"
            source = source.replace(old, new)
        for other in made:
            source = source.replace(f"from privacy.secure_sum.{other} import", f"from {name}_{other} import")
        copy = ModuleType(f"{name}_{stem}")
        copy.__file__ = f"{stem} with {new!r}"
        sys.modules[copy.__name__] = copy
        exec(compile(source, copy.__file__, "exec"), copy.__dict__)
        made[stem] = copy
    return SimpleNamespace(**made)
