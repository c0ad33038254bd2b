"""The table of receipts: alone, control, federated and joined side by side, the net gain and the verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from consortia.common.words import epsilon_text, interval, number
from consortia.reports.decision import compares, decide_alone, gain_of, verdict_of
from consortia.reports.fit import print_fitting
from consortia.reports.forecasts import told_and_measured

__all__ = [
    "account_row",
    "columns",
    "folded_table",
    "interval",
    "label",
    "metric_name",
    "notes",
    "print_receipts",
    "receipt_row",
    "rows_in_words",
    "synthetic_for",
    "table_of",
]

_COLUMNS = ("participant", "metric", "alone", "control", "federated", "joined", "net gain [95 %]", "verdict")
#: Of vertical runs and of runs before 0.2, which have neither control nor joined model.
_WITHOUT_JOINED = ("participant", "metric", "alone", "federated", "gain [95 %]", "verdict")


def columns(participants: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the headings for these receipts, or lines of a record."""
    return _COLUMNS if any(compares(participant) for participant in participants) else _WITHOUT_JOINED


def label(metric: str) -> str:
    """Return what people read for a metric; numpy is loaded where there is one to show."""
    from clients.metrics import label as of

    return of(metric) if metric else ""


def metric_name(metric: str) -> str:
    """Return what a table calls a metric, and whether its lower values are better."""
    from clients.metrics import sign

    return label(metric) + (", lower is better" if sign(metric) < 0 else "")


def print_receipts(console: Console, receipts: list[dict[str, Any]]) -> None:
    """Print receipts as their owners keep them, with what every epsilon counts."""
    for receipt in receipts:
        console.print(str(decide_alone(receipt)), highlight=False, markup=False)
    headings = columns(receipts)
    print_fitting(
        console, headings, [(receipt["participant"], *receipt_row(receipt, headings)) for receipt in receipts]
    )
    print_fitting(
        console,
        ("participant", "units", "runs left", "ε run", "δ run", "ε lifetime, estimate", "δ lifetime"),
        [(r["participant"], str(sum(r["units"].values())), *account_row(r["epsilon"])) for r in receipts],
    )
    for receipt in receipts:
        synthetic = "[bold]synthetic[/] rows, " if receipt["synthetic"] else ""
        guarantee = _guarantee(receipt["epsilon"])
        console.print(f"{receipt['participant']}: {receipt['run_id']}, {synthetic}{guarantee}.", highlight=False)
        for line in notes(receipt):
            console.print(f"{receipt['participant']}: {line}", highlight=False, markup=False)


def notes(participant: dict[str, Any]) -> list[str]:
    """Return what else a receipt, or a line of a record, says: what was expected of the run, and of its rows."""
    told = told_and_measured(participant)
    return [*([told] if told else []), *diverged_in_words(participant), *rows_in_words(participant)]


def diverged_in_words(receipt: Mapping[str, Any]) -> list[str]:
    """Return what to do about a shared model that is far worse than a constant; nothing where it is not."""
    if not (far := receipt.get("diverged")):
        return []
    told = (
        f"diverged: lower learning_rate in the contract. The shared model is far worse than a constant (loss "
        f"{number(far['model'], 2)} against {number(far['constant'], 2)}); where noise does that, "
        "`consortia budget plan` shows what helps."
    )
    return [told]


def rows_in_words(receipt: dict[str, Any]) -> list[str]:
    """Return what a receipt says of its rows: those set apart, with reasons, and drift since the last run."""
    lines = []
    found = receipt.get("quarantine") or {"rows_read": 0, "rows_kept": 0}
    if apart := found["rows_read"] - found["rows_kept"]:
        from clients._apart import reasons_in_words  # loads pandas

        reasons = reasons_in_words(found["reasons"], found["rows_read"])
        lines.append(f"{apart} of {found['rows_read']} rows set apart: {reasons}.")
        lines += [f"rows set apart: {sentence}." for sentence in found.get("bias", ())]
    if stale := receipt.get("drift", {}).get("stale"):
        told = ", ".join(f"{name} {receipt['drift']['psi'][name]:.2f}" for name in stale[:5])
        lines.append(f"rows drifted since the last run (population stability index {told}): its model is likely stale.")
    return lines


def _guarantee(account: dict[str, Any]) -> str:
    if account["non_private"]:
        return "non-private: ε = ∞"
    lifetime = account["lifetime_delta"]
    whole = "" if lifetime is None else f", of the data set's lifetime in this ledger {lifetime:g}"
    return f"unit {account['unit']}, {account['relation'].replace('_', ' ')}, δ of the run {account['delta']:g}{whole}"


def folded_table(*columns: str) -> Table:
    """Return an empty table whose cells wrap, for words rather than numbers."""
    table = Table(box=box.SIMPLE)
    for name in columns:
        table.add_column(name, overflow="fold")
    return table


def table_of(*headings: str, title: str | None = None, no_wrap: bool = True) -> Table:
    """Return an empty table; what is no word stands on the right."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title=title)
    for heading in headings:
        left = heading in {"participant", "metric", "keeps", "verdict"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=no_wrap)
    return table


def receipt_row(participant: Mapping[str, Any], headings: tuple[str, ...]) -> tuple[str, ...]:
    """Return the cells of one receipt, or line of a record, behind the participant's name.

    Parameters
    ----------
    headings : tuple of str
        As `columns` gave them.
    """
    metric = participant.get("headline") or next(iter(participant["metrics"]), "")
    values = participant["metrics"].get(metric, {})
    name = metric_name(metric) if metric else "–"

    def of(*kinds: str) -> tuple[str, ...]:
        return tuple(number(values.get(kind)) for kind in kinds)

    scores = of("local", "federated") if headings == _WITHOUT_JOINED else of("local", "control", "federated", "joined")
    said = verdict_of(participant)
    return (name, *scores, interval(gain_of(participant)), "–" if said == "unknown" else said)


def account_row(account: Mapping[str, Any]) -> tuple[str, ...]:
    """Return runs left, ε and δ of the run, ε (an estimate) and δ of the lifetime."""
    infinite = bool(account["non_private"])
    left, lifetime = account.get("runs_left"), account.get("lifetime_delta")
    return (
        "–" if left is None else str(left),
        "∞" if infinite else epsilon_text(account["run"]),
        f"{account['delta']:g}",
        "∞" if infinite else epsilon_text(account["lifetime"]),
        "–" if lifetime is None else f"{lifetime:g}",
    )


def synthetic_for(result: Mapping[str, Any]) -> str:
    """Return whose rows were synthetic, in words, where all others' rows were real; otherwise nothing."""
    participants = result["participants"]
    if {participant.get("synthetic") for participant in participants.values()} != {True, False}:
        return ""
    names = [name for name, participant in participants.items() if participant["synthetic"]]
    return f"{len(names)} of {len(participants)} participants ({', '.join(names[:5])}{', …' if len(names) > 5 else ''})"
