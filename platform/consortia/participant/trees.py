"""Trees as tensors: a forest or a boosted model in a safetensors file. It needs no pickle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["LARGEST_LOGIT", "Trees", "of_fitted", "together"]

#: The logit that stands for a probability of 0 or 1; its sigmoid differs by 4e-18.
LARGEST_LOGIT = 40.0
_ROWS_AT_ONCE = 4096


class Trees(nn.Module):
    """The sum of binary trees: ``start + sum of the values of the leaves that a row falls into``.

    Parameters
    ----------
    feature, left, right : Tensor of int64 (n_trees, n_nodes)
        The column that a node tests, and its two children. At a leaf both children are the node itself.
    threshold : Tensor of float64 (n_trees, n_nodes)
        A row goes left if its feature is not above the threshold.
    value : Tensor of float64 (n_trees, n_nodes, outputs)
    start : Tensor of float64 (outputs,)
    shares : Tensor of bool ()
        Whether the sum is a share of the positive class (outputs = 1), of each class or of each label; `forward` turns
        shares into logits. Otherwise the sum is a logit, or a value on the target's public scale.
    steps : Tensor of int64 ()
        The depth of the deepest tree.

    Raises
    ------
    ValueError
        Shapes or node numbers do not fit together.
    """

    feature: Tensor
    left: Tensor
    right: Tensor
    threshold: Tensor
    value: Tensor
    start: Tensor
    shares: Tensor
    steps: Tensor

    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        if set(tensors) != {"feature", "left", "right", "threshold", "value", "start", "shares", "steps"}:
            raise ValueError(f"trees: wanted eight tensors by name, got {', '.join(sorted(tensors))}")
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        shape = self.feature.shape
        nodes = shape[1] if len(shape) == 2 else 0
        fits = all(t.shape == shape for t in (self.left, self.right, self.threshold)) and self.value.shape == (
            *shape,
            *self.start.shape,
        )
        if not nodes or not fits or any(int(t.min()) < 0 or int(t.max()) >= nodes for t in (self.left, self.right)):
            raise ValueError("trees: wanted node numbers and values of one shape, got others")

    def forward(self, features: Tensor, apart: bool = False) -> Tensor:
        """Return logits, or values on the target's public scale, of float64 (n_rows, outputs).

        `apart` says that the shares are of several labels, each there or not, and not of classes.
        """
        total = torch.cat([self._sum(part) for part in torch.split(features.double(), _ROWS_AT_ONCE)])
        if not bool(self.shares):
            return total
        share = total.clamp(0.0, 1.0)
        logit = share.log() - torch.log1p(-share) if apart or share.shape[1] == 1 else share.log()
        return logit.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)

    def _sum(self, rows: Tensor) -> Tensor:
        trees = torch.arange(self.feature.shape[0])
        node = torch.zeros(len(rows), len(trees), dtype=torch.int64)
        for _ in range(int(self.steps)):
            goes_left = rows.gather(1, self.feature[trees, node]) <= self.threshold[trees, node]
            node = torch.where(goes_left, self.left[trees, node], self.right[trees, node])
        return self.start + self.value[trees, node].sum(1)


def of_fitted(
    fitted: Sequence[Any], values: Sequence[NDArray[np.float64]], start: NDArray[np.float64], *, shares: bool
) -> Trees:
    """Return scikit-learn's trees as tensors, padded to the largest.

    Parameters
    ----------
    fitted : sequence of sklearn.tree trees (their `tree_`)
    values : sequence of arrays (n_nodes, outputs)
        The value that each node of each tree adds.
    start : array (outputs,)
    """
    nodes = max(tree.node_count for tree in fitted)
    whole = np.tile(np.arange(nodes), (len(fitted), 1))
    feature, left, right = np.zeros_like(whole), whole.copy(), whole.copy()
    threshold, value = np.zeros(whole.shape), np.zeros((*whole.shape, len(start)))
    for place, (tree, adds) in enumerate(zip(fitted, values, strict=True)):
        inner = np.flatnonzero(tree.children_left >= 0)
        feature[place, inner] = tree.feature[inner]
        threshold[place, inner] = tree.threshold[inner]
        left[place, inner], right[place, inner] = tree.children_left[inner], tree.children_right[inner]
        value[place, : tree.node_count] = adds
    return Trees(
        feature=torch.from_numpy(feature),
        left=torch.from_numpy(left),
        right=torch.from_numpy(right),
        threshold=torch.from_numpy(threshold),
        value=torch.from_numpy(value),
        start=torch.tensor(start, dtype=torch.float64),
        shares=torch.tensor(shares),
        steps=torch.tensor(max(tree.max_depth for tree in fitted)),
    )


def together(parts: Sequence[Trees | None]) -> Trees | None:
    """Return trees of one output each as trees of as many outputs; None where nobody has any."""
    there = [(place, part) for place, part in enumerate(parts) if part is not None]
    if not there:
        return None
    nodes = max(part.feature.shape[1] for _, part in there)
    found: dict[str, list[Tensor]] = {name: [] for name in ("feature", "left", "right", "threshold", "value")}
    start = torch.zeros(len(parts), dtype=torch.float64)
    for place, part in there:
        trees, own = part.feature.shape
        whole = torch.arange(nodes).repeat(trees, 1)  # a node that no row reaches is a leaf
        empty = {"feature": torch.zeros_like(whole), "left": whole, "right": whole}
        empty["threshold"] = torch.zeros(whole.shape, dtype=torch.float64)
        for name, blank in empty.items():
            found[name].append(torch.cat([getattr(part, name), blank[:, own:]], 1))
        value = torch.zeros(trees, nodes, len(parts), dtype=torch.float64)
        value[:, :own, place] = part.value[:, :, 0]
        found["value"].append(value)
        start[place] = part.start[0]
    return Trees(
        **{name: torch.cat(tensors) for name, tensors in found.items()},
        start=start,
        shares=torch.tensor(False),
        steps=torch.stack([part.steps for _, part in there]).max(),
    )
