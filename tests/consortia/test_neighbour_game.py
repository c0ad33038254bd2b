"""The neighbour game: no unit moves what noise is added to by more than the ledger charged, on any path.

Quick: Hypothesis plays single mechanisms with units, rows and networks of its own choice. End to end: the seeded games
of the audit, with messages and with mechanisms. Together they play 500 games and more; `benchmarks/neighbour_games.py`
plays ten thousand. A test of the game itself plants a mistake and wants the game lost.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from audited_scenario import SCENARIOS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import privacy._one_row
import privacy.bookkeeping
import privacy.central
import privacy.dp_logistic
import privacy.histogram
import privacy.stacked
from consortia.audit import games, mechanism_games, step_games
from consortia.audit.games import Board, Game, Tally
from consortia.audit.neighbours import deal, mechanisms, paths
from consortia.audit.networks import FEATURES, HIDDEN, LOSS, NETWORKS
from consortia.audit.settings import Audit
from consortia.participant import metrics_release
from consortia.terms.scenario import load_scenario
from privacy._composition import known
from privacy.dp_sgd import check_module
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.observation import Note, observing

_FEW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before, logger = torch.get_num_threads(), logging.getLogger("consortia.participant")
    torch.set_num_threads(1)
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(logging.NOTSET)
    torch.set_num_threads(before)


_VALUE = st.one_of(
    st.floats(-3, 3, width=32),
    st.sampled_from([0.0, 1e-42, -1e-30, 1e6, -1e18, 3e38, math.inf, math.nan]),
)


@st.composite
def _units(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Units of rows: one or many; constant, or the same row with either label, or rows of any value."""
    rows: list[list[float]] = []
    target: list[float] = []
    unit: list[int] = []
    for number in range(draw(st.integers(1, 5))):
        size = draw(st.sampled_from([1, 1, 2, 3, 8, 17]))
        row = draw(st.lists(_VALUE, min_size=8, max_size=8))
        kind = draw(st.sampled_from(["constant", "cancelling", "shifted"]))
        for place in range(size):
            shift = draw(st.sampled_from([1e-7, 1e-3])) * place if kind == "shifted" else 0.0
            rows.append([row[0] + shift, *row[1:]])
            target.append(float(place % 2) if kind == "cancelling" else float(number % 2))
            unit.append(number)
    with np.errstate(over="ignore"):
        return torch.tensor(rows, dtype=torch.float32), torch.tensor(target), torch.tensor(unit)


