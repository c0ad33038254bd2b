"""Settings of an audit: its subject, and the size of its probes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from consortia.audit.probe import Bench, altered
from consortia.audit.rows import Pool
from consortia.terms.contract import Contract
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario

Noise = Literal["secure", "float"]

#: A participant without a budget claims nothing; its training path is audited at this one.
STAND_IN_EPSILON = 1.0


@dataclass
class Audit:
    """One audit of one scenario.

    Probes train by gradient descent at one rate, whatever the contract's `optimizer` and `schedule`: what is audited
    is the noisy gradient that those get, and only of a linear step can it be taken back out of a release. What an
    adaptive optimizer saw is looked at apart (`consortia.audit.adaptive`).

    Attributes
    ----------
    quick : bool
        Smaller probes: less power against small mistakes, the same chance of a false alarm.
    whole : Contract, optional
        The contract as it crosses, where `scenario` is one industry with terms of its own.
    fail_fast : bool
        Whether one violation is enough: the neighbour game stops at its first lost game.
    random : numpy Generator
        The audit's own coins, fresh each time.
    """

    scenario: Scenario
    folder: Path
    quick: bool = False
    fail_fast: bool = False
    whole: Contract | None = None
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    _pools: dict[tuple[str, str], Pool] = field(default_factory=dict)
    _benches: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        terms = self.scenario.contract.industries
        #: By industry, the name of the optimizer of steps that adapt.
        self.adaptive = {name: one.optimizer.name for name, one in terms.items() if one.adaptive and one.optimizer}
        self.scenario = with_plain_steps(self.scenario)
        self.split_seed = int(self.random.integers(2**31))

    @property
    def contract(self) -> Contract:
        """The scenario's contract."""
        return self.scenario.contract

    def participants(self) -> Iterator[RosterParticipant]:
        """Every participant."""
        yield from self.scenario.roster

    def one_per_industry(self) -> Iterator[RosterParticipant]:
        """The first participant of each industry: the others run the same code on the same terms."""
        seen = set()
        for participant in self.scenario.roster:
            if participant.industry not in seen:
                seen.add(participant.industry)
                yield participant

    def epsilon(self, participant: RosterParticipant) -> float:
        """The claim to audit."""
        return STAND_IN_EPSILON if math.isinf(participant.epsilon) else participant.epsilon

    def bench(self, participant: RosterParticipant, **changes: object) -> Bench:
        """Return a fresh participant like `participant`."""
        self._benches += 1
        values: dict[str, object] = {
            "folder": self.folder / f"home-{self._benches}",
            "name": participant.name,
            "industry": participant.industry,
            "dataset": participant.dataset,
            "site": participant.site,
            "declared_units": participant.units,
            "epsilon": self.epsilon(participant),
            "delta": participant.delta,
            "split_seed": self.split_seed,
            **changes,
        }
        return Bench(**values)  # type: ignore[arg-type]

    def noise_of(self, participant: RosterParticipant, first: bool) -> Noise:
        """Return the kind of noise of one of two probes: both kinds are met, in turn over participants."""
        turn = [other.name for other in self.scenario.roster].index(participant.name)
        return "secure" if first == (turn % 2 == 0) else "float"

    def pool(self, participant: RosterParticipant) -> Pool:
        """Return rows for `participant`."""
        key = (participant.industry, participant.site)
        if key not in self._pools:
            bench = self.bench(participant)
            contract = altered(self.contract, participant.industry)
            self._pools[key] = Pool(
                *key, contract, bench.home.split_key(), self.folder / "rows" / participant.name, self.split_seed
            )
        return self._pools[key]

    @staticmethod
    def probe_delta(participant: RosterParticipant) -> float:
        """Return a delta so small that hundreds of probe runs of one data set fit below 1/units."""
        return min(1e-7, 1e-3 / participant.units)

    def models(self) -> dict[str, dict[str, object]]:
        """Changes of the contract by which a probe takes the scenario's own model, and one with a private head."""
        return {
            "own model": {},
            "private head": {
                "model": {"kind": "mlp", "hidden": [6, 4]},
                "scopes": {"encoder": "industry", "trunk": "industry", "head": "private"},
            },
        }


def with_plain_steps(scenario: Scenario) -> Scenario:
    """Return the scenario with gradient descent at one rate in every industry."""
    plain = {
        name: terms.model_copy(update={"optimizer": None, "schedule": None})
        for name, terms in scenario.contract.industries.items()
    }
    if plain == scenario.contract.industries:
        return scenario
    contract = scenario.contract.model_copy(update={"industries": plain})
    return scenario.model_copy(update={"contract": Contract.model_validate(contract.model_dump(by_alias=True))})
