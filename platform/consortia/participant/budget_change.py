"""Changes a participant's own budget: its policy file is written, and its ledger says so. It costs nothing.

The command `consortia budget set` and the page of `consortia dashboard --allow-changes` both come here, so both leave
the same lines.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import tomlkit

from consortia.common import acts
from consortia.common.errors import InputError
from consortia.participant import ledger_witness
from consortia.participant.home import Home
from consortia.terms.policy import Policy, parse_policy
from privacy.errors import PrivacyError

TRAINING, EVALUATION = "", "evaluation"
Place = tuple[str, str, str]  # units ("" or "evaluation"), horizon, "epsilon" or "delta"
PLACES: Final[dict[str, Place]] = {
    "_".join(part for part in (units, horizon, "" if name == "epsilon" else name) if part): (units, horizon, name)
    for units, horizon, name in product((TRAINING, EVALUATION), ("run", "lifetime"), ("epsilon", "delta"))
}


@dataclass(frozen=True)
class BudgetChange:
    """A change that was checked and not made yet.

    Attributes
    ----------
    home : Home
    read : str
        The policy's text that it was made from.
    before, after : Policy
    text : str
        The policy's text with the change; all else in it is as it was.
    """

    home: Home
    read: str
    before: Policy
    after: Policy
    text: str

    def make(self) -> None:
        """Write the policy; note the old and the new budget in the ledger.

        Raises
        ------
        InputError
            When the policy changed since this was checked, or cannot be written; when the ledger cannot be opened.
        """
        with acts.noted(self.home.kept, "budget.set", self._told()), self.home.policy_held():
            if self.home.policy.read_text(encoding="utf-8-sig") != self.read:
                raise InputError(
                    f"{self.home.policy}: wanted the policy as it was when the change was checked, got another; "
                    "nothing was changed: look at it and try again"
                )
            with self.home.open_for_owner() as ledger:
                try:
                    ledger_witness.note_budget(ledger, self.before)
                except PrivacyError as error:
                    raise InputError(f"{error}; nothing was changed") from None
                self.home.write_policy(self.text)
                with contextlib.suppress(PrivacyError):  # the change counts; the next message notes it first of all
                    ledger_witness.note_budget(ledger, self.after)

    def _told(self) -> str:
        """Return what changes, in a few words."""
        changed = [
            f"{'_'.join(part for part in place if part)}={new:g}"
            for place in PLACES.values()
            if (new := _amount(self.after, place)) is not None and new != _amount(self.before, place)
        ]
        return " ".join(changed)

    def in_words(self) -> list[str]:
        """Return a line for each budget: what it was, what it becomes; and what raising it means."""
        units = ", ".join(sorted({terms.unit for terms in self.after.dataset.values()}))
        lines, raised = [], False
        for name, old, new in (
            ("", self.before.budget, self.after.budget),
            ("evaluation ", self.before.budget.evaluation, self.after.budget.evaluation),
        ):
            for horizon in ("run", "lifetime") if new is not None else ():
                was, now = getattr(old, horizon, None), getattr(new, horizon)
                told = f"ε {was.epsilon:g} at δ {was.delta:g}" if was else "nothing"
                lines.append(
                    f"{name}{horizon}: {told} -> ε {now.epsilon:g} at δ {now.delta:g} (add/remove one unit: {units})"
                )
            raised |= old is not None and new is not None and new.lifetime.epsilon > old.lifetime.epsilon
        if raised:
            lines.append(
                "Raised: what was promised for this data before no longer holds; the ledger says so from now on."
            )
        return lines


def check(home: Home, wanted: Mapping[str, float]) -> BudgetChange:
    """Check a change and return it; nothing is written.

    Parameters
    ----------
    home : Home
    wanted : mapping of str to float
        By names of `PLACES`: `run` and `lifetime` are ε, `run_delta` is δ; `evaluation_run` is that of metrics. What is
        not named stays. δ of a first evaluation budget is the training units'.

    Raises
    ------
    InputError
        When a value, or the policy with it, cannot be.
    """
    read = home.policy.read_text(encoding="utf-8-sig")
    before = parse_policy(read, str(home.policy))
    document: Any = tomlkit.parse(read)
    budget = document["budget"]
    if before.budget.evaluation is None and any(PLACES[name][0] for name in wanted):
        budget["evaluation"] = _new_evaluation(budget, wanted)
    for name, value in wanted.items():
        units, horizon, key = PLACES[name]
        (budget[units] if units else budget)[horizon][key] = value
    text = tomlkit.dumps(document)
    return BudgetChange(home, read, before, parse_policy(text, f"{home.policy} with the new budget"), text)


def _amount(policy: Policy, place: Place) -> float | None:
    units, horizon, key = place
    account = policy.budget.evaluation if units else policy.budget
    return None if account is None else float(getattr(getattr(account, horizon), key))


def _new_evaluation(budget: Any, wanted: Mapping[str, float]) -> Any:
    """Return a first budget of the evaluation units; what it costs has no default."""
    if not {"evaluation_run", "evaluation_lifetime"} <= wanted.keys():
        raise InputError(
            "budget set: the policy has no budget.evaluation yet: wanted --evaluation-run and --evaluation-lifetime, "
            "got one of them"
        )
    account = tomlkit.table()
    for horizon in ("run", "lifetime"):
        line = tomlkit.inline_table()
        line.update({"epsilon": wanted[f"evaluation_{horizon}"], "delta": budget[horizon]["delta"]})
        account[horizon] = line
    return account
