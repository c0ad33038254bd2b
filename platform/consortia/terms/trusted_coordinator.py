"""The terms of contract and roster for a trusted coordinator."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consortia.common.errors import InputError
from consortia.common.strict import StrictModel


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
