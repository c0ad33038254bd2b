"""`consortia run SCENARIO --placebo`: tests whether what other industries know helps.

A trunk that is shared between industries may gain from partners who know nothing: it is averaged and regularised. So
every industry in turn is the one in question: the run is repeated with the labels of all participants of *other*
industries drawn i.i.d. from their schemas' public prior. Rows, splits and start stay the same. What the real partners
give beyond these placebo partners is transfer. Nothing else may be called transfer.

Noise and placebo labels differ from run to run, so real and placebo runs are repeated (`draws`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from clients import registry
from consortia.common.disk import write_json
from consortia.common.jobs import side_by_side
from consortia.engines.base import Job
from consortia.participant.evaluation import Scores
from consortia.participant.own_candidates import ridge
from consortia.studies import repeated_runs
from consortia.terms.scenario import Scenario

if TYPE_CHECKING:
    from consortia.engines.options import Options

PLACEBO_SCHEMA = 1


def owed(scenario: Scenario) -> str | None:
    """Return the sentence that a run across industries owes without its placebo, or None."""
    industries = {participant.industry for participant in scenario.roster}
    if "consortium" not in scenario.contract.scopes.named or len(industries) < 2:
        return None
    return (
        "Parts are shared between industries: without --placebo this table shows no transfer between them, whatever it "
        "gained."
    )


def run(
    job: Job,
    options: Options,
    rerun: repeated_runs.Rerun,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Run the control of a finished run; return (and write) `placebo.json`.

    Parameters
    ----------
    rerun : callable
        See `repeated_runs.Rerun`.
    progress : callable
        Gets a line before each run.
    """
    scenario = job.scenario
    again = dataclasses.replace(options, out=job.folder / "placebo", dump=None, jobs=1)
    sources = {
        participant.name: repeated_runs.source("--placebo", job, participant.name) for participant in scenario.roster
    }
    private = any(not participant.non_private for participant in scenario.roster)
    industries = sorted({participant.industry for participant in scenario.roster})

    def repetitions() -> Iterator[repeated_runs.Repetition]:
        for draw in range(1, options.draws if private else 1):  # without noise every repetition is the same
            progress(f"again, with the real labels ({draw + 1} of {options.draws})")
            yield again, {}
        for industry in industries:
            for draw in range(options.draws):
                progress(f"placebo: {industry} among partners that know nothing ({draw + 1} of {options.draws})")
                yield (
                    again,
                    {s.name: f"placebo:{draw}:{sources[s.name]}" for s in scenario.roster if s.industry != industry},
                )

    finished = iter(list(side_by_side(rerun, repetitions(), options.jobs)))
    real = [job, *itertools.islice(finished, options.draws - 1 if private else 0)]
    placebos = {industry: list(itertools.islice(finished, options.draws)) for industry in industries}
    participants = {
        participant.name: _compare(job, participant.name, real, placebos[participant.industry])
        for participant in scenario.roster
    }
    table = {
        "schema": PLACEBO_SCHEMA,
        "run_id": job.run_id,
        "draws": options.draws,
        "participants": participants,
        "verdicts": verdicts(participants.values()),
    }
    write_json(job.folder / "placebo.json", table)
    return table


def _compare(job: Job, name: str, real: Sequence[Job], placebos: Sequence[Job]) -> dict[str, Any]:
    """Return one participant's line: models side by side, differences to its local model, and to the placebo."""
    participant, home = job.scenario.participant(name), job.homes[name]
    client = registry.get(participant.industry)
    parts = repeated_runs.partitions(job, name)
    metric = repeated_runs.headline(job, name)

    def value(scores: Scores) -> float | None:
        return repeated_runs.value(metric, scores, parts)

    local, _ = repeated_runs.scores(job, name, parts)
    federated = [repeated_runs.scores(one, name, parts)[1] for one in real]
    placebo = [repeated_runs.scores(one, name, parts)[1] for one in placebos]
    alone = ridge(client, parts.train, home.participant)(parts.test)
    pairs = list(zip(repeated_runs.filled(federated, len(placebo)), placebo, strict=True))

    def differences(of: Sequence[tuple[Scores, Scores]]) -> dict[str, Any] | None:
        return repeated_runs.differences(metric, of, parts, name)

    receipt = json.loads((home.run_folder(job.run_id) / "receipt.json").read_text(encoding="utf-8"))
    return {
        "industry": participant.industry,
        "metric": metric,
        "test_units": parts.test.n_units,
        "majority": receipt["metrics"][metric]["majority"],
        "ridge": value(alone),
        "local": value(local),
        "federated": repeated_runs.mean([value(scores) for scores in federated]),
        "placebo": repeated_runs.mean([value(scores) for scores in placebo]),
        "ridge_gain": differences([(alone, local)]),
        "federated_gain": differences([(scores, local) for scores in federated]),
        "placebo_gain": differences([(scores, local) for scores in placebo]),
        "transfer": differences(pairs),
    }


def verdicts(participants: Any) -> list[str]:
    """Return one sentence for each metric: whether the federated gain exceeds the placebo's.

    The question is asked once, of the mean over participants. If it were asked of each participant, one of many
    intervals would exclude zero by chance.
    Participants share a run's noise, so its spread is that of the draws' means over participants.
    """
    by_metric: dict[str, list[dict[str, Any]]] = {}
    for participant in participants:
        if (
            participant["transfer"] is not None
            and participant["federated_gain"] is not None
            and participant["placebo_gain"] is not None
        ):
            by_metric.setdefault(participant["metric"], []).append(participant)
    sentences = []
    for metric, group in by_metric.items():
        n = len(group)
        rows = math.sqrt(sum(participant["transfer"]["rows_error"] ** 2 for participant in group)) / n
        draws = [
            statistics.fmean(values)
            for values in zip(*(participant["transfer"]["draws"] for participant in group), strict=True)
        ]
        found = repeated_runs.interval(draws, rows)
        gain, control = (
            statistics.fmean(participant[key]["value"] for participant in group)
            for key in ("federated_gain", "placebo_gain")
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
