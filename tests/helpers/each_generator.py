"""Randomness with which a stacked run can be compared with single ones, draw by draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from privacy.randomness import check_usable
from privacy.sampling import poisson_sample
from privacy.stacked import StackedRows


class EachGenerator:
    """A generator for each participant, used in the order in which `privacy.dp_sgd` uses it."""

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        for generator in generators:
            check_usable(generator)
        self._generators = list(generators)

    def draw(self, rows: StackedRows, rate: float) -> Tensor:
        """See `privacy.stacked.Randomness`."""
        most = rows.target.shape[1]
        pairs = enumerate(zip(rows.counts.tolist(), self._generators, strict=True))
        return torch.cat([poisson_sample(count, rate, one) + place * most for place, (count, one) in pairs])

    def noise(self, tensors: Sequence[Tensor], deviation: Tensor) -> None:
        """See `privacy.stacked.Randomness`."""
        sizes = [tensor[0].numel() for tensor in tensors]
        for place, (scale, generator) in enumerate(zip(deviation.tolist(), self._generators, strict=True)):
            flat = torch.empty(sum(sizes)).normal_(0, scale, generator=generator)
            for tensor, part in zip(tensors, torch.split(flat, sizes), strict=True):
                tensor[place] = part.view(tensor.shape[1:])