@st.composite
def _network(draw: st.DrawFn) -> tuple[str, nn.Module]:
    name = draw(st.sampled_from(sorted(NETWORKS)))
    module = NETWORKS[name].make()
    size = draw(st.sampled_from([0.0, 0.5, 5.0, 1e3]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return name, module


def _won(played: list[Game]) -> None:
    lost = [(game.ratio, game.off, game.recipe) for game in played if game.lost]
    assert not lost, lost


@_FEW
@given(network=_network(), units=_units(), clip=st.sampled_from([1e-3, 0.3, 2.0]), seed=st.integers(0, 3))
def test_a_unit_moves_a_step_by_its_clip(network: Any, units: Any, clip: float, seed: int) -> None:
    random, (name, module) = np.random.default_rng(seed), network
    _won(step_games.trained(random, name, NETWORKS[name].inputs, module, units, clip))


@_FEW
@given(network=_network(), units=_units(), clip=st.sampled_from([1e-3, 0.3, 2.0]), seed=st.integers(0, 3))
def test_a_unit_moves_a_members_sum_by_its_clip(network: Any, units: Any, clip: float, seed: int) -> None:
    random, (name, module) = np.random.default_rng(seed), network
    lefts = sorted({0, int(units[2].max())})
    _won(step_games.summed(name, NETWORKS[name].inputs, module, units, clip, lefts, random))


@_FEW
@given(seed=st.integers(0, 2**31))
def test_a_row_moves_its_own_participant(seed: int) -> None:
    _won(step_games.stacked(seed))


@_FEW
@given(seed=st.integers(0, 2**31))
def test_a_participant_moves_the_mean_by_its_clip(seed: int) -> None:
    _won(mechanism_games.central(seed))


@_FEW
@given(seed=st.integers(0, 2**31))
def test_a_unit_moves_a_histogram_by_its_limit(seed: int) -> None:
    _won(mechanism_games.histogram(seed))


@_FEW
@given(seed=st.integers(0, 2**31))
def test_a_row_moves_a_partners_model_by_two_clips(seed: int) -> None:
    _won(mechanism_games.logistic(seed))


@_FEW
@given(seed=st.integers(0, 2**31))
def test_an_answer_says_no_more_than_its_epsilon(seed: int) -> None:
    _won(mechanism_games.response(seed))


@pytest.mark.parametrize("seed", [24, 25, 30, 32])
def test_weights_that_amplify_rounding_change_no_other_units_part(seed: int) -> None:
    """Of the first such games, those that passes of as many rows as were drawn lost."""
    _won(step_games.amplified(seed))


def _note(total: Any, deviation: float = 2.0, where: str = "grid", law: Any = "gaussian") -> Note:
    return Note(where, np.asarray(total, dtype=float), np.asarray(total, dtype=float), deviation, law)


def test_moves_add_up_in_squares_over_their_deviations() -> None:
    first, second = [_note([3.0, 0.0]), _note([0.0], 1.0)], [_note([0.0, 4.0]), _note([1.0], 1.0)]
    assert games.moved(first, second, 2.0) == pytest.approx(2 * math.hypot(5 / 2, 1))
    laplace = [_note([3.0, 0.0], law="laplace")], [_note([0.0, 4.0], law="laplace")]
    assert games.moved(*laplace, 2.0) == pytest.approx(7.0)


@pytest.mark.parametrize(
    "other",
    [[], [_note([0.0])], [_note([0.0, 0.0], 1.0)], [_note([math.nan, 0.0])], [_note([0.0, 0.0], law="laplace")]],
    ids=["none", "another form", "another noise", "no number", "another law"],
)
def test_what_else_depends_on_a_unit_is_a_lost_game(other: list[Note]) -> None:
    assert games.moved([_note([0.0, 0.0])], other, 1.0) == math.inf


def test_a_tally_keeps_the_worst_game_and_all_that_were_lost() -> None:
    tally = Tally()
    for ratio, off in ((0.5, 0.1), (1.5, None), (0.7, 3.0), (math.nan, None)):
        tally.add(Game("path", str(ratio), ratio, off))
    assert tally.games == 4
    assert [game.recipe for game in tally.lost] == ["1.5", "0.7", "nan"]
    assert tally.farthest is not None
    assert tally.farthest.off == 3.0


_CLIPPED = privacy.central.clipped
_BREAKS = {
    "twice the histogram's rows": (
        privacy.histogram,
        "_place_in_unit",
        lambda index: np.zeros(len(index), dtype=np.int64),
        mechanism_games.histogram,
    ),
    "twice the clip at the coordinator": (
        privacy.central,
        "clipped",
        lambda changes, clip: _CLIPPED(changes, 2 * clip),
        mechanism_games.central,
    ),
    "no clip in the vectorised engine": (
        privacy.stacked,
        "_clip",
        lambda deltas, inputs, clip: (deltas, inputs),
        step_games.stacked,
    ),
    "nothing in a norm for rows that cancel": (privacy.bookkeeping, "TERMS", 0.0, step_games.cancelling),
    "a module keeps what it wrote": (privacy._one_row, "fresh_copy", lambda module: module, step_games.hidden),
    "scores go by their batch": (
        metrics_release,
        "outputs",
        lambda module, inputs, finish: finish(module(inputs) - module(inputs).mean(0)).detach(),
        mechanism_games.scores,
    ),
}


@pytest.mark.parametrize("name", _BREAKS)
def test_a_planted_mistake_loses_games(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, what, instead, play = _BREAKS[name]
    seeds = range(1 if play is step_games.hidden else 8)  # of which one scene is five networks, row by row
    _won([game for seed in seeds for game in play(seed)])
    monkeypatch.setattr(module, what, instead)
    assert any(game.lost for seed in seeds for game in play(seed))


def test_networks_of_known_layers_train_as_they_are_deployed() -> None:
    of_known_layers = {name for name, network in NETWORKS.items() if not isinstance(known(network.make()), str)}
    assert {
        "linear",
        "deep mlp",
        "layer norm",
        "group norm",
        "convolution",
        "embedding",
        "kind two-tower",
    } <= of_known_layers


@pytest.mark.parametrize("name", HIDDEN)
def test_no_example_shows_what_a_hidden_network_does(name: str) -> None:
    x = torch.zeros(3, FEATURES)
    check_module(NETWORKS[name].make(), NETWORKS[name].inputs(x), torch.zeros(3), LOSS)


def test_notes_hold_what_was_released_less_the_noise() -> None:
    cells, units = np.array([0, 1, 1]), np.arange(3)
    with observing() as notes:
        released = noisy_histogram(
            cells, 2, units, rows_per_unit=1, noise=HistogramNoise("gaussian", 1e-9), context=games.CONTEXT
        )
    assert notes[0].noised.tolist() == released.tolist() == [1.0, 2.0]


def _audit(tmp_path: Path, scenario: str, seed: int) -> Audit:
    file = tmp_path / "scenario.toml"
    file.write_text(SCENARIOS[scenario], encoding="utf-8")
    return Audit(load_scenario(str(file)), tmp_path, quick=True, random=np.random.default_rng(seed))


@pytest.mark.end_to_end
@pytest.mark.parametrize(("scenario", "count"), [("local", 90), ("sums", 30), ("vertical", 6)])
def test_messages(tmp_path: Path, scenario: str, count: int) -> None:
    """A participant's whole way, from a coordinator's bytes to the sum, on the paths of each scenario."""
    players, skipped = paths(_audit(tmp_path, scenario, 5))
    assert skipped
    if scenario == "sums":
        players = {name: player for name, player in players.items() if name.startswith("sums")}
    board = Board()
    for played in deal(players, 11, count, lambda _: None):
        board.add(played)
    _won(board.lost)
    assert board.games >= count


@pytest.mark.end_to_end
def test_mechanisms() -> None:
    board = Board()
    for played in mechanisms(21, 380):
        board.add(played)
    _won(board.lost)
    assert board.games >= 380
