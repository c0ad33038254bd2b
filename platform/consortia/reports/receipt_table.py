"""The table of receipts: majority, local, federated and personal model side by side."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from consortia.common.words import number, signed

__all__ = ["COLUMNS", "label", "print_receipts", "receipt_row", "table_of"]

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


def _guarantee(account: dict[str, Any]) -> str:
    if account["non_private"]:
        return "non-private: ε = ∞"
    lifetime = account["lifetime_delta"]
    whole = "" if lifetime is None else f", of the data set's lifetime in this ledger {lifetime:g}"
    return f"unit {account['unit']}, {account['relation'].replace('_', ' ')}, δ of the run {account['delta']:g}{whole}"


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
