"""A scenario: one strict TOML file with a contract (what everyone agrees to) and a roster (who takes part).

The contract alone is hashed (SHA-256 of its canonical JSON), so that one more participant changes
nobody's agreement. An override from the command line makes another contract with its own hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from clients.registry import names as client_names
from consortia.common.errors import InputError
from consortia.common.strict import StrictModel, check_schema, listed, parse, parse_toml, read_toml, shown
from consortia.terms.asynchronous import check_participations
from consortia.terms.compression import CompressionTerms
from consortia.terms.evaluation import EvaluationTerms, StoppingTerms
from consortia.terms.many_participants import with_crowds
from consortia.terms.model import Model, PretrainedFile, Scopes, check_private_steps
from consortia.terms.secure_sum import SecureTerms, check_terms
from consortia.terms.strategy import StrategyTerms
from consortia.terms.trusted_coordinator import CentralTerms, check_central, overridden
from consortia.terms.trusted_coordinator import check_seats as check_central_seats
from consortia.terms.vertical import VerticalTerms, check_mode, check_seats
from strategies.base import LocalHalf

WIRE_VERSION = 1
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
Industry = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,40}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, le=1)]


class IndustryTerms(StrictModel):
    """How one industry trains: the model and the public constants of its DP-SGD.

    `sampling_rate` is the Poisson rate q per privacy unit, `clip` the norm bound C of one unit's summed
    gradient, `local_steps` the optimizer steps a round. The first `private_steps` of them move the private parameters
    alone, the others the shared ones alone (FedRep); with 0 every step moves all (FedPer).
    """

    model: Model = Model()
    local_steps: Annotated[int, Field(ge=1, le=10_000)]
    private_steps: Annotated[int, Field(ge=0, le=10_000, exclude_if=lambda steps: steps == 0)] = 0
    sampling_rate: Rate
    clip: Positive
    learning_rate: Positive
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    filter: str = ""
    split: str = "hash"
    init: PretrainedFile | None = None

    @property
    def shared_steps(self) -> int:
        """How many steps a round move what is shared."""
        return self.local_steps - self.private_steps


class Split(StrictModel):
    """Shares of the units by keyed hash: training, validation (choices at home), test (the receipt)."""

    train: Rate = 0.6
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        if not math.isclose(self.train + self.validation + self.test, 1.0, abs_tol=1e-9):
            raise ValueError("train + validation + test = 1")
        return self


class RoundTerms(StrictModel):
    """Bounds of one round: replies needed (share of the roster), seconds to wait, tries."""

    quorum: Rate = 0.5
    deadline_seconds: Positive = 300.0
    attempts: Annotated[int, Field(ge=1, le=10)] = 3


class Contract(StrictModel):
    """What every participant agrees to. Hashed; sent whole; trained from.

    `rounds` are the steps of the shared parameters; `max_participations` is how often one participant trains at most,
    where that is not once a round.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    wire: int
    mode: Literal["horizontal", "vertical"] = "horizontal"
    rounds: Annotated[int, Field(ge=1, le=100_000)]
    max_participations: Annotated[int, Field(ge=1, le=100_000)] | None = None
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    releases: tuple[Literal["update", "metrics", "size", "intersection", "labels", "scores"], ...] = ("update",)
    strategy: StrategyTerms = StrategyTerms()
    scopes: Scopes = Scopes()
    split: Split = Split()
    evaluation: EvaluationTerms = EvaluationTerms()
    stopping: StoppingTerms | None = None
    trust: Literal["local", "aggregate", "coordinator"] = "local"
    secure: SecureTerms | None = None
    central: CentralTerms | None = None
    compression: CompressionTerms | None = None
    round: RoundTerms = RoundTerms()
    industries: dict[Industry, IndustryTerms] = Field(default_factory=dict)
    vertical: VerticalTerms | None = None

    @model_validator(mode="after")
    def _terms_fit(self) -> Contract:
        if self.wire != WIRE_VERSION:
            raise ValueError(f"wire = {WIRE_VERSION} (what this version speaks)")
        if check_mode(self.mode, self.vertical, self.rounds, self.industries, self.releases):
            return self
        if "update" not in self.releases:
            raise ValueError("releases that include 'update'")
        if self.stopping is not None and not self.evaluation.every:
            raise ValueError(
                "evaluation.metrics 'dp' or 'exact' and evaluation.every >= 1 with stopping, which reads released "
                "metrics only"
            )
        strategy = self.strategy.strategy()
        if strategy.fit.gradient and any(t.local_steps != 1 for t in self.industries.values()):
            raise ValueError("local_steps = 1 in every industry, since FedSGD sends one gradient a round")
        if strategy.fit.loss and "metrics" not in self.releases:
            raise ValueError(f"releases that include 'metrics', since {self.strategy.name} needs a training loss")
        if ("metrics" in self.releases) != (strategy.fit.loss or self.evaluation.metrics != "none"):
            raise ValueError(
                "'metrics' in releases exactly where evaluation.metrics is 'dp' or 'exact' or the strategy needs a loss"
            )
        if ("size" in self.releases) != (self.strategy.weighting == "noised"):
            raise ValueError("'size' in releases exactly where strategy.weighting is 'noised'")
        if isinstance(strategy, LocalHalf):
            for terms in self.industries.values():
                strategy.fits_learning_rate(terms.learning_rate)
        check_terms(self, strategy)
        check_central(self, strategy)
        check_private_steps(self.scopes, {n: (t.local_steps, t.private_steps) for n, t in self.industries.items()})
        check_participations(self, strategy)
        return self

    @property
    def participations(self) -> int:
        """How often one participant trains at most: the noise is solved for that many, whoever takes part."""
        return self.max_participations or self.rounds

    @property
    def secure_terms(self) -> SecureTerms:
        """The terms of secure sums, as written or by default."""
        return self.secure or SecureTerms()

    @cached_property
    def _texts(self) -> tuple[str, str]:
        # Asked for several times a message; a contract is frozen, so once is enough.
        # Older contracts keep their hash.
        later = {"trust"} if self.trust == "local" else set()
        later |= set() if self.trust == "aggregate" else {"secure"}
        later |= set() if self.central else {"central"}
        later |= set() if self.compression else {"compression"}
        later |= set() if self.vertical else {"vertical"}
        later |= set() if self.max_participations else {"max_participations"}
        text = json.dumps(
            self.model_dump(mode="json", by_alias=True, exclude=later), sort_keys=True, separators=(",", ":")
        )
        return text, hashlib.sha256(text.encode()).hexdigest()

    def canonical(self) -> str:
        """Return the canonical JSON that is hashed and sent."""
        return self._texts[0]

    def sha256(self) -> str:
        """Return the hex SHA-256 of the canonical JSON."""
        return self._texts[1]


