"""A bank whose replies are captured byte by byte, and what of them nothing accounts for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from public_values import header, unaccounted

from clients.bank import CLIENT as BANK
from clients.sources import parse_source, read
from consortia.terms.contract import contract_from_json
from consortia.terms.policy import load_policy

#: Values of rows that no honest field holds.
PLANTED = (7_777, 4_321)
ROUNDS = 3
_TERMS = {"run": {"epsilon": 3.0, "delta": 1e-5}, "lifetime": {"epsilon": 6.0, "delta": 2e-5}}


def captured_bank(make_site: Callable[..., Any], tmp_path: Path, rows: int, *, planted: bool) -> Any:
    """Return a participant that releases updates and histograms, with rows of its own."""
    site = make_site("bank-a", rounds=ROUNDS)
    frame: pd.DataFrame = read(parse_source(f"synthetic:{rows}?seed=3"), BANK, BANK.sites[0])
    if planted:
        frame["amount"] = [PLANTED[i % len(PLANTED)] for i in range(len(frame))]
    file = tmp_path / f"rows-{rows}-{planted}.csv"
    frame.to_csv(file, index=False)
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"] |= {"metrics": "dp", "every": 1}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})

    def change(policy: dict[str, Any]) -> None:
        policy["allow"]["releases"] = ["update", "metrics"]
        policy["budget"]["evaluation"] = _TERMS
        policy["dataset"]["credit"]["source"] = f"csv:{file}"

    site.policy(change)
    return site


def unaccounted_in(site: Any, sent: list[bytes]) -> list[str]:
    """Return what of its replies is neither a public value nor backed by an event."""
    contract, participant = site.scenario.contract, site.scenario.participant(site.name)
    policy = load_policy(site.home.policy, simulation=True)
    found = []
    with site.ledger() as ledger:
        for number, data in enumerate(sent, start=1):
            said = header(contract, participant, policy, "run-1", number, "train" if number <= ROUNDS else "evaluate")
            found += unaccounted(data, said, contract, participant, ledger)
    return found
