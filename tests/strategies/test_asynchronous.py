"""FedAsync, FedBuff and the deadline: the papers' updates by hand."""

from __future__ import annotations

import pytest
import torch

from strategies.base import Asynchronous, LocalHalf, Update
from strategies.fedasync import FedAsync
from strategies.fedavg import FedAvg
from strategies.fedbuff import FedBuff, SemiSync
from strategies.registry import make
from strategies.staleness import Stale


def _state(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


def test_staleness_weights_of_the_paper() -> None:
    assert [Stale(discount="constant").staleness_weight(t) for t in (0, 9)] == [1.0, 1.0]
    # (1 + 3)^-1/2 = 1/2; (1 + 8)^-1/2 = 1/3
    assert [Stale().staleness_weight(t) for t in (0, 3, 8)] == pytest.approx([1.0, 1 / 2, 1 / 3])
    hinge = Stale(discount="hinge", exponent=10.0, hinge=4.0)
    # at most 4 late: 1; 6 late: 1 / (10 (6 - 4) + 1) = 1/21
    assert [hinge.staleness_weight(t) for t in (0, 4, 6)] == pytest.approx([1.0, 1.0, 1 / 21])


def test_fedbuff_adds_the_discounted_mean_of_changes() -> None:
    fresh = Update("a", _state(4.0, 0.0), 0.5, start=_state(2.0, 0.0))  # change (2, 0), weight 1
    stale = Update("b", _state(1.0, 5.0), 0.5, start=_state(1.0, 1.0), staleness=3)  # change (0, 4), weight 1/2
    new, memory = FedBuff().aggregate(_state(10.0, 10.0), [fresh, stale], {})
    # 10 + 1/2 (1 x 2) = 11; 10 + 1/2 (1/2 x 4) = 11
    assert new["w"].tolist() == [11.0, 11.0]
    assert memory == {}
    new, _ = FedBuff(server_learning_rate=0.5).aggregate(_state(10.0, 10.0), [fresh, stale], {})
    assert new["w"].tolist() == [10.5, 10.5]
    # Declared sizes 3 : 1: 10 + 3/4 x 2 = 11.5; 10 + 1/4 x 1/2 x 4 = 10.5
    weighted = [
        Update("a", fresh.state, 0.75, start=fresh.start),
        Update("b", stale.state, 0.25, start=stale.start, staleness=3),
    ]
    assert FedBuff().aggregate(_state(10.0, 10.0), weighted, {})[0]["w"].tolist() == [11.5, 10.5]


def test_fedasync_mixes_the_reply_itself() -> None:
    strategy = FedAsync(alpha=0.5)
    assert strategy.aggregate(_state(2.0), [Update("a", _state(4.0), 1.0)], {})[0]["w"].tolist() == [3.0]
    # alpha s = 1/2 x 1/2: 3/4 x 2 + 1/4 x 4 = 2.5, wherever training started
    late = Update("a", _state(4.0), 1.0, start=_state(100.0), staleness=3)
    assert strategy.aggregate(_state(2.0), [late], {})[0]["w"].tolist() == [2.5]


def test_with_everybody_in_time_the_deadline_is_fedavg() -> None:
    generator = torch.Generator().manual_seed(0)
    current = {"w": torch.randn(5, generator=generator, dtype=torch.float64)}
    updates = [
        Update(n, {"w": torch.randn(5, generator=generator, dtype=torch.float64)}, w)
        for n, w in (("a", 0.2), ("b", 0.8))
    ]
    left, right = (s.aggregate(current, updates, {})[0]["w"] for s in (SemiSync(), FedAvg()))
    torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_when_they_step() -> None:
    assert FedAsync().ready(1, 9, 0.0)
    assert [FedBuff(buffer_size=3).ready(n, 9, 1e9) for n in (2, 3)] == [False, True]
    window = SemiSync(window_seconds=5.0)
    assert [window.ready(1, working, seconds) for working, seconds in ((1, 4.9), (1, 5.0), (0, 0.0))] == [
        False,
        True,
        True,
    ]
    for strategy in (FedAsync(), FedBuff(), SemiSync()):
        assert isinstance(strategy, Asynchronous)
    assert not isinstance(FedAvg(), Asynchronous)
    assert isinstance(FedAsync(), LocalHalf)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("fedbuff", {"buffer_size": 0}, "buffer_size: wanted a whole number >= 1"),
        ("fedbuff", {"max_staleness": -1}, "max_staleness: wanted"),
        ("fedbuff", {"discount": "none"}, "discount: wanted one of constant"),
        ("fedbuff", {"exponent": float("nan")}, "exponent: wanted a finite number"),
        ("fedasync", {"alpha": 0.0}, "alpha: wanted a finite number > 0 and <= 1"),
        ("fedasync", {"mu": -1.0}, "mu: wanted"),
        ("semi-sync", {"window_seconds": 0.0}, "window_seconds: wanted a finite number > 0"),
    ],
)
def test_what_they_do_not_take(name: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(name, options=options)
