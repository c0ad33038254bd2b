"""How a command shows a run while it goes on, and ends after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from consortia.common.console import err, out

if TYPE_CHECKING:
    from consortia.engines.base import Job
    from consortia.engines.runner import Outcome
    from consortia.reports.watch import Watch


def watch_on(engine: str, *, as_json: bool) -> Callable[[Job], Watch]:
    """Return what shows the rounds of a job: on standard error where standard output is JSON."""
    from consortia.reports.watch import Watch

    return lambda started: Watch(err if as_json else out, started, simulation=engine != "flower")


def exit_if_missed(outcome: Outcome) -> None:
    """Say what the scenario expects and the run missed; exit 1 where there is any."""
    for sentence in outcome.missed:
        err.print(f"missed: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    if outcome.missed:
        raise typer.Exit(1)
