"""Describes a ledger for its owner: what was spent, on which releases and data sets, and what is left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from consortia.terms.policy import Policy
from privacy.accounting import epsilon, merge
from privacy.events import (
    CHANGE_LABEL,
    RELATION,
    REPLACE_ROW,
    Event,
    event_size,
)
from privacy.ledger import Budget, Entry, Ledger

_DEFAULT_DELTA = 1e-5
_EVALUATION = "/evaluation"
#: The accounts of vertical mode, each with its neighbour relation. Accounts are never composed with each other.
_VERTICAL = {"labels": CHANGE_LABEL, "scores": REPLACE_ROW, "intersection": RELATION}
LIFETIME = "lifetime (PLD estimate)"
#: Counts the ε of events at a δ, as `privacy.accounting.epsilon` does.
Count = Callable[[Sequence[Event], float], float]


def what(event: Event) -> str:
    """Return a description of an event for people."""
    return f"{event.describe()} ({event.partition})"


def summary(ledger: Ledger, policy: Policy | None, participant: str, count: Count = epsilon) -> dict[str, Any]:
    """Return every account of the ledger: one for each run, and one for the lifetime of each data set.

    `left` of a lifetime is what the filter is certain to grant a new run; `epsilon` is an estimate (PLD). Data sets of
    the policy without any spending are listed, too. So is the account of their evaluation units, if the policy has a
    budget for it.
    """
    entries = ledger.entries()
    offered = _offered(policy) if policy else set()
    accounts = []
    for dataset in sorted({entry.dataset for entry in entries} | offered):
        mine = [entry for entry in entries if entry.dataset == dataset]
        for run in dict.fromkeys(entry.run_id for entry in mine):
            account = run_account(ledger, run, [entry for entry in mine if entry.run_id == run], count)
            accounts.append({**account, "left": _left(account)})
        shared = ledger.sharing(dataset)
        spent = mine if len(shared) == 1 else [entry for entry in entries if entry.dataset in shared]
        accounts.append(_lifetime(ledger, policy, dataset, spent, count, cohorts=len(shared) == 1))
        if len(shared) == 1 and (cohorts := {entry.run_id for entry in mine if entry.cohort}):
            accounts[-1]["cohorts"] = len(cohorts)
        if len(shared) > 1:
            accounts[-1]["shares_with"] = [name for name in shared if name != dataset]
    anchor = ledger.anchor()
    return {
        "schema": 2,
        "participant": participant,
        "relation": RELATION,
        "counter": anchor.counter,
        "head": anchor.head,
        "accounts": accounts,
    }


def run_account(ledger: Ledger, run_id: str, entries: Sequence[Entry], count: Count = epsilon) -> dict[str, Any]:
    """Return what one run cost the units of one data set. `entries` are all entries of that run, at least one."""
    plan = ledger.plan(run_id)
    budget = plan.allowance if plan else Budget(math.inf, _DEFAULT_DELTA)
    return _account(entries[0].dataset, f"run {run_id}", plan.unit if plan else None, entries, budget, count)


def runs_left(left: Budget, asked: Budget) -> int:
    """Return how many runs with the budget `asked` (ε and δ above 0) are certain to fit into what is left."""
    slack = 1 + 1e-9
    return min(math.floor(left.epsilon / asked.epsilon * slack), math.floor(left.delta / asked.delta * slack))


def evaluation_account(dataset: str) -> str:
    """Return the name of the account of a data set's evaluation units."""
    return f"{dataset}{_EVALUATION}"


def _offered(policy: Policy) -> set[str]:
    """Return the accounts of the allowed releases. Labels and scores have one account each, training has another."""
    vertical = [name for name in _VERTICAL if name in policy.allow.releases]
    trains = "update" in policy.allow.releases or not vertical
    offered = {f"{name}/{account}" for name in policy.dataset for account in vertical}
    offered |= set(policy.dataset) if trains else set()
    if policy.budget.evaluation is not None:
        offered |= {evaluation_account(name) for name in policy.dataset}
    return offered


def _vertical(dataset: str) -> str:
    """Return the account's name in vertical mode; an empty text for other accounts."""
    account = dataset.rpartition("/")[2]
    return account if account in _VERTICAL and "/" in dataset else ""


