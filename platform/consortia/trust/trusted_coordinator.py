"""The mechanism of a trusted coordinator: clipped changes, and noise that is added once.

`privacy.central` holds the mechanism and says what it guarantees to whom. The draw of a round stays with the
coordinator. Its record and event file say who took part, so they must stay private; only the model may be published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from consortia.terms.contract import Contract
from consortia.terms.scopes import State
from privacy.accounting import epsilon, solve_noise_multiplier
from privacy.central import CentralPlan, clipped
from privacy.events import RELATION


def plan_of(contract: Contract) -> CentralPlan:
    """Return the plan of a run. Its noise is solved for all rounds, from the contract alone."""
    terms = contract.central
    if terms is None:
        raise ValueError("contract.central: wanted terms, got none")
    sigma = 0.0
    if math.isfinite(terms.epsilon):
        sigma = solve_noise_multiplier(
            epsilon=terms.epsilon, delta=terms.delta, sampling_rate=terms.sampling_rate, steps=contract.rounds
        )
    return CentralPlan(noise_multiplier=sigma, clip=terms.clip, sampling_rate=terms.sampling_rate, units=terms.units)


def models_only(contract: Contract, rounds: int) -> float | None:
    """Return epsilon of `rounds` rounds against those who see only the models; None is infinite."""
    terms, plan = contract.central, plan_of(contract)
    if terms is None or not plan.noise_multiplier:
        return None
    return epsilon([plan.event(rounds, terms.unit)], terms.delta) if rounds else 0.0


def account(contract: Contract, rounds: int) -> dict[str, Any]:
    """Return what `rounds` rounds cost a participant, by observer: data for records, receipts and tables.

    An epsilon of None is infinite: no protection. `who_took_part_known` is against those who also know who took part in
    which round. It counts all `rounds`, without amplification, on a coarse grid, which can only give too large a value.
    """
    terms, plan = contract.central, plan_of(contract)
    if terms is None:
        raise ValueError("contract.central: wanted terms, got none")
    known = None
    if plan.noise_multiplier:
        known = epsilon([plan.event_when_known(rounds, terms.unit)], terms.delta, grid=1e-2) if rounds else 0.0
    return {
        "trust": "coordinator",
        "unit": terms.unit,
        "units": terms.units,
        "delta": terms.delta,
        "relation": RELATION,
        "horizon": "this run",
        "rounds": rounds,
        "noise_multiplier": plan.noise_multiplier,
        "sampling_rate": plan.sampling_rate,
        "clip": plan.clip,
        "epsilon": {
            "models_only": models_only(contract, rounds),
            "who_took_part_known": known,
            "coordinator": None,
        },
    }


def sentence(found: Mapping[str, Any]) -> str:
    """Return the account in a person's words."""
    seen, known = (_text(found["epsilon"][key]) for key in ("models_only", "who_took_part_known"))
    return (
        f"Trusted coordinator, unit: {found['unit']}, δ = {found['delta']:g}, add/remove one, {found['horizon']} "
        f"({found['rounds']} rounds): towards those who see the models only ε = {seen}; towards those who also know "
        f"who took part ε <= {known} (no amplification); towards the coordinator ε = ∞ (not protected)."
    )


def _text(value: float | None) -> str:
    return "∞ (non-private)" if value is None else f"{value:.2f}"


def central_part(contract: Contract) -> dict[str, Any]:
    """Return what a receipt says about a trusted coordinator: the account after all rounds; nothing in other trust
    modes."""
    return {} if contract.central is None else {"central": account(contract, contract.rounds)}


def shortened(contract: Contract, received: Mapping[str, Tensor], update: State) -> State:
    """Clip an update so that its whole change has at most the contract's norm. The participant does this itself."""
    if contract.central is None:
        return update
    change = clipped(flat_change(received, update).view(1, -1), contract.central.clip)[0]
    return moved(received, change)


def flat_change(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Tensor:
    """Return after - before over all parameters, by name, as one float64 vector."""
    return torch.cat([(after[name].double() - before[name].double()).flatten() for name in sorted(before)])


def moved(before: Mapping[str, Tensor], change: Tensor) -> State:
    """Return the parameters moved by a flat change, in their own dtypes."""
    names = sorted(before)
    parts = torch.split(change, [before[name].numel() for name in names])
    return {
        name: (before[name].double() + part.view(before[name].shape)).to(before[name].dtype)
        for name, part in zip(names, parts, strict=True)
    }