@lru_cache(maxsize=64)
def contract_from_json(text: str) -> Contract:
    """Parse a contract that came over the wire; cached, since the same one comes every round."""
    data = json.loads(text)
    check_schema(data, "contract")
    return parse(Contract, data, "contract")


class Seat(StrictModel):
    """One line of the roster: a participant and what the coordinator proposes to it.

    `units` is a declared, public size of the data set; `epsilon` may be `inf` (non-private).
    """

    name: Name
    industry: Industry
    dataset: Name
    site: str
    units: Annotated[int, Field(ge=1)]
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    @property
    def non_private(self) -> bool:
        """Whether the proposal is epsilon = infinity."""
        return math.isinf(self.epsilon)

    @model_validator(mode="after")
    def _delta_fits_units(self) -> Seat:
        if not self.non_private and self.delta >= 1 / self.units:
            raise ValueError(f"delta < 1/units = {1 / self.units:.3g} (a larger delta allows publishing whole rows)")
        return self


class Expectation(StrictModel):
    """What a run of the scenario must reach; otherwise it exits 1."""

    metric: str = ""
    mean_at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    parameters: dict[str, float] = Field(default_factory=dict)
    tolerance: Positive = 0.05


class Scenario(StrictModel):
    """A contract, a roster, and what the run is expected to reach."""

    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    name: Name
    title: str
    contract: Contract
    roster: Annotated[tuple[Seat, ...], Field(min_length=1)]
    expect: Expectation = Expectation()

    @field_validator("roster")
    @classmethod
    def _names_are_unique(cls, roster: tuple[Seat, ...]) -> tuple[Seat, ...]:
        names = Counter(seat.name for seat in roster)
        if twice := sorted(name for name, times in names.items() if times > 1):
            raise ValueError(f"every name once ({listed(twice)} stands twice)")
        return roster

    @model_validator(mode="after")
    def _industries_are_known(self) -> Scenario:
        if self.contract.vertical is not None:
            check_seats(self.contract.vertical, {seat.name: seat.industry for seat in self.roster})
            return self
        check_central_seats(self.contract, {seat.name: seat.non_private for seat in self.roster})
        known = client_names()
        for seat in self.roster:
            if seat.industry not in known:
                got = shown(seat.industry)
                raise ValueError(f"an installed industry for {seat.name} ({', '.join(known)}), not {got}")
            if seat.industry not in self.contract.industries:
                raise ValueError(f"terms for {seat.name} at contract.industries.{seat.industry}")
        return self

    def seat(self, name: str) -> Seat:
        """Return the roster line of `name`; KeyError when nobody has it."""
        for seat in self.roster:
            if seat.name == name:
                return seat
        raise KeyError(name)

    def with_overrides(
        self,
        *,
        rounds: int | None = None,
        seed: int | None = None,
        epsilon: Iterable[str] = (),
        compressed: bool = True,
    ) -> Scenario:
        """Return the effective scenario under command-line overrides.

        Parameters
        ----------
        rounds, seed : int, optional
            Replace the contract's (so it gets its own hash).
        epsilon : iterable of str
            `X` for everyone or `NAME=X` for one participant; `inf` is non-private.
        compressed : bool
            False takes `[contract.compression]` away.
        """
        data = self.model_dump(mode="python", by_alias=True)
        if rounds is not None:
            data["contract"]["rounds"] = rounds
        if seed is not None:
            data["contract"]["seed"] = seed
        if not compressed:
            data["contract"]["compression"] = None
        seats = {seat["name"]: seat for seat in data["roster"]}
        epsilon = tuple(epsilon)
        for item in epsilon:
            name, _, value = item.rpartition("=")
            if "=" in item and name not in seats:
                raise InputError(
                    f"--epsilon {item}: wanted a participant of {self.name} ({listed(seats)}), got {shown(name)}"
                )
            if self.contract.vertical is not None and name in self.contract.vertical.partners:
                raise InputError(
                    f"--epsilon {item}: wanted the label owner {self.contract.vertical.label_owner}, got a partner; "
                    "its scores have an ε by contract.vertical.score_epsilon and contract.vertical.model_privacy alone"
                )
            number = _positive(value, f"--epsilon {item}")
            if self.contract.central is not None:
                data["contract"]["central"] |= overridden(name, number)
                continue
            for seat in [seats[name]] if name else seats.values():
                seat["epsilon"] = number
        changed = rounds is not None or bool(epsilon)
        return settled(parse(Scenario, data, f"{self.name} with overrides"), anew=changed)

    def to_json(self) -> str:
        """Return JSON that `scenario_from_json` reads back to an equal scenario."""
        data = self.model_dump(mode="python", by_alias=True)
        return json.dumps(data, sort_keys=True)


