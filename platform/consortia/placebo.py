"""`consortia run SCENARIO --placebo`: does what other industries know help, or only that somebody takes part?

A trunk that is shared between industries may gain from partners who know nothing: it is averaged and regularised. So
every industry in turn is the one in question: the run is repeated with the labels of all participants of *other*
industries drawn i.i.d. from their schemas' public prior; rows, splits and start stay. What the real partners give
beyond these placebo partners is transfer; nothing else may be called so.

Noise and placebo labels differ from run to run, so real and placebo runs are repeated (`draws`). An interval covers
both: the paired bootstrap over units of the test rows, and Student's t over the draws. Synthetic or public rows only,
in a simulation (invariant 4); nothing is charged.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clients import registry
from clients.sources import parse_source
from consortia.engines.base import Job
from consortia.errors import InputError, RunFailedError
from consortia.evaluation import Scores, gain_interval, ridge, score_metrics
from consortia.local_training import Partitions, load_partitions
from consortia.policy import load_policy
from consortia.receipt import write_json
from consortia.scenario import Scenario

if TYPE_CHECKING:
    from consortia.runner import Options

PLACEBO_SCHEMA = 1
#: Normal quantile that a 95 % bootstrap interval is twice of.
_Z = 1.96


def check(scenario: Scenario, options: Options) -> None:
    """Refuse what has no placebo, before anything runs.

    Raises
    ------
    InputError
        Naming the option or the key of the contract.
    """
    if options.engine != "embedded" or options.ledger is not None or options.resume is not None:
        raise InputError(
            "--placebo: wanted a simulation (--engine embedded, no --ledger, no --resume), since it repeats the run on "
            "synthetic or public rows; nobody's budget is spent on a control"
        )
    if options.draws < 2:
        raise InputError(f"--placebo-draws: wanted at least 2, got {options.draws}; one run cannot show its own noise")
    if scenario.contract.mode != "horizontal" or "consortium" not in scenario.contract.scopes.named:
        raise InputError(
            "--placebo: wanted a part shared with the whole consortium (contract.scopes, trunk = 'consortium' say), "
            "got none; without one the labels of other industries reach nobody"
        )
    if len({seat.industry for seat in scenario.roster}) < 2:
        raise InputError("--placebo: wanted participants of at least two industries, got one")


def owed(scenario: Scenario) -> str | None:
    """Return the sentence that a run across industries owes without its placebo, or None."""
    industries = {seat.industry for seat in scenario.roster}
    if "consortium" not in scenario.contract.scopes.named or len(industries) < 2:
        return None
    return (
        "Parts are shared between industries: without --placebo this table shows no transfer between them, whatever it "
        "gained."
    )


def run(
    job: Job,
    options: Options,
    rerun: Callable[[Options, dict[str, str]], Job],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the control of a finished run; return (and write) `placebo.json`.

    Parameters
    ----------
    rerun : callable
        (options, sources that replace the run's own by participant) -> the finished job.
    progress : callable
        Gets a line before each run.
    """
    scenario = job.scenario
    again = dataclasses.replace(options, out=job.folder / "placebo", dump=None)
    sources = {seat.name: _source(job, seat.name) for seat in scenario.roster}
    private = any(not seat.non_private for seat in scenario.roster)
    real: list[Job] = [job]
    controls: dict[str, list[Job]] = {}
    for draw in range(1, options.draws if private else 1):  # without noise every repetition is the same
        progress(f"again, with the real labels ({draw + 1} of {options.draws})")
        real.append(rerun(again, {}))
    for industry in sorted({seat.industry for seat in scenario.roster}):
        controls[industry] = []
        for draw in range(options.draws):
            progress(f"placebo: {industry} among partners that know nothing ({draw + 1} of {options.draws})")
            false = {s.name: f"placebo:{draw}:{sources[s.name]}" for s in scenario.roster if s.industry != industry}
            controls[industry].append(rerun(again, false))
    seats = {seat.name: _compare(job, seat.name, real, controls[seat.industry]) for seat in scenario.roster}
    table = {
        "schema": PLACEBO_SCHEMA,
        "run_id": job.run_id,
        "draws": options.draws,
        "participants": seats,
        "verdicts": verdicts(seats.values()),
    }
    write_json(job.folder / "placebo.json", table)
    return table


def _source(job: Job, name: str) -> str:
    """Return where a participant's rows come from; InputError unless they are public or synthetic."""
    home, seat = job.homes[name], job.scenario.seat(name)
    source = job.sources.get(name) or load_policy(home.policy, simulation=True).dataset[seat.dataset].source
    if parse_source(source).kind not in {"public", "synthetic"}:
        raise InputError(f"--placebo: wanted synthetic or public rows at {name}, got rows of its own")
    return source


