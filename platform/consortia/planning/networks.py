"""Makes the very check of a network that DP training makes, before anything runs."""

from __future__ import annotations

from clients import registry
from clients.dataset import prepare
from clients.errors import ClientError
from clients.models import loss_for
from clients.sources import numpy_generator
from consortia.common.errors import InputError
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import build_module
from privacy.dp_sgd import check_module
from privacy.errors import PlanError

#: Synthetic rows that give shapes and types of the inputs; their values do not matter to the check.
_ROWS = 16


def check_targets(scenario: Scenario) -> None:
    """Refuse a learner that needs labels for an industry that learns none.

    Raises
    ------
    InputError
        Naming learner and industry.
    """
    contract = scenario.contract
    if contract.noisy_sums is None:
        return
    for industry in sorted(contract.industries):
        if registry.get(industry).schema.target.kind == "anomaly":
            raise InputError(
                f"contract.learner: wanted 'gradient' with industry {industry}, whose target is an anomaly (no label "
                f"is learned), got {contract.learner!r}, which learns labels"
            )


def check_networks(scenario: Scenario) -> None:
    """Refuse a scenario in whose first round a private participant could not train its network.

    Raises
    ------
    InputError
        Naming the industry, what per-unit clipping cannot bound, and what to take instead.
    """
    for part in scenario.parts():
        contract = part.contract
        if contract.vertical is not None or contract.noisy_sums is not None or contract.central is not None:
            continue  # no DP-SGD there
        private = {participant.industry for participant in part.roster if not participant.non_private}
        for industry in sorted(private):
            client = registry.get(industry)
            rows = client.synthesise(numpy_generator("check_networks", industry), _ROWS, client.sites[0])
            terms = contract.industries[industry]
            try:
                table = prepare(client, rows, filter=terms.filter or None, quarantine_threshold=1.0)
            except ClientError:
                continue  # the filter left no row: nothing is known of the shapes, and training asks again
            try:
                check_module(
                    build_module(contract, industry), table.inputs, table.target, loss_for(client.schema.target)
                )
            except PlanError as error:
                raise InputError(f"contract.industries.{industry}.model: {error}") from None
