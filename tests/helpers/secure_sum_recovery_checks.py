"""Checks of mode `two`, drop-out recovery, as functions of the code under test (see `secure_sum_checks`)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from noise_contexts import TEST
from secure_sum_world import IDENTITIES, World, still

from privacy.randomness import KeyStream


def _made(code: Any, n: int = 6, drops: int = 1, away: Any = (), **terms: Any) -> tuple[World, dict[str, bytes]]:
    """A world in which everybody but those `away` answered the first attempt."""
    world = World(code, n, drops=drops, **terms)
    return world, {name: world.ask(name) for name in world.names if name not in away}


def _open(world: World, replies: dict[str, bytes], away: Any = None) -> tuple[tuple[str, ...], np.ndarray]:
    names, words = world.code.opening.open_two(world.attempt(replies), world.tell(away or {}))["*"]
    return names, world.point.decode(words)


def check_two_a_sum_opens_with_drop_outs_at_each_stage(code: Any) -> None:
    """n = 6, t = 1: T = 4. Who drops out before its words came is not in the sum; who does so later is."""
    stages: list[tuple[list[str], dict[str, list[str]]]] = [
        ([], {}),
        (["org-02"], {}),
        ([], {"unmask": ["org-02", "org-05"]}),
        (["org-00"], {"unmask": ["org-03"]}),
        (["org-05"], {"confirm": ["org-01"]}),
        (["org-05"], {"confirm": ["org-01"], "unmask": ["org-02"]}),
    ]
    with still(code):
        for dropped, later in stages:
            world, replies = _made(code, away=dropped)
            names, total = _open(world, replies, later)
            assert names == tuple(name for name in world.names if name not in dropped)
            assert np.abs(total - world.truth(names)).max() / world.point.step <= len(names) / 2 + 1e-6
            assert all(len(world.books[name].charged) == 1 for name in names)  # one charge, however it opens
            boxes = 6 * (12 + 6 * 33 + 16)
            assert all(len(data) == 20 + 4 * 60 + boxes for data in replies.values())


def check_two_cohorts_open_by_one_set_of_the_living(code: Any) -> None:
    """Eight members sum `*`, four of them `bank` and four `factory`; two of the eight drop out, one of each."""
    with still(code):
        world = World(code, 8, drops=2, t=0)
        cohorts = {"*": tuple(world.names), "bank": tuple(world.names[:4]), "factory": tuple(world.names[4:])}
        request = world.request(cohorts=cohorts, models=dict.fromkeys(cohorts, "m"))
        rng = np.random.default_rng(3)
        sums = {name: {group: rng.normal(0, 1, 60) for group in cohorts} for name in world.names}
        alive = [name for name in world.names if name not in {"org-03", "org-05"}]
        rules = {"groups": frozenset(cohorts), "colluders": 0, "min_cohort": 3}
        parts = {}
        for name in alive:
            member, made = world.members[name], sums[name]
            data = member.masked(request, world.rules(name, **rules), world.books[name], lambda _, made=made: made)
            body = code.protocol.unpack(data)[1]
            labels = sorted(label for label, names in cohorts.items() if name in names)
            words = np.split(np.frombuffer(body[: 240 * len(labels)], "<u4"), len(labels))
            parts[name] = code.opening.Part(dict(zip(labels, words, strict=True)), body[240 * len(labels) :])
        attempt = code.opening.Attempt(request, b"", parts, world.point, 8)
        opened = code.opening.open_two(attempt, world.tell(**rules))
        for label, names in cohorts.items():
            living, total = opened[label]
            assert living == tuple(name for name in names if name in alive)
            truth = np.sum([sums[name][label] for name in living], axis=0)
            assert np.abs(world.point.decode(total) - truth).max() / world.point.step <= 4 + 1e-6


def check_two_more_drop_outs_lose_the_attempt(code: Any) -> None:
    world, replies = _made(code, away=["org-01", "org-04"])
    assert code.opening.open_two(world.attempt(replies), world.tell()) == {}
    small, left = _made(code, 5, away=["org-01", "org-02"])
    assert code.opening.open_two(small.attempt(left), small.tell()) == {}
    for away in ({"confirm": world.names[:3]}, {"unmask": world.names[:3]}):
        world, replies = _made(code, away=["org-05"])
        with pytest.raises(Exception, match="resume the run"):  # every broken copy has an error of its own
            _open(world, replies, away)
        names, _ = _open(world, replies)  # the same set of the living, asked again
        assert names == tuple(world.names[:5])


def check_two_words_of_one_member_stay_masked(code: Any) -> None:
    """The coordinator says that a member dropped out whose words it has, and has all that the others tell."""
    with still(code):
        world, replies = _made(code)
        alive = [name for name in world.names if name != "org-03"]
        votes = world.votes(replies, alive, alive)
        told = {name: world.opening("unmask", name, world.asked(replies, name, alive, votes)) for name in alive}
        assert {len(data) for data in told.values()} == {5 * (1 + 1) * 33}  # no share of org-03's own key
        names, total = _open(world, {name: replies[name] for name in alive})
        assert names == tuple(alive)
        assert np.abs(total - world.truth(alive)).max() / world.point.step <= 5 / 2 + 1e-6
        keys = world.told_keys(told, alive, ["org-03"])
        for target in ("org-03", "org-00"):
            words = world.parts(replies)[target].words["*"].copy()
            for (name, other), key in keys.items():
                if name == other == target:
                    code.masks.add_mask(words, code.masks.derive(key, "*"), subtract=True)
                elif target in {name, other}:
                    peer = other if name == target else name
                    code.masks.add_mask(words, code.masks.derive(key, "*"), subtract=not peer < target)
            assert np.abs(world.point.decode(words) - world.sums[target]).max() > 1e3 * world.point.noise


def check_two_keys_of_an_attempt_are_its_own(code: Any) -> None:
    """What opened one round says nothing about the next: no key told there masks anything here."""
    world, replies = _made(code, away=["org-03"])
    alive = [name for name in world.names if name != "org-03"]
    made = []
    for number in (1, 2):
        request = world.request(number)
        replies = {name: world.ask(name, request) for name in alive}
        votes = {n: world.opening("confirm", n, world.asked(replies, n, alive, request=request)) for n in alive}
        told = {n: world.opening("unmask", n, world.asked(replies, n, alive, votes, request=request)) for n in alive}
        made.append(world.told_keys(told, alive, ["org-03"]))
    assert not set(made[0].values()) & set(made[1].values())
    assert len(set(made[0].values())) == len(made[0])


def check_two_one_set_of_the_living_a_round(code: Any) -> None:
    world, replies = _made(code)
    alive = [name for name in world.names if name != "org-05"]
    other = [name for name in world.names if name != "org-04"]
    whole = world.opening("unmask", "org-00", world.asked(replies, "org-00"))
    assert world.opening("unmask", "org-00", world.asked(replies, "org-00")) == whole
    votes = world.votes(replies, alive[1:], alive)
    assert world.votes(replies, alive[1:], alive).keys() == votes.keys()  # asked again, signed again
    world.refuses_to("unmask", "ALREADY_UNMASKED", "org-00", world.asked(replies, "org-00", alive, votes))
    world.refuses_to("confirm", "ALREADY_UNMASKED", "org-00", world.asked(replies, "org-00", alive))
    world.refuses_to("confirm", "ALREADY_VOTED", "org-01", world.asked(replies, "org-01", other))
    world.refuses_to("unmask", "VIEW_CHANGED", "org-01", world.asked(replies, "org-01"))
    assert world.opening("unmask", "org-01", world.asked(replies, "org-01", alive, votes))
    # Another attempt of the round is charged, and never opened here.
    second = world.request(1, 1)
    again = {name: world.ask(name, second) for name in world.names}
    asked = world.asked(again, "org-00", request=second)
    world.refuses_to("unmask", "ALREADY_UNMASKED", "org-00", asked)
    world.refuses_to("confirm", "ALREADY_VOTED", "org-02", world.asked(again, "org-02", alive, request=second))
    assert [len(world.books[name].charged) for name in world.names] == [2] * 6


def check_two_no_sum_without_agreement(code: Any) -> None:
    world, replies = _made(code, drops=2)
    one = [name for name in world.names if name != "org-05"]
    two = [name for name in world.names if name != "org-04"]
    left, right = world.votes(replies, ["org-01", "org-02"], one), world.votes(replies, ["org-03", "org-05"], two)

    def refused(name: str, alive: list[str], votes: dict[str, bytes]) -> None:
        world.refuses_to("unmask", "NO_AGREEMENT", name, world.asked(replies, name, alive, votes))

    refused("org-00", one, {})
    refused("org-01", one, left)
    refused("org-03", two, right)
    refused("org-03", two, {**left, **right})  # a signature of another set does not count
    view = code.recovery.statement(world.context(), tuple(one))
    forged = {name: IDENTITIES[20].sign(view, ec.ECDSA(hashes.SHA384())) for name in one}
    refused("org-00", one, forged)
    good = world.votes(replies, ["org-00"], one)
    three = {**left, **good}
    refused("org-00", one, {**three, "org-03": three["org-01"]})  # one signature under two names
    # Signatures of the dead, or of the last round, do not count either.
    dead = {"org-05": world.identities["org-05"].sign(view, ec.ECDSA(hashes.SHA384()))}
    refused("org-00", one, {**three, **dead})
    request = world.request(2)
    later = {name: world.ask(name, request) for name in world.names}
    four = {**three, "org-04": world.identities["org-04"].sign(view, ec.ECDSA(hashes.SHA384()))}
    world.refuses_to("unmask", "NO_AGREEMENT", "org-00", world.asked(later, "org-00", one, four, request=request))


def check_two_the_quorum_is_that_of_the_roster(code: Any) -> None:
    """Ten members, T = 6: six open an attempt of all ten, the other four none of their own in the same round."""
    world, replies = _made(code, 10)
    assert all(world.opening("unmask", name, world.asked(replies, name)) for name in world.names[:6])
    world.refuses("COHORT_TOO_SMALL", "org-06", world.request(1, 1, world.names[6:]))
    for n in range(3, 30):
        for t in range(n - 2):
            least = code.sharing.threshold(n, t)
            assert 2 * least - n > t  # two quorums share an honest member


def check_two_boxes(code: Any) -> None:
    world, replies = _made(code)
    asked = world.asked(replies, "org-02")
    box = bytearray(asked.boxes["org-01"])
    box[20] ^= 1
    first = {**asked.boxes}
    for changed in (
        {**first, "org-01": bytes(box)},
        {**first, "org-01": first["org-03"]},
        {name: box for name, box in first.items() if name != "org-01"},
        {**first, "org-01": b""},
        {**first, "org-01": world.attempt(replies).box("org-02", "org-01")},  # its own, sent back
        {**first, "org-01": world.asked(replies, "org-04").boxes["org-01"]},
    ):
        world.refuses_to("unmask", "BAD_SHARE", "org-02", replace_boxes(asked, changed))
    request = world.request(2)
    later = {name: world.ask(name, request) for name in world.names}
    asked = world.asked(later, "org-02", request=request)
    world.refuses_to("unmask", "BAD_SHARE", "org-02", replace_boxes(asked, {**asked.boxes, "org-01": first["org-01"]}))
    assert world.opening("unmask", "org-02", asked)


def replace_boxes(asked: Any, boxes: dict[str, bytes]) -> Any:
    return type(asked)(asked.sum, asked.alive, asked.votes, boxes)


def check_two_what_is_never_opened(code: Any) -> None:
    world, replies = _made(code, drops=2)
    everybody = world.names
    asked = world.asked(replies, "org-00")
    for step in ("confirm", "unmask"):
        for change in ({"number": 2}, {"attempt": 1}, {"model": "m2"}):
            other = type(asked)(world.request(**change), asked.alive, {}, asked.boxes)
            world.refuses_to(step, "UNKNOWN_ATTEMPT", "org-00", other)
        for alive in (everybody[1:], [*everybody[:5], "stranger"], [*everybody, "org-01"]):
            world.refuses_to(step, "BAD_COHORT", "org-00", type(asked)(asked.sum, tuple(alive), {}, asked.boxes))
        three = type(asked)(asked.sum, tuple(everybody[:3]), {}, asked.boxes)
        world.refuses_to(step, "COHORT_TOO_SMALL", "org-00", three)
        five = type(asked)(asked.sum, tuple(everybody[:5]), {}, asked.boxes)
        world.refuses_to(step, "COHORT_TOO_SMALL", "org-00", five, min_cohort=6)
        peers = {name: world.public[name] for name in everybody[1:5]}
        world.refuses_to(step, "UNKNOWN_PEER", "org-00", asked, peers=peers)  # the owner took a pin back
        with_one = replace(world.point, drops=0)
        world.refuses_to(step, "BAD_MESSAGE", "org-00", asked, code=with_one)
    wide, answers = _made(code, 9, drops=1)
    alive = wide.names[:7]
    for step in ("confirm", "unmask"):
        wide.refuses_to(step, "MORE_DROPS_THAN_NOISE_COVERS", "org-00", wide.asked(answers, "org-00", alive))
    world.ask("org-00", world.request(1, 1))  # a newer attempt
    world.refuses_to("unmask", "UNKNOWN_ATTEMPT", "org-00", asked)
    world.members["org-00"].end()
    world.refuses_to("unmask", "NO_RUN_KEY", "org-00", asked)


def check_two_an_attempt_that_was_not_released_opens_nothing(code: Any) -> None:
    """A crash between charge and outbox: the attempt is used up, and no share of it is told."""
    world = World(code, 6, drops=1)

    def crash(name: str) -> None:
        raise KeyboardInterrupt

    replies = {name: world.ask(name) for name in world.names[1:]}
    world.before = crash
    with pytest.raises(KeyboardInterrupt):
        world.ask("org-00")
    asked = world.asked(replies, "org-00", world.names)
    world.refuses_to("unmask", "UNKNOWN_ATTEMPT", "org-00", asked)


def check_two_cohorts_reserve_noise_for_drop_outs(code: Any) -> None:
    world = World(code, 5, drops=2)
    world.refuses("COHORT_TOO_SMALL", "org-00", world.request(cohort=world.names[:4]))  # 4 - 1 - 2 < 2
    # The noise of what is left: n = 6, t = 1, d = 1; five are alive, one of them subtracts its share.
    world, replies = _made(code, 6, dim=20_000, away=["org-05"])
    names, total = _open(world, replies)
    noise = (total - world.truth(names)).std()
    promised = 2.0 * 1.01
    assert 0.98 < noise * np.sqrt(4 / 5) / promised < 1.02
    assert np.isclose(world.point.share_std(6) * np.sqrt(4) * world.point.step, promised)


def check_two_shares(code: Any) -> None:
    share, combine = code.sharing.share, code.sharing.combine
    for secret in (bytes(32), b"\xff" * 32, bytes(range(32))):
        shares = dict(enumerate(share(secret, 6, 4, KeyStream(TEST)), 1))
        assert len(shares) == 6
        for holders in ((1, 2, 3, 4), (3, 4, 5, 6), (1, 3, 4, 6)):
            some = {holder: shares[holder] for holder in holders}
            assert combine(some, 4) == secret
            some.pop(holders[0])
            with pytest.raises(ValueError, match="wanted 4"):
                combine(some, 4)
            assert combine(some, 3) != secret  # three say nothing
        again = dict(enumerate(share(secret, 6, 4, KeyStream(TEST)), 1))
        assert all(shares[holder] != again[holder] for holder in shares)
