"""Runs a scenario by name: makes the homes, starts the engine, writes the record."""

from __future__ import annotations

import datetime
import json
import logging
import math
import secrets
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from clients import registry
from clients.tables import known_from
from consortia.common.errors import InputError, RunFailedError, RunRefusedError
from consortia.common.logs import OwnFile
from consortia.engines import ray, record, top_up
from consortia.engines.base import Engine, Job
from consortia.engines.causes import causes
from consortia.engines.data_folder import public_sources
from consortia.engines.demonstration import demo_policy
from consortia.engines.job_file import write_job
from consortia.engines.options import Options, check_options
from consortia.engines.own_home import own_home
from consortia.engines.vectorized import participants
from consortia.participant.data import idle_files
from consortia.participant.home import Home
from consortia.participant.identity import pin_each_other
from consortia.planning.plan import make_plans
from consortia.terms.industries import unconfirmed
from consortia.terms.policy import Policy, policy_or_input_error
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.trust.passport.leave import check_with_everybody
from consortia.vertical.setup import introduce
from privacy.ledger import Ledger


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    job: Job
    result: dict[str, Any]
    missed: list[str]


def prepare(
    options: Options,
    check: Callable[[Scenario, Options], None] | None = None,
    change: Callable[[Scenario], Scenario] | None = None,
) -> Job:
    """Check everything that can be checked before the first message, and make the run's folders.

    Parameters
    ----------
    change : callable, optional
        Returns a changed scenario that is run instead. Overrides apply to the changed scenario.
    check : callable, optional
        Additional checks of the command. They run before anything is written.

    Raises
    ------
    InputError
        A mistake that the user can correct. Nothing was started.
    """
    check_options(options)
    simulation = options.engine != "flower"
    if options.top_up is not None:
        return top_up.prepare(options, options.top_up, _charged_home)
    if options.resume is not None:
        return with_batches(_resumed(options, options.resume), options.batches)
    written = load_scenario(options.scenario)
    scenario = (written if change is None else change(written)).with_overrides(
        rounds=options.rounds, seed=options.seed, epsilon=options.epsilon, compressed=options.compressed
    )
    if not simulation:
        refuse_unconfirmed(scenario)
    sources = public_sources(scenario, options.data)
    make_plans(scenario)
    if options.engine == "vectorized":
        participants.check(scenario)
    elif options.engine == "ray":
        ray.check()
    top_up.check_start(scenario, options)
    if check is not None:
        check(scenario, options)
    if options.dump is not None:
        options.dump.mkdir(parents=True, exist_ok=True)  # an unusable folder must not be noticed after the run
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    run_id = f"{scenario.name}-{stamp}-{secrets.token_hex(4)}"
    folder = options.out / run_id
    homes = {
        participant.name: _simulated_home(options, scenario, folder, participant.name)
        if simulation
        else own_home(participant.name)
        for participant in scenario.roster
    }
    if simulation is False or options.ledger is not None:
        _refuse_idle_files(scenario, homes)
    if simulation and any(part.contract.trust == "aggregate" for part in scenario.parts()) and not options.ledger:
        pin_each_other(homes)
    if simulation and options.ledger is None:
        introduce(scenario, homes)
    folder.mkdir(parents=True, exist_ok=True)
    job = with_batches(Job(scenario, run_id, folder, homes, sources), options.batches)
    write_job(job, options)
    return job


def unconfirmed_clients(scenario: Scenario) -> list[str]:
    """Return a sentence for each industry with bounds or categories that were read from rows and are not confirmed."""
    clients = [registry.get(name) for name in scenario.contract.industries]
    return [unconfirmed(client) for client in clients if client.unconfirmed]


def refuse_unconfirmed(scenario: Scenario) -> None:
    """Refuse a deployed run of an unconfirmed industry (InputError)."""
    if problems := unconfirmed_clients(scenario):
        raise InputError(*problems)


def with_batches(job: Job, batches: int | None) -> Job:
    """Return the job with the given number of batches of new persons; None means all batches of the contract."""
    terms = job.scenario.contract.vertical
    if batches is not None and (terms is None or not 0 <= batches <= terms.batches):
        most = "no such option, since the contract is horizontal" if terms is None else f"0 to {terms.batches}"
        raise InputError(f"--batches: wanted {most} (contract.vertical.batches), got {batches}")
    return replace(job, batches=batches)


