"""The policy: a participant's own file with its data, its budget and what may leave. It outranks every scenario.

No policy file means refusal. A demonstration policy says `demo = true` and is accepted only in a simulation.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from clients.mapping_rules import ColumnMap
from clients.masking import SourceText
from consortia.common.errors import InputError, RefusedError
from consortia.common.strict import StrictModel, check_schema, parse, parse_toml
from consortia.terms.contract import Contract
from consortia.terms.contract_fields import Industry, Name, ReleaseKind
from consortia.terms.roster import UNIT, RosterParticipant
from consortia.terms.secure_sum import SecurePolicy
from consortia.terms.vertical_policy import VerticalPolicy
from privacy.ledger import Budget

#: Share of a lifetime that is nothing: what rounding leaves of a budget that was spent in parts.
_NOTHING = 1e-9
#: Begins an entry of allow.contracts that accepts a contract by its scenario's name, in simulations alone.
BY_NAME = "name:"


#: A line that says where rows are; whatever prints it masks the password that it may hold.
Source = Annotated[str, AfterValidator(SourceText)]


class Allowance(StrictModel):
    """An (epsilon, delta) pair."""

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)]

    def budget(self) -> Budget:
        """Return the pair as the ledger's type."""
        return Budget(self.epsilon, self.delta)


class AccountTerms(StrictModel):
    """What one run may cost, and what the units of a partition may cost over their lifetime."""

    run: Allowance
    lifetime: Allowance

    @model_validator(mode="after")
    def _lifetime_holds_a_run(self) -> AccountTerms:
        if self.lifetime.epsilon < self.run.epsilon or self.lifetime.delta < self.run.delta:
            raise ValueError(
                f"lifetime epsilon and delta at least as large as the run's {self.run.epsilon:g} and "
                f"{self.run.delta:g}, got {self.lifetime.epsilon:g} and {self.lifetime.delta:g}"
            )
        return self


class BudgetTerms(AccountTerms):
    """The account of the training units, and that of the evaluation units, which are others.

    Without `evaluation`, no metric leaves under DP. `statistics` is what one run of `consortia statistics` may cost the
    training units, within their lifetime; without it no statistic leaves.
    """

    evaluation: AccountTerms | None = None
    statistics: Allowance | None = None

    @model_validator(mode="after")
    def _lifetime_holds_statistics(self) -> BudgetTerms:
        given, life = self.statistics, self.lifetime
        if given is not None and (given.epsilon > life.epsilon or given.delta > life.delta):
            raise ValueError(
                f"statistics epsilon and delta at most the lifetime's {life.epsilon:g} and {life.delta:g}, got "
                f"{given.epsilon:g} and {given.delta:g}"
            )
        return self

    def of(self, contract: Contract) -> Allowance:
        """Return what one run under a contract may cost the training units."""
        if contract.statistics is None:
            return self.run
        if self.statistics is None:
            raise RefusedError(
                "RELEASE_NOT_ALLOWED",
                "budget.statistics: wanted an allowance such as { epsilon = 0.5, delta = 1e-5 }, to pay for statistics",
            )
        return self.statistics


