"""The model as a module: a row's cells in its encoder, shape functions in its head; and its public recipe."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients.models import FederatedModule
from clients.schema import Schema, Target
from consortia.learners.additive.boosting import Shapes, boosted, counted, curvatures
from consortia.learners.additive.cells import Cells, cells_of
from consortia.learners.additive.histograms import counts, gradients, scores
from consortia.learners.blocks.recipe import Opened
from consortia.learners.blocks.rows import Rows
from consortia.learners.blocks.shares import Shares
from consortia.learners.sums.outcome import Outcome, outcome_of

__all__ = ["NOISE", "PART", "SHAPES", "START", "Recipe", "recipe_of"]

#: Names of what a module holds.
SHAPES: Final = "head.shapes"
START: Final = "head.start"
PART: Final = "head.part"
NOISE: Final = "head.noise"

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """Everything public about the learner in one industry.

    Attributes
    ----------
    clip : of a row's gradient, in L2 over its outputs.
    """

    cells: Cells
    outcome: Outcome
    shares: Shares
    clip: float

    @property
    def outputs(self) -> int:
        """How many scores a row gets: one, or one for each of several classes."""
        return len(self.outcome.expected) if self.outcome.kind == "multiclass" else 1

    def names(self, message: int) -> tuple[str, ...]:
        """Return what the block of a message is called when it crosses."""
        return ("additive.counts",) if message == 1 else ("additive.gradients",)

    def lengths(self, message: int) -> tuple[int, ...]:
        """Return how many numbers the block of a message has."""
        return (self.cells.size * (1 if message == 1 else self.outputs),)

    def sensitivities(self, message: int) -> tuple[float, ...]:
        """Return how far one unit moves the block at most, in L2 (`learners.additive.histograms` proves it)."""
        return (math.sqrt(len(self.cells.terms)) * (1.0 if message == 1 else self.clip),)

    def exact(self, message: int, rows: Rows, model: State) -> list[NDArray[np.float64]]:
        """Return the block of a message before noise."""
        if message == 1:
            return [counts(self.cells, rows)]
        return [gradients(self.cells, self.outcome, self.clip, rows, model[SHAPES], model[START])]

    def check_model(self, model: State) -> None:
        """Take any model: no bound depends on it."""

    def scatter(self, message: int) -> tuple[float, ...]:
        """See `LearnedRecipe`; a row adds to one cell of each term: that part of the rows lies in a cell on average."""
        part = len(self.cells.terms) / self.cells.size
        return (part * (1.0 if message == 1 else float(curvatures(self.outcome).mean())),)

    def advanced(self, message: int, model: State, opened: Opened) -> dict[str, Tensor]:
        """Return the model after a message."""
        now = Shapes(*(model[name].numpy() for name in (SHAPES, START, PART, NOISE)))
        (sums,), (deviation,) = opened.blocks, opened.noise
        if message == 1:
            after = counted(self.cells, now, sums, opened.units)
        else:
            after = boosted(self.cells, self.outcome, now, sums, deviation, opened.units)
        parts = (after.shapes, after.start, after.part, after.noise)
        return {name: torch.from_numpy(part) for name, part in zip((SHAPES, START, PART, NOISE), parts, strict=True)}

    def build(self, target: Target) -> FederatedModule:
        """Return a module with nothing released in it yet: it gives every row the public expectation."""
        return FederatedModule(_Encoder(self.cells), nn.Identity(), _Head(self), target).eval()


def recipe_of(
    schema: Schema,
    shares: Shares,
    *,
    bins: int,
    pair_bins: int,
    clip: float,
    expected: tuple[float, ...] = (),
    monotone: Mapping[str, str] | None = None,
    pairs: Sequence[Sequence[str]] = (),
) -> Recipe:
    """Return the recipe that a schema and a contract's constants give; see `outcome_of` and `cells_of` for the errors.

    Raises
    ------
    ValueError
        Where a target of several classes is to be monotone: its probabilities go by differences of scores.
    """
    outcome = outcome_of(schema.target, expected)
    if monotone and outcome.kind == "multiclass":
        raise ValueError("no monotone columns with several classes")
    return Recipe(cells_of(schema, bins, pair_bins, monotone or {}, pairs), outcome, shares, clip)


class _Encoder(nn.Module):
    """Features (n_rows, n_features) to cells (n_rows, n_terms)."""

    def __init__(self, cells: Cells) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, features: Tensor) -> Tensor:
        return self.cells.of(features)


class _Head(nn.Module):
    """Cells to the outputs of a network for the same target, float64."""

    shapes: Tensor
    start: Tensor
    part: Tensor
    noise: Tensor

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        size, outputs = recipe.cells.size, recipe.outputs
        expected = torch.tensor(recipe.outcome.expected, dtype=torch.float64)
        start = {"regression": expected, "binary": torch.logit(expected), "multiclass": torch.log(expected)}
        even = torch.cat([torch.full((t.cells,), 1 / t.cells, dtype=torch.float64) for t in recipe.cells.terms])
        self.register_buffer("shapes", torch.zeros(size, outputs, dtype=torch.float64))
        self.register_buffer("start", start[recipe.outcome.kind])
        self.register_buffer("part", even)
        self.register_buffer("noise", torch.zeros(size, outputs, dtype=torch.float64))

    def forward(self, found: Tensor) -> Tensor:
        return scores(found, self.shapes, self.start)
