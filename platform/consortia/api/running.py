"""`consortia.run`: a scenario trained from Python, as `consortia run` does; and what every run from Python shares."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.console import Console

from consortia.api.runs import Run, Scratch, as_arguments
from consortia.common.errors import ArgumentError, RunFailedError, RunRefusedError
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import execute
from consortia.reports.watch import Watch
from consortia.studies.controlled_run import control, prepare
from consortia_plugins.arguments import named_arguments

__all__ = ["finished", "run"]


@named_arguments(ArgumentError)
def run(
    scenario: str | os.PathLike[str] = "",
    *,
    epsilon: float | Mapping[str, float] | None = None,
    rounds: int | None = None,
    seed: int | None = None,
    data: str | os.PathLike[str] | None = None,
    engine: str = "embedded",
    ledger: str | os.PathLike[str] | None = None,
    out: str | os.PathLike[str] = "runs",
    placebo: bool = False,
    draws: int = 3,
    resume: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Run:
    """Train a scenario, as `consortia run` does.

    Parameters
    ----------
    scenario : str
        Name of a committed scenario, or path of a TOML file.
    epsilon : float or mapping, optional
        Of one run: for everybody, or by participant; `math.inf` is non-private.
    rounds, seed : int, optional
        Instead of the contract's. The seed governs start, synthetic rows and splits, never noise.
    data : path, optional
        Folder of public data sets. Without one every industry makes synthetic rows, and every output says so.
    engine : {"embedded", "flower", "ray", "vectorized"}
    ledger : path, optional
        Folder with the participants' homes, whose ledgers are charged. Without one a simulation charges nothing.
    out : path
        Below it lies the run's folder.
    placebo : bool
        Repeat it with partners of other industries whose labels know nothing, `draws` times: the receipts then have
        `transfer`, what real partners give beyond these.
    resume : path, optional
        Go on with the run in this folder; no scenario then.
    progress : bool
        Print the rounds.

    Raises
    ------
    ArgumentError
        A ValueError that names key, wanted and got; nothing was started.
    RunFailedError
        It ended without a model.
    """
    given = {} if epsilon is None else epsilon if isinstance(epsilon, Mapping) else {"": epsilon}
    resumed = None if resume is None else Path(resume)
    if resumed is not None and (resumed / "job.json").is_file():
        engine = json.loads((resumed / "job.json").read_text(encoding="utf-8"))["engine"]
    options = Options(
        scenario=os.fspath(scenario),
        epsilon=tuple(f"{name}={value}" if name else f"{value}" for name, value in given.items()),
        rounds=rounds,
        seed=seed,
        data=None if data is None else Path(data),
        engine=engine,
        ledger=None if ledger is None else Path(ledger),
        out=Path(out),
        placebo=placebo,
        draws=draws,
        resume=resumed,
    )
    with as_arguments():
        job = prepare(options)
    return finished(job, options, progress=progress)


def finished(job: Job, options: Options, *, progress: bool = False, scratch: Scratch | None = None) -> Run:
    """Run a prepared job to its end; RunFailedError says why there is no model."""
    console, simulation = Console(width=120), options.engine != "flower"
    threads = torch.get_num_threads()
    try:
        execute(job, options, (lambda started: Watch(console, started, simulation=simulation)) if progress else None)
        if options.placebo:
            control(job, options, console.print if progress else lambda _: None)
    except RunRefusedError as error:
        raise RunFailedError("\n".join((f"{job.run_id}: refused: {error}", *_advice(error.problems)))) from None
    finally:
        torch.set_num_threads(threads)  # training takes one, and is a guest in this process
    done = Run(job.folder, scratch=scratch)
    if done.status != "completed":
        raise RunFailedError(f"{job.run_id}: {done.status}: {done.result['reason']}{_why(done)}")
    return done


def _why(done: Run) -> str:
    """Return what each participant's own log ends with, which a simulation's operator may read; else its last code."""
    said = []
    for name, participant in done.result["participants"].items():
        if participant["failures"]:
            log = done.folder / "participants" / name / "participant.log"
            lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
            said.append(json.loads(lines[-1])["message"] if lines else f"{name}: {participant['failures'][-1]['code']}")
    return "".join(f"\n{line}" for line in (*said, *_advice(said)))


def _advice(said: Sequence[str]) -> list[str]:
    if not any("BUDGET_EXHAUSTED" in line for line in said):
        return []
    return ["Set a participant's lifetime_epsilon to raise its lifetime, which its ledger records."]
