"""What a coordinator can make of one participant's masked words."""

from __future__ import annotations

import numpy as np
from noise_contexts import TEST
from scipy import stats
from secure_sum_world import World, genuine


def test_what_the_coordinator_stores_of_one_participant_is_uniform() -> None:
    """Transcript: in 20,000 words of one member every byte takes every value alike (chi-square)."""
    world = World(genuine(), 3, dim=20_000)
    world.sums = {name: np.full(20_000, 5.0) for name in world.names}
    words = world.words(world.ask("org-00"))
    for shift in (0, 8, 16, 24):
        counts = np.bincount((words >> np.uint32(shift)).astype(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    # The test can fail: without masks the same words are far from uniform.
    bare = world.point.encode(np.full(20_000, 5.0), 3, 32, TEST)
    assert stats.chisquare(np.bincount((bare >> np.uint32(24)).astype(np.uint8), minlength=256)).pvalue < 1e-12


def test_a_lying_coordinator_with_t_members_learns_no_more_than_the_sum() -> None:
    """It has all words, the sum, and everything that t colluders know; what is left is the others' sum with noise.

    Its best estimate of the target's gradient (the mean of what is left, over the members left) is no better with the
    transcript than from the sum alone, and other guesses, the colluders' masks taken off the target's words, are worse
    than a guess of zero.
    """
    code = genuine()
    world = World(code, 5, dim=4000, t=1)
    rng = np.random.default_rng(5)
    world.sums = {name: rng.normal(0, 0.1, 4000) for name in world.names}
    replies = {name: world.ask(name) for name in world.names}
    target, colluder = "org-00", "org-04"
    total = world.total(replies)
    # The colluder knows its own gradient and noise: its unmasked words are sum minus the others'.
    keys = world.members[colluder].store.run(world.run)
    request = world.request()
    context = code.protocol.context_of(world.run, "c" * 64, keys.roster, request, world.point, 32)
    words = world.words(replies[colluder]).astype(np.uint32)
    for peer in world.names[:-1]:
        code.masks.add_mask(
            words, code.masks.derive(keys.pairs[peer], "mask", context, "*"), subtract=not peer < colluder
        )
    left = total - world.point.decode(words)  # the four others, with noise of sigma sqrt(4/4) at least
    truth = np.sum([world.sums[name] for name in world.names[:-1]], axis=0)
    assert (left - truth).std() >= 0.97 * 1.01 * world.point.noise
    from_sum = np.corrcoef(left, world.sums[target])[0, 1]
    shaved = world.words(replies[target]).astype(np.uint32)
    mask = code.masks.derive(keys.pairs[target], "mask", context, "*")
    code.masks.add_mask(shaved, mask, subtract=target < colluder)
    from_words = np.corrcoef(world.point.decode(shaved), world.sums[target])[0, 1]
    chance = 4 / np.sqrt(4000)
    assert abs(from_words) < chance
    combined = np.linalg.lstsq(np.stack([left, world.point.decode(shaved)], 1), world.sums[target], rcond=None)[0]
    best = np.corrcoef(np.stack([left, world.point.decode(shaved)], 1) @ combined, world.sums[target])[0, 1]
    assert best <= abs(from_sum) + chance


def test_a_liar_who_calls_a_member_dead_gets_uniform_words() -> None:
    """Mode two: the coordinator has the target's words, calls it dead, and has every share and one colluder's keys.

    With every key that it can get taken off, the words are as uniform as before, and tell nothing of the gradient: the
    target's own mask is left.
    """
    code = genuine()
    world = World(code, 6, dim=20_000, drops=1)
    rng = np.random.default_rng(6)
    world.sums = {name: rng.normal(0, 0.1, 20_000) for name in world.names}
    replies = {name: world.ask(name) for name in world.names}
    target, colluder = "org-03", "org-05"
    alive = [name for name in world.names if name != target]
    votes = world.votes(replies, alive, alive)
    told = {name: world.opening("unmask", name, world.asked(replies, name, alive, votes)) for name in alive}
    keys = {name: key for (name, other), key in world.told_keys(told, alive, [target]).items() if other == target}
    pair = world.members[colluder].store.run(world.run).pairs[target]
    assert keys[colluder] == code.masks.derive(pair, "mask", world.context())  # the shares give what the colluder has
    words = world.parts(replies)[target].words["*"].copy()
    for peer, key in keys.items():
        code.masks.add_mask(words, code.masks.derive(key, "*"), subtract=not peer < target)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((words >> np.uint32(shift)).astype(np.uint8), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-6
    assert abs(np.corrcoef(world.point.decode(words), world.sums[target])[0, 1]) < 4 / np.sqrt(20_000)
