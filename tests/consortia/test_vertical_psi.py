"""Private set intersection: against an independent implementation, its laws, its refusals, its speed."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pure_p256 import lift, power

from consortia.common.errors import PointsError
from consortia.vertical import psi

CONTEXT = b"contract"


def _x(data: bytes) -> int:
    return int.from_bytes(data, "big")


def _point(identifier: str) -> tuple[int, int]:
    """Hash to the curve, as the module says it, by arithmetic of our own."""
    for counter in range(256):
        body = bytes([counter]) + hashlib.sha256(CONTEXT).digest() + identifier.encode()
        if (point := lift(_x(hashlib.sha256(body).digest()))) is not None:
            return point
    raise AssertionError


def _powers(points: Iterable[tuple[int, int]], secret: int) -> bytes:
    raised = [power(point, secret) for point in points]
    return b"".join(point[0].to_bytes(32, "big") for point in raised if point is not None)


def _lifted(data: bytes) -> list[tuple[int, int]]:
    points = [lift(_x(data[i : i + 32])) for i in range(0, len(data), 32)]
    return [point for point in points if point is not None]


def test_a_partner_of_an_independent_implementation_finds_the_same_rows() -> None:
    owner, partner = [f"id-{n}" for n in range(5)], [f"id-{n}" for n in (7, 3, 1, 9)]
    a, b = psi.new_power(), secrets.randbelow(2**255) + 1
    twice_theirs = _powers(_lifted(psi.blind(CONTEXT, owner, a)), b)
    twice_mine = psi.raise_points(_powers(map(_point, partner), b), a, 4)
    assert psi.match(twice_theirs, twice_mine) == [-1, 2, -1, 1, -1]


def test_hash_and_power_agree_with_an_independent_implementation() -> None:
    for number in range(4):
        identifier = f"DE{number:010d}"
        point = _point(identifier)
        assert _x(psi.hash_to_curve(CONTEXT, identifier)) == point[0]
        secret = psi.new_power()
        raised = power(point, _x(secret))
        assert raised is not None
        assert _x(psi.blind(CONTEXT, [identifier], secret)) == raised[0]
        other = psi.new_power()
        again = power(raised, _x(other))
        assert again is not None
        assert _x(psi.raise_points(psi.blind(CONTEXT, [identifier], secret), other, 1)) == again[0]


def _intersect(owner: list[str], partner: list[str]) -> list[int]:
    a, b = psi.new_power(), psi.new_power()
    order = psi.shuffled(len(partner))
    sent = psi.blind(CONTEXT, [partner[i] for i in order], b)
    twice_mine = psi.raise_points(sent, a, 10_000)
    twice_theirs = psi.raise_points(psi.blind(CONTEXT, owner, a), b, 10_000)
    return [order[place] if place >= 0 else -1 for place in psi.match(twice_theirs, twice_mine)]


def test_the_partner_finds_its_own_rows_and_no_others() -> None:
    owner, partner = [f"id-{n}" for n in range(40)], [f"id-{n}" for n in range(25, 60)]
    found = _intersect(owner, partner)
    assert found == [-1] * 25 + list(range(15))


def test_three_parties_commute() -> None:
    a, b, c = (psi.new_power() for _ in range(3))
    start = psi.blind(CONTEXT, ["one"], a)
    assert psi.raise_points(psi.raise_points(start, b, 1), c, 1) == psi.raise_points(
        psi.raise_points(start, c, 1), b, 1
    )


def test_two_contexts_or_powers_cannot_be_joined() -> None:
    power_ = psi.new_power()
    assert psi.blind(b"one", ["x"], power_) != psi.blind(b"two", ["x"], power_)
    assert psi.blind(CONTEXT, ["x"], power_) != psi.blind(CONTEXT, ["x"], psi.new_power())


def test_keyed_ids_need_the_key() -> None:
    assert psi.keyed("x", b"k" * 32) != psi.keyed("x", b"l" * 32)


def test_bad_points_are_refused() -> None:
    good = psi.blind(CONTEXT, ["a", "b"], psi.new_power())
    with pytest.raises(ValueError, match="at most 1"):
        psi.raise_points(good, psi.new_power(), 1)
    with pytest.raises(ValueError, match="wanted at most"):
        psi.raise_points(good[:-1], psi.new_power(), 9)
    off = next(x for x in (secrets.token_bytes(32) for _ in range(99)) if lift(_x(x)) is None)
    with pytest.raises(ValueError, match="P-256"):
        psi.raise_points(good + off, psi.new_power(), 9)


def test_large_lists_go_through_processes_and_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    identifiers, secret, other = [f"id-{n}" for n in range(60)], psi.new_power(), psi.new_power()
    alone = psi.blind(CONTEXT, identifiers, secret)
    twice = psi.raise_points(alone, other, 60)
    monkeypatch.setattr(psi, "_MANY", 0)
    monkeypatch.setattr(psi, "_CHUNK", 40)
    seen: list[tuple[int, int]] = []
    assert psi.blind(CONTEXT, identifiers, secret, lambda *done: seen.append(done)) == alone
    assert seen == [(1, 2), (2, 2)]
    assert psi.raise_points(alone, other, 60) == twice
    with pytest.raises(ValueError, match="refused"):
        psi.raise_points(b"\xff" * 32, other, 60)


@pytest.mark.end_to_end
def test_ten_thousand_against_ten_thousand() -> None:
    owner, partner = [f"id-{n}" for n in range(10_000)], [f"id-{n}" for n in range(5_000, 15_000)]
    found = _intersect(owner, partner)
    assert sum(place >= 0 for place in found) == 5_000


ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)


@settings(max_examples=60)
@given(identifiers=st.lists(ANY_TEXT, min_size=1, max_size=6, unique=True))
def test_an_identifier_is_one_point_whatever_it_holds(identifiers: list[str]) -> None:
    assert len({psi.hash_to_curve(CONTEXT, identifier) for identifier in identifiers}) == len(identifiers)
    assert len({psi.keyed(identifier, b"k" * 16) for identifier in identifiers}) == len(identifiers)
    points = psi.blind(CONTEXT, identifiers, psi.new_power())
    assert len(points) == psi.POINT * len(identifiers)
    assert psi.distinct(points)


def test_an_identifier_is_one_point_in_a_worker_process_too(monkeypatch: pytest.MonkeyPatch) -> None:
    power, odd = psi.new_power(), ["a", "id5\nid6x", "", "\n", "\0", "\ud800", "a\r\nb", "\U0001f600", '"', "\u2028"]
    here = psi.blind(CONTEXT, odd, power)
    monkeypatch.setattr(psi, "_MANY", 1)
    assert psi.blind(CONTEXT, odd, power) == here
    assert psi.distinct(here)


ODD_VALUES: list[Any] = [None, 3, 1.5, b"", b"\0" * 32, b"\xff" * 32, "x" * 32, [], object()]


@pytest.mark.parametrize("odd", ODD_VALUES, ids=lambda value: type(value).__name__)
def test_wrong_arguments_are_named_errors(odd: Any) -> None:
    with pytest.raises(PointsError, match="power"):
        psi.blind(CONTEXT, ["a"], odd)
    with pytest.raises(PointsError, match="power"):
        psi.raise_points(b"", odd, 1)
    if not isinstance(odd, str):
        for call in (
            lambda: psi.blind(CONTEXT, [odd], psi.new_power()),
            lambda: psi.hash_to_curve(CONTEXT, odd),
            lambda: psi.keyed(odd, b"k"),
        ):
            with pytest.raises(PointsError, match="identifier: wanted text"):
                call()
