"""The terms of a contract for the network of one industry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from consortia.common.strict import StrictModel

Scope = Literal["consortium", "industry", "private"]


class Model(StrictModel):
    """The network of one industry: `linear` is a generalised linear model, `mlp` has hidden layers.

    `norm = "layer"` puts a LayerNorm before every activation of an mlp.
    """

    kind: Literal["linear", "mlp"] = "linear"
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = ()
    norm: Annotated[Literal["none", "layer"], Field(exclude_if=lambda norm: norm == "none")] = "none"

    @model_validator(mode="after")
    def _hidden_fits_kind(self) -> Model:
        if (self.kind == "mlp") != bool(self.hidden):
            raise ValueError("hidden widths for kind 'mlp' and none for kind 'linear'")
        if self.norm != "none" and self.kind != "mlp":
            raise ValueError("norm = 'none' for kind 'linear', which has no hidden layer to normalise")
        return self


class PretrainedFile(StrictModel):
    """A safetensors file to start from, with the hash that it must have."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Scopes(StrictModel):
    """Who shares which part of the model.

    `norm`, where given, is the scope of the affine parameters of GroupNorm and LayerNorm in every part: `"private"` is
    FedBN (Li et al. 2021) without BatchNorm's statistics, which no DP step bounds. Without it they go with their part.
    """

    encoder: Scope = "industry"
    trunk: Scope = "industry"
    head: Scope = "industry"
    norm: Annotated[Scope | None, Field(exclude_if=lambda scope: scope is None)] = None

    @model_validator(mode="after")
    def _something_is_shared(self) -> Scopes:
        if {self.encoder, self.trunk, self.head} == {"private"}:
            raise ValueError("at least one part that is not 'private'")
        return self

    @property
    def named(self) -> frozenset[str]:
        """Every scope that some parameter may have."""
        return frozenset(scope for scope in (self.encoder, self.trunk, self.head, self.norm) if scope is not None)


def check_private_steps(scopes: Scopes, steps: Mapping[str, tuple[int, int]]) -> None:
    """Raise ValueError where steps on private parameters alone (FedRep) do not fit.

    Parameters
    ----------
    steps : mapping
        By industry: (local_steps, private_steps).
    """
    for industry, (local, private) in steps.items():
        if private >= local:
            raise ValueError(
                f"private_steps < local_steps = {local} in industries.{industry}; the others move what is shared"
            )
        if private and "private" not in scopes.named:
            raise ValueError(
                f"private_steps = 0 in industries.{industry}, or a part whose scope is 'private' (scopes.head, say)"
            )
