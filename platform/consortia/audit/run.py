"""Run instruments one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from consortia.audit import canary, mechanism, noise, recount, sampler
from consortia.audit.probe import workspace
from consortia.audit.result import Findings
from consortia.audit.settings import Audit
from consortia.scenario import Scenario

INSTRUMENTS: dict[str, Callable[..., Findings]] = {
    "noise": noise.run,
    "mechanism": mechanism.run,
    "sampler": sampler.run,
    "recount": recount.run,
    "canary": canary.run,
}


def run(
    scenario: Scenario,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    fail_fast: bool = False,
    progress: Callable[[str, str], None] = lambda *_: None,
    finished: Callable[[Findings], None] = lambda _: None,
) -> list[Findings]:
    """Audit a scenario with every instrument, or those named in `only`.

    Parameters
    ----------
    progress : called with the instrument and what it is at.
    finished : called with the findings of each instrument.
    """
    logger = logging.getLogger("consortia.participant")
    handler = logging.NullHandler()
    logger.propagate = False
    logger.addHandler(handler)
    found = []
    try:
        with workspace() as folder:
            audit = Audit(scenario, Path(folder), quick)
            for name, instrument in INSTRUMENTS.items():
                if only and name not in only:
                    continue
                started = time.perf_counter()
                findings = instrument(audit, lambda what, name=name: progress(name, what))
                findings.seconds = time.perf_counter() - started
                found.append(findings)
                finished(findings)
                if fail_fast and findings.violations:
                    break
    finally:
        logger.removeHandler(handler)
    return found
