"""The Flower ServerApp: the same on every engine."""

from __future__ import annotations

from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from consortia.coordinator.event_file import EventFile
from consortia.coordinator.rounds import Coordinator
from consortia.coordinator.run_lock import only_coordinator
from consortia.messages import flower_pace, flower_patience
from consortia.messages.flower import GridExchange
from consortia.terms.scenario import scenario_from_json
from consortia.vertical.coordinator import VerticalCoordinator

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the scenario of the run config.

    Run config keys: `scenario` (JSON of the effective scenario), `run-id`, `out` (the coordinator's folder),
    `resume` (bool), `batches` (of new persons, vertical; -1: the contract's), `join-seconds`, `heads` (file of the
    ledgers' heads, or empty).
    """
    if not hasattr(grid, "wait"):  # a grid in this process has none of Flower's waits, and half a second is imports
        flower_pace.speed_up()
        flower_patience.be_patient()
    config = context.run_config
    scenario = scenario_from_json(str(config["scenario"]))
    names = [participant.name for participant in scenario.roster]
    heads = Path(str(config["heads"])) if config.get("heads") else None
    folder, resume, run_id = Path(str(config["out"])), bool(config["resume"]), str(config["run-id"])
    with only_coordinator(folder):
        tell = EventFile(folder, run_id)
        exchange = GridExchange(
            grid, names, float(str(config["join-seconds"])), lambda absent: tell("joining", absent=list(absent))
        )
        where = (scenario, run_id, folder, exchange, heads)
        if scenario.contract.vertical is None:
            coordinator = Coordinator(*where)
            coordinator.ask_who_can(resume=resume)
            coordinator.run(resume=resume)
        else:
            batches = int(str(config["batches"]))
            VerticalCoordinator(*where).run(resume=resume, batches=None if batches < 0 else batches)
