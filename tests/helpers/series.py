"""Several runs in one ServerApp of a real federation: its processes are started once, each run is a run of its own.

`consortia.server_app` is what runs; in place of its one Coordinator stands a series of them, one after the other over
the same Grid. Everything of a participant (SuperNode, launcher, bundle check, ledger, outbox) is a deployment's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consortia import server_app
from consortia.coordinator.rounds import Coordinator
from consortia.engines.base import Job
from consortia.engines.control import flower_environment, tool
from consortia.engines.flower import Federation
from consortia.terms.scenario import scenario_from_json

_COMMAND = """#!{python} -P
import sys
sys.path.append({here!r})
import series
series.use({plan!r})
from flwr.superlink.cli import flwr_serverapp
sys.exit(flwr_serverapp())
"""


class Unmeasured(Coordinator):
    """A coordinator without the closing evaluation, which has no part in the model."""

    def _evaluate(self, *_: object) -> None: ...


class SeriesFederation(Federation):
    """A federation of the first job's participants that plays all jobs; a job starts when its `gate` exists."""

    def __init__(self, jobs: Sequence[Job], gates: Sequence[Path | None]) -> None:
        super().__init__(jobs[0])
        self._jobs = list(zip(jobs, gates, strict=True))

    def _spawn(self, who: str, command: str, *arguments: str) -> None:
        if who == "superlink":
            path = f"PATH={self._commands_folder()}{os.pathsep}{flower_environment(self.folder)['PATH']}"
            command, arguments = "/usr/bin/env", (path, tool(command), *arguments)
        super()._spawn(who, command, *arguments)

    def _commands_folder(self) -> Path:
        folder = self.folder / "commands"
        folder.mkdir()
        plan = folder / "series.json"
        plan.write_text(
            json.dumps(
                [
                    {
                        "scenario": job.scenario.to_json(),
                        "run": job.run_id,
                        "out": str(job.folder.resolve()),
                        "gate": str(gate or ""),
                    }
                    for job, gate in self._jobs
                ]
            )
        )
        command = folder / "flwr-serverapp"
        here = str(Path(__file__).parent)
        command.write_text(_COMMAND.format(python=sys.executable, here=here, plan=str(plan)))
        command.chmod(0o700)
        return folder


def use(plan: str) -> None:
    """Let this process's ServerApp play the series of the file `plan`."""
    runs = json.loads(Path(plan).read_text())

    class Series:
        def __init__(self, _scenario: Any, _run_id: str, _out: Path, exchange: Any, heads: Path | None) -> None:
            self._exchange, self._heads = exchange, heads

        def ask_who_can(self, *, resume: bool) -> None:
            """Ask nobody: a run that is refused is not what these tests are about."""

        def run(self, *, resume: bool) -> None:
            del resume
            for one in runs:
                while one["gate"] and not Path(one["gate"]).exists():
                    time.sleep(0.05)
                scenario = scenario_from_json(one["scenario"])
                Unmeasured(scenario, one["run"], Path(one["out"]), self._exchange, self._heads).run()

    server_app.Coordinator = Series  # type: ignore[assignment,misc]
