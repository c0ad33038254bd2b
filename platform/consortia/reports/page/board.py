"""The first page of a report: one paragraph, one chart, three numbers, and the guarantee in one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from consortia.common.words import when
from consortia.reports.decision import (
    Decision,
    compares,
    counts_of,
    decide,
    decide_alone,
    epsilon_range,
    measured,
    reasons,
    verdict_of,
)
from consortia.reports.gain_chart import gain_chart
from consortia.reports.page.content import Chart
from consortia.reports.page.facts import Facts, promise
from consortia.trust.trusted_coordinator import sentence

__all__ = ["Board", "board"]


@dataclass(frozen=True)
class Board:
    """What a board reads.

    Attributes
    ----------
    run : str
        Which run it was, how it ended, and when it began.
    status : str
        How the run ended; a word of ours.
    numbers : list of (str, str)
        Three numbers, each with what it counts.
    """

    title: str
    run: str
    status: str
    decision: Decision
    chart: Chart | None
    numbers: list[tuple[str, str]]
    guarantee: str
    words: str = ""


def board(facts: Facts) -> Board:
    """Return the first page."""
    title, participants = facts.run.scenario.title, facts.participants
    if facts.whose:
        title = f"“{facts.whose}”: {title}"
        decision = decide_alone({**facts.receipts[facts.whose], "participant": facts.whose})
    else:
        decision = decide({**facts.result, "participants": participants}, facts.run.scenario)
        if facts.result["status"] != "completed":
            decision = replace(decision, why=reasons(facts.result["reason"], participants))
    caption, drawing = gain_chart(participants)
    return Board(
        title,
        f"Run {facts.run.id}, {_ended(facts)}, began {when(facts.run.started)}",
        facts.result["status"],
        decision,
        Chart(caption, drawing) if drawing else None,
        _numbers(facts),
        _guarantee(facts),
        _words(participants) if drawing else "",
    )


def _ended(facts: Facts) -> str:
    if facts.result.get("refused"):
        return "refused"
    if facts.result["status"] != "completed":
        return str(facts.result["status"])
    count = len(facts.run.failures)
    return f"completed with {count} failure{'' if count == 1 else 's'}" if count else "completed without a failure"


def _words(participants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what the chart compares, in a sentence."""
    if not any(compares(one) for one in participants.values()):
        return "Alone is a participant's own best model, federated the shared one."
    return (
        "Alone is a participant's own best model, control the same with more effort at home, federated the shared "
        "model, and joined what one would use: alone and federated together."
    )


def _numbers(facts: Facts) -> list[tuple[str, str]]:
    found = []
    known = [one for one in facts.participants.values() if measured(one)]
    if known and not facts.whose:
        found.append((counts_of(known), "joining paid, by participants"))
    elif known:
        found.append((verdict_of(known[0]), "did joining pay"))
    accounts = [one["epsilon"] for one in facts.result["participants"].values()]
    spent = [a["run"] for a in accounts if a["run"] is not None and not a["non_private"]]
    if spent:
        found.append((f"ε {epsilon_range(spent)}", "spent by each participant in this run"))
    left = [a["runs_left"] for a in accounts if a.get("runs_left") is not None]
    if left:
        where = "" if len(left) == 1 else ", for each" if min(left) == max(left) else " where they are fewest"
        found.append((str(min(left)), f"runs like it left{where}"))
    if facts.result["status"] != "completed":
        lines = facts.result["participants"].values()
        failed = sum(bool(one["failures"]) for one in lines)
        found.append((f"{failed} of {len(lines)}", "participants refused or failed"))
        found.append((str(facts.result["rounds"]), "rounds were finished"))
    elif len(found) < 3:
        found.append((f"{len(facts.result['participants'])}", "participants"))
    return found


def _guarantee(facts: Facts) -> str:
    if "central" in facts.result:
        return sentence(facts.result["central"])
    if facts.vertical:
        return (
            "The coordinator relays bytes that it cannot read; ε limits what the label owner's noisy labels say of one "
            "label, and ∞ says that a partner's scores are disclosed to the label owner as they are."
        )
    promised = promise(facts)
    if promised is None:
        open_ended = any(one["epsilon"]["non_private"] for one in facts.result["participants"].values())
        return (
            "This run was non-private: ε = ∞, nothing is promised."
            if open_ended
            else "Nobody said at which ε it took part, so this page promises nothing; each ledger says what was spent."
        )
    text = (
        "Somebody may see all that left a participant in this run. ε limits how sure that makes them that any one "
        f"{promised.units} was among its training rows; a smaller ε is more private. "
        f"The limit fails with a probability of at most δ = {promised.deltas}"
    )
    return text + (
        ". That holds as long as those members keep to the rules on whom the contract counts."
        if promised.rests_on_members
        else "."
    )
