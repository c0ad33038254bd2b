"""Shared parts of the conformance suites: every check runs, and all failures are reported together."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class SuiteError(AssertionError):
    """At least one promise is broken. `failures` maps each failed check to what it saw."""

    def __init__(self, subject: str, failures: dict[str, str], checks: int) -> None:
        self.failures = failures
        lines = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        super().__init__(f"{subject} fails {len(failures)} of {checks} checks:\n{lines}")


def require(holds: bool, saw: str) -> None:
    """Fail with what was seen."""
    if not holds:
        raise AssertionError(saw)


@contextmanager
def leaves_the_process_as_it_is() -> Iterator[None]:
    """Fail when what happens inside uses up the process's random numbers, or changes its folder or environment."""
    before = _process()
    yield
    for what, value in _process().items():
        require(value == before[what], f"it changes {what} of the process")


def _process() -> dict[str, object]:
    import numpy as np

    _, keys, place, *_ = np.random.get_state()
    found: dict[str, object] = {
        "the random numbers": random.getstate(),
        "numpy's random numbers": (np.asarray(keys).tolist(), place),
        "the working directory": Path.cwd(),
        "the environment": dict(os.environ),
    }
    if "torch" in sys.modules:
        found["torch's random numbers"] = sys.modules["torch"].get_rng_state().tolist()
    return found


def run_checks(
    checks: Mapping[str, Callable[[Any], None]],
    case: Any,
    error: type[SuiteError],
    subject: str,
    tell: Callable[[str], None] | None = None,
) -> tuple[str, ...]:
    """Run every check on `case`; return their names, or raise `error` with all that failed.

    `tell` hears of each check as it begins, such as "3 of 15: works_with_one_row".
    """
    failures: dict[str, str] = {}
    for number, (name, check) in enumerate(checks.items(), 1):
        if tell is not None:
            tell(f"{number} of {len(checks)}: {name}")
        try:
            check(case)
        except Exception as failure:  # noqa: BLE001 - what is checked may raise anything, and each check reports
            text = str(failure) if isinstance(failure, AssertionError) else f"{type(failure).__name__}: {failure}"
            failures[name] = text or "failed without a word"
    if failures:
        raise error(subject, failures, len(checks))
    return tuple(checks)
