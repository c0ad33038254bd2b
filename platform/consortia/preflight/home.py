"""Checks a participant's home: policy, contract, data, schema, units, budget, noise.

Reads only: no split is pinned, no run opened, nothing charged, nothing sent.
"""

from __future__ import annotations

import math
import os

import pandas as pd

from clients._apart import reasons_in_words, set_apart
from clients.dataset import RECORD, Table
from clients.errors import ClientError, QuarantineError, SourceError
from clients.industry import IndustryClient
from consortia.common.errors import ConsortiaError, InputError, RefusedError
from consortia.common.words import public_count
from consortia.participant import lifetimes
from consortia.participant.agreement import check_signed
from consortia.participant.data import OWN_FILES, idle_files, own_files
from consortia.participant.evaluation import client_for
from consortia.participant.home import Home
from consortia.participant.rows import checked, read_rows
from consortia.participant.training import make_plan
from consortia.preflight.findings import Chain, Finding
from consortia.terms.industries import check_agreed, check_confirmed
from consortia.terms.policy import DatasetTerms, Policy, Proposal, check_contract, effective_budget, load_policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from privacy.errors import PlanError, PrivacyError
from privacy.ledger import Budget, Ledger

CHECKS = ("policy", "contract", "data", "schema", "units", "ledger", "budget", "noise")
#: Declared over counted units, or the other way round: beyond that the normaliser is badly off.
_OFF = 1.25


def check_home(home: Home, scenario: Scenario) -> list[Finding]:
    """Return what was found at home, in order.

    Parameters
    ----------
    home : Home
    scenario : Scenario
        Its roster has a participant for the participant: what the coordinator proposes.
    """
    chain = Chain(*CHECKS)
    try:
        policy = load_policy(home.policy, simulation=home.simulation)
    except RefusedError as error:
        return chain.stop(error.detail, "write policy.toml, or fill in the kit's; `demo` is for simulations")
    except InputError as error:
        return chain.stop(" | ".join(error.problems), "correct the file")
    if policy.participant != home.participant:
        return chain.stop(f"{home.policy} belongs to {policy.participant}", f"use the file of {home.participant}")
    chain.ok(f"{home.policy.name} of {policy.participant}")
    try:
        participant = scenario.participant(home.participant)
    except KeyError:
        return chain.stop(
            f"{scenario.name} has no participant for {home.participant}", "ask the coordinator for a join kit"
        )
    proposal = Proposal.to(participant)
    try:
        name = scenario.name if home.simulation else ""
        terms = check_contract(policy, scenario.contract, participant.industry, proposal, name)
        check_signed(home, policy, scenario.contract, proposal)
        scenario = scenario.of(participant.industry)
        contract = scenario.contract
        chain.ok(f"sha256:{contract.sha256()[:12]}… is allowed: learner {contract.learner}, trust {contract.trust}")
    except RefusedError as error:
        chain.failed(error.detail, "read the contract; where you agree, change the policy")
        found = policy.dataset.get(participant.dataset)
        if found is None:
            return chain.rest("the contract first")
        terms = found
    _data(chain, home, policy, scenario, participant, terms)
    _budget(chain, home, policy, scenario, terms, participant.dataset, proposal)
    return chain.findings


def _data(
    chain: Chain, home: Home, policy: Policy, scenario: Scenario, participant: RosterParticipant, terms: DatasetTerms
) -> None:
    """Close data, schema and units."""
    key = f"dataset.{participant.dataset}"
    try:
        client, frame = _rows(home, scenario, participant, terms)
    except (RefusedError, ClientError) as error:
        chain.failed(error.detail if isinstance(error, RefusedError) else str(error), _remedy(error, key))
        chain.skip("data first")
        chain.skip("data first")
        return
    made_up = "synthetic rows" if frame.attrs.get("synthetic") else "rows"
    chain.ok(f"{len(frame)} {made_up}")
    try:
        table = checked(frame, terms, client, scenario.contract, key=home.split_key(), where=key)
    except RefusedError as error:
        chain.failed(error.detail, "`docker compose run --rm keys`, or `consortia budget init`")
        chain.skip("schema first")
        return
    except QuarantineError as error:
        chain.failed(str(error), "correct the source: the counts are by column and rule")
        chain.skip("schema first")
        return
    except ClientError as error:
        if _is_about_unit(client, terms):
            chain.ok("not looked at by row")
            chain.failed(str(error), f'set {key}.unit to "record" or an identifier column of the schema')
        else:
            chain.failed(str(error), "correct the source, or name its columns as the schema does")
            chain.skip("schema first")
        return
    _looked_apart(chain, client, frame, table)
    counted = table.n_units
    what = "records" if terms.unit == RECORD else f"units ({terms.unit})"
    if problem := _shared(home, policy, participant.dataset, table):
        chain.failed(problem, f"one person has one lifetime: {key}.lifetime says which data set has the same persons")
        return
    ratio = max(counted, terms.declared_units) / min(counted, terms.declared_units)
    if ratio > _OFF:
        chain.failed(
            f"{counted} {what}, declared_units = {terms.declared_units}",
            f"declare about {public_count(counted)}: the number is public, so round it; it normalises every step",
        )
    else:
        chain.ok(f"{counted} {what}, {terms.declared_units} declared")


