"""Exact Poisson sampling by unit: the law that the accounting of DP-SGD assumes."""

import torch

from privacy.errors import PlanError

__all__ = ["poisson_sample"]


def poisson_sample(n_units: int, rate: float, generator: torch.Generator) -> torch.Tensor:
    """Draw each unit independently with probability `rate`.

    The size of a draw is Binomial(n_units, rate): it may be 0, and no draw is ever cut to a batch size. The
    draws are made with 53 bits, so the rate is exact to 2^-53 (float32 would round it to 2^-24).

    Parameters
    ----------
    n_units : number of units in the partition, >= 0.
    rate : public sampling rate in (0, 1].
    generator : private generator (`privacy.randomness.fresh_generator`).

    Returns
    -------
    Tensor of int64, shape (k,), ascending unit indices.
    """
    if n_units < 0:
        raise PlanError(f"n_units: wanted >= 0, got {n_units}")
    if not 0 < rate <= 1:
        raise PlanError(f"sampling_rate: wanted a number in (0, 1], got {rate!r}")
    return (torch.rand(n_units, generator=generator, dtype=torch.float64) < rate).nonzero().flatten()
