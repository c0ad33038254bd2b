"""Noise from the operating system, fresh after every fork; seeds for the rest; exact Poisson draws."""

import copy
import math
import os
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from noise_contexts import TEST
from scipy.stats import chi2

from privacy.errors import PlanError
from privacy.randomness import _fill, fresh_generator, numpy_generator, seeded_generator
from privacy.sampling import poisson_draws, poisson_sample


def test_fresh_generators_differ_and_leave_the_global_one_alone() -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    draws = torch.stack([torch.randn(4096, generator=fresh_generator(TEST)) for _ in range(8)])
    assert torch.equal(before, torch.random.get_rng_state())
    off_diagonal = np.corrcoef(draws.numpy())[~np.eye(8, dtype=bool)]
    assert np.abs(off_diagonal).max() < 6 / np.sqrt(4096)  # 6 standard deviations


def test_the_same_global_seed_gives_other_noise() -> None:
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        np.random.seed(3)
        draws.append(torch.randn(16, generator=fresh_generator(TEST)))
    assert not torch.equal(*draws)


def test_the_whole_state_is_entropy_and_not_32_bits_of_a_seed() -> None:
    # torch's own seeding keeps 32 bits; if that ever changes, this line says that the work-around may go.
    a, b = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5 + 2**32)
    assert torch.equal(torch.randn(9, generator=a), torch.randn(9, generator=b))
    # Seeding grows all 624 words from the first (Matsumoto & Nishimura's recurrence); a fresh state must not obey it.
    for generator, grown in ((a, True), (seeded_generator("x"), False), (fresh_generator(TEST), False)):
        words = generator.manual_seed(5) if grown else generator
        state = [int(word) for word in words.get_state().numpy().view(np.uint64)[3 : 3 + 624]]
        follows = [
            state[i] == (1812433253 * (state[i - 1] ^ (state[i - 1] >> 30)) + i) % 2**32 for i in range(1, len(state))
        ]
        assert all(follows) if grown else sum(follows) < 3


def test_the_layout_of_torch_s_state_is_the_one_we_fill() -> None:
    plain = torch.Generator().manual_seed(17)
    words = plain.get_state().numpy().view(np.uint64)[3 : 3 + 624]
    copied = torch.Generator()
    _fill(copied, words.astype("<u4").tobytes())
    assert torch.equal(torch.randn(2000, generator=plain), torch.randn(2000, generator=copied))


def test_a_fresh_generator_cannot_be_copied() -> None:
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(PlanError, match="fresh_generator"):
            duplicate(fresh_generator(TEST))


def in_child(action: "object") -> bytes:
    """Run `action() -> bytes` in a forked child; return what it wrote."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, action())  # type: ignore[operator]
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return result


def test_an_inherited_generator_refuses_after_a_fork_and_a_new_one_differs() -> None:
    inherited = fresh_generator(TEST)

    def refused() -> bytes:
        try:
            inherited.check()
        except PlanError:
            return b"refused"
        return b"used"

    assert in_child(refused) == b"refused"
    inherited.check()
    noise = {in_child(lambda: torch.randn(8, generator=fresh_generator(TEST)).numpy().tobytes()) for _ in range(4)}
    noise.add(torch.randn(8, generator=fresh_generator(TEST)).numpy().tobytes())
    assert len(noise) == 5


def test_seeded_generators_repeat_and_their_parts_do_not_collide() -> None:
    def draw(*parts: str | int) -> list[float]:
        return torch.randn(4, generator=seeded_generator(*parts)).tolist()

    assert draw("init", 1) == draw("init", 1)
    parts: list[tuple[str | int, ...]] = [
        ("init", 1),
        ("init", "1"),
        ("init1",),
        ("ini", "t1"),
        (1, "init"),
        ("init", 2),
        ("init", 1 + 2**32),
    ]
    assert len({tuple(draw(*part)) for part in parts}) == len(parts)
    assert numpy_generator("a").integers(1 << 40) == numpy_generator("a").integers(1 << 40)
    assert numpy_generator("a").integers(1 << 40) != numpy_generator("b").integers(1 << 40)


@pytest.mark.parametrize(
    "make", [lambda: seeded_generator("draws"), lambda: fresh_generator(TEST)], ids=["seeded", "fresh"]
)
def test_draws_are_binomial_in_size_and_uniform_over_units(make: Callable[[], torch.Generator]) -> None:
    n, rate, draws = 40, 0.1, 4000
    sizes, hits, again = np.zeros(n + 1), np.zeros(n), 0
    before: set[int] = set()
    for units in poisson_draws(n, rate, draws, make()):
        assert units.tolist() == sorted(set(units.tolist()))
        sizes[len(units)] += 1
        hits[units.numpy()] += 1
        again += len(before & set(units.tolist()))
        before = set(units.tolist())
    assert sizes.sum() == draws
    # Draws made together are independent: as many units twice in a row as chance has it, n (draws - 1) rate^2.
    expected = n * (draws - 1) * rate**2
    assert abs(again - expected) < 4.5 * math.sqrt(expected)
    from scipy.stats import binom

    expected = draws * binom.pmf(np.arange(n + 1), n, rate)
    keep = expected >= 5
    statistic = ((sizes[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    assert statistic < chi2.ppf(0.9999, keep.sum())
    assert sizes[0] > 0  # empty draws happen
    assert sizes[9:].sum() > 0  # and so do large ones: nothing is cut to the expected four
    assert ((hits - draws * rate) ** 2 / (draws * rate * (1 - rate))).sum() < chi2.ppf(0.9999, n)


def test_edges_of_sampling() -> None:
    generator = seeded_generator("edges")
    assert poisson_sample(0, 0.5, generator).tolist() == []
    assert poisson_sample(5, 1.0, generator).tolist() == [0, 1, 2, 3, 4]
    for rate in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(PlanError, match="sampling_rate"):
            poisson_sample(5, rate, generator)
