"""The coordinator of a vectorised simulation: the usual loop, with batches instead of messages."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

import torch

from consortia.common.errors import RefusedError, RunFailedError, describe
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.rounds import Coordinator
from consortia.engines.base import Job
from consortia.engines.vectorized import blocks, receipts
from consortia.engines.vectorized.participants import Place, Trainer, open_place, usable
from consortia.terms.scopes import State
from privacy.errors import BudgetExhaustedError

log = logging.getLogger("consortia.participant")

#: Each thread holds the activations of its chunk.
MOST: Final = 8


class CrowdCoordinator(Coordinator):
    """One run of a scenario whose participants train together (see `consortia.coordinator.rounds.Coordinator`).

    It trains on as many cores as torch may use (`torch.set_num_threads`), `MOST` at most. Torch itself gets one thread:
    a chunk's products are too small for more.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job.scenario, job.run_id, job.folder, lambda *_: [])
        self.job = job
        self.places: dict[str, Place] = {}
        stepped = self.contract.noisy_sums is None
        workers = min(torch.get_num_threads(), MOST)
        self.trainers = {
            name: Trainer(self.contract, name, workers)
            for name in {participant.industry for participant in job.scenario.roster if stepped}
        }
        torch.set_num_threads(1)

    def open(self) -> None:
        """Check every participant's policy. One that refuses or fails is left out with its code; its own log has the
        reason."""
        for participant in self.scenario.roster:
            try:
                place = self.places[participant.name] = open_place(self.job, participant)
                self.participants[participant.name].header = place.header
            except RefusedError as error:
                log.warning("%s: refused: %s", participant.name, error)
                self._out(participant.name, error.code)
            except Exception as error:  # noqa: BLE001 - whatever its rows or its source made of it
                log.error("%s: %s", participant.name, describe(error))
                self.desk.fail(participant.name, 1, 1, "PARTICIPANT_ERROR")

    def _out(self, name: str, code: str, number: int = 1) -> None:
        self.participants[name].state = "RECEIVE_ONLY" if code == "BUDGET_EXHAUSTED" else "REFUSED"
        self.desk.fail(name, number, 1, code)

    def _keep(self, state: Checkpoint) -> None:
        self.history = list(state.history)  # a simulation cannot be resumed

    def _ask(
        self,
        kind: str,
        number: int,
        sent: Mapping[str, State],
        control: Mapping[str, State] = MappingProxyType({}),
        quorum: int | None = None,
    ) -> dict[str, State]:
        """Train or evaluate the named participants together, instead of sending messages."""
        places = [self.places[name] for name in sent if name in self.places]
        if kind == "evaluate":
            receipts.write(self.job, places, sent, control)
            return {}
        accepted: dict[str, State] = {}
        if self.contract.noisy_sums is not None:
            for place in places:
                name = place.participant.name
                try:
                    accepted[name] = blocks.released(self.contract, place, number, sent[name])
                    self.participants[name].rounds_contributed += 1
                except BudgetExhaustedError:
                    self._out(name, "BUDGET_EXHAUSTED", number)
                except Exception as error:  # noqa: BLE001 - whatever its rows made of it, the others go on
                    log.error("%s: %s", name, describe(error))
                    self.desk.fail(name, number, 1, "PARTICIPANT_ERROR")
        for industry, trainer in self.trainers.items():
            asked = [place for place in places if place.participant.industry == industry]
            if charged := [place for place in asked if self._charge(place, number)]:
                accepted |= self._together(trainer, charged, sent[charged[0].participant.name], control, number)
        if quorum is None and len(accepted) < self.quorum:
            raise RunFailedError(
                f"round {number}: wanted replies of at least {self.quorum} participants, got {len(accepted)}"
            )
        return accepted

    def _together(
        self, trainer: Trainer, places: Sequence[Place], start: State, control: Mapping[str, State], number: int
    ) -> dict[str, State]:
        accepted: dict[str, State] = {}
        for chunk, update in trainer.chunks(places, start, control, number):
            good = usable(update).tolist()
            parts = {name: tensor.unbind() for name, tensor in update.items()}
            for at, (place, fine) in enumerate(zip(chunk, good, strict=True)):
                name = place.participant.name
                if fine:
                    accepted[name] = {parameter: tensors[at] for parameter, tensors in parts.items()}
                    self.participants[name].rounds_contributed += 1
                else:
                    self.desk.fail(name, number, 1, "BAD_REPLY", "numbers too large or not finite")
        return accepted

    def _charge(self, place: Place, number: int) -> bool:
        try:
            place.account.charge(number)
        except BudgetExhaustedError:
            self._out(place.participant.name, "BUDGET_EXHAUSTED", number)
            return False
        return True


def run(job: Job) -> None:
    """Run a job (see `consortia.engines.base.Engine`)."""
    threads = torch.get_num_threads()
    try:
        coordinator = CrowdCoordinator(job)
        coordinator.open()
        coordinator.run()
    finally:
        torch.set_num_threads(threads)
