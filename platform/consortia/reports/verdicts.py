"""For whom joining paid, in one paragraph: clearly, perhaps or not, at which ε, and how many like runs are left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consortia.common.words import verdict
from consortia.reports.many_participants import MOST

__all__ = ["SHORT", "compares", "paragraph", "verdict_of"]

#: A verdict as a table's cell.
SHORT = {"clearly": "paid clearly", "perhaps": "paid perhaps", "not": "did not pay", "unknown": "–"}
_SAYS = {"clearly": "clearly for", "perhaps": "perhaps for", "not": "not for"}
_MEANS = (
    "The net gain is that of joined (one's own best model stacked with the federated one) over control (the same model "
    "stacked with a second one of its own); positive: joining paid; clearly: so does its whole 95 % interval."
)


def compares(participant: Mapping[str, Any]) -> bool:
    """Return whether a receipt or a line of a record has the joined model; those of vertical and older runs do not."""
    return any("joined" in values for values in participant["metrics"].values())


def verdict_of(participant: Mapping[str, Any]) -> str:
    """Return the verdict of a receipt or of a line of a record."""
    return verdict(participant.get("net_gain"))


def paragraph(participants: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Return the paragraph, or None where nobody's receipt is at hand or says.

    Parameters
    ----------
    participants : mapping
        Receipts, or lines of `result.json`, by participant.
    """
    said = {
        name: verdict_of(participant)
        for name, participant in participants.items()
        if compares(participant) and participant.get("units")
    }
    if not any(word in _SAYS for word in said.values()):
        return None
    found = []
    for word, says in _SAYS.items():
        names = [name for name, each in said.items() if each == word]
        if names:
            who = f"{len(names)}" if len(said) > MOST else ", ".join(f"{n} ({_terms(participants[n])})" for n in names)
            found.append(f"{says} {who}")
    unknown = [name for name, word in said.items() if word == "unknown"]
    known = len(said) - len(unknown)
    text = f"Joining paid {'; '.join(found)}" + (f" of {known} that measured it" if len(said) > MOST else "") + "."
    if unknown and len(said) <= MOST:
        text += f" Too few test rows say it for {', '.join(unknown)}."
    return f"{text} {_MEANS}"


def _terms(participant: Mapping[str, Any]) -> str:
    account = participant["epsilon"]
    if account["non_private"]:
        return "non-private"
    epsilon = "receive-only" if account["budget"] is None else f"ε {account['budget']:g}"
    left = account.get("runs_left")
    if left is None:
        return epsilon
    return f"{epsilon}, {left or 'no'} like run{'' if left == 1 else 's'} left"
