"""Checks the cost of a mechanism: its event against the declared noise."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from scipy.optimize import brentq
from scipy.special import logsumexp

from consortia.testing._mechanism_case import Case
from consortia.testing._suite import require
from privacy.accounting import epsilon, rdp
from privacy.errors import BudgetExhaustedError, UnknownEventError
from privacy.events import RELATIONS, check_known, event_from_json, event_to_json, resized
from privacy.ledger import Budget, Ledger, RunPlan
from privacy.mechanism import AdditiveNoise, Array

_DELTAS = (1e-5, 1e-3, 0.05)
_GRID = 1e-3
_ORDERS = (2, 3, 4, 8)
_MANY = 6
_DRAWS = 100_000


def the_event_is_complete(case: Case) -> None:
    """It is registered, stands for one release, and says in one line what it is."""
    event = case.event
    check_known(event)
    require(event.size == 1, f"event: wanted that of one release, got size {event.size}")
    require(event.relation in RELATIONS, f"relation: wanted one of {', '.join(RELATIONS)}, got {event.relation!r}")
    text = event.describe()
    require(bool(text.strip()) and "\n" not in text, f"describe: wanted one line, got {text!r}")
    require(not event.non_private, "the event says that it is not private")


def _fields(case: Case) -> dict[str, Any]:
    return {k: v for k, v in event_to_json(case.event).items() if k not in {"schema", "kind", "relation"}}


def the_event_survives_json(case: Case) -> None:
    """It comes back equal; every field is needed, and a value that is no such number is refused."""
    event = resized(case.event, 3)
    record = json.loads(json.dumps(event_to_json(event), allow_nan=False))
    back = event_from_json(record)
    require(back == event and hash(back) == hash(event), f"json: wrote {event!r}, read {back!r}")
    wrong = [({**record, "surprise": 1}, "an unknown field")]
    for name in _fields(case):
        wrong.append(({key: value for key, value in record.items() if key != name}, f"no {name}"))
        wrong.append(({**record, name: [record[name]]}, f"a list as {name}"))
        if isinstance(record[name], int | float):
            wrong += [({**record, name: value}, f"{name} = {value}") for value in (math.nan, math.inf, -1, 0, True)]
    for bad, what in wrong:
        try:
            event_from_json(bad)
        except UnknownEventError:
            continue
        raise AssertionError(f"json: {what} was read as an event")


def more_releases_never_cost_less(case: Case) -> None:
    """By epsilon, by Renyi bounds and at every delta; and never more than so many times one release."""
    one = case.event
    for size in (2, 5):
        many = resized(one, size)
        require(many.size == size, f"resized: wanted size {size}, got {many.size}")
        require(resized(many, 1) == one, "resized to 1 again, the event is another one")
        for delta in _DELTAS:
            single, total = epsilon([one], delta, grid=_GRID), epsilon([many], delta, grid=_GRID)
            more = total > single or (single == 0 and total == 0)
            require(more, f"{size} releases cost epsilon {total:.4g} at delta {delta:g}, one costs {single:.4g}")
            basic = size * epsilon([one], delta / size, grid=_GRID)
            require(total <= basic * 1.01 + 0.01, f"{size} releases cost {total:.4g}, basic composition {basic:.4g}")
        require(bool(np.all(rdp([many], _ORDERS) >= rdp([one], _ORDERS))), f"{size} releases have a lower Renyi bound")
    falls = [epsilon([one], delta, grid=_GRID) for delta in sorted(_DELTAS)]
    require(falls == sorted(falls, reverse=True), f"epsilon grows with delta: {falls}")


def _excess(moved: Array, still: Array, eps: float) -> float:
    """Return the hockey-stick divergence: the smallest delta at which `eps` holds for this pair (one way)."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        gap = np.exp(moved) - np.exp(eps + still)
    return float(gap[gap > 0].sum())


def _true_epsilon(case: Case, delta: float) -> float:
    """Return epsilon of one release by its declared noise, from a numeric integral over both neighbours."""
    worst = 0.0
    for moved, still in case.pairs:
        if _excess(moved, still, 0.0) > delta:
            worst = max(worst, float(brentq(lambda eps, m=moved, s=still: _excess(m, s, eps) - delta, 0.0, 600.0)))
    return worst


def epsilon_covers_the_noise(case: Case) -> None:
    """One release costs what its noise gives: no less, and not more than a tenth more."""
    for moved, still in case.pairs:
        total = float(np.exp(logsumexp(moved))), float(np.exp(logsumexp(still)))
        require(max(abs(t - 1) for t in total) < 0.02, f"the declared law has probability {total[0]:.4g} in all")
    pure = case.event.pure_epsilon()
    for delta in (0.0,) if pure is not None else _DELTAS:
        # At delta = 0 every outcome counts that the law can give; 1e-9 stands for the ends of a grid.
        true, told = _true_epsilon(case, delta or 1e-9), epsilon([case.event], delta, grid=1e-4)
        slack = 1e-3 + 1e-3 * true
        require(told >= true - slack, f"at delta {delta:g} one release costs {true:.4g}, the event says {told:.4g}")
        require(
            told <= 1.1 * true + 0.02, f"at delta {delta:g} one release costs {true:.4g}, the event says {told:.4g}"
        )


