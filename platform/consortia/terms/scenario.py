"""A scenario: one strict TOML file with a contract (what everyone agrees to) and a roster (who takes part).

The contract alone is hashed (SHA-256 of its canonical JSON), so that one more participant changes
nobody's agreement. An override from the command line makes another contract with its own hash.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, field_validator, model_validator

from clients.registry import names as client_names
from consortia.common.errors import InputError
from consortia.common.strict import StrictModel, check_schema, listed, parse, parse_toml, read_toml, shown
from consortia.terms.choice import Chosen, asks
from consortia.terms.contract import Contract
from consortia.terms.contract_checks import check_non_private
from consortia.terms.contract_fields import Name, Positive
from consortia.terms.industries import with_recipes
from consortia.terms.learners import with_constants
from consortia.terms.many_participants import with_crowds
from consortia.terms.roster import RosterParticipant
from consortia.terms.trusted_coordinator import overridden
from consortia.terms.vertical import check_participants

#: Scenarios that have another name now.
_RENAMED: Final = {
    "banks-sums": "banks",
    "factories-additive": "factories",
    "secure-banks-sums": "secure-banks",
    "secure-factories-additive": "secure-factories",
}


class Expectation(StrictModel):
    """What a run of the scenario must reach; otherwise it exits 1."""

    metric: str = ""
    mean_at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    parameters: dict[str, float] = Field(default_factory=dict)
    tolerance: Positive = 0.05


class Scenario(StrictModel):
    """A contract, a roster, and what the run is expected to reach.

    `chosen` says which learners the contract left to the rule (`learner = "auto"`); the contract names them.
    """

    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    name: Name
    title: str
    contract: Contract
    roster: Annotated[tuple[RosterParticipant, ...], Field(min_length=1)]
    expect: Expectation = Expectation()
    chosen: Annotated[Chosen | None, Field(exclude_if=lambda chosen: chosen is None)] = None

    @field_validator("roster")
    @classmethod
    def _names_are_unique(cls, roster: tuple[RosterParticipant, ...]) -> tuple[RosterParticipant, ...]:
        names = Counter(participant.name for participant in roster)
        if twice := sorted(name for name, times in names.items() if times > 1):
            raise ValueError(f"every name once ({listed(twice)} stands twice)")
        return roster

    @model_validator(mode="after")
    def _industries_are_known(self) -> Scenario:
        if self.contract.vertical is not None:
            check_participants(
                self.contract.vertical, {participant.name: participant.industry for participant in self.roster}
            )
            return self
        if not self.contract.by_industry:  # those have no trusted coordinator
            check_non_private(self.contract, {participant.name: participant.non_private for participant in self.roster})
        known = client_names()
        for participant in self.roster:
            if participant.industry not in known:
                got = shown(participant.industry)
                raise ValueError(f"an installed industry for {participant.name} ({', '.join(known)}), not {got}")
            if participant.industry not in self.contract.industries:
                raise ValueError(f"terms for {participant.name} at contract.industries.{participant.industry}")
        return self

    def participant(self, name: str) -> RosterParticipant:
        """Return the roster line of `name`; KeyError when nobody has it."""
        for participant in self.roster:
            if participant.name == name:
                return participant
        raise KeyError(name)

    def parts(self) -> tuple[Scenario, ...]:
        """Return what plays rounds of its own: this scenario, or each industry where some have terms of their own."""
        if not self.contract.by_industry:
            return (self,)
        return tuple(self.of(industry) for industry in sorted({participant.industry for participant in self.roster}))

    def of(self, industry: str) -> Scenario:
        """Return the scenario of one industry, with its own training terms; itself where no industry has any."""
        if not self.contract.by_industry:
            return self
        roster = tuple(participant for participant in self.roster if participant.industry == industry)
        return self.model_copy(update={"contract": self.contract.of(industry), "roster": roster})

    @property
    def choices(self) -> list[str]:
        """Return a sentence for each industry whose learner the rule chose."""
        found = {} if self.chosen is None else self.chosen.industries
        return [f'{name}: learner "{one.learner}", chosen by the rule: {one.why}' for name, one in found.items()]

    @property
    def quorum(self) -> int:
        """How many participants must answer a round."""
        return max(1, math.ceil(self.contract.round.quorum * len(self.roster)))

    @property
    def rounds(self) -> int:
        """The rounds of the run: of the industry that plays most."""
        return max(part.contract.rounds for part in self.parts())

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
            every = (data["contract"], *data["contract"]["by_industry"].values())
            # Noisy sums have a fixed number of messages; where nothing else is learned, another one is refused below.
            for terms in [one for one in every if one["learner"] == "gradient"] or every:
                terms["rounds"] = rounds
        if seed is not None:
            data["contract"]["seed"] = seed
        if not compressed:
            for terms in (data["contract"], *data["contract"]["by_industry"].values()):
                terms["compression"] = None
        participants = {participant["name"]: participant for participant in data["roster"]}
        epsilon = tuple(epsilon)
        for item in epsilon:
            name, _, value = item.rpartition("=")
            if "=" in item and name not in participants:
                raise InputError(
                    f"--epsilon {item}: wanted a participant of {self.name} ({listed(participants)}), got {shown(name)}"
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
            for participant in [participants[name]] if name else participants.values():
                participant["epsilon"] = number
        where = f"{self.name} with overrides"
        if self.chosen is not None and self.contract.central is None and epsilon:
            # The rule reads budgets, so it chooses anew.
            del data["chosen"]
            data |= {"contract": {**self.chosen.written, "seed": self.contract.seed}, "roster": list(data["roster"])}
            anew = scenario_from_data(data, where)
            return anew.with_overrides(rounds=rounds, seed=seed, compressed=compressed)
        changed = rounds is not None or bool(epsilon)
        return settled(parse(Scenario, data, where), anew=changed)

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
            raise InputError(
                f"scenario {name}: wanted a TOML file, or a run's scenario.json, got nothing there; check the path"
            )
        return path
    local = Path("scenarios") / f"{name}.toml"
    for candidate in (local, scenario_folder() / f"{name}.toml"):
        if candidate.is_file():
            return candidate
    if name in _RENAMED:
        raise InputError(f"scenario {name!r}: it is called {_RENAMED[name]!r} now; take that name")
    raise InputError(
        f"scenario {name!r}: wanted a path or one of {', '.join(committed_scenarios())}; check the spelling"
    )


def load_scenario(name: str, *, settle: bool = True) -> Scenario:
    """Load a scenario by name (committed ones) or path; the scenario.json of a run is what that run was started with.

    Parameters
    ----------
    settle : False leaves the numbers of secure sums open, which take the accountant: enough to read a roster.
    """
    path = find_scenario(name)
    if path.suffix == ".json":
        try:
            return scenario_from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: wanted the scenario.json of a run, got {type(error).__name__}; put a whole copy back"
            ) from None
    return scenario_from_data(read_toml(path), str(path), settle=settle)


def scenario_from_toml(text: str, where: str = "scenario") -> Scenario:
    """Parse TOML text."""
    return scenario_from_data(parse_toml(text, where), where)


def scenario_from_data(data: dict[str, Any], where: str, *, settle: bool = True) -> Scenario:
    """Return the scenario of what a TOML file holds: recipes and a learner's constants filled in, learners chosen."""
    check_schema(data, where)
    contract = data.get("contract")
    if isinstance(contract, dict):
        check_schema(contract, f"{where}: contract")
        data = with_crowds({**data, "contract": with_recipes(contract, where)}, where)
        if asks(contract):
            from consortia.terms.rule import with_choice

            data = with_choice(data, where)
        data = {**data, "contract": with_constants(data["contract"])}
    else:
        data = with_crowds(data, where)
    built = parse(Scenario, data, where)
    return settled(built) if settle else built


def settled(scenario: Scenario, *, anew: bool = False) -> Scenario:
    """Return the scenario with the numbers of its secure sums in place (see `consortia.terms.settle`)."""
    if all(part.contract.trust != "aggregate" for part in scenario.parts()):
        return scenario
    from consortia.terms.settle import settle

    return scenario.model_copy(update={"contract": settle(scenario.contract, scenario.roster, anew=anew)})
