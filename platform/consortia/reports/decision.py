"""The paragraph with which terminal, report and dashboard begin: whom joining paid, what it cost, what to do next.

It is made of the numbers of a record and of names of the scenario; it repeats no text that a participant wrote.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from consortia.common.words import epsilon_text, interval, verdict
from consortia.messages.answer_codes import meaning
from consortia.reports.many_participants import MOST
from consortia.terms.scenario import Scenario

__all__ = [
    "Decision",
    "compares",
    "counts_of",
    "decide",
    "decide_alone",
    "epsilon_range",
    "gain_of",
    "listed",
    "measured",
    "reasons",
    "verdict_of",
]

_ORDER: Final = ("clearly", "perhaps", "not")
_RANK: Final = {word: place for place, word in enumerate((*_ORDER, "unknown"))}
#: Of its run budget: more than this share counts as all of it, since noise is fitted to spend it.
_ALL: Final = 0.98
#: Behind the first ε that a reader meets.
_MEANING: Final = (
    "ε limits how much anybody can learn of any one unit (a record or a person, as declared); smaller is more private."
)


@dataclass(frozen=True)
class Decision:
    """The paragraph, sentence by sentence; an empty one has nothing to say.

    Attributes
    ----------
    who : str
        Who trained what with whom, or how it ended.
    why : sequence of str
        The reasons of a run that failed, where the page shows them (`reasons`).
    paid : str
        For whom joining paid: clearly, perhaps, not.
    cost : str
        Epsilon, of which budget, and how many like runs are left.
    next : str
        What to do next.
    """

    who: str
    why: Sequence[str] = ()
    paid: str = ""
    cost: str = ""
    next: str = ""

    @property
    def sentences(self) -> list[str]:
        """Those that say something."""
        return [each for each in (self.who, *self.why, self.paid, self.cost, self.next) if each]

    def __str__(self) -> str:
        return " ".join(self.sentences)


def compares(participant: Mapping[str, Any]) -> bool:
    """Return whether a receipt or a line of a record has the joined model; those of vertical and older runs do not."""
    return any("joined" in values for values in participant["metrics"].values())


def gain_of(participant: Mapping[str, Any]) -> Mapping[str, float] | None:
    """Return the gain of the model that is really used: joined over control, or where there is none federated over
    alone."""
    found: Mapping[str, float] | None = participant.get("net_gain" if compares(participant) else "gain")
    return found


def verdict_of(participant: Mapping[str, Any]) -> str:
    """Return the verdict of a receipt or of a line of a record."""
    return verdict(gain_of(participant))


def decide(result: Mapping[str, Any], scenario: Scenario | None = None) -> Decision:
    """Return the paragraph of a record.

    Parameters
    ----------
    result : mapping
        `result.json`, or what has its keys.
    scenario : Scenario or None
        What was agreed, where it is at hand: who shares with whom, and which learner could be tried.
    """
    participants: Mapping[str, Mapping[str, Any]] = result["participants"]
    who = _who(result, participants, scenario)
    if left := result.get("left"):
        who += f" Since then {listed(sorted(left))} left: the model was made anew, and what follows is of the old one."
    if result["status"] != "completed":
        cost = _cost(result, participants) or (
            "What it cost has no final number: the table shows what the coordinator counted, and each participant's "
            "own ledger has the whole sum."
        )
        if result.get("refused"):  # its reasons say that nobody was charged
            return Decision(who, next=_after_failure(result, participants))
        paid = "Whether joining pays was not measured."
        return Decision(who, paid=paid, cost=cost, next=_after_failure(result, participants))
    if "statistics" in result:
        return Decision(who, cost=_cost(result, participants))
    known = {name: one for name, one in participants.items() if measured(one)}
    paid = _paid(known)
    if not known:
        at_home = "Whether joining paid is each participant's own to know: `consortia receipt HOME`, there."
        home = at_home if result["observer"] != "simulation" else ""
        return Decision(who, paid=home, cost=_cost(result, participants))
    return Decision(who, paid=paid, cost=_cost(result, participants), next=_next(known, scenario))


def decide_alone(receipt: Mapping[str, Any]) -> Decision:
    """Return the paragraph of one participant's receipt, which is its own."""
    name = receipt.get("participant", "this participant")
    made_up = ", on synthetic rows" if receipt.get("synthetic") else ""
    one = {name: receipt}
    known = one if measured(receipt) else {}
    who = f"{name} trained with the others of this run{made_up}."
    cost = _cost({"observer": "participant", "charged": True}, one)
    paid = _paid_alone(receipt) if known else ""
    return Decision(who, paid=paid, cost=cost, next=_next(known, None, named=False) if known else "")


def counts_of(participants: Iterable[Mapping[str, Any]]) -> str:
    """Return for how many joining paid, by verdict; empty where nobody's is at hand."""
    said = Counter(verdict_of(one) for one in participants if measured(one))
    return ", ".join(f"{said[word]} {word}" for word in _ORDER) if said else ""


