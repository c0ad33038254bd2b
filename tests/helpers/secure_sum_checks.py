"""Checks of the secure sum's protocol, as functions of the code under test, so that broken copies can be checked too.

`code` holds the modules by name (`secure_sum_world.ORDER`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import secure_sum_recovery_checks
from cryptography.hazmat.primitives.asymmetric import ec
from noise_contexts import TEST
from scipy import stats
from secure_sum_world import CONTRACT, IDENTITIES, SIGMA, World, still

from consortia.common.errors import RefusedError


def check_sums_open_whole_within_half_a_step_a_member(code: Any) -> None:
    with still(code):
        for n in (3, 7):
            world = World(code, n)
            replies = {name: world.ask(name) for name in world.names}
            error = np.abs(world.total(replies) - world.truth()).max() / world.point.step
            assert error <= n / 2 + 1e-6
            assert all(len(data) == 4 * 60 + 20 for data in replies.values())


def check_a_part_of_the_cohort_opens_nothing(code: Any) -> None:
    world = World(code, 4)
    replies = {name: world.ask(name) for name in world.names}
    for missing in world.names:
        some = {name: data for name, data in replies.items() if name != missing}
        assert np.abs(world.total(some)).max() > 1e3 * world.point.noise


def check_noise_of_the_sum_and_of_what_colluders_leave(code: Any) -> None:
    """Bands of 2 % over 20,000 coordinates; a deviation of a standard deviation estimate is .5 %."""
    for n, t in ((3, 1), (6, 2), (20, 3)):
        world = World(code, n, dim=20_000, t=t)
        stds = []
        for _ in range(n):
            whole = code.fixed_point.rounded_gaussian(20_000, world.point.share_std(n), TEST)
            stds.append(whole.std() * world.point.step)
        promised = 2.0 * 1.01
        left = np.sqrt(np.square(stds[t:]).sum())
        assert 0.98 < left / promised < 1.02
        assert 0.98 < np.sqrt(np.square(stds).sum()) / (promised * np.sqrt(n / (n - t))) < 1.02
        replies = {name: world.ask(name, colluders=t) for name in world.names}
        noise = world.total(replies) - world.truth()
        assert 0.98 < noise.std() / (promised * np.sqrt(n / (n - t))) < 1.02
        assert 0.98 < world.point.sum_std(n) / (promised * np.sqrt(n / (n - t))) < 1.02


def check_shares_of_noise_are_gaussian(code: Any) -> None:
    """Kolmogorov-Smirnov against the normal distribution; neighbours and the two halves of a chunk are unrelated."""
    share = code.noise.rounded_gaussian(1 << 15, 5000.0, TEST) / 5000.0
    assert stats.kstest(share, "norm").pvalue > 1e-6
    first, second = np.split(share, 2)  # the cosines and the sines of one chunk
    for one, other in ((first, second), (share[1:], share[:-1]), (first**2, second**2)):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5.5 / np.sqrt(len(one))


def check_rounding_and_sensitivity(code: Any) -> None:
    """One unit more moves the rounded sum by at most 1.01 C / step, and noise is sigma times that."""
    rng = np.random.default_rng(1)
    for dim in (1, 7, 738):
        for smallest in (1.0, 0.1):
            point = code.fixed_point.FixedPoint(
                noise=3.0, clip=1.0, smallest_clip=smallest, dimension=dim, rows=500, colluders=1
            )
            for _ in range(20):
                total, unit = rng.normal(0, 5, dim), rng.normal(0, 1, dim)
                unit *= smallest / np.linalg.norm(unit)
                moved = np.rint((total + unit) / point.step) - np.rint(total / point.step)
                assert np.linalg.norm(moved) <= 1.01 * smallest / point.step
            assert np.sqrt(dim) * point.step <= 0.01 * smallest * (1 + 1e-12)  # the proof's premise, not luck
            assert np.isclose(point.share_std(5) * np.sqrt(4) * point.step, 1.01 * 3.0)
            assert point.share_std(65) >= 8
            encoded = np.std([point.encode(np.zeros(dim), 5, 64, TEST).view(np.int64) for _ in range(8)])
            assert dim < 700 or abs(encoded / point.share_std(5) - 1) < 0.05


def check_asked_again_the_bytes_are_identical_and_free(code: Any) -> None:
    world = World(code, 3)
    first = {name: world.ask(name) for name in world.names}
    assert {name: world.ask(name) for name in world.names} == first
    assert all(len(book.charged) == 1 for book in world.books.values())


def check_one_attempt_is_one_context(code: Any) -> None:
    world = World(code, 6)
    first = {name: world.ask(name) for name in world.names}
    world.refuses("REPLAY", "org-00", world.request(model="m2"))
    world.refuses("REPLAY", "org-00", world.request(cohort=world.names[:5]))
    other = world.request(1, 1, world.names[:5])
    second = {name: world.ask(name, other) for name in world.names[:5]}
    assert all(len(world.books[name].charged) == 2 for name in world.names[:5])  # a new attempt is a new release
    assert second["org-00"] != first["org-00"]
    world.refuses("REPLAY", "org-00", world.request(1, 1, world.names[:4]))  # an older or equal attempt
    assert world.ask("org-00") == first["org-00"]  # the outbox still answers the first
    world.ask("org-00", world.request(1, 2))
    world.refuses("TOO_MANY_ATTEMPTS", "org-00", world.request(1, 3))
    world.ask("org-00", world.request(2, 0))
    world.refuses("REPLAY", "org-00", world.request(1, 2, model="m3"))  # an older round


def check_a_crash_loses_the_attempt_never_the_pad(code: Any) -> None:
    world = World(code, 3)

    def crash(name: str) -> None:
        assert world.books[name].charged, "the draw came before the charge"
        raise KeyboardInterrupt

    world.before = crash
    with pytest.raises(KeyboardInterrupt):
        world.ask("org-00")
    world.before = lambda name: None
    world.refuses("REPLAY", "org-00")
    assert len(world.books["org-00"].charged) == 1  # it stays spent
    assert world.ask("org-00", world.request(1, 1))


def check_an_exhausted_budget_releases_nothing(code: Any) -> None:
    world = World(code, 3)
    world.books["org-00"].refuse = True
    world.refuses("BUDGET_EXHAUSTED", "org-00")


def check_what_members_disagree_on_opens_nothing(code: Any) -> None:
    """The coordinator tells one member another model, round, attempt or other cohorts: the sum is noise without end."""
    everyone = tuple(f"org-{i:02d}" for i in range(4))
    changes: list[dict[str, Any]] = [
        {"model": "m2"},
        {"models": {"*": "m1", "bank": "x"}},
        {"number": 2},
        {"attempt": 1},
        {"cohorts": {"*": everyone, "bank": everyone[:3]}},  # org-03 is in no cohort of `bank`
    ]
    for change in changes:
        world = World(code, 4)
        replies = {name: world.ask(name) for name in everyone[:3]}
        replies["org-03"] = world.ask("org-03", world.request(**change))
        assert np.abs(world.total(replies)).max() > 1e3 * world.point.noise, change


def check_other_noise_or_other_cohorts_do_not_open(code: Any) -> None:
    """A member that checked another contract, or was told another cohort, adds masks that stay."""
    world = World(code, 4, t=1)
    other = code.fixed_point.FixedPoint(noise=4.0, clip=1.0, smallest_clip=1.0, dimension=60, rows=2000, colluders=1)
    replies = {name: world.ask(name) for name in world.names[:3]}
    replies["org-03"] = world.ask("org-03", code=other)
    assert np.abs(world.total(replies)).max() > 1e3 * world.point.noise
    world = World(code, 5)
    four, five = world.names[:4], world.names
    replies = {name: world.ask(name, world.request(cohort=four if name < "org-02" else five)) for name in four}
    assert np.abs(world.total(replies)).max() > 1e3 * world.point.noise


def check_cohorts(code: Any) -> None:
    world = World(code, 5)
    world.refuses("COHORT_TOO_SMALL", "org-00", world.request(cohort=world.names[:2]))
    world.refuses("COHORT_TOO_SMALL", "org-00", world.request(cohort=world.names[:3]), min_cohort=4)
    world.refuses("COHORT_TOO_SMALL", "org-00", colluders=2)  # the contract's noise counts on one only
    world.refuses("BAD_COHORT", "org-00", world.request(cohort=world.names[1:]))
    world.refuses("BAD_COHORT", "org-00", world.request(cohort=[*world.names, "org-01"]))
    world.refuses("BAD_COHORT", "org-00", world.request(cohort=[*world.names, "stranger"]))
    world.refuses("BAD_COHORT", "org-00", world.request(cohorts={"bank": tuple(world.names)}))
    twice = {"*#0": tuple(world.names), "*#1": tuple(world.names[:4])}
    world.refuses("BAD_COHORT", "org-00", world.request(cohorts=twice))  # one gradient, two sums
    two = World(code, 4, t=2)
    two.refuses("COHORT_TOO_SMALL", "org-00", two.request(cohort=two.names[:3]), colluders=2)


def check_rosters(code: Any) -> None:
    world = World(code, 4)
    stranger = IDENTITIES[20]
    key = world.code.protocol.X25519PrivateKey.generate().public_key().public_bytes_raw()
    statement = code.protocol.key_statement(world.run, CONTRACT, "org-03", key)
    forged = (key, stranger.sign(statement, ec.ECDSA(code.protocol.hashes.SHA384())))
    swapped = {**world.roster, "org-03": forged}
    world.refuses("BAD_SIGNATURE", "org-00", world.request(roster=swapped))
    world.refuses("OWN_KEY_NOT_ECHOED", "org-03", world.request(roster=swapped))
    sybil = (
        key,
        stranger.sign(
            code.protocol.key_statement(world.run, CONTRACT, "sybil", key), ec.ECDSA(code.protocol.hashes.SHA384())
        ),
    )
    world.refuses("UNKNOWN_PEER", "org-00", world.request(roster={**world.roster, "sybil": sybil}))
    world.refuses("DUPLICATE_KEY", "org-00", world.request(roster={**world.roster, "org-03": world.roster["org-02"]}))
    world.refuses("NO_ROSTER", "org-00", world.request(roster=None))
    moved = {**world.roster, "org-02": world.roster["org-03"], "org-03": world.roster["org-02"]}
    world.refuses("BAD_SIGNATURE", "org-00", world.request(roster=moved))
    other = code.protocol.key_statement(world.run, "d" * 64, "org-03", key)
    elsewhere = (key, world.identities["org-03"].sign(other, ec.ECDSA(code.protocol.hashes.SHA384())))
    world.refuses("BAD_SIGNATURE", "org-00", world.request(roster={**world.roster, "org-03": elsewhere}))
    weak = bytes(32)
    statement = code.protocol.key_statement(world.run, CONTRACT, "org-03", weak)
    low = (weak, world.identities["org-03"].sign(statement, ec.ECDSA(code.protocol.hashes.SHA384())))
    world.refuses("BAD_SIGNATURE", "org-00", world.request(roster={**world.roster, "org-03": low}))
    assert all(not book.charged for book in world.books.values())
    world.ask("org-00")
    fewer = {name: world.roster[name] for name in world.names[:3]}
    world.refuses("ROSTER_CHANGED", "org-00", world.request(2, roster=fewer, cohort=world.names[:3]))
    assert world.ask("org-00", world.request(2, roster=None))  # stored; no need to send it again
    peers = {name: world.public[name] for name in world.names[1:3]}
    world.refuses("UNKNOWN_PEER", "org-00", world.request(3), peers=peers)  # the owner took a pin back


def check_keys_are_of_one_run(code: Any) -> None:
    world = World(code, 3)
    old = world.roster
    assert {name: member.hello()[0] for name, member in world.members.items()} == {n: k for n, (k, _) in old.items()}
    world.enter("run-2")
    assert all(world.roster[name][0] != old[name][0] for name in world.names)
    world.refuses("OWN_KEY_NOT_ECHOED", "org-00", world.request(roster=old))
    # A peer's signed key of another run does not pass for this one.
    world.refuses("BAD_SIGNATURE", "org-00", world.request(roster={**world.roster, "org-01": old["org-01"]}))
    world.ask("org-00")
    world.members["org-00"].end()
    rows = world.connections["org-00"].execute("SELECT run_id FROM secure_runs").fetchall()
    assert ("run-2",) not in rows
    world.refuses("NO_RUN_KEY", "org-00", world.request(2))
    with pytest.raises(RefusedError, match="REPLAY"):
        world.members["org-00"].hello()


def check_contexts_have_no_twins(code: Any) -> None:
    fields = code.masks.fields
    twins = [
        ("ab", "c"),
        ("a", "bc"),
        ("abc",),
        (b"ab", "c"),
        ("ab", b"c"),
        ("a", "b"),
        ("atb",),
        (b"abb",),
        (b"a", b"b"),
    ]
    assert len({fields(*parts) for parts in twins}) == len(twins)
    masks = code.masks
    words = np.zeros(100_001, np.uint32)
    masks.add_mask(words, b"k" * 32, subtract=False)
    assert len(np.unique(words)) > 99_000
    masks.add_mask(words, b"k" * 32, subtract=True)
    assert not words.any()


def check_every_scope_has_its_own_mask(code: Any) -> None:
    """Two sums of one message: with one mask for both, their difference would show the difference of two parts."""
    world = World(code, 3)
    with still(code):
        both = {"*": tuple(world.names), "bank": tuple(world.names)}
        request = world.request(cohorts=both, models={"*": "a", "bank": "b"})
        parts = {"*": np.zeros(60), "bank": np.zeros(60)}
        replies = [
            member.masked(request, world.rules(name, groups=frozenset(both)), world.books[name], lambda _: parts)
            for name, member in world.members.items()
        ]
        first = np.frombuffer(code.protocol.unpack(replies[0])[1], "<u4").reshape(2, 60)
        assert (first[0] != first[1]).all()


def check_the_account(code: Any) -> None:
    """n = 6, t = 2: nobody colludes sigma sqrt(6/4), promised sigma, all others sigma / sqrt(4)."""
    left = code.accounting.remaining
    assert np.isclose(left(2.0, 6, 2, 0), 2.0 * np.sqrt(1.5))
    assert np.isclose(left(2.0, 6, 2, 2), 2.0)
    assert np.isclose(left(2.0, 6, 2, 5), 1.0)
    event = code.accounting.PoissonGaussian(
        noise_multiplier=6.63, sampling_rate=1.0, steps=32, partition="train", unit="record"
    )
    # The specification's table, q = 1, T = 32, delta 1e-5, n = 3, t = 1: 2.39 / 3.0 / 4.46 at the sigma of epsilon 3.
    found = code.accounting.exposure(code.accounting.replace(event, noise_multiplier=SIGMA), 3, 1, 1e-5)
    assert [round(found.nobody, 2), round(found.promised, 2), round(found.all_others, 2)] == [2.39, 3.0, 4.46]


_SLOW = ("check_noise", "check_sums", "check_the_account", "check_rosters", "check_what")
#: The quick ones first: a broken version mostly needs no more.
CHECKS = sorted(
    (value for name, value in {**vars(secure_sum_recovery_checks), **globals()}.items() if name.startswith("check_")),
    key=lambda check: (check.__name__.startswith(_SLOW), check.__name__),
)
