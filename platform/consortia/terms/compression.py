"""The terms of a contract for compressed updates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from consortia.common.strict import StrictModel


class CompressionTerms(StrictModel):
    """`[contract.compression]`: how an update travels. `fraction` is the share of the numbers that `top-k` sends."""

    kind: Literal["int8", "int4", "top-k"]
    fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
