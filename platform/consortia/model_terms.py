"""What a contract says about the network of one industry."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from consortia.strict import StrictModel


class Model(StrictModel):
    """The network of one industry: `linear` is a generalised linear model, `mlp` has hidden layers."""

    kind: Literal["linear", "mlp"] = "linear"
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = ()

    @model_validator(mode="after")
    def _hidden_fits_kind(self) -> Model:
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("hidden widths for kind 'mlp' and none for kind 'linear'")
        return self


class PretrainedFile(StrictModel):
    """A safetensors file to start from, with the hash that it must have."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
