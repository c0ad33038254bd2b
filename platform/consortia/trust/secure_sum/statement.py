"""Describes a run with secure sums in a receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consortia.terms.contract import Contract
    from privacy.ledger import RunPlan


def secure_part(contract: Contract, plan: RunPlan | None) -> dict[str, Any]:
    """Return what the run's epsilon is charged at: against the coordinator and how many colluding members.

    With n members in a sum, sigma sqrt((n - c) / (n - t)) is left against c of them; with all others it is
    sigma / sqrt(n - t), for which `consortia check` prints the epsilon. In mode `two` n counts without the drops that
    the noise covers.
    """
    if contract.trust != "aggregate" or plan is None:
        return {}
    terms = contract.secure_terms
    return {
        "secure_sum": {
            "mode": terms.mode,
            "charged_against": {"coordinator": True, "colluders": terms.colluders},
            "least_cohort": terms.least_open,
            **({"drops": terms.drops} if terms.drops else {}),
            "noise_multiplier": plan.noise_multiplier,
            "clip": plan.clip,
            "noise_of_the_sum": terms.noise,
        }
    }
