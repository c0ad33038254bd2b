"""Norm bounding, with the bound that the contract and the declared noise imply.

Sun et al., "Can You Really Backdoor Federated Learning?", 2019, section 5 (norm thresholding of updates). The
threshold is not tuned: under DP-SGD with public clip C, learning rate, steps and sigma, an honest change cannot be
longer than `honest_norm` except with probability 1e-6.

That bound is what an honest change can be at worst: all gradients in one direction. `relative` tightens it to what the
others do: a change is measured as a share of its own bound (of 1 where a participant is non-private), and may be at
most `relative` times the median share. The median is an honest one's or between two, so an attacker is no louder than
a typical participant of its size and sigma, whatever it sends; and since directions are not compared, an honest
participant that is alone with its kind of rows is shortened to that length at most and never left out.

Meaningful for n >= 2f + 1 participants with f attackers, whose weights must sum to less than one half: then the
attackers together move the mean by less than half the bound. It bounds an attack, it does not remove it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from strategies.arithmetic import State
from strategies.base import Fit, Robust, Update, number
from strategies.vectors import centred, moved

if TYPE_CHECKING:
    from torch import Tensor

_FAILURE = 1e-6


def honest_norm(
    *,
    clip: float,
    learning_rate: float,
    steps: int,
    noise_multiplier: float,
    sampling_rate: float,
    units: int,
    coordinates: int,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    start_norm: float = 0.0,
) -> float:
    """Return a bound of ||theta_after - theta_received|| that DP-SGD keeps with probability 1 - 2e-6.

    A step applies (sum of clipped units + sigma C z) / (q n). Over T steps at most
    K <= T q n + sqrt(2 T q n L) + L units, and at most T n, are drawn (Bernstein, L = ln 1e6), each moves by at
    most eta C / (q n); the noise is eta sigma C sqrt(T) / (q n) times a Gaussian vector, whose norm is at most
    sqrt(d) + sqrt(2 L)
    (Laurent and Massart 2000). Heavy-ball momentum b multiplies what a gradient does in total by at most
    1 / (1 - b). Weight decay w adds eta w ||theta_received|| a step and can only multiply by exp(eta w T / (1 - b)).

    Parameters
    ----------
    units : int
        Public number of training units n; the expected batch is q n.
    coordinates : int
        d, of the parameters that are compared.
    start_norm : float
        Norm of the received parameters.
    """
    batch = sampling_rate * units
    log_failure = -math.log(_FAILURE)
    expected = steps * batch
    drawn = min(steps * units, expected + math.sqrt(2 * expected * log_failure) + log_failure)
    signal = clip * drawn / batch
    noise = noise_multiplier * clip / batch * math.sqrt(steps) * (math.sqrt(coordinates) + math.sqrt(2 * log_failure))
    decay = weight_decay * steps * start_norm
    factor = math.exp(min(50.0, learning_rate * weight_decay * steps / (1 - momentum)))
    return learning_rate * (signal + noise + decay) / (1 - momentum) * factor


def bounded(changes: Tensor, bounds: Tensor) -> Tensor:
    """Return (n, n_coordinates) with every row shortened to its bound (n,)."""
    import torch

    norms = changes.norm(dim=1)
    scale = torch.where(norms > bounds, bounds / norms.clamp_min(1e-300), torch.ones_like(norms))
    return changes * scale[:, None]


def relative_bounds(changes: Tensor, bounds: Tensor, relative: float) -> Tensor:
    """Return bounds (n,) so that no row of (n, n_coordinates) has more than `relative` times the median share.

    Rows without a finite bound are measured against 1; of an even number the lower median counts.
    """
    import torch

    units = torch.where(bounds.isfinite(), bounds, torch.ones_like(bounds))
    shares = changes.norm(dim=1) / units.clamp_min(1e-300)
    limits: Tensor = units * relative * shares.median()
    return limits


@dataclass(frozen=True, kw_only=True)
class NormBound(Robust):
    """The weighted mean of changes shortened to what an honest one can be.

    Parameters
    ----------
    norm : float
        An explicit bound on top; 0 means none.
    relative : float
        The largest share of its own bound that a change may have, in medians of the group; 0 means no such limit.
        Without `norm` and `relative` every participant must train under DP.
    """

    norm: float = 0.0
    relative: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        number("norm", self.norm)
        number("relative", self.relative)

    @property
    def fit(self) -> Fit:
        """See `strategies.base.Strategy.fit`."""
        return Fit(weights="minority", per_attacker=2, bound="uses" if self.norm or self.relative else "needs")

    def aggregate(
        self, current: State, updates: Sequence[Update], memory: State
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """See `strategies.base.Strategy.aggregate`; it keeps no memory."""
        import torch

        self.check_enough(len(updates))
        states = [u.state for u in updates]
        bounds = torch.tensor([min(u.bound, self.norm or math.inf) for u in updates], dtype=torch.float64)
        changes = centred(current, states)
        if self.relative:
            bounds = torch.minimum(bounds, relative_bounds(changes, bounds, self.relative))
        if not bool(bounds.isfinite().all()):
            raise ValueError(
                "updates: wanted a finite bound of each; set relative or norm, or let every participant train under DP"
            )
        weights = torch.tensor([u.weight for u in updates], dtype=torch.float64)
        changes = bounded(changes, bounds)
        return moved(current, (weights[:, None] * changes).sum(0) / weights.sum(), states), {}
