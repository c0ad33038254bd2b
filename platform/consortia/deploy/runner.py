"""`python -m consortia.deploy.runner SCENARIO [--resume RUN] [--top-up RUN] [--track NAME,…]`: one run on a deployed
federation, from its submission to its table.

The ServerApp writes its events, checkpoints and record into the run's folder, which this service sees too. The exit
status is the run's: 0 completed and as expected, 1 not, 2 bad input.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from consortia.common import acts, disk
from consortia.common.console import err, out, tell
from consortia.common.disk import write_text
from consortia.common.errors import ConsortiaError, InputError, RunFailedError, RunRefusedError
from consortia.common.logs import tolerant_streams
from consortia.deploy.health import alive
from consortia.deploy.prepare import HOMES, KEYS, RUNS, SUPERLINK, with_members
from consortia.engines import record
from consortia.engines.base import Job
from consortia.engines.control import UNANSWERED, UNLISTED, Control, longest_run, read_status
from consortia.engines.runner import with_batches
from consortia.engines.top_up import accepting, further_of
from consortia.participant.home import Home
from consortia.reports.tables import conditional_split_note, print_result, refusal_hint
from consortia.reports.trackers import chosen
from consortia.reports.tracking import Tracking
from consortia.reports.watch import Watch
from consortia.terms.scenario import Scenario, scenario_from_json
from consortia.trust.passport.leave import check_with_everybody

_STATUS_EVERY_SECONDS = 15.0
#: Both must be passed: a host that stood still asks late, and one that is slow asks seldom.
_SILENT_ASKS = 10
_SILENT_SECONDS = 300.0


def make_job(scenario: Scenario, runs: Path, resume: str = "", top_up: str = "", units: Sequence[str] = ()) -> Job:
    """Lay out a run's folder, that of a further release, or take that of the run to resume. The homes are names only:
    nothing of a participant is mounted here."""
    if (top_up and resume) or (units and not top_up):
        raise InputError(
            "--top-up, --units: wanted units with a top-up alone, and no --resume beside it; leave one out"
        )
    if resume:
        file = runs / Path(resume).name / "scenario.json"
        if not file.is_file():
            raise InputError(f"--resume {resume}: wanted the name of a run below runs/, got none")
        check_with_everybody(file.parent)
        scenario = scenario_from_json(file.read_text(encoding="utf-8"))
        return Job(scenario, file.parent.name, file.parent, _homes(scenario), {}, resume=True)
    further = further_of(_below(runs, top_up), units) if top_up else None
    scenario = scenario if further is None else further.scenario
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
    run_id = f"{scenario.name}-{stamp}-{secrets.token_hex(2)}"
    folder = runs / run_id
    folder.mkdir(parents=True)
    if further is not None:
        further.begin(folder)
    write_text(folder / "scenario.json", scenario.to_json())
    return Job(scenario, run_id, folder, _homes(scenario), {})


def _below(runs: Path, name: str) -> Path:
    """Return the folder of a run below runs/; InputError where there is none."""
    folder = runs / Path(name).name
    if not folder.is_dir():
        raise InputError(f"--top-up {name}: wanted the name of a run below runs/, got none")
    return folder


def _homes(scenario: Scenario) -> dict[str, Home]:
    return {participant.name: Home(HOMES / participant.name, participant.name) for participant in scenario.roster}


def follow(job: Job, control: Control) -> None:
    """Submit the run and wait for the coordinator's record; every wait has an end."""
    target = job.folder / "coordinator.json"
    before = target.stat().st_mtime_ns if target.is_file() else 0
    flower_run_id = control.submit(job)
    end = time.monotonic() + longest_run(job)
    next_look, silence = time.monotonic() + _STATUS_EVERY_SECONDS, _Silence()
    while time.monotonic() < end:
        alive()
        if (found := read_status(target, before)) is not None:
            if found.get("refused"):
                raise RunRefusedError(*found["reason"].splitlines())
            return
        if time.monotonic() > next_look:
            next_look = time.monotonic() + _STATUS_EVERY_SECONDS
            status = control.status(flower_run_id)
            if status.startswith("finished") and read_status(target, before) is None:
                why = disk.why_full(job.folder)
                raise RunFailedError(
                    why or "Flower ended the run without a record; see `docker compose logs superexec`"
                )
            silence.heard(status)
        time.sleep(0.2)
    raise RunFailedError("the run passed every deadline; its last checkpoint is kept")


