"""Logistic regression by full-batch gradient descent with clipped, noised gradients; neighbours differ in one
*replaced* row.

The set of rows is fixed and known (an intersection disclosed it), so adding or removing a row does not apply.

Formal guarantee. Each step releases the sum over all rows of gradients clipped to L2 norm C, plus Gaussian noise of
standard deviation z * 2C. Replacing one row moves the sum by at most 2C, so a step is a Gaussian mechanism with noise
multiplier z
under that relation, and `steps` of them are `ReplaceGaussian(noise_multiplier=z, count=steps)`. The number of rows
is public, and features must be scaled by public bounds (a mean or a deviation of the rows would void this).

This covers a row's influence on the *model*. The score of the row itself is a function of its own columns: only
local noise covers that.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from privacy.accounting import epsilon as account
from privacy.errors import PlanError
from privacy.events import ReplaceGaussian
from privacy.observation import tell
from privacy.randomness import check_usable

__all__ = ["replace_noise", "train_logistic"]


def replace_noise(*, epsilon: float, delta: float, releases: int) -> float:
    """Smallest noise multiplier (within 0.1 %) for which `releases` Gaussian releases are (epsilon, delta)-DP.

    Parameters
    ----------
    releases : steps of every model that a row is used in (cross-fitting with K folds: K - 1 models).
    """
    if not 0 < epsilon < math.inf:
        raise PlanError(f"epsilon: wanted a finite number > 0, got {epsilon!r}")

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
    generator : torch.Generator
        `fresh_generator()` for claimed DP.
    """
    check_usable(generator)
    if not noise_multiplier > 0 or steps < 1 or not clip > 0:
        raise PlanError("noise_multiplier, steps, clip: wanted numbers > 0")
    inputs = torch.cat([torch.as_tensor(np.asarray(x), dtype=torch.float64), torch.ones(len(x), 1).double()], dim=1)
    target = torch.as_tensor(np.asarray(y), dtype=torch.float64)
    weights: Tensor = torch.zeros(inputs.shape[1], dtype=torch.float64)
    average = torch.zeros_like(weights)
    norms = inputs.norm(dim=1)
    for step in range(steps):
        error = torch.sigmoid(inputs @ weights) - target
        scale = torch.clamp(clip / (error.abs() * norms).clamp_min(1e-12), max=1.0)
        total = ((error * scale)[:, None] * inputs).sum(0)
        deviation = noise_multiplier * 2 * clip
        tell("logistic", total, deviation=deviation)
        noise = torch.randn(len(weights), generator=generator, dtype=torch.float64) * deviation
        weights = weights - rate * (total + noise) / max(len(x), 1)
        if step >= steps // 2:  # the mean of the later iterates: post-processing
            average += weights / (steps - steps // 2)
    return average.numpy()
