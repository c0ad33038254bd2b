"""The coordinator's loop: send, wait up to a deadline, validate, aggregate, checkpoint, record.

It trusts no reply (invariant 12). Names, shapes, dtypes, finiteness, declared noise and the round are checked. A reply
that fails a check is dropped and recorded with the participant's name. One bad reply never ends a run. All waits are
bounded (invariant 13): a round has a deadline and a number of attempts, and a run always ends with a status.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from consortia.common import disk
from consortia.common.disk import write_json
from consortia.common.errors import RunFailedError, RunRefusedError
from consortia.coordinator import clusters, readiness, statistics, sums, updates
from consortia.coordinator.aggregation import aggregate, controls, running_mean, turns
from consortia.coordinator.asynchronous import AsynchronousLoop
from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from consortia.coordinator.mailbox import Correspondence
from consortia.coordinator.participant_view import recall, sizes_of
from consortia.coordinator.secure_sum.rounds import SecureRounds
from consortia.coordinator.stopping import stopped, watched
from consortia.coordinator.trusted_rounds import CentralRounds
from consortia.messages.exchange import Answer, Exchange
from consortia.messages.reply import FINAL as _FINAL
from consortia.terms.contract import last_number
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State, initial_groups
from consortia.trust.trusted_coordinator import account
from strategies.base import Asynchronous, Strategy

__all__ = ["Answer", "Coordinator", "Exchange"]

#: Result of a round: the next groups, the strategy's memory, who replied, and the groups that kept their model.
Played = tuple[dict[str, State], dict[str, State], list[str], list[str]]


class Coordinator:
    """One run of one scenario.

    If industries have their own training terms, each industry is a part with its own strategy, quorum and sums. A round
    of the run is one round of every unfinished part. The event file, the checkpoint and the record hold all parts.

    Parameters
    ----------
    scenario : Scenario
        The effective scenario.
    run_id : str
    folder : Path
        Folder of checkpoints, events and the record.
    exchange : Exchange
        The transport. It is the only difference between the engines.
    heads : Path, optional
        File of the ledgers' heads across runs.
    desk : Correspondence, optional
        The mailbox of the whole run, if this is one part of it.
    """

    def __init__(
        self,
        scenario: Scenario,
        run_id: str,
        folder: Path,
        exchange: Exchange,
        heads: Path | None = None,
        desk: Correspondence | None = None,
    ) -> None:
        self.scenario = scenario
        self.contract = scenario.contract
        self.run_id = run_id
        self.folder = folder
        self.desk = Correspondence(scenario, run_id, folder, exchange, heads) if desk is None else desk
        self.participants = {
            participant.name: self.desk.participants[participant.name] for participant in scenario.roster
        }
        self.strategy = scenario.contract.strategy.strategy()
        self.quorum = scenario.quorum
        self.history: list[dict[str, Any]] = []
        self.heads = self.desk.heads
        plays = {"local": self._open_round, "aggregate": self._summed_round, "coordinator": self._trusted_round}
        self._play = plays[self.contract.trust]
        if self.contract.noisy_sums is not None and self.contract.trust == "local":
            self._play = self._noisy_sums
        #: The industry of a part of a run; empty for a whole run.
        self._industry = "" if desk is None else next(iter(self.contract.industries))
        self._parts = [self]
        if self.contract.by_industry:
            self._parts = [Coordinator(one, run_id, folder, exchange, desk=self.desk) for one in scenario.parts()]

    def ask_who_can(self, *, resume: bool = False) -> None:
        """Ask every participant before the first round whether it can take part (`consortia.coordinator.readiness`).

        Raises
        ------
        RunRefusedError
            The run cannot succeed. The record says so, and nobody was charged.
        """
        record = self.folder / "coordinator.json"
        if resume and not (record.is_file() and json.loads(record.read_text(encoding="utf-8")).get("refused")):
            return  # a resumed run: something may have been charged
        if self.contract.trust == "coordinator":
            return  # a round asks a few of many participants, and only the coordinator's account is charged
        started = time.perf_counter()
        groups = initial_groups(self.contract, [participant.industry for participant in self.scenario.roster])
        try:
            readiness.ask(self.desk, groups)
        except RunRefusedError as error:
            self._finish("failed", "\n".join(error.problems), 0, started, refused=True)
            raise

    def run(self, *, resume: bool = False) -> dict[str, Any]:
        """Run every round and the final evaluation. Write and return the record.

        Raises
        ------
        RunFailedError
            A round missed its quorum in every attempt. The record and the last checkpoint stay.
        """
        started = time.perf_counter()
        # A further release of a growing run begins with a checkpoint (`consortia.engines.top_up`).
        further = self.contract.built_on is not None
        state = load_latest(self.folder) if resume or further else None
        if further and state is None:
            raise RunFailedError("a further release: wanted the checkpoint of the run that it builds on, got none")
        if state is None:
            groups = initial_groups(self.contract, [participant.industry for participant in self.scenario.roster])
            state = Checkpoint(0, groups, {}, {}, [])
        self.history = list(state.history)
        self.heads.learn(state.heads)
        recall(self.participants, self.history)
        self.desk.tell_rounds(self.history)
        rounds = self.scenario.rounds
        self.desk.event("start", rounds=rounds, done=state.round)
        try:
            for part in self._parts:
                if part.contract.trust == "aggregate":
                    part._sums.enrol()
            if isinstance(self.strategy, Asynchronous):
                loop = AsynchronousLoop(self.desk, self.strategy, self.quorum)
                for changed in loop.steps(state):
                    state = changed
                    self._keep(state)
            else:
                while state.round < rounds and not stopped(self.contract.stopping, self.history):
                    state = self._round(state)
                    self._keep(state)
            if self.contract.statistics is None:
                final = [clusters.final_models(*part._models(state)) for part in self._parts]
                save(self.folder, state, final={name: model for models in final for name, model in models.items()})
            else:
                with disk.kept(self.folder):
                    write_json(self.folder / "statistics.json", statistics.found(self.scenario, state.memory))
            for part in self._parts:
                part._evaluate(clusters.models(*part._models(state)), state)
        except RunFailedError as error:
            self._finish("failed", str(error), state.round, started)
            raise
        return self._finish("completed", "", state.round, started)

    def _keep(self, state: Checkpoint) -> None:
        self.history = list(state.history)
        save(self.folder, state)
        self.desk.tell_rounds(self.history)
        self.heads.save()

    def _round(self, state: Checkpoint) -> Checkpoint:
        number = state.round + 1
        started = time.perf_counter()
        groups, memory, mean = dict(state.groups), dict(state.memory), dict(state.average)
        accepted: list[str] = []
        kept: list[str] = []
        clustered: dict[str, dict[str, int]] = {}
        for part in self._parts:
            if number > part.contract.rounds:
                continue
            own = part._own(state)
            made, remembered, replied, unchanged = part._play(own, number)
            groups = {**_without(groups, own.groups), **made}
            memory = {**_without(memory, own.memory), **remembered}
            mean = {**_without(mean, own.average), **running_mean(part.contract, own.average, number, made)}
            accepted += replied
            kept += unchanged
            clustered |= clusters.membership(part.scenario, part.strategy, made, remembered)
        line = {
            "round": number,
            "seconds": time.perf_counter() - started,
            "replies": sorted(accepted),
            "too_few_replies": kept,
            "failures": [
                {"participant": name, **failure}
                for name, view in self.participants.items()
                for failure in view.failures
                if failure["round"] == number
            ],
        }
        between = {name: m.released[number] for name, m in self.participants.items() if number in m.released}
        if between:
            line["released"] = {name: received.to_json() for name, received in between.items()}
            if self.contract.stopping is not None:
                line["watched"] = watched(self.contract.stopping, between.values())
        if clustered:
            line["clusters"] = clustered
        if sizes := sizes_of(self.participants):
            line["sizes"] = sizes
        self.history.append(line)
        return Checkpoint(number, groups, memory, mean, self.history, dict(self.heads.known))

    def _own(self, state: Checkpoint) -> Checkpoint:
        """Return a checkpoint without the state of the other parts of the run."""
        if not self._industry:
            return state
        name = self._industry
        groups, memory, average = (
            {name: by_group[name]} if name in by_group else {}
            for by_group in (state.groups, state.memory, state.average)
        )
        return replace(state, groups=groups, memory=memory, average=average)

    def _models(self, state: Checkpoint) -> tuple[Scenario, Strategy, dict[str, State], dict[str, State]]:
        own = self._own(state)
        return self.scenario, self.strategy, self._final_model(own), own.memory

    @cached_property
    def _sums(self) -> SecureRounds:
        return SecureRounds(self.scenario, self.desk, self._industry)

    def _summed_round(self, state: Checkpoint, number: int) -> Played:
        """Run a round of which the coordinator sees only a sum."""
        return *self._sums.round(self.strategy, state, number), []

    def _trusted_round(self, state: Checkpoint, number: int) -> Played:
        """Run a round with the participants that the coordinator draws. The coordinator adds the noise."""

        def ask(sent: Mapping[str, State]) -> dict[str, State]:
            open_ = {name: model for name, model in sent.items() if self.participants[name].state not in _FINAL}
            return self._ask("train", number, open_, quorum=len(open_))

        return *CentralRounds(self.scenario, self.run_id).round(self.strategy, state, ask), []

    def _noisy_sums(self, state: Checkpoint, number: int) -> Played:
        """Run a message of noisy sums. Each participant adds its own noise."""
        open_ = {name: view for name, view in self.participants.items() if view.state not in _FINAL}
        return sums.local_round(self.scenario, open_, state, number, lambda sent: self._ask("train", number, sent))

    def _open_round(self, state: Checkpoint, number: int) -> Played:
        """Run a round in which the coordinator sees each update."""
        models = clusters.models(self.scenario, self.strategy, state.groups, state.memory)
        sent = {name: models[name] for name, view in self.participants.items() if view.state not in _FINAL}
        accepted = self._train(number, sent, controls(self.scenario, self.strategy, state))
        declared = {name: float(self.participants[name].header["noise_multiplier"]) for name in accepted}
        sizes = sizes_of(self.participants)
        if self.contract.keeps_updates:
            updates.keep(self.folder, self.scenario, number, sent, accepted, declared, sizes)
        groups, memory, kept = aggregate(self.scenario, self.strategy, state, accepted, declared, sizes)
        return groups, memory, list(accepted), kept

    def _train(self, number: int, sent: Mapping[str, State], control: Mapping[str, State]) -> dict[str, State]:
        """Ask everybody, or those whose turn it is and then the next ones. Return validated replies by name."""
        tours = turns(self.scenario, self.strategy, number, sent)
        if not tours:
            return self._ask("train", number, sent, control)
        accepted: dict[str, State] = {}
        while tours and not accepted.keys() >= {tour[0] for tour in tours}:
            asked = {tour[0]: sent[tour[0]] for tour in tours if tour[0] not in accepted}
            accepted |= self._ask("train", number, asked, control, quorum=len(asked))
            tours = [tour if tour[0] in accepted else tour[1:] for tour in tours]
            tours = [tour for tour in tours if tour]
        if not accepted:
            raise RunFailedError(f"round {number}: wanted a reply of one participant, got none of anybody")
        return accepted

    def _ask(
        self,
        kind: str,
        number: int,
        sent: Mapping[str, State],
        control: Mapping[str, State] = MappingProxyType({}),
        quorum: int | None = None,
    ) -> dict[str, State]:
        """Send, validate, and repeat until the quorum answered. Return validated replies by name.

        If the caller passes a `quorum`, it also handles a round that misses it.
        """
        accepted: dict[str, State] = {}
        wanted = self.quorum if quorum is None else quorum

        def open_names() -> list[str]:
            return [n for n in sent if n not in accepted and self.participants[n].state not in _FINAL]

        for attempt, names in self.desk.attempts(open_names):
            envelopes = {n: self.desk.envelope(kind, number, n, sent[n], control.get(n, {})) for n in names}
            for answer in self.desk.post(kind, number, attempt, envelopes):
                name = answer.participant
                if (reply := self.desk.accept(answer, kind, number, attempt, sent[name])) is not None:
                    accepted[name] = reply
            if len(accepted) >= wanted:
                break
        if kind == "train" and quorum is None and len(accepted) < wanted:
            reasons = self.desk.last_codes(self.participants)
            raise RunFailedError(
                f"round {number}: wanted replies of at least {self.quorum} participants, got {len(accepted)} "
                f"after {self.contract.round.attempts} attempts ({', '.join(reasons) or 'nobody left to ask'})"
            )
        return accepted

    def _final_model(self, state: Checkpoint) -> dict[str, State]:
        return state.average or state.groups  # a run that stopped early may have averaged nothing

    def _evaluate(self, models: Mapping[str, State], state: Checkpoint) -> None:
        number = last_number(self.contract) + 1
        for view in self.participants.values():
            if view.state == "RECEIVE_ONLY":
                view.state = "ACTIVE"  # it receives the model; it can only answer with the same code again
        sent = {name: models[name] for name, view in self.participants.items() if view.state != "REFUSED"}
        besides = {"sums": sums.beside, "statistics": statistics.beside}
        told = besides.get(self.contract.learner)
        self._ask("evaluate", number, sent, {} if told is None else told(self.scenario, state.memory))

    def _finish(
        self, status: str, reason: str, rounds: int, started: float, *, refused: bool = False
    ) -> dict[str, Any]:
        extra: dict[str, Any] = {"refused": True} if refused else {}
        if self.contract.trust == "coordinator":
            extra |= {"central": account(self.contract, rounds)}
        return self.desk.finish(status, reason, rounds, started, self.history, extra)


def _without(named: Mapping[str, State], names: Collection[str]) -> dict[str, State]:
    return {name: state for name, state in named.items() if name not in names}
