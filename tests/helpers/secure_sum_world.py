"""Members and a coordinator of the secure sum's protocol, over the code under test: the genuine one or a broken copy.

`code` holds the modules by name, those of `ORDER`.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from consortia.common.errors import RefusedError
from privacy.noise_context import NoiseContext

RUN, CONTRACT = "run-1", "c" * 64
#: Noise multiplier of epsilon 3 at delta 1e-5 over 32 rounds without subsampling (privacy.accounting).
SIGMA = 7.86935
IDENTITIES = [ec.generate_private_key(ec.SECP384R1()) for _ in range(21)]


def public_of(identity: ec.EllipticCurvePrivateKey) -> bytes:
    return identity.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


@contextmanager
def still(code: Any) -> Iterator[None]:
    """Silence the noise, so that sums can be compared to half a grid step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code.fixed_point, "rounded_gaussian", lambda count, std, context: np.zeros(count, np.int64))
        yield


class Books:
    """A ledger that counts: what was charged, what was stored."""

    def __init__(self) -> None:
        self.charged: list[tuple[int, str]] = []
        self.out: dict[tuple[int, str], bytes] = {}
        self.refuse = False

    def reply(self, number: int, context: str) -> bytes | None:
        return self.out.get((number, context))

    def reserve(self, number: int, context: str) -> NoiseContext:
        if self.refuse:
            raise RefusedError("BUDGET_EXHAUSTED", "")
        self.charged.append((number, context))
        return NoiseContext(purpose="sum", message=f"{number}/{context}", attempt=len(self.charged), ledger="")

    def commit(self, number: int, context: str, data: bytes) -> bytes:
        assert (number, context) in self.charged, "stored before it was charged"
        self.out[number, context] = data
        return data


class World:
    """n members and a coordinator that does what a test wants."""

    def __init__(
        self, code: Any, n: int, *, dim: int = 60, t: int = 1, sigma: float = 2.0, run: str = RUN, drops: int = 0
    ) -> None:
        self.code = code
        self.names = [f"org-{i:02d}" for i in range(n)]
        self.point = code.fixed_point.FixedPoint(
            noise=sigma, clip=1.0, smallest_clip=1.0, dimension=dim, rows=2000, colluders=t, drops=drops
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
        def sums(_: NoiseContext) -> Mapping[str, np.ndarray]:
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

    # Mode two

    def parts(self, replies: Mapping[str, bytes], request: Any = None) -> dict[str, Any]:
        """What the coordinator keeps of each reply: words of the one label, boxes."""
        (label,) = (request or self.request()).cohorts
        length = 4 * len(self.sums[self.names[0]])
        bodies = {name: self.code.protocol.unpack(data)[1] for name, data in replies.items()}
        return {
            name: self.code.opening.Part({label: np.frombuffer(body[:length], "<u4")}, body[length:])
            for name, body in bodies.items()
        }

    def attempt(self, replies: Mapping[str, bytes], request: Any = None) -> Any:
        asked = request or self.request()
        return self.code.opening.Attempt(asked, b"", self.parts(replies, asked), self.point, len(self.names))

    def opening(self, step: str, name: str, asked: Any, **rules: Any) -> bytes:
        """One member's answer to `confirm` or `unmask`."""
        wire = self.code.recovery.OpenRequest.from_json(asked.to_json())
        parts = (self.members[name], wire, self.rules(name, **rules), self.books[name])
        return bytes(getattr(self.code.recovery, step)(*parts))

    def tell(self, away: Mapping[str, Any] = MappingProxyType({}), **rules: Any) -> Callable[..., dict[str, bytes]]:
        """The coordinator's transport; `away` names who is away at `confirm` or `unmask`."""

        def ask(step: str, asked: Mapping[str, Any]) -> dict[str, bytes]:
            there = {name: request for name, request in asked.items() if name not in away.get(step, ())}
            return {name: self.opening(step, name, request, **rules) for name, request in there.items()}

        return ask

    def context(self) -> bytes:
        """The context of the first attempt."""
        member = self.members[self.names[0]]
        return bytes(member.bound(self.request(), self.rules(self.names[0]))[2])

    def told_keys(self, told: Mapping[str, bytes], alive: Any, dead: Any) -> dict[tuple[str, str], bytes]:
        """The keys that the members' shares give away."""
        least = self.code.sharing.threshold(len(self.names), self.point.colluders)
        keys = {}
        for index, pair in enumerate((name, other) for name in alive for other in (name, *dead)):
            shares = {self.names.index(n) + 1: data[index * 33 : index * 33 + 33] for n, data in told.items()}
            keys[pair] = self.code.sharing.combine(shares, least)
        return keys

    def asked(self, replies: Mapping[str, bytes], name: str, alive: Any = None, votes: Any = None, **kw: Any) -> Any:
        """The request to open over `alive`, for one member."""
        attempt = self.attempt(replies, **kw)
        alive = tuple(alive or attempt.alive)
        boxes = {sealer: attempt.box(sealer, name) for sealer in alive if sealer in replies}
        return self.code.recovery.OpenRequest(attempt.request, alive, votes or {}, boxes)

    def votes(self, replies: Mapping[str, bytes], voters: Any, alive: Any) -> dict[str, bytes]:
        return {name: self.opening("confirm", name, self.asked(replies, name, alive)) for name in voters}

    def refuses_to(self, step: str, code: str, name: str, asked: Any, /, **rules: Any) -> None:
        """A request to open is refused with that code, and neither ledger, outbox nor views moved."""
        views = "SELECT * FROM secure_views ORDER BY round, kind"
        before = (list(self.books[name].charged), dict(self.books[name].out))
        seen = self.connections[name].execute(views).fetchall()
        with pytest.raises(RefusedError) as caught:
            self.opening(step, name, asked, **rules)
        assert caught.value.code == code, caught.value
        assert (self.books[name].charged, self.books[name].out) == before
        assert self.connections[name].execute(views).fetchall() == seen

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
    from consortia.coordinator.secure_sum import opening
    from consortia.trust.secure_sum import protocol, recovery
    from privacy.secure_sum import accounting, fixed_point, masks, noise, sharing, store

    modules = (noise, fixed_point, masks, accounting, store, sharing, protocol, recovery, opening)
    return SimpleNamespace(**dict(zip(ORDER, modules, strict=True)))


#: Each imports those before it only.
ORDER = ("noise", "fixed_point", "masks", "accounting", "store", "sharing", "protocol", "recovery", "opening")


def broken(name: str, module: str, old: str, new: str) -> Any:
    """Return copies of the modules in which `old`, one place of one of them, is replaced by `new`.

    The copies import each other, under names of their own; the genuine modules stay as they are.
    """
    made = {}
    for stem in ORDER:
        source = Path(str(getattr(genuine(), stem).__file__)).read_text(encoding="utf-8")
        if stem == module:
            assert source.count(old) == 1, f"{module}: {old!r} stands {source.count(old)} times"
            source = source.replace(old, new)
        for other in made:
            source = re.sub(rf"from (?:privacy|consortia)[\w.]*\.{other} import", f"from {name}_{other} import", source)
        copy = ModuleType(f"{name}_{stem}")
        copy.__file__ = f"{stem} with {new!r}"
        sys.modules[copy.__name__] = copy
        exec(compile(source, copy.__file__, "exec"), copy.__dict__)
        made[stem] = copy
    return SimpleNamespace(**made)
