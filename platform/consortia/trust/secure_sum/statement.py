"""Describes a run with secure sums in a receipt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consortia.terms.contract import Contract
    from privacy.ledger import RunPlan


def secure_part(contract: Contract, plan: RunPlan | None) -> dict[str, Any]:
    """Return the assumption behind the run's epsilon: the coordinator and how many members may collude.

    With n members in a sum, noise of sigma sqrt((n - c) / (n - t)) remains against c of them. If all others collude it
    is sigma / sqrt(n - t); `consortia check` prints the epsilon of that. In mode `two` n excludes the drop-outs that
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
