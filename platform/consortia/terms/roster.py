"""The roster: who takes part, and what the coordinator proposes to each."""

from __future__ import annotations

import math
import operator
from typing import Annotated

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel
from consortia.terms.contract_fields import Industry, Name

#: What may name a unit of privacy.
UNIT = r"^[^:/@=\n]{1,80}$"


class RosterParticipant(StrictModel):
    """One line of the roster: a participant and what the coordinator proposes to it.

    `units` is a declared, public size of the data set; `epsilon` may be `inf` (non-private). `unit` is whom one unit
    of privacy is: "record", or a column such as "patient_id". A participant whose policy names another one refuses.
    Without it each policy decides, and the plan says so.
    """

    name: Name
    industry: Industry
    dataset: Name
    site: str
    units: Annotated[int, Field(ge=1)]
    unit: Annotated[str, Field(pattern=rf"^$|{UNIT}", exclude_if=operator.not_)] = ""  # old readers know no such key
    epsilon: Annotated[float, Field(gt=0)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5

    @property
    def non_private(self) -> bool:
        """Whether the proposal is epsilon = infinity."""
        return math.isinf(self.epsilon)

    @model_validator(mode="after")
    def _delta_fits_units(self) -> RosterParticipant:
        if not self.non_private and self.delta >= 1 / self.units:
            raise ValueError(f"delta < 1/units = {1 / self.units:.3g} (a larger delta allows publishing whole rows)")
        return self
