"""What a learner promises on the real path: from a message to the noised block, and in whole runs."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch

from consortia.audit import statistics_games
from consortia.audit.scenes import Deck
from consortia.testing._learner_case import Case, Ran
from consortia.testing._suite import require
from privacy.accounting import epsilon
from privacy.events import Event

_SCENES: Final = 4
_EPSILON, _DELTA = 2.0, 1e-4


def no_unit_moves_a_block_further_than_it_says(case: Case) -> None:
    """Neighbour games with hostile units and models: no block moves further than its event is charged for."""
    participant = case.audit.scenario.roster[0]
    deck = Deck(case.audit.pool(participant))
    for seed in range(_SCENES):
        for game in statistics_games.scene(case.audit, participant, deck, seed):
            told = f"{game.path}: a unit moves {game.ratio:.3g} of 1 as charged"
            require(not game.lost, told + ("" if game.off is None else f", {game.off:.3g} off the second count"))


def a_model_that_is_not_finite_is_refused(case: Case) -> None:
    """Before a row is read and before anything is charged."""
    bench = case.bench(epsilon=_EPSILON)
    sent = {
        name: torch.full_like(tensor, math.nan) if tensor.is_floating_point() else tensor
        for name, tensor in case.model().items()
    }
    asked = statistics_games.ask(
        bench, statistics_games.stated(case.contract, case.industry), "r", 1, sent, case.rows()
    )
    require(asked.status in {"REFUSED", "FAILED"}, f"wanted a refusal, got {asked.status}")
    require(not bench.export()["entries"], "it was charged")


def a_run_gives_the_same_model_twice(case: Case) -> None:
    """Without noise the embedded engine repeats a run to the bit, whatever ran before."""
    one, other = (_completed(case.run("local", math.inf)) for _ in range(2))
    require(bool(one.model), "no model was released")
    for name, tensor in one.model.items():
        require(torch.equal(tensor, other.model[name]), f"{name}: two runs of the same rows give two models")


def own_noise_costs_the_budget(case: Case) -> None:
    """Each participant adds its own noise, and its ledger has the whole budget and no more."""
    _costs_the_budget(case, "local")


def secure_sums_cost_the_budget(case: Case) -> None:
    """Members share the noise: nobody but all of them together can read a block."""
    _costs_the_budget(case, "aggregate")


def _costs_the_budget(case: Case, trust: str) -> None:
    ran = _completed(case.run(trust, _EPSILON))
    require(all(np.isfinite(tensor.double().numpy()).all() for tensor in ran.model.values()), "its model is not finite")
    for name in ran.homes:
        entries = ran.entries(name)
        rounds = [(entry.round, entry.state) for entry in entries]
        require(rounds == [(number, "committed") for number in case.messages], f"{name} was charged for {rounds}")
        events: list[Event] = [event for entry in entries for event in entry.events]
        spent = epsilon(events, _DELTA)
        require(0.98 * _EPSILON <= spent <= _EPSILON, f"{name} spent {spent:.4g} of epsilon {_EPSILON:g}")


def _completed(ran: Ran) -> Ran:
    status = ran.result.get("status")
    require(status == "completed", f"wanted a completed run, got {status}: {str(ran.result.get('reason', ''))[:200]}")
    return ran
