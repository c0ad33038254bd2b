"""Shows who contributed: a table on the terminal, bars on a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from consortia.common.errors import InputError
from consortia.models.contributions import Contribution, Shared, contributions_of_run
from consortia.reports.charts import Bar, bar_chart
from consortia.reports.many_participants import first
from consortia.reports.page.content import Chart, Section, Table
from consortia.reports.receipt_table import folded_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["contribution_sections", "print_contributions"]

_SAYS: Final = {
    "sums": (
        "A participant's value is its Shapley value: what it adds, over all orders of joining, to what the others' "
        "models save of the squared loss a unit, against the public expectation. The values sum to the gain of all.\n"
        "Each model is judged by noisy sums of participants that are not in it, so neither their rows nor their noise "
        "flatter it. Intervals are 95 %, by the noise and the scatter of rows.\n"
        "It is made of released sums alone: nothing is charged. Sums with noise of one's own show each site's noisy "
        "Gram matrix to the coordinator; secure sums do not, and then nobody can say who contributed.\n"
        "Made-up rows and wrong labels lower a value. Rows that two participants share are found only where noise is "
        "small beside them. A value is no price: it is about this model and these participants."
    ),
    "updates": (
        "A participant's value is its Shapley value: what its kept noisy updates add, over all orders of joining, to "
        "what a coalition's mean update saves the others of their loss, to first order, round by round. The values sum "
        "to the gain of all.\n"
        "Each update is judged by the noisy updates of the others, never by its own, so its noise does not flatter it. "
        "Intervals are 95 %, by the scatter between rounds, which holds the noise; with few rounds they are wide.\n"
        "It is made of released updates alone: nothing is charged. It says how far updates agree along this run's "
        "models. It is no training of a coalition: later updates were computed at models that everybody had shaped.\n"
        "Made-up rows and wrong labels lower a value. Two participants with the same rows are not found, and each "
        "raises the other's value. A value is no price: it is about this model and these participants."
    ),
}
#: What values are in.
_UNIT: Final = {"sums": "squared loss a unit", "updates": "loss to first order, over all rounds"}


def print_contributions(console: Console, found: Sequence[Shared]) -> None:
    """Print each industry's participants, the most valuable first."""
    from rich.markup import escape

    for one in found:
        console.print(f"[bold]{escape(one.industry)}[/]: all together save {one.total:.4f} ({_UNIT[one.released]})")
        table = folded_table("participant", "value", "95 % interval", "share", "")
        for line in one.participants:
            table.add_row(*map(escape, _row(one, line)))
        console.print(table)
    for says in dict.fromkeys(_SAYS[one.released] for one in found):
        for sentence in says.splitlines():
            console.print(sentence, markup=False, highlight=False)


def contribution_sections(folder: Path) -> list[Section]:
    """Return a section for each industry of a finished run of noisy sums or kept noisy updates; none for other runs."""
    try:
        found = contributions_of_run(folder)
    except InputError:
        return []
    return [_section(one) for one in found]


def _section(one: Shared) -> Section:
    section = Section(f"Who contributed: {one.industry}", _SAYS[one.released].splitlines())
    section.facts = [(f"gain of all, {_UNIT[one.released]}", f"{one.total:.4f}")]
    if one.sampled:
        section.says.append("With so many participants the orders are a sample; the intervals include that.")
    shown = first(list(one.participants))
    bars = [Bar(line.participant, line.value, line.low, line.high, line.low > 0 or line.high < 0) for line in shown]
    drawing = bar_chart(f"Who contributed in {one.industry}", f"saved: {_UNIT[one.released]}", bars)
    section.charts = [Chart("Shapley values with 95 % intervals; grey: noise could have made it", drawing)]
    heads = ("participant", "value", "95 % interval", "share of the gain", "verdict")
    section.tables = [Table("Who contributed", heads, [_row(one, line) for line in shown])]
    return section


def _row(one: Shared, line: Contribution) -> tuple[str, ...]:
    said = f"{line.verdict}; same rows as {', '.join(line.copies)}?" if line.copies else line.verdict
    share = f"{line.value / one.total:.0%}" if one.total > 0 else "–"
    return line.participant, f"{line.value:+.4f}", f"{line.low:+.4f} to {line.high:+.4f}", share, said
