"""Tests where noise comes from: the entropy that enters it, and what its key is bound to.

The participant answers copies of one message from copies of one home, while ``os.urandom`` is a fixed stream: a virtual
machine that is restored again and again. What is looked at is the noise of an update without gradients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np

from consortia.audit import statistics
from consortia.audit.probe import Bench, random_model
from consortia.audit.reference import Array, flat
from consortia.audit.result import Check, fact
from consortia.audit.settings import Audit
from consortia.common.errors import RunFailedError
from consortia.messages.envelope import decode
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.contract import Contract
from consortia.terms.scopes import State
from privacy import randomness
from privacy.ledger import Ledger, Reservation
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator

#: Bytes of entropy of which each must move the noise; so many are tried in a quick audit.
ENTROPY, _QUICK = 32, 4
#: Shorter questions are for names of files, not for keys.
_SHORT = 8
#: 2^23 pairs: two of them are alike for sure when a key has 20 bits, and by a chance of 2^-41 when it has 64.
_KEYS = 4096
#: Where the Mersenne Twister's words are in torch's saved state, which is of 64-bit words.
_STATE = slice(3, 3 + 624)


class Replay:
    """``os.urandom`` of a machine that is restored to one state again and again, with one byte flipped if wanted.

    Attributes
    ----------
    places : list of (int, int)
        Question and byte of everything that was asked for, short questions apart.
    """

    def __init__(self, flip: tuple[int, int] | None = None) -> None:
        self.places: list[tuple[int, int]] = []
        self._flip = flip
        self._asked = 0

    def __call__(self, size: int) -> bytes:
        self._asked += 1
        found = bytearray(hashlib.shake_256(f"{self._asked}".encode()).digest(size))
        if size >= _SHORT:
            self.places += [(self._asked, place) for place in range(size)]
            if self._flip is not None and self._flip[0] == self._asked:
                found[self._flip[1]] ^= 1
        return bytes(found)


@contextmanager
def abandoned() -> Iterator[list[bytes]]:
    """Make every commit fail, as a crash just before it would; yield the replies that were ready."""
    ready: list[bytes] = []

    def commit(_: Ledger, reservation: Reservation, reply: bytes) -> None:
        del reservation
        ready.append(reply)
        raise OSError("killed by the audit before the commit")

    with patch.object(Ledger, "commit", commit):
        yield ready


@contextmanager
def contexts() -> Iterator[list[NoiseContext]]:
    """Collect what the keys are bound to that this process derives in this block, in order."""
    seen: list[NoiseContext] = []
    derive = randomness._derive

    def noted(context: NoiseContext, length: int) -> bytes:
        seen.append(context)
        return derive(context, length)

    with patch.object(randomness, "_derive", noted):
        yield seen


def no_context_twice(seen: Sequence[NoiseContext], subject: str) -> Check:
    """Whether each use of noise is bound to something of its own: with one entropy two of them would share noise."""
    twice = len(seen) - len(set(seen))
    return fact("each use of noise has a context of its own", subject, twice == 0, wanted=len(seen), got=len(set(seen)))


class Restored:
    """One participant whose machine is put back to the same state before every message."""

    def __init__(self, bench: Bench, contract: Contract, source: Path, model: State) -> None:
        self.bench, self.contract, self.source, self.model = bench, contract, source, model
        self._copies = 0
        self.seen: list[NoiseContext] = []

    def noise(self, replay: Callable[[int], bytes], model: State | None = None, *, attempts: int = 1) -> Array:
        """Return the noise (n_parameters,) of the answer to one message, in its own deviation.

        Parameters
        ----------
        model : the model that comes in; by default the same for every call.
        attempts : the answer to which attempt; those before it die after their noise was made.
        """
        model = self.model if model is None else model
        self._copies += 1
        folder = self.bench.folder.with_name(f"{self.bench.folder.name}-copy-{self._copies}")
        shutil.copytree(self.bench.folder, folder)
        home = Home(folder, self.bench.name, simulation=True)
        request = self.bench.message(self.contract, "restored", 1, model)
        for _ in range(attempts - 1):
            with abandoned():
                handle(request, home, f"csv:{self.source}")
        with patch.object(os, "urandom", replay), contexts() as self.seen:
            reply = decode(handle(request, home, f"csv:{self.source}"))
        if reply.header.get("status") != "OK":
            raise RunFailedError(f"audit: {self.bench.name} answered {reply.header.get('status')} to a copied message")
        names = sorted(reply.tensors)
        moved = flat(reply.tensors, names)
        if not self.contract.strategy.strategy().fit.gradient:
            moved = moved - flat(model, names)
        noise: Array = moved / np.sqrt(np.square(moved).mean())
        return noise


def checks(audit: Audit, bench: Bench, twin: Bench, contract: Contract, source: Path, subject: str) -> list[Check]:
    """Check one participant, and a twin of it: a home and a ledger of its own, on a copy of the same machine.

    They must have no row in their training partitions, and the contract no weight decay.
    """
    models = [random_model(contract, bench.industry, audit.random, 1.0) for _ in range(2)]
    restored = Restored(bench, contract, source, models[0])
    first = Replay()
    noise = restored.noise(first)
    # Without this the checks below would look at entropy that they do not control.
    repeats = bool((restored.noise(Replay()) == noise).all())
    found = [fact("the noise is a function of os.urandom and the message", subject, repeats, wanted="it repeats")]
    places = first.places
    if audit.quick:
        places = [places[int(one)] for one in audit.random.permutation(len(places))[:_QUICK]]
    moving = sum(bool((restored.noise(Replay(place)) != noise).any()) for place in places)
    wanted = min(len(places), ENTROPY)
    enough = len(first.places) >= ENTROPY and moving >= wanted
    got = f"{moving} of {len(places)} bytes that were tried, {len(first.places)} asked for"
    found.append(fact("bytes of entropy that move the noise", subject, enough, wanted=f">= {ENTROPY}", got=got))
    named = {context.message for context in restored.seen}
    law = "the same entropy twice gives other noise"
    moved = restored.noise(Replay(), models[1])
    alike = named & {context.message for context in restored.seen}
    found.append(
        fact("a noise context names the model", subject, not alike, wanted="other messages", got=sorted(alike))
    )
    for what, other in (
        ("another model", moved),
        ("another attempt", restored.noise(Replay(), attempts=2)),
        ("another participant", Restored(twin, contract, source, models[0]).noise(Replay())),
    ):
        p = statistics.alike_p(np.array([noise, other]))
        found.append(Check(law, f"{subject}, {what}", "independent noise", f"{noise.size} numbers", p))
    return [*found, *_keys(subject)]


def _keys(subject: str) -> list[Check]:
    context = NoiseContext(purpose="audit", message="one and the same", attempt=0, ledger="")
    streams, states = set(), set()
    for _ in range(_KEYS):
        generator = fresh_generator(context)
        streams.add(int(generator.stream.words(1)[0]))
        states.add(generator.get_state().numpy()[24 : 24 + 8 * 8].tobytes())
    fewest = min(len(streams), len(states))
    # torch grows 624 words from the 32 bits of a seed: Matsumoto and Nishimura's recurrence.
    words = fresh_generator(context).get_state().numpy().view(np.uint64)[_STATE]
    place = np.arange(1, len(words), dtype=np.uint64)
    grown = (np.uint64(1812433253) * (words[:-1] ^ (words[:-1] >> np.uint64(30))) + place) % np.uint64(2**32)
    follow = int((grown == words[1:]).sum())
    return [
        fact("no two generators are alike", subject, fewest == _KEYS, wanted=_KEYS, got=fewest),
        fact("torch's state is no seed of 32 bits", subject, follow < 3, wanted="no word from another", got=follow),
    ]
