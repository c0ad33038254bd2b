"""The coordinator of a vectorised simulation: the loop of every engine, with batches in the place of messages."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from clients.errors import ClientError
from consortia.checkpoint import Checkpoint
from consortia.coordinator import Coordinator
from consortia.engines.base import Job
from consortia.errors import RefusedError, RunFailedError
from consortia.exchange import State
from consortia.vectorized import receipts
from consortia.vectorized.crowd import Place, Trainer, open_place, usable
from privacy.errors import BudgetExhaustedError, PlanError


class CrowdCoordinator(Coordinator):
    """One run of a scenario whose participants train together (see `consortia.coordinator.Coordinator`)."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.scenario, job.run_id, job.folder, lambda *_: [])
        self.job = job
        self.places: dict[str, Place] = {}
        self.trainers = {name: Trainer(self.contract, name) for name in {seat.industry for seat in job.scenario.roster}}
        torch.set_num_threads(1)

    def open(self) -> None:
        """Ask everybody's policy; who refuses is out, with its code."""
        for seat in self.scenario.roster:
            try:
                place = self.places[seat.name] = open_place(self.job, seat)
                self.members[seat.name].header = place.header
            except RefusedError as error:
                self._out(seat.name, error.code)
            except (ClientError, PlanError):
                self.desk.fail(seat.name, 1, 1, "PARTICIPANT_ERROR")

    def _out(self, name: str, code: str, number: int = 1) -> None:
        self.members[name].state = "RECEIVE_ONLY" if code == "BUDGET_EXHAUSTED" else "REFUSED"
        self.desk.fail(name, number, 1, code)

    def _keep(self, state: Checkpoint) -> None:
        self.history = list(state.history)  # nothing goes on from the middle of a simulation

    def _train(self, number: int, sent: Mapping[str, State], control: Mapping[str, State]) -> dict[str, State]:
        accepted: dict[str, State] = {}
        for industry, trainer in self.trainers.items():
            asked = [place for name, place in self.places.items() if name in sent and place.seat.industry == industry]
            charged = [place for place in asked if self._charge(place, number)]
            if not charged:
                continue
            start = sent[charged[0].seat.name]
            for chunk, update in trainer.chunks(charged, start, control, number):
                good = usable(update).tolist()
                parts = {name: tensor.unbind() for name, tensor in update.items()}
                for place, (one, fine) in enumerate(zip(chunk, good, strict=True)):
                    if fine:
                        accepted[one.seat.name] = {name: tensors[place] for name, tensors in parts.items()}
                        self.members[one.seat.name].rounds_contributed += 1
                    else:
                        self.desk.fail(one.seat.name, number, 1, "BAD_REPLY", "numbers too large or not finite")
        if len(accepted) < self.quorum:
            raise RunFailedError(
                f"round {number}: wanted replies of at least {self.quorum} participants, got {len(accepted)}"
            )
        return accepted

    def _charge(self, place: Place, number: int) -> bool:
        try:
            place.account.charge(number)
        except BudgetExhaustedError:
            self._out(place.seat.name, "BUDGET_EXHAUSTED", number)
            return False
        return True

    def _evaluate(self, models: Mapping[str, State]) -> None:
        receipts.write(self.job, self.places, models)


def run(job: Job) -> None:
    """Run a job (see `consortia.engines.base.Engine`)."""
    coordinator = CrowdCoordinator(job)
    coordinator.open()
    coordinator.run()
