"""The verdict before joining in words: before a run, and beside what its receipt measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consortia.common.words import interval, signed

__all__ = ["FOR_SUMS_ONLY", "MEANS", "OWN_ROWS", "sentence", "told_and_measured"]

#: What N_eff and the gain are, for people.
MEANS: Final = (
    "N_eff: to how many further rows of its own the others amount, after their noise. Net gain: of joined over "
    "control, in AUC, by a rule of thumb; its interval was measured on public sets and is not proved. Not worth it: "
    "fewer further rows than half of one's own. Worth it: as many as one's own, and an expected net gain of .005 at "
    "least."
)
OWN_ROWS: Final = (
    "The line *at home* read your own rows without noise: keep it at home. Joining or staying away on its strength is "
    "a choice that depends on your rows, and no budget is charged for it."
)
FOR_SUMS_ONLY: Final = 'No verdict before joining: its rule was measured for learner = "sums" alone.'


def sentence(forecast: Mapping[str, Any]) -> str:
    """Return a forecast as one sentence."""
    gain = f"expected net gain {interval(forecast['gain'])} AUC, " if forecast["gain"] else ""
    return (
        f"{forecast['verdict']}: {gain}N_eff {forecast['effective_rows']:.0f} beside {forecast['units']} training "
        f"units of its own (from {forecast['basis']})"
    )


def told_and_measured(participant: Mapping[str, Any]) -> str:
    """Return what was expected of a run beside what was measured; nothing where nothing was expected.

    Parameters
    ----------
    participant : mapping
        A receipt, or a line of `result.json`.
    """
    told = participant.get("forecast")
    if not told:
        return ""
    text = f"before the run {sentence(told)}"
    measured = (participant.get("net_gains") or {}).get(told["metric"])
    if told["gain"] is None or measured is None:
        return f"{text}."
    place = "inside" if told["held"] else "outside"
    return f"{text}; measured {signed(measured['value'])}, {place} the interval."