def _rows(
    home: Home, scenario: Scenario, participant: RosterParticipant, terms: DatasetTerms
) -> tuple[IndustryClient, pd.DataFrame]:
    """Return the industry and its rows; RefusedError or ClientError for what a run would refuse of them."""
    client = client_for(terms)
    if scenario.contract.vertical is None:
        check_agreed(client, scenario.contract.industries[terms.industry])
    if not home.simulation:
        check_confirmed(client)
    frame = read_rows(terms, client, scenario.contract.seed, key=f"dataset.{participant.dataset}")
    if OWN_FILES in os.environ and frame.attrs.get("synthetic"):
        problem = idle_files(home.policy, participant.dataset, own_files())
        if problem is not None:
            raise RefusedError("BAD_POLICY", problem)
    return client, frame


def _remedy(error: Exception, key: str) -> str:
    if isinstance(error, SourceError):
        return f"correct {key}.source in the policy, or bring the file"
    if isinstance(error, RefusedError):
        return "take the file that was agreed, with bounds and categories that are public; name your own rows"
    return f"correct {key} in the policy"


def _looked_apart(chain: Chain, client: IndustryClient, frame: pd.DataFrame, table: Table) -> None:
    """Close the link of the schema: rows set apart, with reasons, and whether they are other rows."""
    quarantine = table.quarantine
    fit = f"{quarantine.rows_kept} of {quarantine.rows_read} rows fit {client.schema.name}"
    if quarantine.rows_kept == quarantine.rows_read:
        chain.ok(fit)
        return
    apart = set_apart(client.schema, frame, quarantine)
    told = f"{fit}; set apart: {reasons_in_words(quarantine.reasons, quarantine.rows_read)}"
    chain.ok("; ".join([told, *apart.bias]))


def _shared(home: Home, policy: Policy, dataset: str, table: Table) -> str | None:
    """Return which other data set has these persons without sharing the lifetime; None without a ledger to ask."""
    try:
        with Ledger.open(home.ledger, home.participant) as ledger:
            lifetimes.check_sources(
                policy, dataset, policy.dataset[dataset].source, lifetimes.sharing(ledger, policy, dataset)
            )
            return lifetimes.overlap(home, ledger, policy, dataset, lifetimes.marks_of(table.marks), split=False)
    except RefusedError as error:
        return error.detail
    except (ConsortiaError, ClientError) as error:
        return str(error)
    except PrivacyError:
        return None  # the next check names it


def _is_about_unit(client: IndustryClient, terms: DatasetTerms) -> bool:
    names = {column.name for column in client.schema.columns if column.identifier}
    return terms.unit != RECORD and terms.unit not in names


def _budget(
    chain: Chain,
    home: Home,
    policy: Policy,
    scenario: Scenario,
    terms: DatasetTerms,
    dataset: str,
    proposal: Proposal,
) -> None:
    """Close ledger, budget and noise."""
    try:
        ledger = Ledger.open(home.ledger, home.participant)
    except PrivacyError as error:
        chain.stop(str(error), "`docker compose run --rm keys`, or `consortia budget init`; never copy an old one back")
        return
    try:
        runs = len(ledger.runs())
        life = policy.budget.lifetime.budget()
        life = Budget(math.inf, life.delta) if proposal.epsilon is None else life
        left = ledger.lifetime_left(dataset, life, claims=scenario.contract.grows)
    finally:
        ledger.close()
    chain.ok(f"{runs} runs so far")
    horizon = f"unit: {terms.unit}, add/remove one"
    try:
        allowance = effective_budget(policy, proposal, left, policy.budget.of(scenario.contract))
    except RefusedError:
        chain.stop(
            f"ε = {left.epsilon:.3g}, δ = {left.delta:.3g} left of the lifetime's ε = {life.epsilon:g} ({horizon})",
            "raise budget.lifetime in the policy if you decide so; until then you only receive",
        )
        return
    if allowance is None:
        chain.ok("the run would be non-private: ε = ∞ over its horizon and the lifetime's")
        chain.ok("σ = 0: nothing is added")
        return
    chain.ok(
        f"ε = {allowance.epsilon:.3g} at δ = {allowance.delta:.3g} for this run ({horizon}); "
        f"ε = {left.epsilon:.3g} left of the lifetime's {life.epsilon:g}"
    )
    try:
        plan = make_plan(scenario.contract, terms, dataset, "preflight", allowance, home.participant)
    except PlanError as error:
        chain.failed(str(error), "a larger budget, or a contract with fewer rounds")
        return
    chain.ok(
        f"σ = {plan.noise_multiplier:.3g} times the clip, for {plan.steps_per_round * plan.rounds} steps "
        f"at sampling rate {plan.sampling_rate:g} (ε = {allowance.epsilon:.3g}, "
        f"δ = {allowance.delta:.3g}, this run, {horizon})"
    )
