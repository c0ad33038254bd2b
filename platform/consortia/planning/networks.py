"""Makes the very check of a network that DP training makes, before anything runs."""

from __future__ import annotations

import torch
from torch import Tensor

from clients import registry
from clients.industry import effective_schema
from clients.models import loss_for
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import build_module
from privacy.dp_sgd import check_module
from privacy.errors import PlanError

#: Rows of zeros that give shapes and types of the inputs; their values do not matter to the check.
_ROWS = 16


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
            width = effective_schema(client, filter=contract.industries[industry].filter).width
            inputs, target = {"features": torch.zeros(_ROWS, width)}, _labels(client.schema.target)
            try:
                check_module(build_module(contract, industry), inputs, target, loss_for(client.schema.target))
            except PlanError as error:
                raise InputError(f"contract.industries.{industry}.model: {error}") from None


def _labels(target: Target) -> Tensor:
    """Return labels of the type that `clients.schema.Schema.labels` gives."""
    return torch.zeros(_ROWS, dtype=torch.int64 if target.kind == "multiclass" else torch.float32)
