"""For every test: one thread a process, examples without a deadline; how many end-to-end tests ran and were skipped."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import hypothesis
import pytest
import torch

torch.set_num_threads(1)
# A machine that does other work, too, is slow for a while; that is no fault of what is tested.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("consortia", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("consortia")


def pytest_collection_finish() -> None:
    """Take what is loaded by now out of garbage collection.

    Flower collects garbage for every array, and with torch and all tests in memory each time costs a tenth of a second
    and more.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_log_of_another_home() -> Iterator[None]:
    """Close the log that a participant opened in this process: the next test has another home."""
    yield
    log = logging.getLogger("consortia.participant")
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.propagate = True


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the end-to-end tests of this session."""
    counts = {
        outcome: sum(
            "end_to_end" in report.keywords
            for report in terminalreporter.stats.get(outcome, [])
            if isinstance(report, pytest.TestReport)
        )
        for outcome in ("passed", "failed", "skipped")
    }
    ran = counts["passed"] + counts["failed"]
    if ran + counts["skipped"]:
        terminalreporter.write_line(f"end-to-end tests: {ran} ran, {counts['skipped']} skipped")