class DatasetTerms(StrictModel):
    """One data set under the owner's own name for it.

    `declared_units` is public: the normaliser of the training step and delta are checked against it. `lifetime` names
    a data set, of this policy or an earlier one, with which this one shares its lifetime budget: they hold the same
    persons (`consortia.participant.lifetimes`). `synthetic` says that the source's rows are made up, which every output
    then says, too. `metrics` names metrics that the receipt leads with, built in or installed, before those of the
    industry; they stay at home. `mapping` says which of the source's columns each column of the schema comes from, and
    how (`clients.mapping`). `arrivals_by_themselves` is the owner's statement for runs that grow
    (`consortia.participant.cohort`): no model that saw the source's rows without noise decides who is in it, from when
    on and with which label.
    """

    industry: Industry
    source: Source
    site: str = ""
    metrics: tuple[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")], ...] = ()
    unit: Annotated[str, Field(pattern=UNIT)] = "record"
    declared_units: Annotated[int, Field(ge=1)]
    max_rows_per_unit: Annotated[int, Field(ge=1)] | None = None
    quarantine_threshold: Annotated[float, Field(ge=0, le=1)] = 0.2
    lifetime: Name | None = None
    synthetic: bool = False
    arrivals_by_themselves: bool = False
    mapping: dict[str, ColumnMap] = Field(default_factory=dict)


class AllowTerms(StrictModel):
    """What may leave. Everything else stays.

    `trusted_coordinator` allows contracts whose update leaves without noise, which the coordinator then adds; it wants
    `non_private` too, for that is what the update is towards the coordinator. `sweeps` allows repeated runs on these
    rows to choose a budget, each of them charged in full. `contracts` lists hashes (`sha256:…`). An entry
    `name:SCENARIO` accepts that scenario however it is changed: in simulations only, where its owner is the operator.
    With `signed` a listed contract counts only with this participant's signed agreement (`consortia agree`).
    """

    releases: tuple[ReleaseKind, ...] = ()
    exact_metrics: bool = False
    non_private: bool = False
    trusted_coordinator: bool = False
    sweeps: bool = False
    contracts: tuple[str, ...] | Literal["any"] = ()
    signed: bool = False


class LimitTerms(StrictModel):
    """`[limits]`: what messages that charge nothing may cost the participant (`consortia.participant.unpaid_requests`).

    `unpaid_runs` is how many run folders may lie in the home whose runs took nothing from the ledger, `evaluations`
    how many models of one run are measured.
    """

    unpaid_runs: Annotated[int, Field(ge=1)] = 200
    evaluations: Annotated[int, Field(ge=1)] = 16


class Policy(StrictModel):
    """The whole file."""

    schema_version: Annotated[int, Field(alias="schema", ge=1)]
    participant: Name
    demo: bool = False
    dataset: Annotated[dict[Name, DatasetTerms], Field(min_length=1)]
    budget: BudgetTerms
    allow: AllowTerms = AllowTerms()
    limits: LimitTerms = LimitTerms()
    secure: SecurePolicy = SecurePolicy()
    vertical: VerticalPolicy | None = None
    noise: Literal["secure", "float"] | None = None

    def secure_noise(self, *, simulation: bool) -> bool:
        """Return whether noise is cryptographic and on a grid: always, unless the owner or a simulation says not."""
        return self.noise == "secure" or (self.noise is None and not simulation)

    @model_validator(mode="after")
    def _lifetimes_are_of_others(self) -> Policy:
        for name, terms in self.dataset.items():
            if terms.lifetime == name:
                raise ValueError(f"the name of another data set at dataset.{name}.lifetime, got its own")
        return self

    @model_validator(mode="after")
    def _delta_fits_units(self) -> Policy:
        for name, terms in self.dataset.items():
            for key, account in (("budget", self.budget), ("budget.evaluation", self.budget.evaluation)):
                if account is not None and account.lifetime.delta >= 1 / terms.declared_units:  # at least the run's
                    raise ValueError(
                        f"{key}.lifetime.delta < 1/declared_units = {1 / terms.declared_units:.3g} of dataset.{name}, "
                        f"got {account.lifetime.delta:g}"
                    )
        if self.allow.contracts == "any" and not self.demo:
            raise ValueError('contracts = "any" only with demo = true (simulation)')
        return self


@dataclass(frozen=True)
class Proposal:
    """What the coordinator proposes to one participant: never more than a proposal.

    Attributes
    ----------
    dataset : str
        The owner's name for the data set.
    epsilon : float or None
        None proposes a non-private run.
    unit : str
        Whom one unit of privacy is, as everybody saw it in the plan; empty where the roster leaves it to the policy.
    """

    dataset: str
    epsilon: float | None
    delta: float
    unit: str = ""

    @classmethod
    def to(cls, participant: RosterParticipant) -> Proposal:
        """Return what the roster proposes to a participant."""
        epsilon = None if participant.non_private else participant.epsilon
        return cls(participant.dataset, epsilon, participant.delta, participant.unit)


def load_policy(path: Path, *, simulation: bool) -> Policy:
    """Read a policy.

    Raises
    ------
    RefusedError
        With code NO_POLICY when there is none, HOME_UNREADABLE where this process may not look, or DEMO_POLICY outside
        a simulation.
    InputError
        When the file is malformed: every mistake by path.
    """
    try:
        there = path.is_file()
    except OSError as error:  # a folder that somebody else owns
        raise RefusedError(
            "HOME_UNREADABLE",
            f"{path}: wanted a home that this process (user {os.geteuid()}) may read, got {type(error).__name__}; give "
            "the folder and its files to that user (chown -R)",
        ) from None
    if not there:
        raise RefusedError("NO_POLICY", f"no policy file at {path}; without one nothing leaves")
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a byte-order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: wanted a readable TOML file in UTF-8, got {type(error).__name__}; check the file"
        ) from None
    policy = parse_policy(text, str(path))
    if policy.demo and not simulation:
        raise RefusedError("DEMO_POLICY", f"{path} says demo = true, which only a simulation accepts")
    return policy


@lru_cache(maxsize=256)
def parse_policy(text: str, where: str) -> Policy:
    """Parse a policy's text; the file is read for every message, so an owner's edit counts at once."""
    data = parse_toml(text, where)
    check_schema(data, where)
    return parse(Policy, data, where, private=True)


def check_listed(policy: Policy, contract: Contract, scenario: str = "") -> None:
    """Raise `RefusedError` (CONTRACT_NOT_ALLOWED) when the policy does not list the contract's hash.

    `scenario` is the scenario's name in a simulation, where an entry `name:SCENARIO` accepts whatever it says today.
    """
    sha = contract.sha256()
    allowed = policy.allow.contracts
    named = bool(scenario) and f"{BY_NAME}{scenario}" in allowed
    if allowed != "any" and f"sha256:{sha}" not in allowed and not named:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"allow.contracts: wanted sha256:{sha} in the list; add it to accept this contract",
        )


