"""For every test: one thread a process, examples without a deadline; how many end-to-end tests ran and were skipped."""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import typer.testing

# As the command line has it: matrices are small, and threads that wait for each other on two cores cost more than that.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Rewritten test modules, and the modules of the processes that tests start, are compiled once and then read.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# `CliRunner` builds the commands of an application for each call; half of a short command's time went there.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]
# A machine that does other work, too, is slow for a while; that is no fault of what is tested.
slow = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("consortia", deadline=None, suppress_health_check=slow)
hypothesis.settings.load_profile("consortia")


_MEMORY = Path("/dev/shm")


def pytest_configure(config: pytest.Config) -> None:
    """Let tests write into memory where there is enough: syncing ledgers took a fifth of the quick tests' CPU time.

    A Docker engine sees other folders than this process may, so its tests stay on the disk.
    """
    if config.getoption("markexpr", "") == "containers" or not os.access(_MEMORY, os.W_OK):
        return
    if shutil.disk_usage(_MEMORY).free >= 4 * 2**30:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))
        os.environ.setdefault("TMPDIR", str(_MEMORY))
        tempfile.tempdir = None


def pytest_sessionstart(session: pytest.Session) -> None:
    """Load what all tests use; the process that only hands tests out needs none of it."""
    if session.config.getoption("dist", "no") != "no" and not hasattr(session.config, "workerinput"):
        return
    # Its import looks for the module of each of NumPy's functions in all modules: take it while these are few.
    import skops.io  # noqa: F401
    import torch

    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with a test of minutes first: at the end one of them would run alone."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in long)


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
