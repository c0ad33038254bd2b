"""A noise key: 32 bytes of entropy of which each counts, bound to purpose, message, attempt and ledger."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from audit_mutants import Mutant
from mutant_texts import check_text
from noise_contexts import TEST
from noise_mutants import MUTANTS

from privacy.errors import PlanError
from privacy.noise_context import NoiseContext
from privacy.plans import Reservation
from privacy.randomness import FreshNoise, KeyStream, fresh_generator, fresh_key

ROOT = Path(__file__).resolve().parents[2]
ONE = NoiseContext(purpose="train", message="run/1/abc", attempt=3, ledger="ff" * 32)


class Entropy:
    """``os.urandom`` from a list of answers, or from one state again and again."""

    def __init__(self, answer: bytes | None = None) -> None:
        self.answer = answer
        self.sizes: list[int] = []

    def __call__(self, size: int) -> bytes:
        self.sizes.append(size)
        fixed = hashlib.shake_256(b"%d" % len(self.sizes)).digest(size) if self.answer is None else self.answer
        assert len(fixed) == size
        return fixed


@pytest.fixture
def entropy(monkeypatch: pytest.MonkeyPatch) -> Entropy:
    fixed = Entropy()
    monkeypatch.setattr(os, "urandom", fixed)
    return fixed


def _drawn(context: NoiseContext, answer: bytes | None = None) -> tuple[bytes, bytes, bytes]:
    """What a generator gives from the same entropy each time: key stream, Mersenne Twister, and a key of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", Entropy(answer))
        generator = fresh_generator(context)
        stream, state = generator.stream.bytes(64), torch.randn(64, generator=generator).numpy().tobytes()
        patch.setattr(os, "urandom", Entropy(answer))
        return stream, state, fresh_key(context)


def test_every_generator_and_every_key_asks_for_32_bytes(entropy: Entropy) -> None:
    for number, make in enumerate((fresh_generator, FreshNoise, KeyStream, fresh_key), start=1):
        make(ONE)  # type: ignore[operator]
        assert len(entropy.sizes) == number, f"{make} asked {len(entropy.sizes)} times in all"
        assert entropy.sizes[-1] >= 32


def test_each_byte_of_entropy_changes_everything() -> None:
    found = [_drawn(ONE, bytes(32))]
    for place in range(32):
        flipped = bytearray(32)
        flipped[place] = 1
        found.append(_drawn(ONE, bytes(flipped)))
    for kind in zip(*found, strict=True):
        assert len(set(kind)) == 33


def test_no_two_of_4096_generators_are_alike() -> None:
    """Two of them would be, for sure, if a hash brought the 32 bytes down to 20 bits or fewer: 2^23 pairs."""
    made = [fresh_generator(ONE) for _ in range(4096)]
    assert len({generator.stream.bytes(16) for generator in made}) == 4096
    assert len({generator.get_state().numpy()[24:88].tobytes() for generator in made}) == 4096
    assert len({fresh_key(ONE) for _ in range(4096)}) == 4096


