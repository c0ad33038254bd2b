"""Checks the folder of `--data` before anything runs."""

from __future__ import annotations

from pathlib import Path

from clients import registry
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
    found, lacking = {}, []
    for industry, client in clients.items():
        # Its own folder, or below another industry's: then the client says whose.
        found[industry] = next(
            (
                one
                for folder in (below / industry, below)
                if public_folder(parse_source(one := f"public:{folder}"), client)
            ),
            "",
        )
        if not found[industry]:
            lacking.append(client.dataset if "/" in client.dataset else f"{industry}/{client.dataset}")
    if lacking:
        raise InputError(f"--data {data}: wanted {', '.join(lacking)} in it, got no such folder; check the path")
    return {participant.name: found[participant.industry] for participant in scenario.roster}
