"""What contract and roster say where the coordinator is trusted to add the noise, and what that excludes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from consortia.common.errors import InputError
from consortia.common.strict import StrictModel
from strategies.base import Asynchronous, Clusters, Controlled, Strategy, TakesTurns

if TYPE_CHECKING:
    from consortia.terms.scenario import Contract


class CentralTerms(StrictModel):
    """DP-FedAvg (`privacy.central`): a participant's whole change is clipped, and the coordinator adds noise once.

    `units` is the declared number of participants, which fixes the denominator; `sampling_rate` the Poisson rate of
    participants in a round; (`epsilon`, `delta`) the budget of the whole run towards those who see the models only,
    `inf` for a run without noise; `unit` the word for one participant.
    """

    unit: Annotated[str, Field(pattern=r"^[a-z][a-z -]{0,40}$")] = "participant"
    units: Annotated[int, Field(ge=1, le=2**20)]
    sampling_rate: Annotated[float, Field(gt=0, le=1)]
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)]


def check_central(contract: Contract, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a trusted coordinator and the rest of a contract do not fit."""
    terms = contract.central
    if (contract.trust == "coordinator") != (terms is not None):
        raise ValueError('[contract.central] exactly where trust = "coordinator"')
    if terms is None:
        return
    if terms.delta >= 1 / terms.units:
        raise ValueError(f"central.delta < 1/central.units = {1 / terms.units:.3g}")
    excluded = {
        "a strategy that needs the mean of the changes only (fedavg, fedprox, fedadam, ...)": (
            not strategy.fit.sum_only
            or strategy.fit.gradient
            or isinstance(strategy, Asynchronous | Clusters | Controlled | TakesTurns)
        ),
        'strategy.weighting = "equal": every participant counts alike': contract.strategy.weighting != "equal",
        "one industry, whose participants share one clip": len(contract.industries) != 1,
        "no private parameters": "private" in contract.scopes.named or len(contract.scopes.named) != 1,
        "no [contract.compression]: what is shortened is no longer clipped": contract.compression is not None,
        "no max_participations: who takes part is drawn": contract.max_participations is not None,
        'evaluation.metrics = "none" and no [contract.stopping]: a participant is one unit, and its metrics would be '
        "released about the rows that train": contract.evaluation.metrics != "none" or contract.stopping is not None,
    }
    if problems := [text for text, wrong in excluded.items() if wrong]:
        raise ValueError(f'{"; ".join(problems)}, with trust = "coordinator"')


def check_seats(contract: Contract, non_private: Mapping[str, bool]) -> None:
    """Raise ValueError for a seat whose proposal claims an epsilon of its own: its change leaves without noise."""
    private = [name for name, free in non_private.items() if not free]
    if contract.central is not None and private:
        raise ValueError(
            f'epsilon = inf in the roster ({private[0]}): with trust = "coordinator" the change itself is not noised; '
            "contract.central.epsilon is what the models cost"
        )


def overridden(name: str, epsilon: float) -> dict[str, float]:
    """Return what `--epsilon` changes in `[contract.central]`: one budget for all, since there is one noise.

    Raises
    ------
    InputError
        When it is meant for one participant.
    """
    if name:
        raise InputError(
            f"--epsilon {name}=...: wanted one number for everybody, since the coordinator adds one noise for all; "
            "got a participant's"
        )
    return {"epsilon": epsilon}
