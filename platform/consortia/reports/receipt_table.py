"""The table of receipts: majority, local, federated and personal model side by side."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from consortia.common.words import number, signed

__all__ = ["COLUMNS", "folded_table", "label", "print_receipts", "receipt_row", "rows_in_words", "table_of"]

COLUMNS = ("participant", "metric", "majority", "local", "federated", "gain [95 %]", "personal", "keeps")


def label(metric: str) -> str:
    """Return what people read for a metric; numpy is loaded where there is one to show."""
    from clients.metrics import label as of

    return of(metric) if metric else ""


def print_receipts(console: Console, receipts: list[dict[str, Any]]) -> None:
    """Print receipts as their owners keep them, with what every epsilon counts."""
    table = table_of(*COLUMNS, "units", "ε run", "ε lifetime")
    for receipt in receipts:
        account = receipt["epsilon"]
        spent = ["∞" if account["non_private"] else number(account[key]) for key in ("run", "lifetime")]
        table.add_row(receipt["participant"], *receipt_row(receipt), str(sum(receipt["units"].values())), *spent)
    console.print(table)
    for receipt in receipts:
        synthetic = "[bold]synthetic[/] rows, " if receipt["synthetic"] else ""
        guarantee = _guarantee(receipt["epsilon"])
        console.print(f"{receipt['participant']}: {receipt['run_id']}, {synthetic}{guarantee}.", highlight=False)
        for line in rows_in_words(receipt):
            console.print(f"{receipt['participant']}: {line}", highlight=False, markup=False)


def rows_in_words(receipt: dict[str, Any]) -> list[str]:
    """Return what a receipt says of its rows: those set apart, with reasons, and drift since the last run."""
    lines = []
    found = receipt.get("quarantine") or {"rows_read": 0, "rows_kept": 0}
    if apart := found["rows_read"] - found["rows_kept"]:
        from clients.apart import reasons_in_words  # loads pandas

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
        left = heading in {"participant", "metric", "keeps"}
        table.add_column(heading, justify="left" if left else "right", no_wrap=no_wrap)
    return table


def receipt_row(seat: dict[str, Any]) -> tuple[str, ...]:
    metric = seat.get("headline") or next(iter(seat["metrics"]), "")
    values = seat["metrics"].get(metric, {})
    gain = seat.get("gain")
    return (
        label(metric) or "–",
        number(values.get("majority")),
        number(values.get("local")),
        number(values.get("federated")),
        "–"
        if not gain
        else "{} [{}, {}]".format(signed(gain["value"]), *(signed(gain[key], 2) for key in ("low", "high"))),
        number(values.get("personal")),
        seat.get("keeps") or "–",
    )
