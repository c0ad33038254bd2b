"""Several runs in one ServerApp of a real federation: its processes are started once, each run is a run of its own.

`consortia.server_app` is what runs; in place of its one Coordinator stands a series of them, one after the other over
the same Grid. Everything of a participant (SuperNode, launcher, bundle check, ledger, outbox) is a deployment's.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consortia import server_app
from consortia.coordinator.rounds import Coordinator
from consortia.engines.base import Job
from consortia.engines.flower import Federation
from consortia.terms.scenario import scenario_from_json

_COORDINATOR = """
import sys
sys.path.append({here!r})
import series
series.use({plan!r})
from consortia.deploy.coordinator_app import main
sys.exit(main())
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
        if who == "coordinator":
            start, rest = arguments[:3], arguments[3:]
            assert start == ("-P", "-m", "consortia.deploy.coordinator_app")
            code = _COORDINATOR.format(here=str(Path(__file__).parent), plan=str(self._plan()))
            arguments = ("-P", "-c", code, *rest)
        super()._spawn(who, command, *arguments)

    def _plan(self) -> Path:
        plan = self.folder / "series.json"
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
        return plan


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
