"""What an owner may change from its own view: its budget, as `consortia budget set` does."""

from __future__ import annotations

from consortia.common.errors import InputError
from consortia.dashboard.changes import Proposal
from consortia.participant import budget_change
from consortia.participant.home import Home
from consortia.terms.policy import Policy

_LABELS = {
    "run": "ε that one run may spend",
    "lifetime": "ε that all runs on a data set may spend",
    "run_delta": "δ of one run",
    "lifetime_delta": "δ of the lifetime",
    "evaluation_run": "ε of one run's metrics",
    "evaluation_lifetime": "ε of all runs' metrics on a data set",
    "evaluation_run_delta": "δ of one run's metrics",
    "evaluation_lifetime_delta": "δ of the metrics' lifetime",
}


def fields(policy: Policy) -> list[dict[str, str]]:
    """Return the form's fields, filled with the present budget."""
    return [
        {"name": name, "label": label, "value": "" if (value := _present(policy, name)) is None else f"{value:g}"}
        for name, label in _LABELS.items()
    ]


def budget(home: Home, policy: Policy, given: dict[str, str]) -> Proposal:
    """Check a changed budget. A field that was left as it was changes nothing.

    Raises
    ------
    InputError
        When a field is no number, when nothing differs, when the policy cannot have it.
    """
    wanted = {}
    for name, label in _LABELS.items():
        text = given.get(name, "").strip()
        present = _present(policy, name)
        if not text or (present is not None and text == f"{present:g}"):
            continue
        try:
            wanted[name] = float(text)
        except ValueError:
            raise InputError(f"{label}: wanted a number with a decimal point, got another text") from None
    if not wanted:
        raise InputError("wanted another ε or δ than now, got the same")
    change = budget_change.check(home, wanted)
    return Proposal(
        heading="Change the budget?",
        lines=change.in_words(),
        effect="The next message honours it. The ledger records it; it costs no budget.",
        button="Change the budget",
        back="/policy",
        make=change.make,
    )


def _present(policy: Policy, name: str) -> float | None:
    units, horizon, key = budget_change.PLACES[name]
    account = policy.budget.evaluation if units else policy.budget
    return None if account is None else float(getattr(getattr(account, horizon), key))
