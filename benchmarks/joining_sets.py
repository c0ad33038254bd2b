"""The sets of `joining.py`: how rows are dealt, and participants with homes, policies and scenarios of their own."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w
from scipy.optimize import brentq
from scipy.stats import norm

from clients import registry
from clients.dataset import Table, prepare
from consortia.participant.home import Home
from consortia.terms import few_steps
from consortia.terms.scenario import Scenario, scenario_from_toml
from consortia.terms.sums import SumsTerms
from privacy.ledger import Ledger

#: Card defaults as an industry: amounts on a logarithmic scale with round public bounds.
CARDS = """
import numpy as np
import pandas as pd
from clients.industry import IndustryClient
from clients.schema import Column, Derived, Schema, Target

BILLS = [f"BILL_AMT{month}" for month in range(1, 7)]
PAID = [f"PAY_AMT{month}" for month in range(1, 7)]
LABEL = "default.payment.next.month"

def log(name):
    return lambda frame: np.sign(frame[name]) * np.log1p(frame[name].abs())

def amount(name, low, high):
    return Derived(name=f"log {name}", low=low, high=high, function=log(name))

SCHEMA = Schema(
    name="cards", version=1,
    columns=(
        *(Column(name=n, dtype="number", low=-1e6, high=1e6) for n in ("LIMIT_BAL", *BILLS, *PAID)),
        Column(name="SEX", dtype="category", categories=("1", "2")),
        Column(name="MARRIAGE", dtype="category", categories=("0", "1", "2", "3")),
        Column(name="AGE", dtype="integer", low=20, high=70),
        *(Column(name=n, dtype="integer", low=-2, high=4) for n in ("PAY_0", *(f"PAY_{m}" for m in range(2, 7)))),
    ),
    derived=(
        amount("LIMIT_BAL", 9, 14), *(amount(n, -7, 13) for n in BILLS), *(amount(n, 0, 12) for n in PAID),
    ),
    target=Target(name=LABEL, kind="binary", classes=("pays", "defaults"), mapping={"0": "pays", "1": "defaults"}),
).select(("SEX", "MARRIAGE", "AGE", "PAY_0", *(f"PAY_{m}" for m in range(2, 7)), "log LIMIT_BAL",
          *(f"log {n}" for n in BILLS + PAID)))
