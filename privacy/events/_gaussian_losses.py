"""The privacy loss distribution of one (sampled) Gaussian release, all grid points at once.

dp-accounting's own `from_gaussian_mechanism` calls a Python function for every point of the grid: seconds where epsilon
is large or the sampling rate tiny. Formulas, order of operations, grid and algorithm are the same here (Doroshenko et
al. 2022, *Connect the Dots*, algorithm 1), and so is every bit of the result.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from privacy.errors import PlanError

__all__ = ["gaussian_losses"]

Floats = NDArray[np.float64]


def gaussian_losses(sigma: float, rate: float, grid: float) -> Any:
    """Return the pessimistic `PrivacyLossDistribution` of one release for add or remove one unit.

    Parameters
    ----------
    sigma : standard deviation of the noise over the sensitivity, > 0.
    rate : probability of the unit to be in the sample, in (0, 1].
    grid : discretisation of the privacy loss, > 0.
    """
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution

    removed = _one_way(sigma, rate, grid, added=False)
    return (
        PrivacyLossDistribution(removed)
        if rate == 1
        else PrivacyLossDistribution(removed, _one_way(sigma, rate, grid, added=True))
    )


def _one_way(sigma: float, rate: float, grid: float, *, added: bool) -> Any:
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    way = AdjacencyType.ADD if added else AdjacencyType.REMOVE
    law = GaussianPrivacyLoss(sigma, sampling_prob=rate, adjacency_type=way)
    ends = law.connect_dots_bounds()
    lower, upper = math.floor(ends.epsilon_lower / grid), math.ceil(ends.epsilon_upper / grid)
    losses = np.arange(lower, upper + 1) * grid
    deltas = np.zeros_like(losses)
    # Adding never has a loss of -log(1 - rate) or more, removing none of log(1 - rate) or less.
    edge = -math.inf if rate == 1 else math.log1p(-rate)
    inside = losses < -edge if added else losses > edge
    if not added:
        deltas[~inside] = -np.expm1(losses[~inside])
    x = _inverse(losses[inside], sigma, rate, added=added)
    deltas[inside] = law.mu_upper_cdf(x) - np.exp(losses[inside] + law.mu_lower_log_cdf(x))
    return create_pmf_pessimistic_connect_dots_fixed_gap(grid, lower, upper, np.clip(deltas, 0, 1))


def _inverse(losses: Floats, sigma: float, rate: float, *, added: bool) -> Floats:
    """Return the largest x of which the privacy loss is at least each of `losses`; `added` with rate < 1 only."""
    whole = losses if rate == 1 else _unsampled(-losses if added else losses, rate)
    return 1 + (-0.5 + whole * sigma**2) if added else -0.5 - whole * sigma**2


def _unsampled(losses: Floats, rate: float) -> Floats:
    """Return log(1 + (exp(losses) - 1) / rate), -inf at the edge log(1 - rate)."""
    edge = math.log(1 - rate)
    far, near = losses + np.log(1 / rate), np.log(1 / rate - 1)
    at_edge = np.abs(losses - edge) <= 1e-9 * np.maximum(np.abs(losses), abs(edge))
    if (far[~at_edge] <= near).any():
        raise PlanError(f"losses: wanted more than log(1 - rate) = {edge:.6g}, got {losses.min():.6g}")
    out = np.full_like(losses, -math.inf)
    inner = ~at_edge
    out[inner] = far[inner] + np.log1p(-np.exp(near - far[inner]))
    return np.where(losses == 0, 0.0, out)
