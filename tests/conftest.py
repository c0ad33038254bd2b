"""For every test: one thread a process, and a line that says how many end-to-end tests ran and were skipped."""

from __future__ import annotations

import pytest
import torch

torch.set_num_threads(1)


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
