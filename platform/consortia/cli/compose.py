"""`consortia compose`: writes a scenario's Docker Compose file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consortia.cli.options import ScenarioName
from consortia.common.console import tell
from consortia.common.errors import InputError, RunFailedError
from consortia.deploy.compose import compose_text
from consortia.terms.scenario import find_scenario, load_scenario


def compose(
    scenario: ScenarioName,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 when the file differs from what would be written.")
    ] = False,
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs to reserve for each launcher (the engine's NVIDIA runtime).")
    ] = 0,
) -> None:
    """Write the Docker Compose file of a scenario, with a separate service for each participant."""
    text = compose_text(load_scenario(scenario), gpus)
    target = compose_file(scenario)
    if check:
        if not target.is_file():
            raise InputError(f"{target}: wanted a compose file, got nothing there; `consortia compose {scenario}`")
        if target.read_text(encoding="utf-8") != text:
            raise RunFailedError(f"{target} differs from its scenario; write it with `consortia compose {scenario}`")
        tell(f"{target} is up to date")
        return
    target.write_text(text, encoding="utf-8")
    tell(f"wrote {target}")


def compose_file(scenario: str) -> Path:
    """Return where the compose file of a scenario lies: beside the scenario."""
    path = find_scenario(scenario)
    return path.with_name(f"{path.stem}.compose.yml")
