"""Checks the folder of `--data` before anything runs."""

from __future__ import annotations

from pathlib import Path

from clients import registry
from clients.industry import IndustryClient
from clients.sources import parse_source, public_folder
from consortia.common.errors import InputError
from consortia.terms.scenario import Scenario


def public_sources(scenario: Scenario, data: Path | None) -> dict[str, str]:
    """Return each participant's source in the folder of public data sets; empty without a folder.

    Raises
    ------
    InputError
        The folder lacks the data set of an industry on the roster.
    """
    if data is None:
        return {}
    below = data.resolve()
    if scenario.contract.vertical is not None:  # the public data of a vertical scenario belong to several industries
        return {participant.name: f"public:{below}" for participant in scenario.roster}
    clients = {participant.industry: registry.get(participant.industry) for participant in scenario.roster}
    places = {industry: _place(below, client) for industry, client in clients.items()}
    lacking = [
        client.dataset if places[industry] == below else f"{industry}/{client.dataset}"
        for industry, client in clients.items()
        if public_folder(parse_source(f"public:{places[industry]}"), client) is None
    ]
    if lacking:
        raise InputError(f"--data {data}: wanted {', '.join(lacking)} in it, got no such folder; check the path")
    return {participant.name: f"public:{places[participant.industry]}" for participant in scenario.roster}


def _place(below: Path, client: IndustryClient) -> Path:
    """Return the industry's own folder, or the one above it where the client's data set lies in another industry's."""
    return below if "/" in client.dataset else below / client.name