def check_contract(
    policy: Policy, contract: Contract, industry: str, proposal: Proposal, scenario: str = ""
) -> DatasetTerms:
    """Check a contract against the policy; return the terms of the data set to use.

    `scenario` as for `check_listed`.

    Raises
    ------
    RefusedError
        With a code that names the reason; the code alone crosses.
    """
    check_listed(policy, contract, scenario)
    if contract.vertical is None and industry not in contract.industries:
        raise RefusedError("CONTRACT_NOT_ALLOWED", f"the contract has no terms for industry {industry!r}")
    contract = contract.of(industry)
    for release in (
        contract.releases if contract.vertical is None else contract.vertical.releases_of(policy.participant)
    ):
        if release not in policy.allow.releases:
            raise RefusedError(
                "RELEASE_NOT_ALLOWED", f"allow.releases: the contract wants {release!r}, the policy lacks it"
            )
    if contract.trust == "coordinator" and not policy.allow.trusted_coordinator:
        raise RefusedError(
            "RELEASE_NOT_ALLOWED", "allow.trusted_coordinator = false, and the contract's coordinator sees updates"
        )
    exact = contract.evaluation.metrics == "exact" or contract.strategy.strategy().fit.loss
    if exact and not policy.allow.exact_metrics:
        raise RefusedError(
            "RELEASE_NOT_ALLOWED", "allow.exact_metrics = false, and the contract wants metrics without noise"
        )
    policy.budget.of(contract)
    if contract.evaluation.metrics == "dp" and policy.budget.evaluation is None:
        raise RefusedError("RELEASE_NOT_ALLOWED", "budget.evaluation: wanted run and lifetime, to pay for metrics")
    # A partner of a vertical run proposes nothing: vertical.exact_scores is its word on scores without noise.
    proposes = contract.vertical is None or policy.participant == contract.vertical.label_owner
    if proposes and proposal.epsilon is None and not policy.allow.non_private:
        raise RefusedError("NON_PRIVATE_NOT_ALLOWED", "allow.non_private = false, the proposal is non-private")
    terms = policy.dataset.get(proposal.dataset)
    if terms is None:
        raise RefusedError("DATASET_NOT_OFFERED", f"the policy offers no dataset.{proposal.dataset}")
    if terms.industry != industry or (contract.vertical is not None and terms.site != contract.vertical.case):
        raise RefusedError("DATASET_NOT_OFFERED", f"dataset.{proposal.dataset} is not of industry {industry}")
    check_unit(terms, proposal)
    if contract.evaluation.metrics == "dp" and terms.unit != "record" and terms.max_rows_per_unit is None:
        raise RefusedError(
            "RELEASE_NOT_ALLOWED",
            f"dataset.{proposal.dataset}.max_rows_per_unit: wanted a bound, for the noise of metrics by {terms.unit}",
        )
    return terms


def check_unit(terms: DatasetTerms, proposal: Proposal) -> None:
    """Raise `RefusedError` (UNIT_MISMATCH) when the policy protects another unit than the roster tells everybody."""
    if proposal.unit and terms.unit != proposal.unit:
        raise RefusedError(
            "UNIT_MISMATCH",
            f"dataset.{proposal.dataset}.unit: wanted {proposal.unit!r}, as roster.unit says to everybody, got "
            f"{terms.unit!r}; where you agree, change the policy, otherwise ask the coordinator to change the roster",
        )


def effective_budget(
    policy: Policy, proposal: Proposal, left: Budget, allowed: Allowance | None = None
) -> Budget | None:
    """Return min(proposal, `allowed`, what the lifetime leaves); None for a non-private run.

    Parameters
    ----------
    allowed : what one run under the contract may cost (`BudgetTerms.of`); `budget.run` by default.

    Raises
    ------
    RefusedError
        With code BUDGET_EXHAUSTED when nothing is left.
    """
    if proposal.epsilon is None:
        return None
    allowed = allowed or policy.budget.run
    epsilon = min(proposal.epsilon, allowed.epsilon, left.epsilon)
    delta = min(proposal.delta, allowed.delta, left.delta)
    if epsilon <= _NOTHING * policy.budget.lifetime.epsilon or delta <= _NOTHING * policy.budget.lifetime.delta:
        raise RefusedError("BUDGET_EXHAUSTED", "the lifetime budget of this data set is spent")
    return Budget(epsilon, delta)


def policy_or_input_error(path: Path, *, simulation: bool) -> Policy:
    """Load a policy for the command line, where a refusal is a mistake of the user's input."""
    try:
        return load_policy(path, simulation=simulation)
    except RefusedError as error:
        raise InputError(str(error)) from None