def execute(
    job: Job, options: Options, watch: Callable[[Job], Any] | None = None, *, every_core: bool = False
) -> Outcome:
    """Run a prepared job and build its record.

    Parameters
    ----------
    watch : callable, optional
        Called with the job. It returns a context manager that shows progress.
    every_core : bool
        Let participants of the embedded engine work in processes of their own, where this process has no other thread.
        What they keep in memory for a later run is lost.
    """
    handlers = _participant_logs(job)
    before = _recorded(job)
    try:
        work = _ready(job, options.engine, every_core)
        with watch(job) if watch else _nothing():
            work()
    except RunRefusedError as error:
        if _recorded(job) != before:  # so that report and dashboard tell who lacked what
            record.build(job, options.engine)
        raise RunRefusedError(*error.problems, *causes(job)) from None
    except RunFailedError:
        if _recorded(job) == before:  # a record in the folder comes from an earlier command
            raise
    finally:
        for handler in handlers:
            logging.getLogger("consortia.participant").removeHandler(handler)
            handler.close()
    result = record.build(job, options.engine)
    _receipts_at_home(job)
    if options.dump is not None:
        _dump(job, options.dump)
    return Outcome(job, result, record.missed_expectations(job.scenario, result, job.folder))


def _recorded(job: Job) -> int:
    """Return the time stamp of the coordinator's record; 0 if there is none."""
    file = job.folder / "coordinator.json"
    return file.stat().st_mtime_ns if file.is_file() else 0


def _ready(job: Job, name: str, every_core: bool) -> Callable[[], None]:
    """Return what runs the job on an engine. Processes are forked here, before a thread starts."""
    engine: Engine
    if name == "flower":
        from consortia.engines import flower

        engine = flower.run
    elif name == "vectorized":
        from consortia.engines.vectorized import coordinator

        engine = coordinator.run
    elif name == "ray":
        engine = ray.run
    else:
        from consortia.engines import apart, embedded

        return embedded.ready(job, apart.useful(len(job.scenario.roster)) if every_core else 1)
    return lambda: engine(job)


class _nothing:  # noqa: N801 - reads as a word in `with`
    def __enter__(self) -> None: ...
    def __exit__(self, *_: object) -> None: ...


def _simulated_home(options: Options, scenario: Scenario, folder: Path, name: str) -> Home:
    """Make a scratch home: the demonstration policy with overrides, an empty ledger, a split key."""
    folder = (folder / "participants" / name).resolve()
    seed = options.split_seed if options.split_seed is not None else scenario.contract.seed
    if options.ledger is not None:
        return _charged_home(options.ledger, folder, name)
    participant = scenario.participant(name)
    data, policy = demo_policy(options.scenario, scenario, participant, proposed=options.proposed_policies)
    if any(item == name or "=" not in item or item.startswith(f"{name}=") for item in options.epsilon):
        _override_budget(data, policy, participant.epsilon)
    if scenario.contract.statistics is not None:
        _allow_statistics(data, policy, participant)
    if options.secure_noise:
        data["noise"] = "secure"
    home = Home(folder, name, simulation=True)
    home.create(split_seed=seed)
    home.policy.write_text(
        "# Written for one simulation from the demonstration policy.\n" + tomli_w.dumps(data), encoding="utf-8"
    )
    if options.engine != "vectorized":  # it keeps its accounts in memory
        Ledger.create(home.ledger, name).close()
    return home


