"""`consortia run SCENARIO --uncompressed`: measures what compressed updates cost and save.

The run is repeated without `[contract.compression]`. Rows, splits and start stay the same. Rounding is random, and with
DP the noise of two runs differs. So both are repeated (`draws`), and the interval covers that (see
`consortia.studies.repeated_runs`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from consortia.common.disk import write_json
from consortia.common.jobs import side_by_side
from consortia.engines.base import Job
from consortia.participant.evaluation import Scores
from consortia.studies import repeated_runs

if TYPE_CHECKING:
    from consortia.engines.options import Options

COST_SCHEMA = 1


def run(
    job: Job,
    options: Options,
    result: Mapping[str, Any],
    rerun: repeated_runs.Rerun,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """Repeat a finished run without compression; return (and write) `compression.json`.

    Parameters
    ----------
    result : mapping
        The finished run's record.
    rerun : callable
        See `repeated_runs.Rerun`.
    progress : callable
        Gets a line before each run.
    """
    scenario = job.scenario
    again = dataclasses.replace(options, out=job.folder / "uncompressed", dump=None, uncompressed=False, jobs=1)
    for participant in scenario.roster:
        repeated_runs.source("--uncompressed", job, participant.name)
    private = any(not participant.non_private for participant in scenario.roster)

    def repetitions() -> Iterator[repeated_runs.Repetition]:
        for draw in range(1, options.draws):  # rounding is random, noise or not
            progress(f"again, compressed ({draw + 1} of {options.draws})")
            yield again, {}
        for draw in range(options.draws if private else 1):
            progress(f"without compression ({draw + 1})")
            yield dataclasses.replace(again, compressed=False), {}

    finished = [job, *side_by_side(rerun, repetitions(), options.jobs)]
    compressed, plain = finished[: options.draws], finished[options.draws :]
    table = {
        "schema": COST_SCHEMA,
        "run_id": job.run_id,
        "draws": options.draws,
        "participants": {
            participant.name: _compare(job, participant.name, compressed, plain)
            | _bytes(result["participants"][participant.name]["bytes"])
            for participant in scenario.roster
        },
    }
    write_json(job.folder / "compression.json", table)
    return table


def _compare(job: Job, name: str, compressed: Sequence[Job], plain: Sequence[Job]) -> dict[str, Any]:
    parts, metric = repeated_runs.partitions(job, name), repeated_runs.headline(job, name)

    def federated(jobs: Sequence[Job]) -> list[Scores]:
        return [repeated_runs.scores(one, name, parts)[1] for one in jobs]

    def value(found: Sequence[Scores]) -> float | None:
        return repeated_runs.mean([repeated_runs.value(metric, scores, parts) for scores in found])

    left, right = federated(compressed), federated(plain)
    pairs = list(zip(left, repeated_runs.filled(right, len(left)), strict=True))
    change = repeated_runs.differences(metric, pairs, parts, name)
    return {"metric": metric, "compressed": value(left), "uncompressed": value(right), "change": change}


def _bytes(counted: Mapping[str, int]) -> dict[str, int]:
    return {"bytes_sent": counted["sent"], "bytes_saved": counted.get("saved", 0)}
