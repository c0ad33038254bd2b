"""Describes a model as a contract names it, without torch, so that a scenario is read quickly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clients.errors import ModelError


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """The network of one industry.

    Parameters
    ----------
    kind : {"linear", "mlp"}
        `linear` is a generalised linear model: encoder and trunk are the identity.
    hidden : tuple of int
        Widths of an mlp: the encoder's first, the rest is the trunk.
    norm : {"none", "layer"}
        A LayerNorm before every activation of an mlp.
    """

    kind: Literal["linear", "mlp"] = "linear"
    hidden: tuple[int, ...] = ()
    norm: Literal["none", "layer"] = "none"

    def __post_init__(self) -> None:
        if self.kind not in {"linear", "mlp"}:
            raise ModelError(f"model: kind: wanted linear or mlp, got {self.kind!r}")
        if (self.kind == "mlp") != bool(self.hidden) or any(w < 1 for w in self.hidden):
            raise ModelError(
                f"model: hidden: wanted positive widths for mlp and none for linear; got {self.hidden} for {self.kind}"
            )

        if self.norm not in {"none", "layer"} or (self.norm == "layer" and self.kind != "mlp"):
            raise ModelError(f"model: norm: wanted none, or layer for mlp; got {self.norm!r} for {self.kind}")

    def width(self, n_features: int) -> int:
        """How many numbers a row has after the encoder."""
        return self.hidden[0] if self.hidden else n_features
