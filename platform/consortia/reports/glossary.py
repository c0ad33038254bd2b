"""One line for every term that terminal, report and dashboard use."""

from __future__ import annotations

from typing import Final

__all__ = ["TERMS", "lines"]

#: In the order in which a reader meets them.
TERMS: Final = {
    "alone": (
        "the best model that a participant could train by itself, without DP: ridge, a random forest, gradient "
        "boosting or the scenario's network, chosen by its own cross-validation"
    ),
    "control": "alone, stacked with a second model of its own: what more effort at home would bring",
    "federated": "the shared model as it came",
    "joined": "alone, stacked with the federated model: what a participant would really use",
    "net gain": (
        "joined minus control on own untouched test rows, with a 95 % interval; positive means that joining paid, in "
        "every metric"
    ),
    "gain": "federated minus alone, on the same rows; shown where a run has no joined model",
    "clearly, perhaps, not": (
        "joining paid clearly where the whole 95 % interval is above zero, perhaps where only the value is, else not"
    ),
    "ε": "how much one unit can change what leaves, at most; smaller is more private; ∞ is non-private",
    "δ": "the probability with which ε may be exceeded; of one run and of all runs they are two different numbers",
    "unit": "what is protected: a record, or a person with all its records; counted by adding or removing one",
    "run budget": "the ε that a participant allows one run; spending all of it is the plan, for noise is fitted to it",
    "lifetime": "all runs on one data set, as its participant's ledger counts them",
    "estimate": (
        "ε of all runs together by their privacy loss distribution (PLD); lower than their sum, and at another δ"
    ),
    "reserved by the filter": (
        "what the lifetime filter sets aside: the whole allowance of each run; what it leaves is certain"
    ),
    "runs left": "how many more runs of the last one's allowance the lifetime budget grants for certain",
    "σ": "standard deviation of the noise over the clip norm, the most that one unit can add",
    "N_eff": "to how many further rows of its own the others amount for a participant, after their noise",
}


def lines(*terms: str) -> list[tuple[str, str]]:
    """Return terms with their lines, in the glossary's order; without names, all of them."""
    return [(term, says) for term, says in TERMS.items() if not terms or term in terms]
