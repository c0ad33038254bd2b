"""Describes a model as a contract names it, without torch, so that a scenario is read quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from clients.errors import ModelError
from clients.networks import registry

#: Kinds that take any row as a flat table; the others put it into its shape (`clients.networks`).
FLAT = ("linear", "mlp", "autoencoder")


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network of one industry.

    Parameters
    ----------
    kind : str
        `linear` is a generalised linear model: encoder and trunk are the identity. `mlp` is dense. `autoencoder` is
        dense, too, for targets of kind "anomaly": its head restores the features. The others are kinds of
        `clients.networks`: their network is the encoder.
    hidden : tuple of int
        Widths: what the encoder gives, then the trunk's. None for `linear`.
    norm : {"none", "layer"}
        A LayerNorm before every activation of an mlp.
    options : mapping
        Options of a kind of `clients.networks`.
    """

    kind: str = "linear"
    hidden: tuple[int, ...] = ()
    norm: Literal["none", "layer"] = "none"
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in FLAT:
            try:
                registry.read_options(self.kind, self.options)
            except ValueError as error:
                raise ModelError(f"model: {error}") from None
        elif self.options:
            raise ModelError(f"model: options: wanted none for {self.kind}, got {', '.join(self.options)}")
        if self.kind == "two-tower" and (len(self.hidden) != 1 or self.hidden[0] < 4 or self.hidden[0] % 2):
            raise ModelError(f"model: hidden: wanted one even width >= 4 for two-tower, got {self.hidden}")
        if (self.kind == "linear") == bool(self.hidden) or any(w < 1 for w in self.hidden):
            raise ModelError(
                f"model: hidden: wanted positive widths and none for linear; got {self.hidden} for {self.kind}"
            )
        if self.norm not in {"none", "layer"} or (self.norm == "layer" and self.kind != "mlp"):
            raise ModelError(f"model: norm: wanted none, or layer for mlp; got {self.norm!r} for {self.kind}")

    def width(self, n_features: int) -> int:
        """How many numbers a row has after the encoder."""
        return self.hidden[0] if self.hidden else n_features
