"""Runs a scenario with its control runs, and writes both to `result.json`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from consortia.common.disk import write_json
from consortia.engines import runner
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.studies import compression_cost, placebo
from consortia.studies.controls import check_controls

__all__ = ["control", "prepare"]


def prepare(options: Options) -> Job:
    """Prepare a run as `consortia.engines.runner` does, and refuse the controls that the scenario cannot have."""
    return runner.prepare(options, check_controls)


def control(job: Job, options: Options, progress: Callable[[str], None]) -> dict[str, Any]:
    """Run the controls of a finished run that were asked for and put what they found into `result.json`.

    See `consortia.studies.placebo` and `consortia.studies.compression_cost`.
    """
    file = job.folder / "result.json"
    result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if options.placebo:
        result["placebo"] = placebo.run(job, options, _rerun, progress)
        _beside(result, result["placebo"], "placebo")
    if options.uncompressed:
        result["compression"] = compression_cost.run(job, options, result, _rerun, progress)
        _beside(result, result["compression"], "uncompressed")
    write_json(file, result)
    return result


def _rerun(repetition: tuple[Options, dict[str, str]]) -> Job:
    again, sources = repetition
    prepared = runner.prepare(again, check_controls)
    homes = {name: replace(home, control=True) for name, home in prepared.homes.items()}
    return runner.execute(replace(prepared, homes=homes, sources=prepared.sources | sources), again).job


def _beside(result: dict[str, Any], table: dict[str, Any], key: str) -> None:
    for name, participant in table["participants"].items():
        result["participants"][name]["metrics"][participant["metric"]][key] = participant[key]
