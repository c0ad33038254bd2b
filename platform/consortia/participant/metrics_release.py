"""Releases metrics besides the update. Their account is separate and fixed before the first reply.

Guarantees
----------
* Contract, policy and ledger alone decide whether a release is due, its noise, its shape and its dtype. A row that the
  model cannot score counts nowhere, whatever else is there, and the noise is the same: a failure must not show.
* The run's first message opens the account, and checks and sets aside its budget before anything else (invariant 3). A
  run without budget for its metrics does not start.
* Test and validation units differ from the training units, and have their own account, `<data set>/evaluation`.
* By group (`evaluation.groups`) the final histogram has more cells and the same event: a row is in one cell, and as
  many rows of a unit count as without groups, whichever groups they are in.
"""

from __future__ import annotations

import functools
import logging
import math
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clients import registry
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.models import FederatedModule, predictions
from clients.schema import Schema, Target
from consortia.common.errors import RefusedError
from consortia.messages.request import Request
from consortia.metrics import groups, score_bins
from consortia.participant.evaluation import module_scorer, score_metrics
from consortia.participant.partitions import Partitions
from consortia.terms.policy import DatasetTerms, Policy
from privacy.errors import PrivacyError
from privacy.events import Event, GaussianRelease, LaplaceRelease, NonPrivate
from privacy.histogram import HistogramNoise, noisy_histogram, plan_noise
from privacy.ledger import Budget, Ledger, RunPlan
from privacy.noise_context import NoiseContext
from privacy.rowwise import outputs

log = logging.getLogger("consortia.participant")
Array = NDArray[np.float64]


def metrics_run(run_id: str) -> str:
    """Return the name of the metrics' account of a run. No message can name it, because a run id has no slash."""
    return f"{run_id}/metrics"


@dataclass(frozen=True)
class Due:
    """One release besides the update.

    Attributes
    ----------
    account : RunPlan
        The plan that pays for the release.
    event : Event
        The cost of the release.
    lifetime : Budget
        The owner's budget for the partition's lifetime.
    """

    kind: str
    account: RunPlan
    event: Event
    lifetime: Budget


def open_metrics(
    ledger: Ledger, request: Request, plan: RunPlan, policy: Policy, terms: DatasetTerms
) -> RunPlan | None:
    """Return the metrics' account of a run; open it if needed. None if the contract wants no metrics.

    Raises
    ------
    RefusedError
        CONTRACT_NOT_ALLOWED if the target has no public bins. BUDGET_EXHAUSTED if the evaluation units' budget is
        spent, or was lowered below what the account was opened with.
    BudgetExhaustedError
        The ledger refuses.
    """
    if request.contract.evaluation.metrics == "none":
        return None
    lifetime = metrics_lifetime(request, policy)
    stored = ledger.plan(metrics_run(request.run_id))
    if stored is not None:
        _check_still_allowed(stored, policy)
        return ledger.open_run(stored, lifetime)
    account = account_of(ledger, request, plan, policy, terms)
    return None if account is None else ledger.open_run(account, lifetime)


def check_groups(request: Request, schema: Schema) -> None:
    """Refuse (CONTRACT_NOT_ALLOWED) a contract whose groups the industry's schema does not have."""
    grouping = request.contract.evaluation.grouping(request.industry)
    if grouping and (wrong := groups.problem(schema, grouping)):
        raise RefusedError("CONTRACT_NOT_ALLOWED", f"evaluation.groups: {wrong}")