OTHERS = {
    "purpose": replace(ONE, purpose="metrics"),
    "message": replace(ONE, message="run/1/abd"),
    "attempt": replace(ONE, attempt=4),
    "ledger": replace(ONE, ledger="fe" * 32),
    "no ledger": replace(ONE, ledger=""),
    "fields that run together": replace(ONE, purpose="trainrun", message="/1/abc"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_the_same_entropy_gives_other_noise_in_another_context(what: str) -> None:
    first, second = _drawn(ONE), _drawn(OTHERS[what])
    assert first == _drawn(ONE), "the replay is none"
    assert all(one != other for one, other in zip(first, second, strict=True))


def test_two_keys_of_one_context_differ_and_stream_and_state_are_unrelated() -> None:
    assert fresh_key(ONE) != fresh_key(ONE)
    stream, state, key = _drawn(ONE)
    assert key[:16] not in stream
    assert len({stream[:32], state[:32], key}) == 3


def test_a_context_says_what_it_is_for_and_none_is_refused() -> None:
    for changes in ({"purpose": ""}, {"message": ""}):
        with pytest.raises(PlanError, match="wanted a non-empty"):
            replace(ONE, **changes)
    for make in (fresh_generator, FreshNoise, KeyStream, fresh_key):
        with pytest.raises(PlanError, match="wanted the NoiseContext"):
            make("train")  # type: ignore[operator]
    for make in (KeyStream, fresh_key):
        with pytest.raises(TypeError):
            make()  # type: ignore[operator]
    with pytest.raises(PlanError, match="link in the ledger"):
        Reservation(1, "run", 1, "key").noise("train")


#: Files that may ask the operating system itself, and what for. Noise is none of it.
MAY_ASK = {
    "randomness.py": "the entropy of noise keys",
    "_ledger_sql.py": "names of drafts, the salt of a ledger",
    "claims.py": "what hides the hash of an empty cohort from an auditor",
    "sharing.py": "the nonce of a box, whose key is the attempt's",
    "answers.py": "numbers of incidents",
    "home.py": "the key by which rows are split",
    "runner.py": "names of runs",
    "channel.py": "nonces",
    "partner.py": "who fills up for rows that are not known",
    "psi.py": "the secret power and order of an intersection",
    "setup.py": "keys of a simulation's participants",
    "store.py": "names of drafts",
}
_NAMES = {"urandom", "SystemRandom", "token_bytes", "token_hex", "randbelow", "getrandbits", "getrandom"}


def _asks(text: str) -> bool:
    if not any(name in text for name in (*_NAMES, "import random")):
        return False
    return any(
        (isinstance(node, ast.Attribute) and node.attr in _NAMES)
        or (isinstance(node, ast.ImportFrom) and any(alias.name in _NAMES for alias in node.names))
        or (isinstance(node, ast.Import) and any(alias.name == "random" for alias in node.names))
        for node in ast.walk(ast.parse(text))
    )


def test_nobody_else_asks_the_operating_system_for_randomness() -> None:
    files = [file for folder in ("privacy", "platform/consortia/secure", "platform/consortia/vertical", "strategies",
             "platform/consortia/vectorized") for file in (ROOT / folder).rglob("*.py")]  # fmt: skip
    files += (ROOT / "platform" / "consortia").glob("*.py")
    asking = {file.name for file in files if _asks(file.read_text(encoding="utf-8"))}
    assert asking <= set(MAY_ASK), f"noise comes from privacy.randomness; got {sorted(asking - set(MAY_ASK))}"


def test_every_key_on_the_deployed_path_is_bound_to_a_reservation_or_a_model() -> None:
    """The type wants a context; this wants it not to be a constant one: it comes from an argument or a hash."""
    makers = {"fresh_generator", "FreshNoise", "KeyStream", "fresh_key"}
    calls = 0
    for folder in ("privacy", "platform"):
        for file in (ROOT / folder).rglob("*.py"):
            if "audit" in file.parts:
                continue
            text = file.read_text(encoding="utf-8")
            if not any(name in text for name in (*makers, "NoiseContext")):
                continue
            tree = ast.parse(text)
            for node in ast.walk(tree):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in makers:
                    calls += 1
                    assert node.args, f"{file}:{node.lineno}: no context"
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "NoiseContext":
                    given = {word.arg: word.value for word in node.keywords}
                    assert not isinstance(given["message"], ast.Constant), f"{file}:{node.lineno}: a constant message"
    assert calls >= 12
    assert TEST.message == "test"  # constant contexts are for tests


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_text_that_a_mistake_replaces_stands_there_once(mutant: Mutant) -> None:
    check_text(mutant, ROOT)


@pytest.mark.end_to_end
def test_the_tests_see_planted_mistakes() -> None:
    """One of each kind; `tests/helpers/noise_mutants.py` tries all."""
    names = [
        "the second half of streamed noise mirrors the first",
        "a noise key hashed to 16 bits",
        "secure noise is cut off at 3 deviations",
        "participants of a process share their entropy",
        "the step keeps its draws between rounds",
    ]
    path = f"{ROOT}:{ROOT / 'platform'}:{ROOT / 'tests' / 'helpers'}"
    command = [sys.executable, "-P", str(ROOT / "tests" / "helpers" / "noise_mutants.py"), *names]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("red ") == len(names), done.stdout
    assert "without a mistake: green" in done.stdout
