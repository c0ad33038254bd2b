"""The model as a module: columns, centre and radius in its encoder, weights and the target's link in its head."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.models import FederatedModule
from clients.schema import Schema, Target
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares
from consortia.learners.sums.columns import Columns, columns_of, columns_of_encoder
from consortia.learners.sums.encoder import Encoder, cut_off
from consortia.learners.sums.outcome import Outcome, outcome_of
from consortia.learners.sums.statistics import first_message, gram_size, second_message

__all__ = ["CENTRE", "RADIUS", "WEIGHTS", "Recipe", "build", "frozen", "recipe_of"]

#: Names of what a module holds.
CENTRE: Final = "encoder.centre"
RADIUS: Final = "encoder.radius"
WEIGHTS: Final = "head.weights"


@dataclass(frozen=True)
class Recipe:
    """Everything public about the learner in one industry.

    Attributes
    ----------
    largest_radius : cap of message 2's radius.
    encoder : the frozen network whose outputs are the columns; None where the schema's features are.
    """

    columns: Columns
    outcome: Outcome
    shares: Shares
    largest_radius: float
    encoder: Encoder | None = None

    def encoded(self, rows: Rows) -> Rows:
        """Return the rows with what columns are made of in the place of their features."""
        return rows if self.encoder is None else replace(rows, features=self.encoder.outputs(rows.features))

    def names(self, message: int) -> tuple[str, ...]:
        """Return what the blocks of a message are called when they cross."""
        return ("sums.columns",) if message == 1 else ("sums.gram", "sums.slope")

    def lengths(self, message: int) -> tuple[int, ...]:
        """Return how many numbers each block of a message has."""
        if message == 1:
            return (self.columns.first_size,)
        return gram_size(self.columns.size), self.columns.size * self.outcome.directions

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """Return how far one unit moves each block at most, in L2 (`learners.sums.statistics` proves it)."""
        return (self.columns.first_bound,) if message == 1 else (1.0, self.outcome.sensitivity)

    def exact(self, message: int, rows: Rows, model: Mapping[str, Tensor]) -> list[NDArray[np.float64]]:
        """Return the blocks of a message before noise."""
        rows = self.encoded(rows)
        if message == 1:
            return [first_message(self.columns, rows)]
        return list(second_message(self.columns, self.outcome, rows, model[CENTRE], model[RADIUS]))

    def check_model(self, model: Mapping[str, Tensor]) -> None:
        """Raise ValueError for a model whose radius nothing can be divided by."""
        if not float(model[RADIUS]) > 0:
            raise ValueError(f"{RADIUS}: wanted a number > 0, got another")


def frozen(group: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a group's centre and radius: what a further release of a growing run is made under."""
    numbers = [group[name].to(torch.float64).contiguous().numpy().tobytes() for name in (CENTRE, RADIUS)]
    return hashlib.sha256(b"".join(numbers)).hexdigest()


def recipe_of(
    schema: Schema,
    shares: Shares,
    *,
    expected: tuple[float, ...] = (),
    residual: float | None = None,
    largest_radius: float,
    encoder: Encoder | None = None,
) -> Recipe:
    """Return the recipe that an industry's schema and a contract's constants give; see `outcome_of` for the errors."""
    outcome = outcome_of(schema.target, expected, residual)
    columns = columns_of(schema) if encoder is None else columns_of_encoder(encoder.width)
    return Recipe(columns, outcome, shares, largest_radius, encoder)


class _Encoder(nn.Module):
    """Features (n_rows, n_features) to rows of norm 1 at most (n_rows, size), float64."""

    centre: Tensor
    radius: Tensor

    def __init__(self, columns: Columns, encoder: Encoder | None) -> None:
        super().__init__()
        self.columns = columns
        self.network = None if encoder is None else encoder.network
        self.register_buffer("centre", torch.zeros(columns.width, dtype=torch.float64))
        self.register_buffer("radius", torch.ones(1, dtype=torch.float64))

    def forward(self, features: Tensor) -> Tensor:
        if self.network is not None:
            features = cut_off(self.network({"features": features}))
        return self.columns.encode(features, self.centre, self.radius)


class _Head(nn.Module):
    """Rows to the outputs of a network for the same target, float64."""

    weights: Tensor

    def __init__(self, size: int, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome
        self.register_buffer("weights", torch.zeros(size, outcome.directions, dtype=torch.float64))

    def forward(self, rows: Tensor) -> Tensor:
        return self.outcome.outputs(rows @ self.weights)


def build(recipe: Recipe, target: Target) -> FederatedModule:
    """Return a module with nothing released in it yet: it gives every row the public expectation."""
    module = FederatedModule(
        _Encoder(recipe.columns, recipe.encoder), nn.Identity(), _Head(recipe.columns.size, recipe.outcome), target
    )
    return module.eval()
