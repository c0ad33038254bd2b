"""Starts `consortia run` beside a dashboard: a simulation on synthetic rows whose run the pages then follow."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from consortia.common.acts import noted
from consortia.common.errors import InputError
from consortia.common.words import epsilon_text
from consortia.dashboard.changes import Proposal
from consortia.terms.scenario import committed_scenarios, load_scenario

_LOG = "started.log"


class Starter:
    """Starts one run after the other in a folder of runs.

    Parameters
    ----------
    root : Path
        The folder of runs; what the command prints goes to `started.log` in it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._one = threading.Lock()
        self._run: subprocess.Popen[bytes] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The scenarios that can be started: those that come with the platform, so no page names a file."""
        return committed_scenarios()

    def propose(self, given: dict[str, str]) -> Proposal:
        """Check the chosen scenario and say who would take part.

        Raises
        ------
        InputError
            For a scenario that does not come with the platform, and while a run that was started here goes on.
        """
        name = given.get("scenario", "")
        if name not in self.names:
            raise InputError("scenario: wanted one of the list, got another name")
        self._check_idle()
        scenario = load_scenario(name, settle=False)
        lines = [
            f"{one.name} ({one.industry}): ε {epsilon_text(one.epsilon)} at δ {one.delta:g}"
            for one in scenario.roster[:12]
        ]
        if len(scenario.roster) > len(lines):
            lines.append(f"and {len(scenario.roster) - len(lines)} more")
        return Proposal(
            heading=f"Start {name}?",
            lines=lines,
            effect="It runs on this machine, on synthetic rows, and appears among the runs.",
            button="Start the run",
            back="/",
            make=lambda: self.start(name),
        )

    def start(self, scenario: str) -> subprocess.Popen[bytes]:
        """Start the run in a process of its own and return it.

        Raises
        ------
        InputError
            While a run that was started here goes on.
        """
        command = [sys.executable, "-P", "-m", "consortia.cli", "run", scenario, "--out", str(self._root)]
        with self._one:  # two confirmations are taken at once
            self._check_idle()
            with noted(self._root, "run.start", scenario), (self._root / _LOG).open("wb") as log:
                self._run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603 - our own command
            return self._run

    def end(self) -> None:
        """End the run that was started last, if it goes on."""
        if self._run is not None and self._run.poll() is None:
            self._run.terminate()
            self._run.wait(10)

    def _check_idle(self) -> None:
        if self._run is not None and self._run.poll() is None:
            raise InputError("wanted no run that was started here, got one that goes on; wait for its end")
