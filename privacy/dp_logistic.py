"""Logistic regression by full-batch gradient descent with clipped, noised gradients; neighbours differ in one
*replaced* row.

The set of rows is fixed and known (an intersection disclosed it), so adding or removing a row does not apply.

Formal guarantee. Each step releases the sum over all rows of gradients clipped to L2 norm C, plus Gaussian noise of
standard deviation z * 2C. Replacing one row moves the sum by at most 2C, so a step is a Gaussian mechanism with noise
multiplier z under that relation, and `steps` of them are `ReplaceGaussian(noise_multiplier=z, count=steps)`. The
number of rows is public, and features must be scaled by public bounds (a mean or a deviation of the rows would void
this).

* A row that is not finite, or whose squared norm is not, contributes zero. Its values cannot reach another row's
  gradient or the weights.
* No row's gradient depends on the other rows, given the weights, not even in its rounding: logits are added up column
  by column.
* With `fresh_generator()` the noise is the discrete Gaussian on the grid of `privacy.secure_noise`. Each row's
  clipped gradient is rounded to the grid before the sum, so that the sum is exact whole numbers: a replaced row moves
  it by at most 2C (1 + SLACK) / g + sqrt(d) steps of g, which is `Grid(2C, d).sensitivity`, for any number of rows.
  With a seeded generator (tests, simulation) the noise is floating-point and claims nothing.

This covers a row's influence on the *model*. The score of the row itself is a function of its own columns: only
local noise covers that.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consortia_plugins.arguments import named_arguments
from privacy.accounting import epsilon as account
from privacy.errors import PlanError
from privacy.events import ReplaceGaussian
from privacy.observation import tell
from privacy.randomness import FreshNoise, check_usable
from privacy.secure_noise import Grid

__all__ = ["clipped_sum", "replace_noise", "train_logistic"]


def replace_noise(*, epsilon: float, delta: float, releases: int) -> float:
    """Smallest noise multiplier (within 0.1 %) for which `releases` Gaussian releases are (epsilon, delta)-DP.

    Parameters
    ----------
    releases : steps of every model that a row is used in (cross-fitting with K folds: K - 1 models).

    Raises
    ------
    PlanError
        A parameter is out of range.
    """
    _check_number("epsilon", epsilon)
    _check_number("delta", delta)
    if delta >= 1:
        raise PlanError(f"delta: wanted a number in (0, 1), got {delta!r}")
    _check_count("releases", releases)

    def spent(z: float) -> float:
        return account([ReplaceGaussian(noise_multiplier=z, count=releases, partition="train", unit="record")], delta)

    low, high = 1e-2, 1e4
    while high / low > 1.001:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if spent(middle) <= epsilon else (middle, high)
    return high


def train_logistic(
    x: NDArray[np.floating],
    y: NDArray[np.integer],
    *,
    noise_multiplier: float,
    steps: int,
    generator: torch.Generator,
    clip: float = 1.0,
    rate: float = 2.0,
) -> NDArray[np.float64]:
    """Train weights (d + 1,), the last one the intercept, from zero.

    Parameters
    ----------
    x : (n, d)
        Scaled by public bounds.
    y : (n,)
        0 or 1.
        Any other number is a label, too: the gradient is clipped whatever it is.
    noise_multiplier : float
        Of a step, relative to 2 * clip.
    generator : torch.Generator
        `fresh_generator()` for claimed DP.

    Raises
    ------
    PlanError
        An argument of another type, shape or range. No value of a row is in the message.
    """
    check_usable(generator)
    for name, value in (("noise_multiplier", noise_multiplier), ("clip", clip), ("rate", rate)):
        _check_number(name, value)
    _check_count("steps", steps)
    inputs, target = _rows(x, y)
    weights = torch.zeros(inputs.shape[1], dtype=torch.float64)
    average = torch.zeros_like(weights)
    grid = Grid(2 * clip, len(weights))
    for step in range(steps):
        if isinstance(generator, FreshNoise):
            steps_of_grid = clipped_sum(inputs, target, weights, clip, grid.step)
            noised = grid.release(steps_of_grid.numpy() * grid.step, noise_multiplier, generator.stream)
            total = torch.from_numpy(noised)
        else:
            noise = torch.randn(len(weights), generator=generator, dtype=torch.float64)
            exact = clipped_sum(inputs, target, weights, clip)
            tell("logistic", exact, deviation=noise_multiplier * 2 * clip)
            total = exact + noise * noise_multiplier * 2 * clip
        weights = weights - rate * total / max(len(inputs), 1)
        if step >= steps // 2:  # the mean of the later iterates: post-processing
            average += weights / (steps - steps // 2)
    return average.numpy()


@named_arguments(PlanError)
def clipped_sum(inputs: Tensor, target: Tensor, weights: Tensor, clip: float, step: float | None = None) -> Tensor:
    """Return the sum over rows of the log loss's gradients, each clipped to L2 norm `clip`: (d + 1,).

    Parameters
    ----------
    inputs, target : Tensor (n, d + 1), (n,)
        As `_rows` makes them: a row that is not finite is all zero.
    step : float, optional
        Of a grid: then each row's gradient is rounded to it, and the sum is in whole steps.
    """
    logits = torch.zeros(len(inputs), dtype=torch.float64)
    for column, weight in zip(inputs.T, weights, strict=True):  # a matrix kernel would round by the rows around
        logits += column * weight
    # Of opposite infinite terms a logit is no number; such a row says nothing.
    error = torch.nan_to_num(torch.sigmoid(logits) - target, nan=0.0)
    norms = torch.linalg.vector_norm(inputs, dim=1)
    gradients = error[:, None] * torch.clamp(clip / (error.abs() * norms).clamp_min(1e-12), max=1.0)[:, None] * inputs
    return gradients.sum(0) if step is None else torch.round(gradients / step).sum(0)


def _rows(x: NDArray[np.floating], y: NDArray[np.integer]) -> tuple[Tensor, Tensor]:
    """Return inputs (n, d + 1) with a column of ones and targets (n,); rows that are not finite are zero throughout."""
    try:
        features = np.asarray(x, dtype=np.float64)
        labels = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise PlanError("x and y: wanted arrays of numbers, got something else") from None
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise PlanError(f"x and y: wanted shapes (n, d) and (n,), got {features.shape} and {labels.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        usable = np.isfinite((features**2).sum(1)) & np.isfinite(labels)
    inputs = np.column_stack([features, np.ones(len(features))])
    inputs[~usable] = 0.0
    return torch.from_numpy(inputs), torch.from_numpy(np.where(usable, labels, 0.0))


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PlanError(f"{name}: wanted a finite number > 0, got {_short(value)}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise PlanError(f"{name}: wanted a whole number >= 1, got {_short(value)}")


def _short(value: object) -> str:
    return repr(value) if isinstance(value, (bool, int, float)) else type(value).__name__
