"""Computes the numbers of a secure sum from a roster: total noise, bounds of the clips, size of the sum.

Members may have different budgets. The total noise S is one number; member i clips at C_i = S / sigma_i, so that each
has its own epsilon and strict ones weigh less. S is chosen so that nobody clips above its industry's `clip`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from consortia.common.errors import InputError
from consortia.terms.contract import Contract, contract_from_json, settled
from consortia.terms.costs import noise_multiplier
from consortia.terms.recipe import blocks_of
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import build_module, group_of, scope_of
from privacy.errors import PlanError
from privacy.secure_sum.fixed_point import FixedPoint

#: A policy may hold a member to a stricter budget than the roster proposes: room for a clip that much smaller.
_ROOM = 4.0


def settle(contract: Contract, roster: Sequence[RosterParticipant], *, anew: bool = False) -> Contract:
    """Return the contract with every number of `secure` in place; `anew` replaces those that are.

    Raises
    ------
    InputError
        When somebody's budget cannot be met.
    """
    if contract.by_industry:
        return _settle_each(contract, roster, anew)
    if contract.trust != "aggregate":
        return contract
    terms = contract.secure_terms
    if terms.noise is not None and not anew:
        return contract
    sigmas = {participant.name: sigma_of(contract, participant) for participant in roster}
    if any(sigma is None for sigma in sigmas.values()):
        return contract  # `check_fit` says why that cannot be summed
    known = {name: sigma for name, sigma in sigmas.items() if sigma is not None}
    noise = min(contract.industries[participant.industry].clip * known[participant.name] for participant in roster)
    rows = sum(units_drawn(contract, participant) for participant in roster)
    part = 1.0 if contract.noisy_sums is None else contract.noisy_sums.shares.least_part
    settled = terms.model_copy(
        update={
            "noise": noise,
            "largest_clip": noise / min(known.values()),
            "smallest_clip": float(f"{noise / max(known.values()) * part / _ROOM:.3g}"),
            "rows": 2 ** math.ceil(math.log2(rows)),
        }
    )
    data = contract.model_dump(mode="python", by_alias=True) | {"secure": settled.model_dump(mode="python")}
    return Contract.model_validate(data)


def _settle_each(contract: Contract, roster: Sequence[RosterParticipant], anew: bool) -> Contract:
    """Settle the sums of industries with terms of their own apart from the others'."""
    data = contract.model_dump(mode="python", by_alias=True)
    for group in contract.group_contracts():
        participants = [participant for participant in roster if participant.industry in group.industries]
        secure = settle(group, participants, anew=anew).secure if participants else None
        if secure is not None:
            name = next(iter(group.industries))
            terms = data["by_industry"][name] if name in contract.by_industry else data
            terms["secure"] = secure.model_dump(mode="python")
    return Contract.model_validate(data)


def sigma_of(contract: Contract, participant: RosterParticipant) -> float | None:
    """Return the noise multiplier of a participant's proposal, None when it is non-private."""
    if participant.non_private:
        return None
    try:
        return noise_multiplier(
            contract, contract.industries[participant.industry], participant.epsilon, participant.delta
        )
    except PlanError as error:
        raise InputError(f"roster.{participant.name}: {error}") from None


def units_drawn(contract: Contract, participant: RosterParticipant) -> int:
    """Return how many units one draw holds at most, but for a tail of six standard deviations."""
    rate = contract.industries[participant.industry].sampling_rate
    units = contract.split.training_units(participant.units)
    return min(units, math.ceil(rate * units + 6 * math.sqrt(rate * (1 - rate) * units)))


Layout = dict[str, list[tuple[str, tuple[int, ...]]]]


def layout(contract: Contract, industry: str) -> Layout:
    """Return name and shape of every trainable shared parameter by group, in the order in which they are summed."""
    return _layout(contract.canonical(), industry)


@lru_cache(maxsize=64)
def _layout(contract_json: str, industry: str) -> Layout:
    contract = contract_from_json(contract_json).of(industry)
    module = build_module(contract, industry)
    out: Layout = {}
    for name, parameter in sorted(module.named_parameters()):
        if parameter.requires_grad and scope_of(name, contract) != "private":
            out.setdefault(group_of(name, industry, contract), []).append((name, tuple(parameter.shape)))
    return out


def sizes(contract: Contract, industry: str, number: int = 1) -> dict[str, int]:
    """Return the number of summed coordinates by group, in round `number`: messages of noisy sums may differ."""
    if contract.noisy_sums is not None:
        return {industry: sum(blocks_of(contract, industry).lengths(number))}
    return {group: sum(math.prod(s) for _, s in parts) for group, parts in layout(contract, industry).items()}


def fixed_point(contract: Contract) -> FixedPoint:
    """Return the encoding that contract and models fix.

    Raises
    ------
    InputError
        When the contract's numbers are not settled.
    """
    terms = settled(contract)
    return FixedPoint(
        noise=terms.noise,
        clip=terms.largest_clip,
        smallest_clip=terms.smallest_clip,
        dimension=max(
            sum(sizes(contract, industry, number).values())
            for industry in contract.industries
            for number in (range(1, contract.rounds + 1) if contract.noisy_sums is not None else (1,))
        ),
        rows=terms.rows,
        colluders=contract.secure_terms.colluders,
        drops=contract.secure_terms.drops,
    )
