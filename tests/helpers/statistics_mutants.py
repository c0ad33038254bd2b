"""Mistakes in statistics before training, and who should see each."""

from __future__ import annotations

from audit_mutants import Mutant, one

_LAYOUT = "platform/consortia/learners/statistics/layout.py"
_GAMES = "tests/consortia/statistics/test_neighbours.py"
_BOUND = f"{_GAMES}::test_a_row_at_the_public_bounds_reaches_the_bound_and_no_more"
_MOVED = f"{_GAMES}::test_no_unit_moves_the_vector_by_more_than_its_event_was_charged"

#: (mistake, scenario, instrument, test).
STATISTICS: tuple[tuple[Mutant, str, str, str], ...] = (
    (
        one(
            "statistics: each row of a unit weighs 1",
            _LAYOUT,
            "share = on_grid((rows.shares() * finite[:, None]), _STEPS)[:, 0]",
            "share = finite.double()",
        ),
        "statistics",
        "neighbours",
        _MOVED,
    ),
    (
        one(
            "statistics: moments are not in the bound",
            _LAYOUT,
            '"outcome": HALF**2, "moments": 2 * HALF**2}',
            '"outcome": 0.0, "moments": 0.0}',
        ),
        "statistics",
        "neighbours",
        _BOUND,
    ),
    (
        one(
            "statistics: bins about the mean of the rows",
            _LAYOUT,
            "found = ((x[:, 0] + 1) / 2 * len(self.labels))",
            "found = ((x[:, 0] - x[:, 0].mean() + 1) / 2 * len(self.labels))",
        ),
        "statistics",
        "neighbours",
        _MOVED,
    ),
)