def _charged_home(root: Path, folder: Path, name: str) -> Home:
    """Return a home with the owner's policy, split and ledger. The owner's policy limits what the simulation may
    charge."""
    owner = (root / name).resolve()
    for file, what in (("ledger.db", "the ledger"), ("policy.toml", "the policy")):
        if not (owner / file).is_file():
            raise InputError(
                f"--ledger {root}: wanted {what} of {name} at {name}/{file}, got nothing; make a home with "
                f"`consortia budget init {name} --policy FILE --home {root}`"
            )
    policy_or_input_error(owner / "policy.toml", simulation=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Home(folder, name, simulation=True, ledger_folder=owner)


def _refuse_idle_files(scenario: Scenario, homes: dict[str, Home]) -> None:
    """Refuse a run that would charge a participant for synthetic rows although its own files are in `data/NAME`."""
    problems = []
    for participant in scenario.roster:
        terms = policy_or_input_error(homes[participant.name].policy, simulation=True).dataset.get(participant.dataset)
        if terms is not None and terms.source.startswith("synthetic:"):
            problems.append(
                idle_files(homes[participant.name].policy, participant.dataset, Path("data") / participant.name)
            )
    if found := [problem for problem in problems if problem is not None]:
        raise InputError(*found)


def _override_budget(data: dict[str, Any], policy: Policy, epsilon: float) -> None:
    """Change the budget for a simulation. The operator owns the demonstration policies."""
    if math.isinf(epsilon):
        data["allow"]["non_private"] = True
        return
    data["budget"]["run"]["epsilon"] = epsilon
    data["budget"]["lifetime"]["epsilon"] = max(epsilon, policy.budget.lifetime.epsilon)


def _allow_statistics(data: dict[str, Any], policy: Policy, participant: RosterParticipant) -> None:
    """Allow statistics in a simulation whose demonstration policy has no budget for them. The proposed budget is
    used."""
    data["allow"]["releases"] = sorted({*policy.allow.releases, "statistics"})
    if policy.budget.statistics is None and not participant.non_private:
        data["budget"]["statistics"] = {"epsilon": participant.epsilon, "delta": participant.delta}
        for key, value in (("epsilon", participant.epsilon), ("delta", participant.delta)):
            data["budget"]["lifetime"][key] = max(value, data["budget"]["lifetime"][key])
    elif policy.budget.statistics is None:
        data["budget"]["statistics"] = dict(data["budget"]["run"])
        data["allow"]["non_private"] = True


def _resumed(options: Options, folder: Path) -> Job:
    try:
        saved = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"--resume {folder}: wanted JSON in job.json, got something else; start a new run") from None
    if saved["engine"] != options.engine:
        raise InputError(f"--resume: this run used --engine {saved['engine']}, got {options.engine}")
    check_with_everybody(folder)
    known_from(folder)
    scenario = scenario_from_json((folder / "scenario.json").read_text(encoding="utf-8"))
    _check_unchanged(options, scenario)
    simulation = options.engine != "flower"
    ledger = Path(saved["ledger"]) if saved["ledger"] else None
    homes = {
        participant.name: Home(
            (folder / "participants" / participant.name).resolve(),
            participant.name,
            simulation=True,
            ledger_folder=ledger / participant.name if ledger else None,
        )
        if simulation
        else own_home(participant.name)
        for participant in scenario.roster
    }
    return Job(scenario, saved["run_id"], folder, homes, saved["sources"], resume=True)


def _check_unchanged(options: Options, saved: Scenario) -> None:
    """Refuse changes of a resumed run: its contract, rows and ledgers are fixed."""
    changes = ("data", "rounds", "seed", "split_seed", "epsilon", "secure_noise", "ledger")
    if given := [f"--{name.replace('_', '-')}" for name in changes if getattr(options, name) not in (None, (), False)]:
        raise InputError(
            f"{', '.join(given)}: wanted none with --resume, which goes on as the run was started; leave it out, or "
            "start a new run"
        )
    if options.scenario and load_scenario(options.scenario).contract.sha256() != saved.contract.sha256():
        raise InputError(
            f"--resume: this run of {saved.name} has contract sha256:{saved.contract.sha256()}, and {options.scenario} "
            "is another one now; leave the scenario out to go on as the run was started, or start a new run"
        )


def _participant_logs(job: Job) -> Iterable[logging.Handler]:
    """Give each participant its own log file in this process. Nothing of it is shown on the console."""
    logger = logging.getLogger("consortia.participant")
    logger.propagate = False
    handlers = []
    for name, home in job.homes.items():
        if not home.folder.is_dir():
            continue
        handler = OwnFile(home.log, name)
        handler.addFilter(_Only(name))
        logger.addHandler(handler)
        handlers.append(handler)
    return handlers


class _Only(logging.Filter):
    """Passes the lines of one participant: its name is the first argument of every line."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._mine = name

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line belongs to this participant."""
        return isinstance(record.args, tuple) and record.args[:1] == (self._mine,)


def _receipts_at_home(job: Job) -> None:
    """Copy each receipt into `runs/RUN` of the home whose ledger was charged. Its owner looks for it there."""
    for home in job.homes.values():
        receipt = home.folder / "runs" / job.run_id / "receipt.json"
        if home.ledger_folder is None or not receipt.is_file():
            continue
        folder = home.ledger_folder / "runs" / job.run_id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.copyfile(receipt, folder / receipt.name)


def _dump(job: Job, target: Path) -> None:
    """Copy each participant's predictions and events, so that anybody can recompute every number."""
    for name, home in job.homes.items():
        folder = target / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ("predictions.csv", "events.json", "receipt.json"):
            source = home.folder / "runs" / job.run_id / file
            if source.is_file():
                shutil.copyfile(source, folder / file)
