"""Run instruments one after the other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from consortia.audit import canary, mechanism, metrics, noise, recount, sampler
from consortia.audit.probe import workspace
from consortia.audit.result import Findings, fact
from consortia.audit.settings import Audit
from consortia.errors import InputError, RunFailedError
from consortia.scenario import Scenario

#: In the order of what they cost, so that `fail_fast` stops early.
INSTRUMENTS: dict[str, Callable[..., Findings]] = {
    "mechanism": mechanism.run,
    "canary": canary.run,
    "metrics": metrics.run,
    "sampler": sampler.run,
    "noise": noise.run,
    "recount": recount.run,
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

    Raises
    ------
    InputError
        For a vertical scenario.
    """
    if scenario.contract.mode == "vertical":
        raise InputError(
            "audit: wanted a horizontal scenario, got a vertical one, whose training the audit does not know; "
            "docs/guarantees.md says what it promises"
        )
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
                try:
                    findings = instrument(audit, lambda what, name=name: progress(name, what))
                except RunFailedError as error:
                    # Whether there is an answer must not depend on rows, and no row of a probe is out of the ordinary.
                    broken = fact("every probe is answered", "a participant", False, wanted="an update", got=error)
                    findings = Findings(name, [broken])
                findings.seconds = time.perf_counter() - started
                found.append(findings)
                finished(findings)
                if fail_fast and findings.violations:
                    break
    finally:
        logger.removeHandler(handler)
    return found
