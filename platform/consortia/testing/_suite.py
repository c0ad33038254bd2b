"""Shared parts of the conformance suites: every check runs, and all failures are reported together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class SuiteError(AssertionError):
    """At least one promise is broken. `failures` maps each failed check to what it saw."""

    def __init__(self, subject: str, failures: dict[str, str], checks: int) -> None:
        self.failures = failures
        lines = "\n".join(f"  {name}: {reason}" for name, reason in failures.items())
        super().__init__(f"{subject} fails {len(failures)} of {checks} checks:\n{lines}")


def run_checks(
    checks: Mapping[str, Callable[[Any], None]], case: Any, error: type[SuiteError], subject: str
) -> tuple[str, ...]:
    """Run every check on `case`; return their names, or raise `error` with all that failed."""
    failures: dict[str, str] = {}
    for name, check in checks.items():
        try:
            check(case)
        except Exception as failure:  # noqa: BLE001 - what is checked may raise anything, and each check reports
            text = str(failure) if isinstance(failure, AssertionError) else f"{type(failure).__name__}: {failure}"
            failures[name] = text or "failed without a word"
    if failures:
        raise error(subject, failures, len(checks))
    return tuple(checks)
