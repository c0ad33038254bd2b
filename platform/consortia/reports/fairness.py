"""Shows how released models treat groups: tables on the terminal, a section of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from consortia.metrics.fairness import Difference, Group
from consortia.metrics.from_histograms import Estimate
from consortia.models.fairness import Treated, fairness_of_record
from consortia.reports.page.parts import Section, Table
from consortia.reports.receipt_table import folded_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["WORDS", "fairness_sections", "print_fairness"]

#: What each measure is called.
WORDS: Final = {
    "auc": "AUC",
    "positive_rate": "called positive",
    "true_positive_rate": "of positives, called so",
    "false_positive_rate": "of negatives, called positive",
    "calibration_gap": "positives beyond the scores",
}
_SAYS: Final = (
    "Each participant released one histogram of score by class and group with noise, paid by its evaluation units. All "
    "of this follows from these counts and costs nothing more.\n"
    "Intervals are 95 %, by the noise and the scatter of rows; differences hold all together. A group whose noisy rows "
    "are too few is not shown. Cannot be told apart does not mean that groups are treated alike."
)


def print_fairness(console: Console, found: Sequence[Treated]) -> None:
    """Print each industry's groups, and how they differ."""
    from rich.markup import escape

    for one in found:
        console.print(f"[bold]{escape(_title(one))}[/]")
        for table in _tables(one):
            shown = folded_table(*table.heads)
            for row in table.rows:
                shown.add_row(*map(escape, row))
            console.print(shown)
    for sentence in _SAYS.splitlines():
        console.print(sentence, markup=False, highlight=False)


def fairness_sections(record: Mapping[str, Any]) -> list[Section]:
    """Return a section for each industry whose model was measured by group."""
    return [
        Section(f"Fairness: {_title(one)}", _SAYS.splitlines(), tables=_tables(one))
        for one in fairness_of_record(record)
    ]


def _title(one: Treated) -> str:
    return f"{one.industry} by {one.column}, positive from a score of {one.found.threshold:.3g} on"


def _tables(one: Treated) -> list[Table]:
    rows = [row for group in one.found.groups for row in _group(group)]
    groups = Table("Each group", ("group", "measure", "value [95 %]"), rows)
    if not one.found.differences:
        return [groups]
    heads = ("group against all others", "measure", "difference [95 %]", "verdict")
    return [groups, Table("Differences", heads, [_difference(each) for each in one.found.differences])]


def _group(group: Group) -> list[tuple[str, ...]]:
    if not group.measures:
        return [(group.name, "rows, noisy", "too few: not shown")]
    rows = f"{group.rows.value:.0f} [{group.rows.low:.0f}, {group.rows.high:.0f}]"
    measured = [(group.name, WORDS[name], _estimate(one)) for name, one in group.measures.items()]
    return [(group.name, "rows, noisy", rows), *measured]


def _estimate(one: Estimate) -> str:
    return f"{'–' if one.value is None else f'{one.value:.3f}'} [{one.low:.3f}, {one.high:.3f}]"


def _difference(one: Difference) -> tuple[str, ...]:
    told = _estimate(Estimate(one.value, one.low, one.high))
    return one.group, WORDS[one.measure], told, one.verdict
