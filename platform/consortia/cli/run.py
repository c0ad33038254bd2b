"""`consortia run`: runs a scenario and prints its table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from consortia.cli.options import Jobs, LedgerFolder, PublicData, Rounds, RunsFolder
from consortia.cli.outcome import exit_if_missed, watch_on
from consortia.common.console import begin, err, out, tell
from consortia.common.errors import InputError
from consortia.engines.options import Options, check_options
from consortia.engines.own_home import own_home
from consortia.reports import trackers
from consortia.studies.controls import check_controls
from consortia.terms.scenario import find_scenario, load_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from consortia.engines.base import Job
    from consortia.engines.runner import Outcome


def run(
    scenario: Annotated[
        list[str] | None,
        typer.Argument(help="Names of committed scenarios or paths of TOML files, to be run one after another."),
    ] = None,
    data: PublicData = None,
    rounds: Rounds = None,
    seed: Annotated[int | None, typer.Option(help="Seed of initialisation, synthetic rows and splits.")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Seed of the split alone (simulation).")] = None,
    epsilon: Annotated[
        list[str] | None,
        typer.Option(metavar="X|NAME=X", help="Other budgets, for all or one; inf is non-private."),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            help="embedded (in this process), flower (real processes), vectorized (batched simulation) or ray."
        ),
    ] = "embedded",
    secure_noise: Annotated[
        bool, typer.Option("--secure-noise", help="Noise as when deployed: cryptographic, on a grid (simulation).")
    ] = False,
    ledger: LedgerFolder = None,
    out_folder: RunsFolder = Path("runs"),
    dump: Annotated[
        Path | None, typer.Option(help="Write predictions and events of each participant (simulation).")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with the run in this folder.")] = None,
    top_up: Annotated[
        Path | None, typer.Option("--top-up", metavar="RUN", help="Add a release of new units alone to the run there.")
    ] = None,
    units: Annotated[
        list[str] | None, typer.Option(metavar="N|NAME=N", help="Public number of new units of a --top-up.")
    ] = None,
    batches: Annotated[
        int | None,
        typer.Option(
            help="Score so many batches of new persons (vertical); --resume RUN --batches N scores later ones."
        ),
    ] = None,
    placebo: Annotated[
        bool, typer.Option("--placebo", help="Repeat it with partners whose labels know nothing (simulation).")
    ] = False,
    uncompressed: Annotated[
        bool, typer.Option("--uncompressed", help="Repeat it without compression: what that cost (simulation).")
    ] = False,
    draws: Annotated[int, typer.Option(help="Repetitions for --placebo and --uncompressed.")] = 3,
    jobs: Jobs = 1,
    track: Annotated[
        str, typer.Option(metavar="NAME,…", help="Feed trackers: tensorboard, mlflow, otel, or an installed one.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print result.json instead of the table.")] = False,
) -> None:
    """Run a scenario and print the receipt of each participant; several end in one paragraph on all of them."""
    names = scenario or []
    if not names and resume is None and top_up is None:
        raise typer.BadParameter("wanted the name or path of a scenario, got nothing; try cross-industry")
    if len(names) > 1 and (dump or resume or top_up or batches is not None or as_json):
        raise InputError(
            "--dump, --resume, --top-up, --batches and --json: wanted one scenario with these, got "
            f"{len(names)}; run them one by one"
        )
    options = Options(
        scenario=names[0] if names else "",
        data=data,
        rounds=rounds,
        seed=seed,
        split_seed=split_seed,
        epsilon=tuple(epsilon or ()),
        engine=engine,
        secure_noise=secure_noise,
        ledger=ledger,
        out=out_folder,
        dump=dump,
        resume=resume,
        top_up=top_up,
        units=tuple(units or ()),
        batches=batches,
        placebo=placebo,
        uncompressed=uncompressed,
        draws=draws,
        jobs=jobs,
    )
    every = [replace(options, scenario=name) for name in names] or [options]
    check_options(options)
    tracked = trackers.chosen(track)
    for name in names:
        find_scenario(name)
    begin(f"starting {' and '.join(names) or resume or top_up}: libraries, policies and privacy plans first")
    for one in every:
        _check(one)
    outcomes = [_run(one, tracked, as_json=as_json) for one in every]
    if len(outcomes) > 1:
        from consortia.reports.in_short import paragraph

        tell(paragraph([(outcome.result, outcome.job.scenario) for outcome in outcomes]))
    for outcome in outcomes:
        exit_if_missed(outcome)


def _check(options: Options) -> None:
    """Refuse what can be refused before libraries are loaded."""
    if not options.scenario:
        return
    loaded = load_scenario(options.scenario)
    if options.resume is None:
        loaded = loaded.with_overrides(rounds=options.rounds, seed=options.seed, epsilon=options.epsilon)
        check_controls(loaded, options)
        for participant in loaded.roster if options.engine == "flower" else ():
            own_home(participant.name)


def _run(options: Options, tracked: Sequence[str], *, as_json: bool) -> Outcome:
    """Run one scenario and print its receipts."""
    from consortia.engines.causes import causes
    from consortia.engines.runner import execute
    from consortia.engines.top_up import accepting
    from consortia.reports.tables import refusal_hint
    from consortia.reports.tracking import Tracking
    from consortia.reports.watch import wait_hint
    from consortia.studies.controlled_run import control, prepare

    job, engine = prepare(options), options.engine
    _warn(job, engine)
    if options.top_up is not None:
        err.print(accepting(job), markup=False, highlight=False, soft_wrap=True)
    controlled = options.placebo or options.uncompressed
    try:
        with Tracking(job.folder, tracked, lambda line: err.print(line, markup=False, highlight=False)):
            # A control run goes on with what the run keeps in memory.
            outcome = execute(job, options, watch_on(engine, as_json=as_json), every_core=not controlled)
        result = outcome.result
        if controlled and result["status"] == "completed":
            result = control(job, options, lambda line: err.print(line, highlight=False))
    except KeyboardInterrupt:
        err.print(wait_hint(job.folder, engine), markup=False, soft_wrap=True)
        raise typer.Exit(1) from None
    if as_json:
        typer.echo(json.dumps(result, indent=1))
    else:
        _print(job, result)
        if hint := refusal_hint(outcome.result):
            out.print(hint, highlight=False)
        for cause in causes(job):
            err.print(cause, style="red", markup=False, highlight=False, soft_wrap=True)
        tell(f"record: {job.folder / 'result.json'}")
    return outcome


def _warn(job: Job, engine: str) -> None:
    from consortia.engines.runner import unconfirmed_clients

    for sentence in unconfirmed_clients(job.scenario) if engine != "flower" else ():
        err.print(f"warning: {sentence}; a deployed run refuses this", markup=False, highlight=False, soft_wrap=True)


def _print(job: Job, result: dict[str, Any]) -> None:
    from consortia.reports.repeated_runs import print_compression, print_placebo
    from consortia.reports.tables import conditional_split_note, print_result
    from consortia.studies.placebo import owed

    print_result(out, result, job.scenario)
    if "placebo" in result:
        print_placebo(out, result["placebo"])
    elif note := owed(job.scenario):
        out.print(note, highlight=False)
    if "compression" in result:
        print_compression(out, result["compression"])
    if note := conditional_split_note(job):
        out.print(note, highlight=False)