def account_of(ledger: Ledger, request: Request, plan: RunPlan, policy: Policy, terms: DatasetTerms) -> RunPlan | None:
    """Return the metrics' account as it would be opened; None without metrics. Nothing is written.

    Raises
    ------
    RefusedError
        As `open_metrics`.
    """
    wanted = request.contract.evaluation
    if wanted.metrics == "none":
        return None
    lifetime = metrics_lifetime(request, policy)
    if wanted.metrics == "dp" and not score_bins.has_bins(registry.get(request.industry).schema.target):
        raise RefusedError("CONTRACT_NOT_ALLOWED", "DP metrics of a regression need public bounds of the target")
    allowance = _allowance(ledger, request, plan, policy, lifetime)
    between = wanted.releases_between(request.contract.rounds)
    events: list[Event] = []
    for partition, releases in (("evaluation", 1), ("validation", between)):
        if releases and wanted.metrics == "exact":
            events.append(NonPrivate(what="exact metrics", partition=partition, unit=plan.unit))
        elif releases:
            noise = plan_noise(epsilon=allowance.epsilon, delta=allowance.delta, releases=releases)
            events.append(noise.event(partition=partition, unit=plan.unit))
    return RunPlan(
        run_id=metrics_run(request.run_id),
        dataset=f"{plan.dataset}/evaluation",
        contract_sha256=plan.contract_sha256,
        unit=plan.unit,
        declared_units=max(1, terms.declared_units - request.contract.split.training_units(terms.declared_units)),
        allowance=allowance,
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=max(1, between),
        clip=1.0,
        non_private=wanted.metrics == "exact",
        other_events=tuple(events),
        listed=True,
    )


def metrics_lifetime(request: Request, policy: Policy) -> Budget:
    """Return the lifetime budget of the evaluation units; infinite if the owner allows exact metrics."""
    if request.contract.evaluation.metrics == "exact" or policy.budget.evaluation is None:
        return Budget(math.inf, policy.budget.lifetime.delta)
    return policy.budget.evaluation.lifetime.budget()


def _allowance(ledger: Ledger, request: Request, plan: RunPlan, policy: Policy, lifetime: Budget) -> Budget:
    terms = policy.budget.evaluation
    if request.contract.evaluation.metrics == "exact" or terms is None:
        return Budget(math.inf, plan.allowance.delta)
    left = ledger.lifetime_left(f"{plan.dataset}/evaluation", lifetime)
    allowance = Budget(min(terms.run.epsilon, left.epsilon), min(terms.run.delta, left.delta))
    if allowance.epsilon <= 1e-9 * lifetime.epsilon or allowance.delta <= 1e-9 * lifetime.delta:
        raise RefusedError("BUDGET_EXHAUSTED", "the lifetime budget of the evaluation units is spent")
    return allowance


def _check_still_allowed(account: RunPlan, policy: Policy) -> None:
    terms = policy.budget.evaluation
    if account.non_private or terms is None:
        return
    if account.allowance.epsilon > terms.run.epsilon or account.allowance.delta > terms.run.delta:
        raise RefusedError(
            "BUDGET_EXHAUSTED", "the owner lowered budget.evaluation.run below what this run was opened with"
        )


def metrics_due(request: Request, account: RunPlan | None, policy: Policy) -> Due | None:
    """Return the metrics release that belongs to the answer to a message; None if there is none."""
    partition = request.contract.evaluation.due(request.kind, request.round)
    if partition is None or account is None:
        return None
    event = next(event for event in account.other_events if event.partition == partition)
    return Due("metrics", account, event, metrics_lifetime(request, policy))


def names(client: IndustryClient) -> set[str]:
    """Return the names of possible metric tensors: the histogram, or an exact metric of the industry."""
    return {score_bins.HISTOGRAM, *(f"metrics.{name}" for name in client.metrics)}


