"""Aggregates tensors of equal shape piece by piece, with little memory.

A piece fits the processor's cache, so that every coordinate of every update is fetched once. Sums that pick (distances)
run in float64; means and order do not need it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


#: Coordinates that the pieces of all updates have together.
HELD = 10 << 15
#: Coordinates of a piece that a mean runs over: the mean stays in the processor's second cache.
PIECE = 1 << 17
#: Bytes of a result from which the kernel's large pages pay.
_LARGE = 1 << 22
#: Coordinates that distances are summed over at once: ten updates in float64 stay in the processor's second cache.
_BLOCK = 1 << 13
#: Below this share of two squared lengths their Gram product leaves too few digits of the distance.
_CANCELLED = 0.01
#: Updates whose mean is one running mean.
_TOGETHER = 16


def _piece(tensors: Sequence[Tensor]) -> int:
    return max(1, min(HELD // len(tensors), tensors[0].numel()))


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    size = _piece(tensors)
    for start in range(0, flat[0].numel(), size):
        piece = slice(start, start + size)
        yield piece, [tensor[piece] for tensor in flat]


def weighted_average(tensors: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return sum_i weights_i tensors_i / sum_i weights_i in `dtype`, as a running mean (West 1979).

    In the tensors' own precision, float32 at least: a mean picks nothing. Equal tensors give just themselves, however
    the weights round. Means of 16 are averaged in float64, so that the error is below 2^-19 of the largest value,
    however many tensors there are.
    """
    import torch

    own = torch.promote_types(torch.promote_types(tensors[0].dtype, dtype), torch.float32)
    out = _room(tensors[0].shape, dtype)
    if out.numel() <= PIECE:  # thousands of small updates: nothing else a tensor
        _average(tensors, weights, out, own)
        return out
    for target, *parts in zip(*(torch.split(t.reshape(-1), PIECE) for t in (out, *tensors)), strict=True):
        _average(parts, weights, target, own)
    return out


def _room(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a new tensor without values.

    NumPy asks the kernel for pages of 2 MB, PyTorch for ones of 4 kB: a large result then spends as long on page faults
    as on arithmetic.
    """
    import numpy as np
    import torch

    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(np.empty(size, dtype=np.uint8)).view(dtype).view(tuple(shape))


def _average(parts: Sequence[Tensor], weights: Sequence[float], target: Tensor, own: torch.dtype) -> None:
    import torch

    if len(parts) <= _TOGETHER:
        mean = target if own == target.dtype else torch.empty_like(target, dtype=own)
        _running(parts, weights, mean)
    else:
        groups = [slice(first, first + _TOGETHER) for first in range(0, len(parts), _TOGETHER)]
        means = [_running(parts[g], weights[g], torch.empty_like(target, dtype=own)) for g in groups]
        mean = torch.empty_like(target, dtype=torch.float64)
        _running(means, [sum(weights[g]) for g in groups], mean)
    if mean is not target:
        target.copy_(mean)


def _running(parts: Sequence[Tensor], weights: Sequence[float], mean: Tensor) -> Tensor:
    """Write the weighted mean of `parts` to `mean` and return it."""
    import torch

    parts = [part if part.dtype == mean.dtype else part.to(mean.dtype) for part in parts]
    if len(parts) == 1:
        return mean.copy_(parts[0])
    before, held = parts[0], weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        held += weight
        before = torch.lerp(before, part, weight / held if held else 0.0, out=mean)
    return mean


@functools.cache
def sorting_network(n: int) -> tuple[tuple[int, int], ...]:
    """Return pairs (i, j), i < j, that sort n values when each puts the smaller one at i: Batcher's odd-even merges.

    Knuth, *The Art of Computer Programming* 3, section 5.2.2, algorithm M.
    """
    pairs = []
    p = 1 << max(0, (n - 1).bit_length() - 1)
    first = p
    while p > 0:
        q, r, d = first, 0, p
        while d > 0:
            pairs += [(i, i + d) for i in range(n - d) if i & p == r]
            d, q, r = q - p, q >> 1, p
        p >>= 1
    return tuple(pairs)


def by_order(tensors: Sequence[Tensor], reduce: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
    """Return `reduce` of each coordinate's values in order.

    Parameters
    ----------
    tensors : floating, of one shape and dtype; finite.
    reduce : n tensors (k,), the smallest values first -> (k,).
    """
    import torch

    out = _room(tensors[0].shape, tensors[0].dtype)
    result = out.view(-1)
    for piece, rows in _pieces(tensors):
        for i, j in sorting_network(len(rows)):
            rows[i], rows[j] = torch.minimum(rows[i], rows[j]), torch.maximum(rows[i], rows[j])
        result[piece] = reduce(rows)
    return out


def mean_of(rows: Sequence[Tensor]) -> Tensor:
    """Return the mean of tensors (k,) in float64."""
    total = rows[0].double()
    for row in rows[1:]:
        total = total.add_(row)
    return total / len(rows)


def squared_distances(vectors: Sequence[Sequence[Tensor]], origin: Sequence[Tensor] | None = None) -> Tensor:
    """Return the squared distances, float64 (n, n), of n vectors, each given as its tensors.

    One Gram product a block, of the differences from `origin`: |a - b|^2 = |a|^2 + |b|^2 - 2 a.b. Where that cancels
    digits (vectors near each other and far from the origin), the pair is subtracted instead, so that no result has
    a relative error above 1e-10.

    Parameters
    ----------
    vectors : n lists of tensors; finite.
    origin : a vector near most of them, such as the model that they started from; the first one if None.
    """
    import torch

    n = len(vectors)
    squared = torch.zeros((n, n), dtype=torch.float64)
    for start, *tensors in zip(vectors[0] if origin is None else origin, *vectors, strict=True):
        block = torch.empty((n, min(_BLOCK, start.numel())), dtype=torch.float64)
        for first in range(0, start.numel(), _BLOCK):
            piece = slice(first, first + _BLOCK)
            here = start.reshape(-1)[piece]
            values = block[:, : len(here)]
            for row, tensor in zip(values, tensors, strict=True):
                row.copy_(tensor.reshape(-1)[piece])
            values -= here
            gram = values @ values.mT
            lengths = gram.diagonal()[:, None] + gram.diagonal()
            apart = lengths - 2 * gram
            cancelled = apart < _CANCELLED * lengths
            if cancelled.any():
                for i, j in cancelled.triu(1).nonzero().tolist():
                    gap = tensors[i].reshape(-1)[piece].double() - tensors[j].reshape(-1)[piece]
                    apart[i, j] = torch.dot(gap, gap)
            squared += apart
    upper = squared.triu(1)
    return upper + upper.mT