def epsilon_is_that_of_the_closed_form(case: Case) -> None:
    """Where there is one: Gaussian noise (Balle & Wang 2018, theorem 8), Laplace noise, without drawing units."""
    noise, mechanism = case.mechanism.noise, case.mechanism
    name = getattr(getattr(noise, "distribution", None), "dist", None)
    if mechanism.sampling_rate != 1 or not isinstance(noise, AdditiveNoise):
        return
    if name is None or name.name not in {"norm", "laplace"}:
        return  # a law of one's own needs no moments
    scale = mechanism.sensitivity / float(noise.distribution.std())
    for delta in _DELTAS:
        if name.name == "norm":
            wanted = _gaussian(1 / scale, delta)
        else:
            wanted = max(0.0, math.sqrt(2) * scale + 2 * math.log1p(-delta))
        told = epsilon([case.event], delta)
        close = abs(told - wanted) <= 0.005 + 0.01 * wanted
        require(close, f"at delta {delta:g} the closed form gives {wanted:.4f}, the event says {told:.4f}")


def _gaussian(sigma: float, delta: float) -> float:
    def excess(eps: float) -> float:
        low, high = 1 / (2 * sigma) - eps * sigma, -1 / (2 * sigma) - eps * sigma
        return float(stats.norm.cdf(low) - math.exp(eps + stats.norm.logcdf(high))) - delta

    return float(brentq(excess, 0.0, 600.0)) if excess(0.0) > 0 else 0.0


def composition_covers_many_releases(case: Case) -> None:
    """Losses of several releases are drawn from the declared law: they exceed the event's epsilon as seldom as told."""
    many = resized(case.event, _MANY)
    for moved, still in case.pairs:
        chance = np.exp(moved - logsumexp(moved))
        with np.errstate(invalid="ignore"):
            loss = np.where(chance > 0, moved - still, 0.0)
        drawn = case.random.choice(loss, size=(_DRAWS, _MANY), p=chance).sum(axis=1)
        for delta in (0.01, 0.1):
            told = epsilon([many], delta, grid=_GRID)
            over = np.maximum(0.0, -np.expm1(np.minimum(told - drawn, 0.0)))
            found, error = float(over.mean()), float(over.std()) / math.sqrt(_DRAWS)
            require(
                found <= delta * 1.01 + 6 * error,
                f"{_MANY} releases at epsilon {told:.4g}: wanted delta {delta:g} at most, drew {found:.4g}",
            )


def renyi_covers_the_noise(case: Case) -> None:
    """The Renyi bound of one release is at least the divergence of the declared noise, by a numeric integral."""
    told = rdp([case.event], _ORDERS)
    for order, bound in zip(_ORDERS, told, strict=True):
        for moved, still in case.pairs:
            both = np.isfinite(moved) & np.isfinite(still)
            true = float(logsumexp(order * moved[both] + (1 - order) * still[both])) / (order - 1)
            require(
                float(bound) >= true * 0.99 - 1e-4,
                f"order {order}: the divergence is {true:.4g}, the event says {bound:.4g}",
            )


def an_exhausted_budget_refuses(case: Case) -> None:
    """A ledger with room for two releases takes two, from a file and after reopening, and never a third."""
    event, life = case.event, case.event.pure_epsilon() is not None
    delta = 0.0 if life else 1e-5
    budget = Budget(epsilon([resized(event, 2)], delta) * (1 + 1e-9), delta)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        Ledger.create(path, "p").close()
        with Ledger.open(path, "p") as ledger:
            ledger.open_run(_plan(case, "first", budget), budget)
            for number in (1, 2):
                taken = ledger.reserve("first", number, f"key {number}", [event], lifetime=budget)
                ledger.commit(taken, np.asarray(case.mechanism.release(case.data)).tobytes())
        with Ledger.open(path, "p") as ledger:
            read = [one for entry in ledger.entries() for one in entry.events]
            require(read == [event, event], f"ledger: wrote the event twice, read {read!r}")
            ledger.open_run(_plan(case, "second", budget), budget)
            for run in ("first", "second"):
                try:
                    ledger.reserve(run, 3, "key 3", [event], lifetime=budget)
                except BudgetExhaustedError:
                    continue
                raise AssertionError(f"a third release was taken in the {run} run, with a budget for two")
            spent = ledger.spent("data", delta)
            require(abs((spent or 0) - budget.epsilon) < 1e-6, f"spent: wanted {budget.epsilon:.6g}, got {spent}")


def _plan(case: Case, name: str, budget: Budget) -> RunPlan:
    return RunPlan(
        run_id=name,
        dataset="data",
        contract_sha256="0" * 64,
        unit=case.event.unit,
        declared_units=1000,
        allowance=budget,
        noise_multiplier=0.0,
        sampling_rate=1.0,
        steps_per_round=1,
        rounds=2,
        clip=1.0,
        non_private=False,
        other_events=(case.event,),
        listed=True,
    )