def _budget_of(policy: Policy, dataset: str) -> Budget:
    """Return the lifetime budget of an account; infinite if the owner set none for the evaluation units.

    Labels have pure DP, so their lifetime has no δ. Intersections disclose membership; the policy limits their number
    instead.
    """
    life = policy.budget.lifetime.budget()
    if account := _vertical(dataset):
        return {"labels": Budget(life.epsilon, 0.0), "scores": life}.get(account, Budget(math.inf, 0.0))
    if not dataset.endswith(_EVALUATION):
        return life
    terms = policy.budget.evaluation
    return terms.lifetime.budget() if terms else Budget(math.inf, policy.budget.lifetime.delta)


def _worst(mine: Sequence[Entry], delta: float, count: Count) -> Sequence[Entry]:
    """Return the entries that the units which paid most are charged for: all without claims, and one run's cohort."""
    cohorts = {entry.run_id for entry in mine if entry.cohort}
    if not cohorts:
        return mine
    worlds = [[e for e in mine if not e.cohort or e.run_id == run] for run in sorted(cohorts)]
    return max(worlds, key=lambda world: count([event for entry in world for event in entry.events], delta))


def _lifetime(
    ledger: Ledger, policy: Policy | None, dataset: str, mine: Sequence[Entry], count: Count, *, cohorts: bool
) -> dict[str, Any]:
    terms = policy.dataset.get(dataset.partition("/")[0]) if policy else None
    first = ledger.plan(mine[0].run_id) if mine else None
    life = _budget_of(policy, dataset) if policy else Budget(math.inf, _DEFAULT_DELTA)
    unit = first.unit if first else (terms.unit if terms else None)
    # Data sets of one lifetime add up, as the ledger counts them.
    charged = _worst(mine, life.delta or _DEFAULT_DELTA, count) if cohorts else mine
    account = _account(dataset, LIFETIME, unit, charged, life, count)
    bounded = policy is not None and not account["non_private"] and not math.isinf(life.epsilon)
    left = ledger.lifetime_left(dataset, life) if bounded else None
    asked = plan.allowance if (plan := ledger.plan(mine[-1].run_id) if mine else None) else _asked(policy)
    like = asked is not None and left is not None and 0 < asked.epsilon < math.inf and asked.delta > 0
    return {
        **account,
        # The cost of one more run like the last: its whole allowance, which the filter reserves.
        "runs_left": runs_left(left, asked) if like and left and asked else None,
        "like": {"epsilon": asked.epsilon, "delta": asked.delta} if like and asked else None,
        "reserved": max(0.0, life.epsilon - left.epsilon) if left else None,
        # Intersections have no ε budget: the policy limits their number.
        "left": left.epsilon if left else (0.0 if policy and _vertical(dataset) != "intersection" else None),
        "left_delta": left.delta if left else None,
    }


def _asked(policy: Policy | None) -> Budget | None:
    return policy.budget.run.budget() if policy else None


def _left(account: dict[str, Any]) -> float | None:
    if account["budget"] is None or account["epsilon"] is None:
        return None
    return max(0.0, float(account["budget"]) - float(account["epsilon"]))


def _account(
    dataset: str, horizon: str, unit: str | None, entries: Sequence[Entry], budget: Budget, count: Count
) -> dict[str, Any]:
    events = [event for entry in entries for event in entry.events]
    delta = _delta(budget, events, dataset)
    spent = count(events, delta)
    return {
        "dataset": dataset,
        "horizon": horizon,
        "unit": unit,
        "relation": _VERTICAL.get(_vertical(dataset), RELATION),
        "epsilon": None if math.isinf(spent) else spent,
        "delta": delta,
        "budget": None if math.isinf(budget.epsilon) else budget.epsilon,
        "non_private": math.isinf(spent),
        "releases": len(entries),
        "abandoned": sum(entry.state == "reserved" for entry in entries),
        "by": _by(events, delta, spent, count),
    }


def _delta(budget: Budget, events: Sequence[Event], dataset: str) -> float:
    """Return the budget's δ. Without one: 0 for labels and other pure events, otherwise a common default."""
    counted_purely = all(event.pure_epsilon() is not None and not event.non_private for event in events)
    pure = _vertical(dataset) == "labels" or (events and counted_purely)
    return budget.delta or (0.0 if pure else _DEFAULT_DELTA)


def _by(events: Iterable[Event], delta: float, spent: float, count: Count) -> list[dict[str, Any]]:
    """Return what each mechanism would have cost alone. Together they cost less than the sum."""
    merged = merge(events)
    alone = [spent] if len(merged) == 1 else [count([event], delta) for event in merged]
    return [
        {"what": what(event), "times": event_size(event), "epsilon_alone": None if math.isinf(value) else value}
        for event, value in zip(merged, alone, strict=True)
    ]


