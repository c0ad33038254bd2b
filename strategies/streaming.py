"""Aggregation over tensors of equal shape, piece by piece: beside its result it needs a few pieces of memory.

A piece fits the processor's cache, so that every coordinate of every update is fetched once. Sums run in float64;
order does not need it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

#: Coordinates that the pieces of all updates have together.
HELD = 10 << 15
#: Updates that are added at once.
_TOGETHER = 64


def _piece(tensors: Sequence[Tensor]) -> int:
    return max(1, min(HELD // len(tensors), tensors[0].numel()))


def _pieces(tensors: Sequence[Tensor]) -> Iterator[tuple[slice, list[Tensor]]]:
    flat = [tensor.reshape(-1) for tensor in tensors]
    size = _piece(tensors)
    for start in range(0, flat[0].numel(), size):
        piece = slice(start, start + size)
        yield piece, [tensor[piece] for tensor in flat]


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return sum_i weights_i tensors_i in `dtype`, accumulated in float64."""
    out = torch.empty(tensors[0].shape, dtype=dtype)
    result = out.view(-1)
    flat = [tensor.reshape(-1) for tensor in tensors]
    # Thousands of updates in groups: pieces for all of them at once would be slices of a few numbers each.
    groups = [slice(first, first + _TOGETHER) for first in range(0, len(flat), _TOGETHER)]
    exact = np.empty((len(flat[groups[0]]), _piece(flat[groups[0]])))
    for start in range(0, len(result), exact.shape[1]):
        piece = slice(start, start + exact.shape[1])
        total = np.zeros(len(result[piece]))
        for group in groups:
            values = exact[: len(flat[group]), : len(total)]
            for row, tensor in zip(values, flat[group], strict=True):
                part = tensor[piece]
                row[:] = (part.float() if part.dtype == torch.bfloat16 else part).numpy()  # NumPy casts twice as fast
            total += np.dot(weights[group], values)
        result[piece] = torch.from_numpy(total)
    return out


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
    out = torch.empty(tensors[0].shape, dtype=tensors[0].dtype)
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


def squared_distances(vectors: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the squared distances, float64 (n, n), of n vectors, each given as its tensors.

    By subtraction in float64: expanding the square (Flower's way) cancels all digits once one vector is long.
    """
    n = len(vectors)
    squared = torch.zeros((n, n), dtype=torch.float64)
    for tensors in zip(*vectors, strict=True):
        for _, parts in _pieces(tensors):
            values = torch.stack([part.double() for part in parts])
            for i in range(n - 1):
                apart = values[i + 1 :] - values[i]
                squared[i, i + 1 :] += torch.linalg.vecdot(apart, apart)
    return squared + squared.mT