def measure(
    due: Due,
    request: Request,
    module: FederatedModule,
    parts: Partitions,
    terms: DatasetTerms,
    participant: str,
    noise: NoiseContext,
) -> dict[str, Tensor]:
    """Return the tensors of a metrics release: a histogram with noise for the charged attempt, or exact numbers."""
    table = parts.test if due.event.partition == "evaluation" else parts.validation
    client = registry.get(request.industry)
    if isinstance(due.event, NonPrivate):
        exact = score_metrics(client, module_scorer(module)(table), table)
        return {
            f"metrics.{name}": torch.tensor(value, dtype=torch.float64)
            for name, value in exact.items()
            if value is not None
        }
    bins = request.contract.evaluation.bins
    target = client.schema.target
    shape: tuple[int, ...] = (score_bins.n_rows(target), bins)
    grouping = request.contract.evaluation.grouping(request.industry) if due.event.partition == "evaluation" else None
    if grouping is not None:
        shape = (len(grouping.names(client.schema)), *shape)
    try:
        cells = _cells(target, module, table, bins, participant)
        if grouping is not None:
            cells = groups.by_group(cells, _groups(table), shape[-2] * bins)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it depends on rows, so it must not show
        log.error("%s: an empty histogram leaves: %s in the model", participant, type(error).__name__)
        cells = np.full(len(table.target), -1, dtype=np.int64)
    counts = noisy_histogram(
        cells,
        math.prod(shape),
        np.asarray(table.unit_index, dtype=np.int64),
        rows_per_unit=rows_per_unit(terms),
        noise=noise_of(due.event),
        context=noise,
    )
    return {score_bins.HISTOGRAM: torch.from_numpy(counts.reshape(shape))}


def _cells(target: Target, module: FederatedModule, table: Table, bins: int, participant: str) -> NDArray[np.int64]:
    """Return the cell of each row (n_rows,); -1 for a row on which the model fails, which moves no other row."""
    labels = np.asarray(table.target)
    try:
        return score_bins.cells(target, _scores(module, table), labels, bins)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - it depends on rows, so it must not show
        log.error("%s: rows are scored one by one: %s in the model", participant, type(error).__name__)
    found = np.full(len(labels), -1, dtype=np.int64)
    for row in range(len(labels)):
        inputs = {name: tensor[row : row + 1] for name, tensor in table.inputs.items()}
        alone: Any = SimpleNamespace(inputs=inputs, target=labels[row : row + 1])
        with suppress(Exception, SystemExit):
            found[row] = score_bins.cells(target, _scores(module, alone), alone.target, bins)[0]
    return found


def _groups(table: Table) -> NDArray[np.int64]:
    if table.groups is None:
        raise PrivacyError("wanted the groups of the rows, got none")
    return table.groups


def _scores(module: FederatedModule, table: Table) -> Array:
    """Scores that each depend on their own row alone. Removing one unit moves no other unit to another cell."""
    if not len(table.target):
        return np.zeros((0, module.target.outputs) if module.target.outputs > 1 else 0)
    scores = outputs(module, table.inputs, functools.partial(predictions, module.target))
    return np.asarray(scores, dtype=np.float64)


def rows_per_unit(terms: DatasetTerms) -> int:
    """Return how many rows of a unit are counted at most."""
    return 1 if terms.unit == "record" else terms.max_rows_per_unit or 1


def noise_of(event: Event) -> HistogramNoise:
    """Return the noise of an event."""
    if isinstance(event, LaplaceRelease):
        return HistogramNoise("laplace", event.noise_multiplier)
    if isinstance(event, GaussianRelease):
        return HistogramNoise("gaussian", event.noise_multiplier)
    raise PrivacyError(f"a {type(event).__name__} has no noise that a histogram could have")


def header(due: Due, terms: DatasetTerms) -> dict[str, str]:
    """Return the reply's header fields about metrics. They depend on contract and policy only."""
    if isinstance(due.event, NonPrivate):
        return {"metrics_non_private": "true", "metrics_partition": due.event.partition}
    noise = noise_of(due.event)
    return {
        "metrics_non_private": "false",
        "metrics_partition": due.event.partition,
        "metrics_mechanism": noise.mechanism,
        "metrics_multiplier": repr(noise.multiplier),
        "metrics_rows_per_unit": str(rows_per_unit(terms)),
        "metrics_epsilon": repr(due.account.allowance.epsilon),
        "metrics_delta": repr(due.account.allowance.delta),
    }