def history(ledger: Ledger, count: Count = epsilon) -> list[dict[str, Any]]:
    """Check the chain, and return one line for each link that an owner wants to see, oldest first.

    Raises
    ------
    LedgerBrokenError
        The chain does not match the entries.
    """
    data = ledger.export()
    runs = {run["run_id"]: run for run in data["runs"]}
    entries = {str(entry.seq): entry for entry in ledger.entries()}
    notes = {str(note["id"]): note for note in data["notes"]}
    costs: dict[tuple[Event, ...], float] = {}
    lines, before = [], None
    for link in data["chain"]:
        line: dict[str, Any] = {"link": link["seq"], "what": link["kind"], "head": link["head"]}
        if link["kind"] == "run":
            run = runs[link["ref"]]
            allowance = run["allowance"]
            line |= {
                "time": run["opened"],
                "what": "run opened",
                "dataset": run["dataset"],
                "run": run["run_id"],
                "detail": f"allowance ε {_text(allowance['epsilon'])}, δ {allowance['delta']:g}, unit {run['unit']}",
            }
        elif link["kind"] == "reserved":
            entry = entries[link["ref"]]
            plan = ledger.plan(entry.run_id)
            delta = _delta(plan.allowance if plan else Budget(math.inf, 0.0), entry.events, entry.dataset)
            cost = costs.setdefault(entry.events, count(entry.events, delta))
            line |= {
                "time": entry.created,
                "what": "released" if entry.state == "committed" else "charged, abandoned",
                "dataset": entry.dataset,
                "run": entry.run_id,
                "round": entry.round,
                "epsilon_alone": None if math.isinf(cost) else cost,
                "relation": _VERTICAL.get(_vertical(entry.dataset), RELATION),
                "delta": delta,
                "detail": "; ".join(f"{event_size(event)} x {what(event)}" for event in entry.events),
            }
        elif link["kind"] == "note":
            note = notes[link["ref"]]
            told = note["note"]
            line["time"] = note["created"]
            if (noted := _noted(told)) is not None:
                line |= noted
            else:
                line |= {"what": "budget set", "detail": _change(before, told)}
                before = told
        else:
            continue  # the creation of the ledger, or a commit: the line of its reservation covers it
        lines.append(line)
    return lines


def _noted(told: dict[str, Any]) -> dict[str, str] | None:
    """Return what a note says; None for a budget, of which only the change counts."""
    what = str(told.get("what", ""))
    if "datasets" in told:
        return {"what": "one lifetime", "detail": f"{' and '.join(told['datasets'])} share one lifetime"}
    if what == "passport":
        return {"what": "passport signed", "detail": f"run {told['run']}, SHA-256 {told['sha256'][:12]}"}
    if what == "left":
        detail = f"{told['participant']} left run {told['run']}, certificate {told['sha256'][:12]}; no charge"
        return {"what": "left", "detail": detail}
    if what == "agreement":
        return {"what": f"agreement {told['state']}", "detail": f"contract sha256:{told['contract'][:12]}"}
    if what.startswith("claims of "):
        detail = f"units of {what[10:]} are marked; a release on top of {told['first']} uses new ones"
        return {"what": "claims begun", "detail": detail}
    if what == "contract":
        return {"what": f"contract {told['state']}", "detail": told["contract"][:19]}
    if what == "restored":
        return {"what": "restored", "detail": f"a backup of {told['backup']}"}
    return None if "run" in told and "lifetime" in told else {"what": "note", "detail": what or "of a newer version"}


def _change(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    parts = []
    for name, new, old in (
        ("", now, before),
        ("evaluation ", now.get("evaluation"), (before or {}).get("evaluation")),
    ):
        if new is None:
            parts += ["evaluation: none (withdrawn)"] if old is not None else []
            continue
        for horizon in ("run", "lifetime"):
            value, last = new[horizon]["epsilon"], old[horizon]["epsilon"] if old else None
            word = "" if last is None or last == value else (" (raised)" if value > last else " (lowered)")
            parts.append(f"{name}{horizon} ε {value:g}, δ {new[horizon]['delta']:g}{word}")
    return "; ".join(parts) + "; costs nothing"


def _text(value: float | None) -> str:
    return "∞ (non-private)" if value is None else f"{value:g}"