class _Silence:
    """Ends the wait for a SuperLink that no longer tells of the run; a restart of it is shorter and ends nothing."""

    def __init__(self) -> None:
        self._asks = 0
        self._since = 0.0

    def heard(self, status: str) -> None:
        """Count a status.

        Raises
        ------
        RunFailedError
            `_SILENT_ASKS` statuses in a row said nothing of the run, over `_SILENT_SECONDS` at least.
        """
        if status not in {UNANSWERED, UNLISTED}:
            self._asks = 0
            return
        now = time.monotonic()
        self._since = self._since if self._asks else now
        self._asks += 1
        if self._asks < _SILENT_ASKS or now - self._since < _SILENT_SECONDS:
            return
        what = "did not answer" if status == UNANSWERED else "did not know the run"
        raise RunFailedError(
            f"the SuperLink {what}, asked {self._asks} times in {now - self._since:.0f} s; see `docker compose ps` and "
            "`docker compose logs superlink`, then go on from the last checkpoint with CONSORTIA_RESUME"
        )


def run(
    scenario: Scenario,
    runs: Path,
    resume: str = "",
    batches: int | None = None,
    trackers: Sequence[str] = (),
    top_up: str = "",
    units: Sequence[str] = (),
) -> int:
    """Run a scenario on the federation and print its table; return the exit status."""
    job = with_batches(make_job(scenario, runs, resume, top_up, units), batches)
    scenario = job.scenario
    act = "run.top-up" if top_up else "run.resume" if resume else "run.start"
    acts.record(runs, act, job.run_id)
    if top_up:
        tell(accepting(job).replace(str(job.folder), f"runs/{job.run_id}"))  # where the host has it
    out.print(f"run {job.run_id}: {scenario.rounds} rounds, {len(scenario.roster)} participants")
    with (
        contextlib.closing(Control(SUPERLINK, KEYS / "ca.crt")) as control,
        Tracking(job.folder, trackers, _warn),
        Watch(out, job, simulation=False),
    ):
        try:
            follow(job, control)
        except RunRefusedError:
            record.build(job, "flower")  # so that report and dashboard tell who lacked what
            raise
    result = record.build(job, "flower")
    print_result(out, result)
    for note in (conditional_split_note(job), refusal_hint(result)):
        if note:
            out.print(note, highlight=False)
    out.print(f"record: runs/{job.run_id}/result.json on the host", highlight=False, soft_wrap=True)
    missed = record.missed_expectations(scenario, result, job.folder)
    for sentence in missed:
        err.print(f"missed: {sentence}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 1 if missed else 0


def _warn(sentence: str) -> None:
    err.print(sentence, markup=False, highlight=False)


def main(arguments: list[str]) -> int:
    """Run the scenario named on the command line, or go on with one of its runs."""
    tolerant_streams()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenario")
    resume, batches, top_up, units = (
        os.environ.get(f"CONSORTIA_{name}", "") for name in ("RESUME", "BATCHES", "TOP_UP", "UNITS")
    )
    parser.add_argument("--resume", default=resume, help="name of a run below runs/ (default: $CONSORTIA_RESUME)")
    parser.add_argument(
        "--batches",
        type=int,
        default=batches or None,
        help="batches of new persons to score by the end (vertical; default: $CONSORTIA_BATCHES)",
    )
    parser.add_argument(
        "--track",
        default=os.environ.get("CONSORTIA_TRACK", ""),
        metavar="NAME,…",
        help="feed trackers: tensorboard, mlflow, otel, or an installed one (default: $CONSORTIA_TRACK)",
    )
    parser.add_argument("--top-up", default=top_up, help="add new units to this run below runs/ ($CONSORTIA_TOP_UP)")
    parser.add_argument("--units", default=units, metavar="N|NAME=N,…", help="how many, publicly ($CONSORTIA_UNITS)")
    asked = parser.parse_args(arguments)
    new = tuple(filter(None, asked.units.split(",")))
    try:
        trackers = chosen(asked.track)
        return run(with_members(asked.scenario), RUNS, asked.resume, asked.batches, trackers, asked.top_up, new)
    except (ConsortiaError, json.JSONDecodeError) as error:
        err.print(f"failed: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:
        if not (reason := disk.no_room(error)):
            raise
        err.print(f"failed: {reason}", style="red", markup=False, highlight=False, soft_wrap=True)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