def measured(participant: Mapping[str, Any]) -> bool:
    """Return whether a receipt or a line of a record says what joining brought, or that too few rows say it."""
    return bool(participant.get("metrics")) and (bool(participant.get("units")) or gain_of(participant) is not None)


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them; a crowd as its number."""
    if len(names) > MOST:
        return str(len(names))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "nobody"


def reasons(reason: str, names: Collection[str]) -> list[str]:
    """Return why a run failed: first what keeps whom from taking part, once for all of whom it is true, then the rest.

    Parameters
    ----------
    reason : str
        Of the record, one in each line; a participant's begins with its name.
    names : of the participants
    """
    theirs: dict[str, list[str]] = {}
    others: dict[str, None] = {}
    for line in reason.splitlines():
        name, _, rest = line.partition(": ")
        if rest.strip() and name in names:
            theirs.setdefault(rest.strip().rstrip("."), []).append(name)
        elif says := line.strip().rstrip("."):
            others[f"{says[0].upper()}{says[1:]}."] = None
    return [f"{listed(whom)}: {says}." for says, whom in theirs.items()] + list(others)


def _who(result: Mapping[str, Any], participants: Mapping[str, Any], scenario: Scenario | None) -> str:
    industries = Counter(one["industry"] for one in participants.values() if "industry" in one)
    several = len(industries) > 1 and max(industries.values()) > 1
    made = ", ".join(f"{count} × {name}" if several else name for name, count in industries.items())
    what = f"{len(participants)} participants ({made})"
    text = f"{what} {_did(result, participants, scenario)}"
    if result["status"] != "completed":
        text = f"The run of {what} {'was refused' if result.get('refused') else 'failed'}"
        text += f" after {result['rounds']} round{'' if result['rounds'] == 1 else 's'}" if result["rounds"] else ""
    if result.get("observer") == "simulation":
        rows = ", which are synthetic" if result.get("synthetic") else ""
        text += f". It is a simulation by one operator who holds all rows{rows}"
    return text + "."


def _did(result: Mapping[str, Any], participants: Mapping[str, Any], scenario: Scenario | None) -> str:
    if "statistics" in result:
        return "released noisy statistics of their columns; nothing was trained"
    owners = [name for name, one in participants.items() if one.get("role") == "label owner"]
    if owners:
        others = [name for name in participants if name not in owners]
        return f"hold different columns of the same persons: {listed(others)} helped {listed(owners)}"
    if scenario is None or scenario.contract.vertical is not None:
        return "trained together"
    named = frozenset().union(*(part.contract.scopes.named for part in scenario.parts()))
    if "consortium" in named and len(scenario.contract.industries) > 1:
        return "trained together, across industries"
    return "trained, each with its own industry" if len(scenario.contract.industries) > 1 else "trained together"


def _paid(known: Mapping[str, Mapping[str, Any]]) -> str:
    said = {name: verdict_of(one) for name, one in known.items() if one["metrics"]}
    if not any(word in _ORDER for word in said.values()):
        return "Too few test rows say whether joining paid." if said else ""
    found = []
    for word in _ORDER:
        names = sorted((n for n, each in said.items() if each == word), key=lambda n: -_value(known[n]))
        if names or word == "clearly":
            found.append(f"{word} for {listed(names)}")
    unknown = [name for name, word in said.items() if word == "unknown"]
    text = f"Joining paid {'; '.join(found)}."
    if worse := sorted(name for name in said if _is_worse(known[name])):
        text += f" It made the model of {listed(worse)} worse."
    return text + (f" Too few test rows say it for {listed(unknown)}." if unknown else "")


def _paid_alone(receipt: Mapping[str, Any]) -> str:
    said, gain = verdict_of(receipt), gain_of(receipt)
    if gain is None:
        return "Too few test rows say whether joining paid."
    how = "Joining did not pay" if said == "not" else f"Joining paid {said}"
    if _is_worse(receipt):
        how = "Joining made the model worse"
    return f"{how}: {'net gain' if compares(receipt) else 'gain'} {interval(gain)}."


def _value(participant: Mapping[str, Any]) -> float:
    found = gain_of(participant)
    return found["value"] if found else -math.inf


def _is_worse(participant: Mapping[str, Any]) -> bool:
    """Return whether the whole interval of the gain is a loss."""
    found = gain_of(participant)
    return found is not None and found["high"] < 0


def _cost(result: Mapping[str, Any], participants: Mapping[str, Mapping[str, Any]]) -> str:
    if "central" in result:
        seen = result["central"]["epsilon"]["models_only"]
        if seen is None:
            return "Towards those who see the models alone it cost ε ∞."
        return f"Towards those who see the models alone it cost ε {epsilon_text(seen)}. {_MEANING}"
    accounts = {name: one["epsilon"] for name, one in participants.items() if one["epsilon"]["non_private"] is not None}
    private = {name: a for name, a in accounts.items() if not a["non_private"] and a["run"] is not None}
    open_ended = [name for name, a in accounts.items() if a["non_private"]]
    parts = []
    if private:
        verb = "It cost" if result.get("charged", True) else "Charged to no ledger, it would have cost"
        whom = "" if len(private) == 1 else " each of them" if len(private) == len(participants) else ""
        parts.append(f"{verb}{whom} ε {epsilon_range([a['run'] for a in private.values()])}{_of_budget(private)}")
    if open_ended:
        parts.append(f"{listed(open_ended)} took part non-private, without a guarantee (ε = ∞)")
    text = "; ".join(parts)
    said = [f"{text}.", _MEANING if private else "", _left(private)]
    return " ".join(each for each in said if each) if text else ""


def _of_budget(accounts: Mapping[str, Mapping[str, Any]]) -> str:
    shares = {name: a["run"] / a["budget"] for name, a in accounts.items() if a["budget"]}
    over = [name for name, share in shares.items() if share > 1 + 1e-6]
    if over:
        return f", which is over the run budget of {listed(over)}"
    if not shares:
        return ""
    if min(shares.values()) >= _ALL:
        return ", the whole budget of one run, as planned"
    budgets = [accounts[name]["budget"] for name in shares]
    return f", of {'a run budget' if len(budgets) == 1 else 'run budgets'} of {epsilon_range(budgets)}"


def epsilon_range(values: Sequence[float]) -> str:
    """Return the smallest and the largest ε."""
    low, high = epsilon_text(min(values)), epsilon_text(max(values))
    return low if low == high else f"{low} to {high}"


def _left(accounts: Mapping[str, Mapping[str, Any]]) -> str:
    left = {name: a["runs_left"] for name, a in accounts.items() if a.get("runs_left") is not None}
    if not left:
        return ""
    fewest, most = min(left.values()), max(left.values())
    if most == 0:
        return "No run like it is left: the lifetime budget is used up."
    if fewest == most:
        whose = "Each lifetime budget" if len(left) > 1 else "The lifetime budget"
        return f"{whose} has room for {fewest} more run{'' if fewest == 1 else 's'} like it."
    short = [name for name, count in left.items() if count == fewest]
    some = f"{fewest or 'no'} more run{'' if fewest == 1 else 's'}"
    return f"The lifetime budgets have room for {some} like it at {listed(short)}, for up to {most} at the others."


def _next(known: Mapping[str, Mapping[str, Any]], scenario: Scenario | None, *, named: bool = True) -> str:
    """Say what to do, by verdict; the verdict before joining (N_eff) tells too few partners from a poor learner."""
    said: dict[str, list[str]] = {}
    for name, one in sorted(known.items(), key=lambda item: (_RANK[verdict_of(item[1])], -_value(item[1]))):
        said.setdefault(_advice(name, one, scenario), []).append(name)
    everybody = named and len(known) > 2 and len(said) == 1
    parts = [
        f"{advice}: {'all' if everybody else listed(names)}" if named else advice for advice, names in said.items()
    ]
    return f"Next, {'; '.join(parts)}."


def _advice(name: str, one: Mapping[str, Any], scenario: Scenario | None) -> str:
    """Return what one participant should do; those of equal advice are told together."""
    word, told = verdict_of(one), one.get("forecast")
    last = one["epsilon"].get("runs_left") == 0
    if word == "clearly":
        return f"use the {'joined' if compares(one) else 'federated'} model"
    if word == "perhaps":
        if last:
            return "decide, or raise the lifetime budget, which is used up, and measure again"
        return "measure again, with more test rows or a second run, before deciding"
    if word == "unknown":
        return "set more rows apart for the test"
    if told and told["verdict"] == "not worth it":
        return "stay alone, or find more partners, for N_eff is under half of the own rows"
    if scenario is not None and scenario.contract.vertical is None:
        mine = next((each for each in scenario.roster if each.name == name), None)
        if not last and mine is not None and scenario.contract.of(mine.industry).learner == "gradient":
            return 'stay alone, or ask the coordinator for a run with noisy sums (learner = "sums")'
    return "stay alone" if last else "stay alone, or try another learner"


def _after_failure(result: Mapping[str, Any], participants: Mapping[str, Mapping[str, Any]]) -> str:
    """Return who failed with which code, and what the code means; each code once."""
    failed: dict[str, list[str]] = {}
    for name, one in participants.items():
        if one.get("failures"):
            failed.setdefault(one["failures"][-1]["code"], []).append(name)
    if not failed:
        return "Next: read the reason below."
    told = (
        f"{listed(names)} ({code}): {meaning(code) or '`consortia home log NAME` there says why'}"
        for code, names in failed.items()
    )
    return f"Next: {'. '.join(told)}."
