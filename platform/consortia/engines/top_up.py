"""Prepares a further release of a growing run: new units only, on top of what the releases before it gave.

Noisy sums go on under the centre, the radius and π₀ of the first release, and add up. A run of steps goes on from the
model that the release before it left.

Guarantees
----------
* Old units release nothing: the contract says what it builds on, and each participant leaves out what it claimed
  (`consortia.participant.cohort`). The coordinator keeps the sums of earlier releases and adds the new ones; of a run
  of steps it takes the released model alone, and the strategy's memory begins anew.
* What cannot be right is refused by name: a run whose participants claimed nothing, one that is unfinished, changed or
  that somebody left, and a simulation on scratch ledgers, which end with their run.
"""

from __future__ import annotations

import datetime
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from consortia.common import environment
from consortia.common.disk import write_json
from consortia.common.errors import InputError
from consortia.common.strict import listed, parse, read_record, shown
from consortia.coordinator.checkpoint import Checkpoint, load_latest, save
from consortia.coordinator.sums import before_top_up
from consortia.engines.base import Job
from consortia.engines.data_folder import public_sources
from consortia.engines.job_file import write_job
from consortia.engines.options import Options
from consortia.engines.own_home import own_home
from consortia.learners.sums.model import frozen
from consortia.participant.home import Home
from consortia.planning.plan import make_plans
from consortia.terms.growing import start_of
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.terms.scopes import State, for_participant
from consortia.trust.passport.leave import check_with_everybody

__all__ = ["FILE", "Further", "accepting", "check_start", "further_of", "prepare", "releases"]

#: In the folder of a further release: the releases before it, oldest first.
FILE: Final = "releases.json"


def check_start(scenario: Scenario, options: Options) -> None:
    """Refuse to begin a growing run where its claims would end with it (InputError)."""
    if scenario.contract.grows and options.engine != "flower" and options.ledger is None:
        raise InputError(
            f"grows = true in the contract of {scenario.name}: wanted ledgers that outlive the run (--ledger HOMES, or "
            "--engine flower), got a simulation on scratch ledgers, in which no later release would recognise a unit"
        )


def prepare(options: Options, before: Path, charged_home: Callable[[Path, Path, str], Home]) -> Job:
    """Return the job of a further release on top of the run in `before`, its folder made.

    Raises
    ------
    InputError
        The run is none that can grow; the sentence says what to do instead. Nothing was written.
    """
    saved = _saved(before, options)
    further = further_of(before, options.units, options.epsilon)
    root = Path(saved["ledger"]) if saved["ledger"] else None
    scenario = further.scenario
    sources = {**saved["sources"], **(public_sources(scenario, options.data) if options.data else {})}
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    run_id = f"{scenario.name}-{stamp}-{secrets.token_hex(2)}"
    folder = options.out / run_id
    homes = {
        one.name: own_home(one.name)
        if root is None
        else charged_home(root, (folder / "participants" / one.name).resolve(), one.name)
        for one in scenario.roster
    }
    further.begin(folder)
    job = Job(scenario, run_id, folder, homes, sources)
    write_job(job, options, ledger=root)
    return job


@dataclass(frozen=True)
class Further:
    """A further release before its first message: its scenario, where it starts, and the releases before it."""

    scenario: Scenario
    start: Checkpoint
    before: list[dict[str, Any]]

    def begin(self, folder: Path) -> None:
        """Make the run's folder with what the coordinator goes on from."""
        folder.mkdir(parents=True, exist_ok=True)
        save(folder, self.start)
        write_json(folder / FILE, self.before)


def further_of(before: Path, units: Sequence[str] = (), epsilon: Sequence[str] = ()) -> Further:
    """Return the further release on top of a finished run; nothing is written.

    Parameters
    ----------
    units, epsilon : public numbers of new units and budgets, for all (`N`) or for one participant (`NAME=N`).

    Raises
    ------
    InputError
        The run is none that can grow; the sentence says what to do instead.
    """
    scenario, record = _read(before)
    state = load_latest(before)
    if state is None:
        raise InputError(f"{before}: wanted its last checkpoint, got none; put the run's own back")
    groups = state.average or state.groups
    further = _further(scenario, record, groups, units, epsilon)
    make_plans(further)
    if scenario.contract.steps is not None:
        start = Checkpoint(0, dict(groups), {}, {}, [], dict(state.heads))
    else:
        industries = [industry for industry in state.groups if industry in state.memory]
        memory = {industry: before_top_up(scenario, industry, state.memory[industry]) for industry in industries}
        start = Checkpoint(1, dict(state.groups), memory, {}, [], dict(state.heads))
    return Further(further, start, [*releases(before), _line(scenario, record)])


