"""Repeats a finished run with one thing changed, and compares the test scores.

Noise differs from run to run, so runs are repeated. An interval covers both: the paired bootstrap over units of the
test rows, and Student's t over the repetitions. Synthetic or public rows only, in a simulation (invariant 4); nothing
is charged.
"""

from __future__ import annotations

import csv
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clients import metrics
from clients.sources import parse_source
from consortia.common.errors import InputError, RunFailedError
from consortia.engines.base import Job
from consortia.participant.data import load_partitions
from consortia.participant.evaluation import Scores, gain_interval
from consortia.participant.partitions import Partitions
from consortia.terms.policy import load_policy

if TYPE_CHECKING:
    from consortia.engines.options import Options

#: Options, and sources that replace the run's own by participant.
Repetition = tuple["Options", dict[str, str]]
#: Returns the finished repetition. Other processes can import it (`consortia.common.jobs`).
Rerun = Callable[[Repetition], Job]
#: A 95 % interval reaches so many standard errors to either side (a normal quantile).
_Z = 1.96


def source(option: str, job: Job, name: str) -> str:
    """Return where a participant's rows come from; InputError unless they are public or synthetic."""
    home, participant = job.homes[name], job.scenario.participant(name)
    found = job.sources.get(name) or load_policy(home.policy, simulation=True).dataset[participant.dataset].source
    if parse_source(found).kind not in {"public", "synthetic"}:
        raise InputError(f"{option}: wanted synthetic or public rows at {name}, got rows of its own")
    return found


def differences(
    metric: str, pairs: Sequence[tuple[Scores, Scores]], parts: Partitions, name: str
) -> dict[str, Any] | None:
    """Return the mean over pairs of the left scores' metric minus the right ones', with its interval.

    Positive where the left ones are better, whichever way the metric points.

    Returns
    -------
    dict or None
        `value`, `low`, `high`, `rows_error` (of the test rows, one standard error) and `draws`; None where the metric
        is undefined.
    """
    found = [gain_interval(metric, left, right, parts.test, name) for left, right in pairs]
    known = [one for one in found if one is not None]
    if not known:
        return None
    rows = math.sqrt(statistics.fmean(((one.high - one.low) / 2 / _Z) ** 2 for one in known))
    return interval([one.value for one in known], rows)


def interval(values: Sequence[float], rows_error: float) -> dict[str, Any]:
    """Return the mean with a 95 % interval of two parts: the test rows (normal) and the draws (Student's t)."""
    from scipy.stats import t

    n, mean = len(values), statistics.fmean(values)
    draws_error = statistics.stdev(values) / math.sqrt(n) if n > 1 else 0.0
    quantile = float(t.ppf(0.975, n - 1)) if n > 1 else 0.0
    half = math.hypot(_Z * rows_error, quantile * draws_error)
    return {"value": mean, "low": mean - half, "high": mean + half, "rows_error": rows_error, "draws": list(values)}


def value(metric: str, scores: Scores, parts: Partitions) -> float | None:
    """Return a metric of the test rows."""
    return metrics.get(metric).value(scores, parts.test.measured)


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of what is known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def filled(items: Sequence[Scores], count: int) -> list[Scores]:
    """Return `count` items, from the first again behind the last."""
    return [items[index % len(items)] for index in range(count)]


def partitions(job: Job, name: str) -> Partitions:
    """Return a participant's rows as its run had them."""
    participant, home = job.scenario.participant(name), job.homes[name]
    terms = load_policy(home.policy, simulation=True).dataset[participant.dataset]
    terms = terms.model_copy(update={"source": job.sources.get(name) or terms.source})
    return load_partitions(home, terms, participant.dataset, job.scenario.contract.of(participant.industry), job.run_id)


def headline(job: Job, name: str) -> str:
    """Return the metric that a participant's receipt leads with."""
    file = job.homes[name].run_folder(job.run_id) / "receipt.json"
    if not file.is_file():
        raise RunFailedError(f"control: wanted the receipt of {name}, got none; its own log says why")
    return str(json.loads(file.read_text(encoding="utf-8"))["headline"])


def scores(job: Job, name: str, parts: Partitions) -> tuple[Scores, Scores]:
    """Return (local, federated) scores of the test rows as the run's receipt had them."""
    file: Path = job.homes[name].run_folder(job.run_id) / "predictions.csv"
    if not file.is_file():
        raise RunFailedError(f"control: wanted predictions of {name} in {job.run_id}, got none; its own log says why")
    with file.open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row["split"] == "test"]
    if [row["row_id"] for row in rows] != list(parts.test.row_ids):
        raise RunFailedError(f"control: {name} has other test rows in {job.run_id}")
    local, federated = (
        np.asarray([json.loads(row[key]) for row in rows], dtype=np.float64)
        for key in ("score_local", "score_federated")
    )
    return local, federated
