"""The terms of a contract for the network of one industry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, model_validator

from clients.errors import ModelError
from clients.spec import ModelSpec
from consortia.common.strict import StrictModel

Scope = Literal["consortium", "industry", "private"]


class Model(StrictModel):
    """The network of one industry: `linear` is a generalised linear model, `mlp` has hidden layers.

    `autoencoder` restores the features; it is for a target of kind "anomaly", and nothing else is.
    `cnn`, `tcn`, `gru`, `lstm` and `transformer` take images or sequences, with `options` of their own; `torch:NAME` is
    a kind that a package brings. `hidden` are the widths: the first is what the encoder gives, then the trunk's.
    `norm = "layer"` puts a LayerNorm before every activation of an mlp.
    """

    kind: str = "linear"
    hidden: tuple[Annotated[int, Field(ge=1, le=8192)], ...] = ()
    norm: Annotated[Literal["none", "layer"], Field(exclude_if=lambda norm: norm == "none")] = "none"
    options: Annotated[dict[str, JsonValue], Field(exclude_if=lambda options: not options)] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _hidden_fits_kind(self) -> Model:
        if (self.kind == "linear") == bool(self.hidden):
            wanted = "no hidden widths" if self.hidden else "hidden widths"
            raise ValueError(f"{wanted} for kind {self.kind!r}")
        if self.norm != "none" and self.kind != "mlp":
            raise ValueError(f"norm = 'none' for kind {self.kind!r}; 'layer' is for the hidden layers of an mlp")
        try:
            self.spec()
        except ModelError as error:
            raise ValueError(f"a network that can be built ({error})") from None
        return self

    def spec(self) -> ModelSpec:
        """Return what the network is built from."""
        return ModelSpec(kind=self.kind, hidden=self.hidden, norm=self.norm, options=self.options)


class PretrainedFile(StrictModel):
    """A safetensors file to start from, with the hash that it must have."""

    file: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class LoraTerms(StrictModel):
    """Low-rank adapters (`clients.networks.lora`) on the dense layers whose names `layers` give, with `*` and `?`.

    The layers themselves stay as they are. `scale` is what an adapter's output is multiplied by: alpha / rank in Hu et
    al. 2022.
    """

    rank: Annotated[int, Field(ge=1, le=1024)] = 4
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    layers: tuple[str, ...] = ("encoder.*",)

    @model_validator(mode="after")
    def _some_layers(self) -> LoraTerms:
        if not self.layers:
            raise ValueError("names of dense layers in lora.layers")
        return self


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