CLIENT = IndustryClient(
    name="cards", title="Cards", schema=SCHEMA, sites=("all",), dataset="default_credit", metrics=("auc",),
    read=lambda folder, site: pd.read_csv(folder / "UCI_Credit_Card.csv", dtype=str),
    synthesise=lambda generator, rows, site: None,
)
"""


#: Networks by gradients: the terms of `banks-network` and `factories-network`; one step a round where noise is shared.
LINEAR = {"model": {"kind": "linear"}, "local_steps": 2, "sampling_rate": 1.0, "clip": 1.0, "learning_rate": 0.5}
NETWORK = {
    "model": {"kind": "mlp", "hidden": [32, 16]},
    "local_steps": 30,
    "sampling_rate": 0.2,
    "clip": 0.5,
    "learning_rate": 3.0,
}
SHARED = {**LINEAR, "local_steps": 1}


@dataclass(frozen=True)
class Deal:
    """How one set is dealt.

    Attributes
    ----------
    folder : of the public data.
    sizes : training rows of each participant; empty where 70 % of a site's rows train.
    pooled : participants draw from all sites alike and share one test set.
    network : terms of the learner `network` with local noise; a linear model by default.
    test : test rows of a pooled set.
    delta : of each participant.
    replace : ε counts a record that another takes the place of, not one that is added or removed.
    """

    industry: str
    folder: str
    prevalence: float
    sites: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    pooled: bool = False
    network: Mapping[str, Any] = field(default_factory=lambda: LINEAR)
    test: int = 6000
    delta: float = 1e-5
    replace: bool = False


def _cards(*sizes: int) -> Deal:
    return Deal("cards", "bank/default_credit", 0.2, ("all",), sizes, pooled=True, network=NETWORK)


SETS = {
    "german": Deal("bank", "bank/german_credit", 0.3, ("new-car", "used-car", "furniture", "radio-tv", "other")),
    "heart": Deal("hospital", "hospital/heart", 0.5, ("cleveland", "hungarian", "switzerland", "va")),
    "ai4i": Deal("factory", "factory/ai4i2020", 0.03, ("L", "M", "H"), (1500, 1500, 700), network=NETWORK),
    "cleveland": Deal(
        "hospital", "hospital/heart", 0.5, ("cleveland",), (69, 69, 70), pooled=True, test=89, delta=1e-6, replace=True
    ),
    "cards": _cards(*(int(n) for n in np.round(np.geomspace(200, 2000, 10)))),
    **{f"cards-5x{n}": _cards(*(n,) * 5) for n in (200, 1000, 4000)},
}


@lru_cache
def frames(data: Path, name: str) -> dict[str, pd.DataFrame]:
    """Return the raw rows of each site."""
    deal = SETS[name]
    client = registry.get(deal.industry)
    found = {site: client.read(data / deal.folder, site) for site in deal.sites}
    if deal.replace:  # Cleveland's table is of its 297 complete rows
        found = {site: frame[~(frame == "?").any(axis=1)] for site, frame in found.items()}
    return found


def dealt(data: Path, name: str, seed: int) -> list[tuple[str, pd.DataFrame, pd.DataFrame]]:
    """Return name, training rows and test rows of each participant."""
    deal, random, out = SETS[name], np.random.default_rng(1000 + seed), []
    if deal.pooled:
        (everything,) = frames(data, name).values()
        order = random.permutation(len(everything))
        test, order = everything.iloc[order[: deal.test]], order[deal.test :]
        for number, size in enumerate(deal.sizes, start=1):
            out.append((f"member-{number}", everything.iloc[order[:size]], test))
            order = order[size:]
        return out
    for place, (site, frame) in enumerate(frames(data, name).items()):
        order = random.permutation(len(frame))
        held = min(3000 if deal.sizes else len(frame), round(0.3 * len(frame)))
        train = order[held:][: deal.sizes[place] if deal.sizes else None]
        out.append((site.lower(), frame.iloc[train], frame.iloc[order[:held]]))
    return out


def scenario_of(
    name: str, parts: Sequence[tuple[str, Any, Any]], epsilon: float, shared: bool, learner: str = "sums"
) -> Scenario:
    """Return the scenario of one deal."""
    deal = SETS[name]
    split = {"train": 0.98, "validation": 0.0, "test": 0.02}
    contract: dict[str, Any] = {"schema": 1, "wire": 1, "split": split, "industries": {deal.industry: {}}}
    if learner == "steps":
        contract["industries"] = {deal.industry: few_steps.industry()}
    elif learner != "network":
        contract["learner"] = learner
        # The rule takes what is expected of the target from any table.
        contract["additive" if learner == "additive" else "sums"] = {"prevalence": {deal.industry: deal.prevalence}}
    elif shared:
        contract |= {"rounds": 8, "strategy": {"name": "fedsgd", "server_learning_rate": 4.0}}
        contract["industries"] = {deal.industry: SHARED}
    else:
        contract |= {"rounds": 20, "industries": {deal.industry: dict(deal.network)}}
    if shared:
        contract |= {"trust": "aggregate", "secure": {"colluders": 1, "min_cohort": 3}}
    if learner == "steps":
        contract = few_steps.with_training(contract)
    roster = [
        {
            "name": who,
            "industry": deal.industry,
            "dataset": "rows",
            "site": registry.get(deal.industry).sites[0],
            "units": max(10, round(len(train), -1)),  # as an owner would declare them
            "epsilon": added_or_removed(epsilon, deal.delta, learner) if deal.replace else epsilon,
            "delta": deal.delta,
        }
        for who, train, _ in parts
    ]
    data = {"schema": 1, "name": f"joining-{name}", "title": name, "contract": contract, "roster": roster}
    return scenario_from_toml(tomli_w.dumps(data))


def added_or_removed(epsilon: float, delta: float, learner: str) -> float:
    """Return the ε for adding or removing a record of the mechanism that has `epsilon` for replacing one.

    Every step is a Gaussian mechanism on all rows, so squared ratios of sensitivity and noise add up. Replacing a row
    doubles a sensitivity; that of a row's outer product, of norm 1 and never negative to another's, grows by √2.
    """
    factor = 4.0
    if learner == "sums":
        terms = SumsTerms()
        factor -= 2 * terms.gram_share
    mu = brentq(lambda mu: _delta(epsilon, mu) - delta, 1e-3, 50) / math.sqrt(factor)
    return float(brentq(lambda less: _delta(less, mu) - delta, 1e-6, epsilon))


def _delta(epsilon: float, mu: float) -> float:
    """Return δ of a Gaussian mechanism whose sensitivity is `mu` standard deviations (Balle and Wang 2018)."""
    ratio = epsilon / mu
    return float(norm.cdf(mu / 2 - ratio) - math.exp(epsilon) * norm.cdf(-mu / 2 - ratio))


def home_of(folder: Path, scenario: Scenario, who: str, train: pd.DataFrame, seed: int) -> Home:
    """Make a participant's home with its rows."""
    participant = scenario.participant(who)
    home = Home(folder / who, who, simulation=True)
    home.create(split_seed=seed)
    source = home.folder / "rows.csv"
    train.to_csv(source, index=False)
    budget = {"epsilon": participant.epsilon, "delta": participant.delta}
    policy = {
        "schema": 1,
        "participant": who,
        "demo": True,
        "dataset": {
            "rows": {
                "industry": participant.industry,
                "source": f"csv:{source}",
                "site": participant.site,
                "declared_units": participant.units,
                "quarantine_threshold": 1.0,
            }
        },
        "budget": {"run": budget, "lifetime": budget},
        "allow": {"releases": ["update", "sums", "additive"], "contracts": "any"},
    }
    home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
    Ledger.create(home.ledger, who).close()
    return home


def table_of(name: str, frame: pd.DataFrame) -> Table:
    """Return rows as a participant has them."""
    client = registry.get(SETS[name].industry)
    return prepare(client, frame.reset_index(drop=True), quarantine_threshold=1.0)


def install_cards(folder: Path) -> None:
    """Make the benchmark's own industry an installed partner's, as a wheel would."""
    info = folder / "cards-1.0.dist-info"
    info.mkdir()
    (folder / "joining_cards.py").write_text(CARDS, encoding="utf-8")
    (info / "METADATA").write_text("Name: cards\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[consortia.clients]\ncards = joining_cards:CLIENT\n", encoding="utf-8")
    sys.path.insert(0, str(folder))