def scenario_from_json(text: str) -> Scenario:
    """Parse what `Scenario.to_json` wrote."""
    try:
        data = json.loads(text)
    except ValueError:
        raise InputError("scenario.json of the run: wanted JSON, got something else; put a whole copy back") from None
    return parse(Scenario, data, "scenario")


def _positive(value: str, where: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not number > 0:
        raise InputError(f"{where}: wanted a number > 0 or 'inf' (non-private), got {shown(value)}")
    return number


def scenario_folder() -> Path:
    """Return the folder of the committed scenarios: in a wheel inside the package, else in the repository."""
    package = Path(str(resources.files("consortia"))).resolve()
    packaged = package / "_scenarios"
    return packaged if packaged.is_dir() else package.parents[1] / "scenarios"


def committed_scenarios() -> tuple[str, ...]:
    """Return the names of the scenarios that come with the platform."""
    return tuple(sorted(path.stem for path in scenario_folder().glob("*.toml")))


def find_scenario(name: str) -> Path:
    """Return the file of a scenario given by name or by path."""
    path = Path(name)
    if path.suffix == ".toml" or os.sep in name:
        if not path.is_file():
            raise InputError(f"scenario {name}: wanted a TOML file, got nothing there; check the path")
        return path
    local = Path("scenarios") / f"{name}.toml"
    for candidate in (local, scenario_folder() / f"{name}.toml"):
        if candidate.is_file():
            return candidate
    raise InputError(
        f"scenario {name!r}: wanted a path or one of {', '.join(committed_scenarios())}; check the spelling"
    )


def load_scenario(name: str) -> Scenario:
    """Load a scenario by name (committed ones) or path."""
    path = find_scenario(name)
    return _build(read_toml(path), str(path))


def scenario_from_toml(text: str, where: str = "scenario") -> Scenario:
    """Parse TOML text."""
    return _build(parse_toml(text, where), where)


def _build(data: dict[str, Any], where: str) -> Scenario:
    check_schema(data, where)
    contract = data.get("contract")
    if isinstance(contract, dict):
        check_schema(contract, f"{where}: contract")
    return settled(parse(Scenario, with_crowds(data, where), where))


def settled(scenario: Scenario, *, anew: bool = False) -> Scenario:
    """Return the scenario with the numbers of its secure sums in place (see `consortia.terms.settle`)."""
    if scenario.contract.trust != "aggregate":
        return scenario
    from consortia.terms.settle import settle

    return settle(scenario, anew=anew)
