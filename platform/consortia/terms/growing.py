"""What a further release of a growing run builds on, and `[contract.steps]`: a run of steps that grows."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BuiltOn", "StepsBuiltOn", "StepsTerms", "start_of"]

_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FirstRelease(StrictModel):
    """The first release of a line: `run` and its `contract` (SHA-256). `release` counts from 2 on."""

    run: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,199}$")]
    contract: _Sha256
    release: Annotated[int, Field(ge=2, le=10_000)]


class BuiltOn(FirstRelease):
    """What a further release of noisy sums builds on: message 1 is not repeated.

    `frozen` has by industry the SHA-256 of its centre and radius (`consortia.learners.sums.model.frozen`).
    """

    frozen: dict[str, _Sha256]


class StepsBuiltOn(FirstRelease):
    """What a further release of a run of steps builds on.

    `model` has by industry the SHA-256 of the model that it starts at (`start_of`): what the release before it left.
    `units` has by participant the public number of its new units, which the batches are reckoned with.
    """

    model: dict[str, _Sha256]
    units: dict[str, Annotated[int, Field(ge=1)]]


class StepsTerms(StrictModel):
    """`[contract.steps]`: with `grows`, participants claim the units that they use, so that `consortia run --top-up`
    may go on with new units alone; such a release has `builds_on`."""

    grows: Annotated[bool, Field(exclude_if=operator.not_)] = False
    builds_on: Annotated[StepsBuiltOn | None, Field(exclude_if=lambda terms: terms is None)] = None

    @model_validator(mode="after")
    def _grows(self) -> StepsTerms:
        if not self.grows:
            raise ValueError("grows = true in [contract.steps], or no such table")
        return self


def start_of(model: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the shared parameters that an industry receives: names, shapes, dtypes and values."""
    import safetensors.torch  # a contract is read without torch

    return hashlib.sha256(safetensors.torch.save({n: t.contiguous() for n, t in model.items()})).hexdigest()
