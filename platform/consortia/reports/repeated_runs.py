"""The tables of control runs: a placebo, a run without compression."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from consortia.common.words import number
from consortia.reports.receipt_table import table_of


def print_placebo(console: Console, table: dict[str, Any]) -> None:
    """Print the models side by side, each with its difference to the local model, and the verdict."""
    shown = table_of(
        *("participant", "metric", "majority", "ridge", "local", "federated", "placebo", "federated − placebo"),
        title="Placebo: partners' labels drawn at random",
        no_wrap=False,
    )
    for name, participant in table["participants"].items():
        shown.add_row(
            name,
            participant["metric"],
            number(participant["majority"]),
            *(f"{number(participant[key])}{_span(participant[key + '_gain'])}" for key in ("ridge",)),
            number(participant["local"]),
            *(f"{number(participant[key])}{_span(participant[key + '_gain'])}" for key in ("federated", "placebo")),
            _difference(participant["transfer"]),
        )
    console.print(shown)
    console.print(
        f"In brackets: 95 % interval of the difference to the local model; {table['draws']} draws of noise and labels.",
        highlight=False,
        markup=False,
    )
    for sentence in table["verdicts"]:
        console.print(sentence, highlight=False, markup=False)


def print_compression(console: Console, table: dict[str, Any]) -> None:
    """Print what compression did to each participant's metric and to its bytes."""
    shown = table_of(
        *("participant", "metric", "uncompressed", "compressed", "change", "bytes sent", "of raw"),
        title="Compressed updates",
        no_wrap=False,
    )
    for name, participant in table["participants"].items():
        sent, saved = participant["bytes_sent"], participant["bytes_saved"]
        shown.add_row(
            name,
            participant["metric"],
            number(participant["uncompressed"]),
            number(participant["compressed"]),
            _difference(participant["change"]),
            f"{sent:,}",
            f"{sent / (sent + saved):.2f}" if sent else "–",
        )
    console.print(shown)
    console.print(
        f"Change: positive where compressed updates gave the better metric, 95 % interval; {table['draws']} runs each.",
        highlight=False,
        markup=False,
    )


def _span(gain: dict[str, float] | None) -> str:
    return "" if gain is None else f" \\[{gain['low']:+.3f}, {gain['high']:+.3f}]"


def _difference(gain: dict[str, float] | None) -> str:
    return "–" if gain is None else f"{gain['value']:+.3f} \\[{gain['low']:+.3f}, {gain['high']:+.3f}]"