def _compare(job: Job, name: str, real: Sequence[Job], controls: Sequence[Job]) -> dict[str, Any]:
    """Return one participant's line: models side by side, differences to its local model, and to the placebo."""
    seat, home = job.scenario.seat(name), job.homes[name]
    client = registry.get(seat.industry)
    parts = _partitions(job, name)
    metric = _headline(job, name)

    def value(scores: Scores) -> float | None:
        return score_metrics(client, scores, parts.test).get(metric)

    local, _ = _scores(job, name, parts)
    federated = [_scores(one, name, parts)[1] for one in real]
    placebo = [_scores(one, name, parts)[1] for one in controls]
    alone = ridge(client, parts.train, home.participant)(parts.test)
    pairs = list(zip(_filled(federated, len(placebo)), placebo, strict=True))

    def differences(of: Sequence[tuple[Scores, Scores]]) -> dict[str, float] | None:
        found = [gain_interval(metric, left, right, parts.test, name) for left, right in of]
        known = [one for one in found if one is not None]
        if not known:
            return None
        rows = math.sqrt(statistics.fmean(((one.high - one.low) / 2 / _Z) ** 2 for one in known))
        return _interval([one.value for one in known], rows)

    receipt = json.loads((home.run_folder(job.run_id) / "receipt.json").read_text(encoding="utf-8"))
    return {
        "industry": seat.industry,
        "metric": metric,
        "test_units": parts.test.n_units,
        "majority": receipt["metrics"][metric]["majority"],
        "ridge": value(alone),
        "local": value(local),
        "federated": _mean([value(scores) for scores in federated]),
        "placebo": _mean([value(scores) for scores in placebo]),
        "ridge_gain": differences([(alone, local)]),
        "federated_gain": differences([(scores, local) for scores in federated]),
        "placebo_gain": differences([(scores, local) for scores in placebo]),
        "transfer": differences(pairs),
    }


def _filled(items: Sequence[Scores], count: int) -> list[Scores]:
    return [items[index % len(items)] for index in range(count)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _interval(values: Sequence[float], rows_error: float) -> dict[str, Any]:
    """Return the mean with a 95 % interval of two parts: the test rows (normal) and the draws (Student's t)."""
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    draws_error = statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    quantile = float(t.ppf(0.975, n - 1)) if n > 1 else 0.0
    half = math.hypot(_Z * rows_error, quantile * draws_error)
    return {"value": mean, "low": mean - half, "high": mean + half, "rows_error": rows_error, "draws": list(values)}


def verdicts(seats: Any) -> list[str]:
    """Return one sentence for each metric: whether the federated gain exceeds the placebo's.

    The mean over participants is asked once, not each participant: of many intervals one excludes zero by chance.
    Participants share a run's noise, so its spread is that of the draws' means over participants.
    """
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for seat in seats:
        if seat["transfer"] is not None and seat["federated_gain"] is not None and seat["placebo_gain"] is not None:
            by_metric.setdefault(seat["metric"], []).append(seat)
    sentences = []
    for metric, group in by_metric.items():
        n = len(group)
        rows = math.sqrt(sum(seat["transfer"]["rows_error"] ** 2 for seat in group)) / n
        draws = [
            statistics.fmean(values) for values in zip(*(seat["transfer"]["draws"] for seat in group), strict=True)
        ]
        found = _interval(draws, rows)
        gain, control = (
            statistics.fmean(seat[key]["value"] for seat in group) for key in ("federated_gain", "placebo_gain")
        )
        shown = found["low"] > 0
        word = "exceeds" if shown else "does not exceed"
        end = "their labels are worth something here" if shown else "no transfer between industries is shown"
        sentences.append(
            f"{metric}: the gain with real partners of other industries ({gain:+.3f} over local) {word} that with "
            f"placebo partners ({control:+.3f}): {found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}], "
            f"mean of {n} participants; {end}."
        )
    return sentences


def _partitions(job: Job, name: str) -> Partitions:
    seat, home = job.scenario.seat(name), job.homes[name]
    terms = load_policy(home.policy, simulation=True).dataset[seat.dataset]
    terms = terms.model_copy(update={"source": job.sources.get(name) or terms.source})
    return load_partitions(home, terms, seat.dataset, job.scenario.contract, job.run_id)


def _headline(job: Job, name: str) -> str:
    file = job.homes[name].run_folder(job.run_id) / "receipt.json"
    if not file.is_file():
        raise RunFailedError(f"placebo: wanted the receipt of {name}, got none; its own log says why")
    return str(json.loads(file.read_text(encoding="utf-8"))["headline"])


def _scores(job: Job, name: str, parts: Partitions) -> tuple[Scores, Scores]:
    """Return (local, federated) scores of the test rows as the run's receipt had them."""
    file: Path = job.homes[name].run_folder(job.run_id) / "predictions.csv"
    if not file.is_file():
        raise RunFailedError(f"placebo: wanted predictions of {name} in {job.run_id}, got none; its own log says why")
    with file.open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row["split"] == "test"]
    if [row["row_id"] for row in rows] != list(parts.test.row_ids):
        raise RunFailedError(f"placebo: {name} has other test rows in {job.run_id}")
    local, federated = (
        np.asarray([json.loads(row[key]) for row in rows], dtype=np.float64)
        for key in ("score_local", "score_federated")
    )
    return local, federated
