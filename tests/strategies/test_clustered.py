"""Clustered federated learning against cases worked by hand, and that noise alone splits nobody."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from strategies.base import Clusters, Update
from strategies.clustered import Clustered, cosines, cut

State = dict[str, Tensor]


def _reply(name: str, *values: float, weight: float = 0.25) -> Update:
    return Update(name, {"w": torch.tensor([float(v) for v in values])}, weight)


def _zero() -> State:
    return {"w": torch.zeros(2)}


def test_two_groups_that_pull_against_each_other_get_models_of_their_own() -> None:
    strategy = Clustered(after=1)
    # Changes (1, 1), (3, 1) against (-2, -1), (-2, -3): cosines .89 and .87 within, at most -.79 < -1/2 across.
    replies = [_reply("a", 1, 1), _reply("b", 3, 1), _reply("c", -2, -1), _reply("d", -2, -3)]
    new, memory = strategy.aggregate(_zero(), replies, {})
    assert strategy.clusters(memory, "abcd") == {"a": 0, "b": 0, "c": 1, "d": 1}
    models = {name: strategy.model(new, memory, name)["w"].tolist() for name in "abcd"}
    assert models == {"a": [2, 1], "b": [2, 1], "c": [-2, -2], "d": [-2, -2]}
    assert new["w"].tolist() == [0, -0.5]  # the mean of four models: (2 + 2 - 2 - 2) / 4, (1 + 1 - 2 - 2) / 4
    # From there each works on its own: a moves (2, 1) to (4, 1), b stays; d is late, and c alone moves its cluster.
    replies = [_reply("a", 4, 1), _reply("b", 2, 1), _reply("c", -3, -2)]
    new, memory = strategy.aggregate(new, replies, memory)
    assert [strategy.model(new, memory, name)["w"].tolist() for name in "abcd"] == [[3, 1]] * 2 + [[-3, -2]] * 2
    # Nobody of the second cluster answers: it stays where it was, d included.
    new, memory = strategy.aggregate(new, [_reply("a", 3, 1), _reply("b", 3, 1)], memory)
    assert [strategy.model(new, memory, name)["w"].tolist() for name in "abcd"] == [[3, 1]] * 2 + [[-3, -2]] * 2
    assert strategy.model(new, memory, "new")["w"].tolist() == [3, 1]  # nothing is known of it: the first cluster


def test_weights_count_within_a_cluster() -> None:
    replies = [
        _reply("a", 1, 0, weight=0.6),
        _reply("b", 4, 0, weight=0.3),
        *(_reply(n, -1, 0, weight=0.05) for n in "cd"),
    ]
    _, memory = Clustered(after=1).aggregate(_zero(), replies, {})
    assert memory["cluster/0/w"].tolist() == pytest.approx([2.0, 0.0])  # (.6 x 1 + .3 x 4) / .9


def test_before_the_first_split_it_is_fedavg() -> None:
    replies = [_reply("a", 1, 1), _reply("b", 3, 1), _reply("c", -2, -1), _reply("d", -2, -3)]
    new, memory = Clustered(after=2).aggregate(_zero(), replies, {})
    assert new["w"].tolist() == [0, -0.5]
    assert set(Clustered().clusters(memory, "abcd").values()) == {0}
    assert isinstance(Clustered(), Clusters)


def test_a_lasting_pull_adds_up_while_noise_does_not() -> None:
    # Sums with decay .5: after changes 4 and then 2 the pull is .5 x 4 + 2 = 4.
    strategy = Clustered(after=9, decay=0.5)
    new, memory = strategy.aggregate(_zero(), [_reply("a", 4, 0)], {})
    _, memory = strategy.aggregate(new, [_reply("a", 6, 0)], memory)
    assert memory["pull/a"].tolist() == [4, 0]


def test_who_stands_alone_gets_no_cluster_unless_the_contract_says_so() -> None:
    replies = [_reply("a", 1, 0), _reply("b", 1, 0), _reply("c", 1, 0), _reply("d", -1, 0)]
    assert set(Clustered().clusters(Clustered(after=1).aggregate(_zero(), replies, {})[1], "abcd").values()) == {0}
    alone = Clustered(after=1, least=1)
    assert alone.clusters(alone.aggregate(_zero(), replies, {})[1], "abcd") == {"a": 0, "b": 0, "c": 0, "d": 1}


def test_a_third_group_is_found_later() -> None:
    """Two groups in the first round; one of them falls apart in the next."""
    strategy = Clustered(after=1, decay=0.0)
    names = [f"{group}{i}" for group in "abc" for i in (1, 2)]
    first = {"a": (1.0, 0.0), "b": (-1.0, 0.0), "c": (-1.0, 0.0)}
    new, memory = strategy.aggregate(_zero(), [_reply(n, *first[n[0]], weight=1 / 6) for n in names], {})
    then = {"a": (1.0, 0.0), "b": (-1.0, 1.0), "c": (-1.0, -1.0)}
    new, memory = strategy.aggregate(new, [_reply(n, *then[n[0]], weight=1 / 6) for n in names], memory)
    numbers = strategy.clusters(memory, names)
    assert [numbers[n] for n in names] == [0, 0, 1, 1, 2, 2]
    assert strategy.model(new, memory, "c1")["w"].tolist() == [-1, -1]


def test_members_without_a_common_direction_are_no_groups() -> None:
    # Four directions whose sum is zero, all opposed alike (cosines -1/3): nobody agrees with anybody.
    tetrahedron = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float64)
    assert cosines(tetrahedron)[0, 1].item() == pytest.approx(-1 / 3)
    assert cut(tetrahedron, 2, 0.0) == []


@pytest.mark.parametrize(("members", "coordinates"), [(4, 20), (5, 60), (8, 200), (4, 1000)])
def test_noise_alone_splits_at_most_one_of_a_hundred(members: int, coordinates: int) -> None:
    generator = torch.Generator().manual_seed(5)
    cuts = sum(
        bool(cut(torch.randn(members, coordinates, generator=generator, dtype=torch.float64), 2, 1.5))
        for _ in range(300)
    )
    assert cuts <= 3


@given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 4))
def test_the_cut_is_the_best_of_all_and_has_no_order(seed: int, left: int, right: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pull = torch.randn(12, generator=generator, dtype=torch.float64)
    rows = [
        sign * pull + 0.1 * torch.randn(12, generator=generator, dtype=torch.float64)
        for sign in [1] * left + [-1] * right
    ]
    order = torch.randperm(left + right, generator=generator).tolist()
    away = cut(torch.stack([rows[i] for i in order]), 2, 1.5)
    found = {order[i] for i in away}
    assert found in ({*range(left)}, {*range(left, left + right)})
    assert 0 not in away


def test_a_resumed_run_has_the_same_clusters_to_the_bit(tmp_path: Path) -> None:
    strategy = Clustered(after=2)
    generator = torch.Generator().manual_seed(3)
    shifts = [
        {n: (1 if n in "ab" else -1) * torch.ones(6) + 0.1 * torch.randn(6, generator=generator) for n in "abcd"}
        for _ in range(5)
    ]

    def play(resume: bool) -> tuple[State, State]:
        current: State = {"trunk.w": torch.zeros(6)}
        memory: State = {}
        for number, shift in enumerate(shifts, start=1):
            sent = {n: strategy.model(current, memory, n)["trunk.w"] for n in "abcd"}
            updates = [Update(n, {"trunk.w": sent[n] + shift[n]}, 0.25) for n in "abcd"]
            current, memory = strategy.aggregate(current, updates, memory)
            if resume:
                save(tmp_path, Checkpoint(number, {"bank": current}, {"bank": memory}, {}, []))
                loaded = load_latest(tmp_path)
                assert loaded is not None
                current, memory = loaded.groups["bank"], loaded.memory["bank"]
        return current, memory

    straight, resumed = play(resume=False), play(resume=True)
    assert len(set(strategy.clusters(straight[1], "abcd").values())) == 2
    for left, right in zip(straight, resumed, strict=True):
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"least": 0}, "least: wanted a whole number >= 1"),
        ({"after": 1.5}, "after: wanted a whole number >= 1"),
        ({"decay": 1.0}, "decay: wanted 0 <= decay < 1"),
        ({"separation": math.inf}, "separation: wanted a finite number"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Clustered(**options)  # type: ignore[arg-type]


def test_a_fault_in_the_sign_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouping who is unlike instead of who is alike breaks the case above."""
    monkeypatch.setattr("strategies.clustered.cosines", lambda vectors: -cosines(vectors))
    with pytest.raises(AssertionError):
        test_two_groups_that_pull_against_each_other_get_models_of_their_own()
