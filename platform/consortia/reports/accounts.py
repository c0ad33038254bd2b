"""Shows a participant's ledger in words: what is left first, then what was spent, by run, and round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich.console import Console

from consortia.common.words import epsilon_text
from consortia.participant.account import LIFETIME
from consortia.reports.fit import print_fitting, print_text
from consortia.reports.glossary import lines as glossary
from privacy.events import RELATION

__all__ = ["left_in_words", "print_accounts", "print_history", "state_of"]

_LIFETIMES: Final = (
    *("data set", "runs left", "ε spent, estimate", "reserved by the filter", "ε left", "ε budget", "δ lifetime"),
)
_RUNS: Final = ("run", "ε spent", "run budget", "δ run", "releases", "abandoned")


def left_in_words(life: Mapping[str, Any]) -> str:
    """Return how many more runs like the last one a data set's lifetime grants, in a sentence without a full stop."""
    count, like = life["runs_left"], life["like"]
    if count is None or like is None:
        return "runs like the last one left: not bounded" if not life["non_private"] else "non-private: ε = ∞"
    last = "the last one" if life["releases"] else "the run budget's"
    return f"runs like {last} left: {count} (ε {epsilon_text(like['epsilon'])} at δ {like['delta']:g} each)"


def state_of(life: Mapping[str, Any]) -> str:
    """Return `over`, `soon` where no or one run is left, or nothing: what was spent as planned is no alarm."""
    if life["budget"] is not None and life["epsilon"] is not None and life["epsilon"] > life["budget"] * (1 + 1e-6):
        return "over"
    return "soon" if life["runs_left"] is not None and life["runs_left"] <= 1 else ""


def print_accounts(console: Console, participant: str, accounts: Sequence[Mapping[str, Any]]) -> None:
    """Print `consortia.participant.account.summary`'s accounts."""
    lives = [line for line in accounts if line["horizon"] == LIFETIME]
    for life in lives:
        text = f"{participant}, {life['dataset']}: {left_in_words(life)}."
        print_text(console, text, {"over": "red", "soon": "yellow"}.get(state_of(life)))
    rows = [
        (
            life["dataset"],
            "–" if life["runs_left"] is None else str(life["runs_left"]),
            _spent(life),
            epsilon_text(life["reserved"]),
            epsilon_text(life["left"]),
            epsilon_text(life["budget"]),
            f"{life['delta']:g}",
        )
        for life in lives
    ]
    print_fitting(console, _LIFETIMES, rows, title="All runs on a data set (lifetime)")
    runs = [line for line in accounts if line["horizon"] != LIFETIME]
    for dataset in dict.fromkeys(line["dataset"] for line in runs):
        mine = [line for line in runs if line["dataset"] == dataset]
        print_fitting(console, _RUNS, [_run_row(line) for line in mine], title=f"By run on {dataset}")
    for line in accounts:
        if "shares_with" in line:
            names = ", ".join(line["shares_with"])
            print_text(console, f"{line['dataset']}: one lifetime with {names}; all of them stand in its line")
        if line["horizon"] != LIFETIME and line["by"]:
            console.print(f"{line['dataset']}, {line['horizon']}:", highlight=False, markup=False)
            for part in _by(line):
                print_text(console, f"  {part}")
    units = sorted({(line["unit"] or "–") + _other_relation(line) for line in accounts})
    print_text(console, f"Unit: {'; '.join(units)}; ε counts adding or removing one unless it says otherwise.")
    for term, says in glossary("estimate", "reserved by the filter", "runs left", *(["σ"] if runs else [])):
        print_text(console, f"{term}: {says}")
    if not any(line["releases"] for line in accounts):
        console.print("Nothing was spent yet.")


def _spent(line: Mapping[str, Any]) -> str:
    return "∞ (non-private)" if line["non_private"] else epsilon_text(line["epsilon"])


def _run_row(line: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        line["horizon"].removeprefix("run "),
        _spent(line),
        epsilon_text(line["budget"]),
        f"{line['delta']:g}",
        str(line["releases"]),
        str(line["abandoned"]),
    )


def _by(line: Mapping[str, Any]) -> list[str]:
    return [
        f"{part['times']} x {part['what']}"
        + ("" if part["epsilon_alone"] is None else f", ε {epsilon_text(part['epsilon_alone'])} alone")
        for part in line["by"]
    ]


def _other_relation(line: Mapping[str, Any]) -> str:
    relation = line.get("relation", RELATION)
    return "" if relation == RELATION else ", " + relation.replace("_", " ")


def print_history(
    console: Console,
    participant: str,
    lines: Sequence[Mapping[str, Any]],
    accounts: Sequence[Mapping[str, Any]],
    *,
    rounds: bool,
    last: int,
) -> None:
    """Print the chain's lines, oldest first: one entry a run, with its rounds where they are asked for.

    Parameters
    ----------
    lines : of `consortia.participant.account.history`
    accounts : of `consortia.participant.account.summary`
    """
    spent = {(line["dataset"], line["horizon"]): line for line in accounts}
    entries: list[list[str]] = []
    for line in lines:
        if "round" in line:
            if rounds:
                entries.append([f"  {_time(line)}  {_round(line)}"])
            continue
        if "run" not in line:
            entries.append([f"{_time(line)}  {line['what']}: {line['detail']}"])
            continue
        told = [f"{_time(line)}  run {line['run']}", f"  on {line['dataset']}: {line['detail']}"]
        account = spent.get((line["dataset"], f"run {line['run']}"))
        if account is not None:
            lost = f", {account['abandoned']} of them abandoned" if account["abandoned"] else ""
            told.append(
                f"  {account['releases']} releases{lost}: ε {_spent(account)} of {epsilon_text(account['budget'])} "
                f"at δ {account['delta']:g}{_other_relation(account)}"
            )
        entries.append(told)
    print_text(
        console,
        f"{participant}: the ledger's chain, recounted, oldest first; ε counts adding or removing one unit unless it "
        "says otherwise, and all releases of a run together (by their privacy loss distribution, PLD).",
    )
    if rounds:
        print_text(console, f"σ: {dict(glossary('σ'))['σ']}")
    for entry in entries[-last:]:
        for text in entry:
            print_text(console, text)
    if len(entries) > last:
        console.print(f"{len(entries) - last} older entries: --last {len(entries)}", highlight=False)
    if not rounds and any("round" in line for line in lines):
        console.print("Each release alone: --rounds", highlight=False)


def _time(line: Mapping[str, Any]) -> str:
    return str(line["time"])[:16].replace("T", " ")


def _round(line: Mapping[str, Any]) -> str:
    cost = "∞" if line["epsilon_alone"] is None else epsilon_text(line["epsilon_alone"])
    where = f"round {line['round']} of {line['run']}, {line['what']}"
    return f"{where}: ε {cost} alone at δ {line['delta']:g}{_other_relation(line)}: {line['detail']}"