def _saved(before: Path, options: Options) -> dict[str, Any]:
    """Return how the run before was started; InputError where this command would go on otherwise."""
    try:
        saved: dict[str, Any] = json.loads((before / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _not_a_run(before) from None
    if saved["engine"] != options.engine:
        raise InputError(f"--top-up: this run used --engine {saved['engine']}, got {options.engine}")
    if options.ledger is not None and (not saved["ledger"] or Path(saved["ledger"]) != options.ledger.resolve()):
        raise InputError(f"--ledger {options.ledger}: wanted the ledgers of the run, which it knows; leave it out")
    return saved


def _not_a_run(before: Path) -> InputError:
    return InputError(
        f"--top-up {before}: wanted the folder of a finished run with its scenario.json and result.json, got another; "
        "go on with --resume, or put a whole copy back"
    )


def _read(before: Path) -> tuple[Scenario, dict[str, Any]]:
    """Return what a finished run left; InputError for one that cannot grow."""
    try:
        scenario = scenario_from_json((before / "scenario.json").read_text(encoding="utf-8"))
        record = read_record(before / "result.json")
    except (OSError, ValueError):
        raise _not_a_run(before) from None
    check_with_everybody(before)
    contract = scenario.contract
    if not contract.grows:
        why = (
            "secure sums, of which there are totals only: who takes part may differ from release to release, and the "
            "difference of two totals would show a participant under its own share of the noise"
            if contract.trust == "aggregate"
            else "one in which no unit was claimed, so that old ones would pay again"
        )
        raise InputError(
            f"--top-up {before}: wanted a run with grows = true in [contract.sums] or [contract.steps] and local "
            f"noise, got {why}; start a new run, which is charged to everybody, with that line in its scenario"
        )
    if record["status"] != "completed":
        raise InputError(f"--top-up {before}: wanted a completed run, got one that {record['status']}; use --resume")
    if environment.hashes(before) != record["files"]:
        raise InputError(
            f"--top-up {before}: wanted the files whose hashes result.json names, got others; put the run's own back"
        )
    return scenario, record


def _further(
    scenario: Scenario,
    record: dict[str, Any],
    groups: Mapping[str, State],
    units: Sequence[str],
    epsilon: Sequence[str],
) -> Scenario:
    """Return the scenario of the next release: the same contract, but for what it builds on."""
    last, steps = scenario.contract.built_on, scenario.contract.steps is not None
    data = scenario.with_overrides(epsilon=tuple(epsilon)).model_dump(mode="python", by_alias=True)
    names = {line["name"]: line for line in data["roster"]}
    for item in units:
        name, _, value = item.rpartition("=")
        if not value.isdecimal() or not int(value) or ("=" in item and name not in names):
            raise InputError(
                f"--units {shown(item)}: wanted N or NAME=N, a public number of new units of one of {listed(names)}"
            )
        for line in [names[name]] if name else names.values():
            line["units"] = int(value)
    built_on: dict[str, Any] = {
        "run": record["run_id"] if last is None else last.run,
        "contract": record["contract_sha256"] if last is None else last.contract,
        "release": 2 if last is None else last.release + 1,
    }
    if steps:
        industries = sorted({line["industry"] for line in names.values()})
        built_on["model"] = {industry: start_of(for_participant(groups, industry)) for industry in industries}
        built_on["units"] = {name: line["units"] for name, line in names.items()}
    else:
        built_on["frozen"] = {industry: frozen(group) for industry, group in groups.items()}
    data["contract"]["steps" if steps else "sums"] |= {"builds_on": built_on}
    return parse(Scenario, data, f"{scenario.name} with new units")


def accepting(job: Job) -> str:
    """Return how an owner accepts the contract of a further release, which is the same at the next try."""
    sha, file = job.scenario.contract.sha256(), job.folder / "scenario.json"
    return f"contract sha256:{sha}; an owner reads and accepts it with `consortia budget allow NAME {file}`"


def releases(folder: Path) -> list[dict[str, Any]]:
    """Return the releases before the one in a run's folder, oldest first; empty for a first release."""
    file = folder / FILE
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    return found


def _line(scenario: Scenario, record: dict[str, Any]) -> dict[str, Any]:
    """Return what later records say of a release: run, contract, and everybody's public terms and released metrics."""
    return {
        "run_id": record["run_id"],
        "contract_sha256": record["contract_sha256"],
        "participants": {
            one.name: {
                "units": one.units,
                "epsilon": None if one.non_private else one.epsilon,
                "released": _released(record["participants"][one.name]),
            }
            for one in scenario.roster
        },
    }


def _released(participant: dict[str, Any]) -> dict[str, float]:
    found = {kind: line.get("released_value") for kind, line in participant["metrics"].items() if line.get("release")}
    return {kind: value for kind, value in found.items() if value is not None}
