"""Writes what a later command needs to go on with a run."""

from __future__ import annotations

from pathlib import Path

from consortia.common.disk import write_json, write_text
from consortia.engines.base import Job
from consortia.engines.options import Options

__all__ = ["write_job"]


def write_job(job: Job, options: Options, *, ledger: Path | None = None) -> None:
    """Write what a resumed or a growing run needs; `ledger` is the folder of ledgers where no option names it."""
    ledger = ledger or options.ledger
    write_text(job.folder / "scenario.json", job.scenario.to_json())
    write_json(
        job.folder / "job.json",
        {
            "run_id": job.run_id,
            "engine": options.engine,
            "sources": job.sources,
            "ledger": str(ledger.resolve()) if ledger else None,
        },
    )
