"""Makes the very check of a network that DP training makes, before anything runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

import clients
import consortia_plugins
import privacy
from clients import registry
from clients.industry import IndustryClient, effective_schema
from clients.models import default_encoder, default_head, loss_for
from clients.networks.registry import NAMES
from clients.schema import Target
from clients.shapes import Items
from clients.spec import FLAT
from consortia.common.errors import InputError
from consortia.planning.known import digest, passed
from consortia.terms import scopes
from consortia.terms.contract import Contract
from consortia.terms.scenario import Scenario
from privacy.bookkeeping import supports
from privacy.dp_sgd import check_module
from privacy.errors import PlanError

#: Rows of zeros that give shapes and types of the inputs; their values do not matter to the check.
_ROWS = 16


def check_targets(scenario: Scenario) -> None:
    """Refuse a learner that needs labels for an industry that learns none, and one that takes ids for quantities.

    Raises
    ------
    InputError
        Naming learner and industry.
    """
    contract = scenario.contract
    if contract.noisy_sums is None:
        return
    for industry in sorted(contract.industries):
        if isinstance(registry.get(industry).schema.shape, Items):
            raise InputError(
                f"contract.learner: wanted 'gradient' with industry {industry}, whose rows are items (an id is no "
                f"quantity), got {contract.learner!r}, which adds columns up"
            )
        if registry.get(industry).schema.target.kind == "multilabel":
            raise InputError(
                f"contract.learner: wanted 'gradient' with industry {industry}, whose rows have several labels, got "
                f"{contract.learner!r}, which learns one"
            )
        if registry.get(industry).schema.target.kind == "anomaly":
            raise InputError(
                f"contract.learner: wanted 'gradient' with industry {industry}, whose target is an anomaly (no label "
                f"is learned), got {contract.learner!r}, which learns labels"
            )


def check_networks(scenario: Scenario) -> None:
    """Refuse a scenario in whose first round a private participant could not train its network.

    Within `consortia.planning.known.shown` a network of this project's own code that passed before is not tried again.

    Raises
    ------
    InputError
        Naming the industry, what per-unit clipping cannot bound, and what to take instead.
    """
    for contract, client in _private(scenario):
        width = effective_schema(client, filter=contract.industries[client.name].filter).width

        def check(contract: Contract = contract, client: IndustryClient = client, width: int = width) -> None:
            _check(contract, client, width)

        if _is_own(contract, client):
            passed(_plan(contract, client, width), check)
        else:
            check()


def slow_networks(scenario: Scenario) -> list[str]:
    """Return a line for each network of somebody's own that trains row by row, with the step that has no closed form.

    Of the kinds that come with the platform the documentation says it.
    """
    found = []
    for contract, client in _private(scenario):
        kind = contract.industries[client.name].model.kind
        if kind in {*FLAT, *NAMES} and (client.encoder, client.head) == (default_encoder, default_head):
            continue
        if reason := supports(scopes.build_module(contract, client.name)):
            found.append(
                f"contract.industries.{client.name}.model: {kind} trains row by row, which is slower: {reason}; the "
                "steps with a closed form are in docs/how_to/networks.md"
            )
    return found


def _private(scenario: Scenario) -> Iterator[tuple[Contract, IndustryClient]]:
    """Yield the contract and industry of each network that DP-SGD trains."""
    for part in scenario.parts():
        contract = part.contract
        if contract.vertical is not None or contract.noisy_sums is not None or contract.central is not None:
            continue  # no DP-SGD there
        for industry in sorted({participant.industry for participant in part.roster if not participant.non_private}):
            yield contract, registry.get(industry)


def _check(contract: Contract, client: IndustryClient, width: int) -> None:
    target = client.schema.target
    inputs = {"features": torch.zeros(_ROWS, width)}
    try:
        check_module(scopes.build_module(contract, client.name), inputs, _labels(target), loss_for(target))
    except PlanError as error:
        raise InputError(f"contract.industries.{client.name}.model: {error}") from None


def _is_own(contract: Contract, client: IndustryClient) -> bool:
    """Whether the code of `_plan` alone decides the network; a package's or a process's code may be anywhere."""
    own = registry.file_of(client.name) is not None or client.name in registry.built_in()
    parts = {getattr(part, "__module__", "").partition(".")[0] for part in (client.encoder, client.head)}
    kind = contract.industries[client.name].model.kind
    return own and parts == {clients.__name__} and kind in {*FLAT, *NAMES} and contract.sums is None


def _plan(contract: Contract, client: IndustryClient, width: int) -> list[object]:
    """Return all that decides whether the network passes, as a hash: no name stands in the file."""
    terms = contract.industries[client.name]
    file = registry.file_of(client.name)
    folders = [Path(package.__path__[0]) for package in (clients, consortia_plugins, privacy)]
    places = [*folders, Path(__file__), Path(scopes.__file__), *([] if file is None else [file])]
    agreed = [
        contract.seed,
        client.name,
        width,
        terms.filter,
        terms.model.model_dump(mode="json"),
        contract.scopes.norm,
    ]
    text = json.dumps([agreed, digest(places), torch.__version__, version("opacus")])
    return ["network", hashlib.sha256(text.encode()).hexdigest()]


def _labels(target: Target) -> Tensor:
    """Return labels of the type that `clients.schema.Schema.labels` gives."""
    return torch.zeros(_ROWS, dtype=torch.int64 if target.outputs > 1 else torch.float32)
