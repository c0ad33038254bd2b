"""Weights by information: the inverse variance of a released update.

DerSimonian & Laird, "Meta-Analysis in Clinical Trials", Controlled Clinical Trials 7 (1986), equations 7 and 8:
studies of unequal precision v_i and a spread tau^2 between them are combined with weights 1 / (v_i + tau^2). Here a
study is a released update, v_i the variance of its DP noise, which public terms tell, and tau^2 is estimated from the
released updates alone, so that nothing of it costs budget.

With large noise the weights are those of the noise; where participants truly differ more than their noise, they become
equal. A limit around the share of rows keeps a generous budget from buying the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from strategies.arithmetic import State, capped_weights

if TYPE_CHECKING:
    from torch import Tensor

#: How far a weight may move from the share of rows, as a factor. docs/design/0012 has the study behind it.
LIMIT = 1.5

__all__ = ["LIMIT", "flat_change", "heterogeneity", "information_weights", "noise_variance"]


def noise_variance(
    *,
    noise_multiplier: float,
    clip: float,
    learning_rate: float,
    steps: int,
    sampling_rate: float,
    units: int,
    momentum: float = 0.0,
) -> float:
    """Return the variance, per coordinate, of the DP noise in the update that a participant releases.

    One step adds noise of deviation learning_rate x sigma x clip / (sampling_rate x units). With heavy-ball momentum b
    the noise of step t is carried on: it counts a_t = (1 - b^(steps - t + 1)) / (1 - b) times, and the steps'
    noises add in quadrature. (How the moved model answers to the noise of earlier steps is left out.)

    Parameters
    ----------
    noise_multiplier : float
        sigma / clip, 0 for a non-private participant.
    units : int
        Declared training units, the public normaliser.
    """
    one = learning_rate * noise_multiplier * clip / (sampling_rate * units)
    carried = (1.0 if momentum == 0 else (1 - momentum ** (steps - t)) / (1 - momentum) for t in range(steps))
    return one**2 * math.fsum(a * a for a in carried)


def flat_change(current: State, state: State) -> Tensor:
    """Return state - current as one float64 vector of shape (n_coordinates,); buffers of whole numbers are left out."""
    import torch

    parts = [
        (state[name].double() - tensor.double()).flatten()
        for name, tensor in current.items()
        if tensor.is_floating_point()
    ]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


def heterogeneity(changes: Sequence[Tensor], variances: Sequence[float]) -> float:
    """Return tau^2 per coordinate: how far the changes differ beyond their noise (DerSimonian & Laird, equation 8).

    With w_i = 1/v_i, the weighted mean m and Q = mean over coordinates of sum w_i (x_i - m)^2:
    tau^2 = max(0, (Q - (k - 1)) / (sum w_i - sum w_i^2 / sum w_i)).

    Parameters
    ----------
    changes : k tensors of shape (n_coordinates,)
    variances : k numbers > 0
        Noise variance per coordinate.
    """
    import torch

    if len(changes) != len(variances) or any(not 0 < v < math.inf for v in variances):
        raise ValueError("variances: wanted one finite number > 0 per change")
    if len(changes) < 2 or changes[0].numel() == 0:
        return 0.0
    weights = torch.tensor([1 / v for v in variances], dtype=torch.float64)
    stacked = torch.stack([change.double() for change in changes])
    total = weights.sum()
    mean = (weights[:, None] * stacked).sum(0) / total
    scatter = float((weights[:, None] * (stacked - mean) ** 2).sum(0).mean())
    scale = float(total - (weights**2).sum() / total)
    return max(0.0, (scatter - (len(changes) - 1)) / scale)


def information_weights(
    changes: Sequence[Tensor], variances: Sequence[float], sizes: Sequence[float], cap: float
) -> list[float]:
    """Return weights proportional to 1 / (v_i + tau^2), held near the share of rows, none above `cap`.

    The noise says how well an update is known, not whom the model is for: a participant with a strict budget keeps at
    least its share of rows over `LIMIT`, one with a generous budget gets at most `LIMIT` times its share (both
    before the weights are scaled to sum to one). Without noise anywhere the weights are the shares.

    Parameters
    ----------
    changes : k tensors of shape (n_coordinates,)
        Released change of each participant. Empty tensors give tau^2 = 0: the weights of the noise alone.
    variances : k numbers >= 0
        Noise variance per coordinate, from floored sigmas (see `consortia.coordinator.aggregation`): who understates
        its noise must gain nothing.
    sizes : k numbers > 0
        Declared sizes.
    cap : float in (0, 1]
    """
    largest = max(variances, default=0.0)
    if largest == 0:
        return capped_weights(sizes, cap)
    # A participant without noise would weigh infinitely much; a thousandth of the largest is as good as none.
    floored = [max(variance, largest * 1e-3) for variance in variances]
    spread = heterogeneity(changes, floored)
    precision = [1 / (variance + spread) for variance in floored]
    shares = [size / sum(sizes) for size in sizes]
    held = [
        min(max(one / sum(precision), share / LIMIT), share * LIMIT)
        for one, share in zip(precision, shares, strict=True)
    ]
    return capped_weights(held, cap)
