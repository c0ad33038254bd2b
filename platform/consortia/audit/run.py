"""Runs the instruments one after the other, or side by side."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from consortia.audit import (
    asking,
    canary,
    coordinator,
    mechanism,
    metrics,
    neighbours,
    noise,
    phases,
    recount,
    sampler,
    sizes,
    statistics_games,
    sums,
    vectorised,
    vertical,
)
from consortia.audit.probe import workspace
from consortia.audit.result import Findings, fact
from consortia.audit.settings import Audit
from consortia.common.errors import RunFailedError
from consortia.common.jobs import side_by_side
from consortia.terms.contract import Contract
from consortia.terms.scenario import Scenario

#: In the order of what they cost, so that `fail_fast` stops early.
INSTRUMENTS: dict[str, Callable[..., Findings]] = {
    "mechanism": mechanism.run,
    "asking": asking.run,
    "phases": phases.run,
    "sizes": sizes.run,
    "canary": canary.run,
    "coordinator": coordinator.run,
    "sums": sums.run,
    "statistics": statistics_games.run,
    "vectorised": vectorised.run,
    "vertical": vertical.run,
    "neighbours": neighbours.run,
    "metrics": metrics.run,
    "sampler": sampler.run,
    "noise": noise.run,
    "recount": recount.run,
}
#: Instruments that any scenario has something for.
_ALWAYS = frozenset({"neighbours"})


def why_not(name: str, audit: Audit) -> str:
    """Return why an instrument has nothing to look at in a scenario; empty where it has."""
    contract = audit.contract
    if name in _ALWAYS:
        return ""
    if (name == "vertical") != (contract.vertical is not None):
        mode = contract.mode
        return f"contract.mode = {mode!r}: wanted {'vertical' if name == 'vertical' else 'horizontal'!r}"
    if name == "asking":
        asked = contract.trust != "coordinator"
        return "" if asked else "contract.trust = 'coordinator': nobody is asked whether it can take part"
    if (name == "statistics") != (contract.noisy_sums is not None):
        wanted = "sums', 'additive', 'statistics' or a package's" if name == "statistics" else "gradient"
        return f"contract.learner = {contract.learner!r}: wanted '{wanted}'"
    if name == "sums" and contract.trust != "aggregate":
        return f"contract.trust = {contract.trust!r}: nothing is summed in secret"
    if name == "coordinator" and contract.trust != "coordinator":
        return f"contract.trust = {contract.trust!r}: no coordinator adds noise"
    if name == "vectorised":
        return vectorised.why_not(audit)
    return ""


def _parts(scenario: Scenario) -> list[Scenario]:
    """Return the scenario, or one of each industry with terms of its own: the code that an audit calls is the same."""
    return [
        part if part is scenario else part.model_copy(update={"contract": scenario.contract.alone(industry)})
        for part in scenario.parts()
        for industry in [next(iter(part.contract.industries), "")]
    ]


def run(
    scenario: Scenario,
    *,
    only: Sequence[str] = (),
    quick: bool = False,
    fail_fast: bool = False,
    jobs: int = 1,
    progress: Callable[[str, str], None] = lambda *_: None,
    finished: Callable[[Findings], None] = lambda _: None,
) -> list[Findings]:
    """Audit a scenario with every instrument, or those named in `only`.

    Parameters
    ----------
    jobs : instruments at the same time, each in a process with rows, split and coins of its own.
    progress : called with the instrument and what it is at; not of other processes.
    finished : called with the findings of each instrument, of several jobs the most expensive first.

    Where industries have training terms of their own, each instrument looks at one after the other. An instrument that
    has nothing to look at in this scenario is reported with its reason (`Findings.skipped`).
    """
    found: list[Findings] = []
    with workspace() as folder:
        whole = scenario.contract if scenario.contract.by_industry else None
        parts = _parts(scenario)
        settings = [(part, Path(folder) / str(place), quick, fail_fast, whole) for place, part in enumerate(parts)]
        names = [name for name in INSTRUMENTS if not only or name in only]
        looks: Iterator[Findings]
        if jobs == 1:
            audits = [Audit(*one) for one in settings]
            looks = (_look(name, audit, progress) for name, audit in itertools.product(names, audits))
        else:
            tasks = [(name, place, one) for name in names for place, one in enumerate(settings)]
            # What takes longest is begun first, unless the first mistake is to end it.
            looks = side_by_side(_look_alone, tasks if fail_fast else tasks[::-1], jobs)
        for findings in looks:
            found.append(findings)
            finished(findings)
            if fail_fast and findings.violations:
                break
    return found if jobs == 1 or fail_fast else found[::-1]


def _look_alone(task: tuple[str, int, tuple[Scenario, Path, bool, bool, Contract | None]]) -> Findings:
    """Look in a process that the instrument shares with none at work."""
    name, place, (part, folder, quick, fail_fast, whole) = task
    return _look(name, Audit(part, folder / f"{name}-{place}", quick, fail_fast, whole), lambda *_: None)


def _look(name: str, audit: Audit, progress: Callable[[str, str], None]) -> Findings:
    """Return what one instrument finds in one audit."""
    started = time.perf_counter()
    label = f"{name}, {next(iter(audit.contract.industries))}" if audit.whole is not None else name
    if reason := why_not(name, audit):
        return Findings(label, skipped=reason)
    logger = logging.getLogger("consortia.participant")
    handler = logging.NullHandler()
    logger.propagate = False
    logger.addHandler(handler)
    try:
        findings = INSTRUMENTS[name](audit, lambda what: progress(label, what))
    except RunFailedError as error:
        # Whether there is an answer must not depend on rows, and no row of a probe is out of the ordinary.
        broken = fact("every probe is answered", "a participant", False, wanted="an update", got=error)
        findings = Findings(label, [broken])
    finally:
        logger.removeHandler(handler)
    findings.instrument = label
    findings.seconds = time.perf_counter() - started
    return findings
