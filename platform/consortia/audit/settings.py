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
from consortia.terms.roster import Seat
from consortia.terms.scenario import Scenario

Noise = Literal["secure", "float"]

#: A seat without a budget claims nothing; its training path is audited at this one.
STAND_IN_EPSILON = 1.0


@dataclass
class Audit:
    """One audit of one scenario.

    Probes train by gradient descent at one rate, whatever the contract's `optimizer` and `schedule`: what is audited
    is the noisy gradient that those get, and only of a linear step can it be taken back out of a release.

    Attributes
    ----------
    quick : bool
        Smaller probes: less power against small mistakes, the same chance of a false alarm.
    fail_fast : bool
        Whether one violation is enough: the neighbour game stops at its first lost game.
    random : numpy Generator
        The audit's own coins, fresh each time.
    """

    scenario: Scenario
    folder: Path
    quick: bool = False
    fail_fast: bool = False
    random: np.random.Generator = field(default_factory=np.random.default_rng)
    _pools: dict[tuple[str, str], Pool] = field(default_factory=dict)
    _benches: int = 0

    def __post_init__(self) -> None:
        self.scenario = with_plain_steps(self.scenario)
        self.split_seed = int(self.random.integers(2**31))

    @property
    def contract(self) -> Contract:
        """The scenario's contract."""
        return self.scenario.contract

    def seats(self) -> Iterator[Seat]:
        """Every participant."""
        yield from self.scenario.roster

    def one_per_industry(self) -> Iterator[Seat]:
        """The first participant of each industry: the others run the same code on the same terms."""
        seen = set()
        for seat in self.scenario.roster:
            if seat.industry not in seen:
                seen.add(seat.industry)
                yield seat

    def epsilon(self, seat: Seat) -> float:
        """The claim to audit."""
        return STAND_IN_EPSILON if math.isinf(seat.epsilon) else seat.epsilon

    def bench(self, seat: Seat, **changes: object) -> Bench:
        """Return a fresh participant like `seat`."""
        self._benches += 1
        values: dict[str, object] = {
            "folder": self.folder / f"home-{self._benches}",
            "name": seat.name,
            "industry": seat.industry,
            "dataset": seat.dataset,
            "site": seat.site,
            "declared_units": seat.units,
            "epsilon": self.epsilon(seat),
            "delta": seat.delta,
            "split_seed": self.split_seed,
            **changes,
        }
        return Bench(**values)  # type: ignore[arg-type]

    def noise_of(self, seat: Seat, first: bool) -> Noise:
        """Return the kind of noise of one of two probes: both kinds are met, in turn over participants."""
        turn = [other.name for other in self.scenario.roster].index(seat.name)
        return "secure" if first == (turn % 2 == 0) else "float"

    def pool(self, seat: Seat) -> Pool:
        """Return rows for `seat`."""
        key = (seat.industry, seat.site)
        if key not in self._pools:
            bench = self.bench(seat)
            contract = altered(self.contract, seat.industry)
            self._pools[key] = Pool(
                *key, contract, bench.home.split_key(), self.folder / "rows" / seat.name, self.split_seed
            )
        return self._pools[key]

    @staticmethod
    def probe_delta(seat: Seat) -> float:
        """Return a delta so small that hundreds of probe runs of one data set fit below 1/units."""
        return min(1e-7, 1e-3 / seat.units)

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
