"""Combines two scores into one: a stack that is shrunk towards equal weights and never reverses a score.

For a row with scores a and b the stack predicts ``link(bias + u a' + v b')`` with u, v >= 0. Here a' and b' are the
scores as logits (values of a regression), centred and divided by their spread on the rows that the stack was fitted to.
First one slope s for the mean of a' and b' is fitted. Then u and v are fitted, each with a penalty, for u
``5 (u - s / 2)^2``. With few rows both scores have nearly equal weights. From about fifty rows on, a better score gets
more weight. Wolpert 1992, *Stacked generalization*; slopes >= 0: Breiman 1996, *Stacked regressions*.

Of anomalies there is no label to fit to: u = v = 1/2 and no bias, which is the mean of both scores, each standardised.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from clients._labels import bits
from clients.models import predictions
from clients.schema import Target

__all__ = ["Stack", "fit"]

Array = NDArray[np.float64]

#: Strength of the penalties that pull both slopes together, and biases and the common slope to zero.
_EQUAL, _BIAS, _COMMON = 10.0, 0.01, 1.0
#: Probabilities are moved towards one half by a hundredth: a forest's 0 is not certainty.
_SOFTER = 0.01
#: The order of the largest and the least errors is what finds anomalies: these are hardly drawn in.
_SOFTEST = 1e-9


class Stack(nn.Module):
    """A fitted stack.

    Parameters
    ----------
    middle, spread, slopes : Tensor of float64 (2,)
        Of the two scores.
    bias : Tensor of float64 (outputs,)
    """

    middle: Tensor
    spread: Tensor
    slopes: Tensor
    bias: Tensor

    def __init__(self, target: Target, middle: Tensor, spread: Tensor, slopes: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.target = target
        self.register_buffer("middle", middle)
        self.register_buffer("spread", spread)
        self.register_buffer("slopes", slopes)
        self.register_buffer("bias", bias)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return float64 scores of the shape of `first`: (n_rows,) or (n_rows, n_classes)."""
        total = self.bias
        for place, scores in enumerate((first, second)):
            centred = (_logits(self.target, scores.double()) - self.middle[place]) / self.spread[place]
            total = total + self.slopes[place] * centred
        return torch.sigmoid(total.squeeze(-1)) if self.target.kind == "anomaly" else predictions(self.target, total)

    @property
    def share(self) -> float:
        """Share of the weight of the second score, from 0 to 1."""
        both = float(self.slopes.sum())
        return float(self.slopes[1]) / both if both > 0 else 0.5


def fit(target: Target, labels: Array, first: Array, second: Array) -> Stack:
    """Fit a stack, if possible to rows that neither score was fitted to.

    Parameters
    ----------
    labels : array (n_rows,)
    first, second : array (n_rows,) or (n_rows, n_classes)
        Probabilities, or values of a regression.

    Returns
    -------
    Stack
        Without rows: equal weights.
    """
    from scipy.optimize import minimize

    parts = [_logits(target, torch.tensor(scores, dtype=torch.float64)).numpy() for scores in (first, second)]
    middle = np.array([part.mean() if part.size else 0.0 for part in parts])
    spread = np.array([part.std() if part.size and part.std() > 1e-9 else 1.0 for part in parts])
    if target.kind == "multiclass":  # logits of several classes are centred in each row
        middle = np.zeros(2)
    if target.kind == "anomaly":
        return Stack(target, *(torch.tensor(part) for part in (middle, spread, np.full(2, 0.5), np.zeros(1))))
    z = np.stack([(part - m) / s for part, m, s in zip(parts, middle, spread, strict=True)])
    outputs = target.outputs
    centre, unit = 0.0, 1.0
    if target.kind == "regression":  # in units of its spread, so that penalties mean the same for every target
        labels = _logits(target, torch.tensor(labels, dtype=torch.float64)).numpy()[:, 0]
        centre, unit = (float(labels.mean()), float(labels.std()) or 1.0) if len(labels) else (0.0, 1.0)
        labels = (labels - centre) / unit
    loss = _loss(target, labels, z.mean(0))
    no_bias, free = np.zeros(outputs), [(None, None)] * outputs

    def solved(columns: Array, at: Array, held: float) -> Array:
        """Minimise loss + penalties over (biases, slopes of `columns` (k, n_rows, outputs))."""
        weights = np.r_[np.full(outputs, _BIAS), np.full(len(columns), held)]
        start = np.r_[no_bias, at]

        def objective(w: Array) -> tuple[float, Array]:
            value, gradient = loss(w[:outputs] + np.tensordot(w[outputs:], columns, 1))
            away = w - start
            slopes = np.tensordot(columns, gradient, 2)
            return value + float(weights @ away**2) / 2, np.r_[gradient.sum(0), slopes] + weights * away

        bounds = [*free, *[(0, None)] * len(columns)]
        found: Array = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x
        return found

    common = solved(z.mean(0)[None], np.zeros(1), _COMMON)[-1] if len(labels) else 1.0
    found = solved(z, np.full(2, common / 2), _EQUAL)
    slopes = found[outputs:]
    if slopes.sum() < 1e-9:  # neither score is informative here, so keep the order of their mean
        slopes = np.full(2, 0.5e-3)
    bias = found[:outputs] * unit + centre
    return Stack(target, *(torch.tensor(part) for part in (middle, spread, slopes * unit, bias)))


def _logits(target: Target, scores: Tensor) -> Tensor:
    """Return scores as (n_rows, outputs): logits (centred in each row for several classes) or scaled values."""
    if target.kind == "regression":
        middle, half = target.scale
        return ((scores - middle) / half).unsqueeze(-1)
    if target.kind == "anomaly":
        return torch.logit(scores, eps=_SOFTEST).unsqueeze(-1)
    shared = target.outputs if target.kind == "multiclass" else 2
    softer = (scores.clamp(0.0, 1.0) + _SOFTER) / (1 + shared * _SOFTER)
    if target.kind != "multiclass":
        return torch.logit(softer).reshape(-1, target.outputs)
    return softer.log() - softer.log().mean(-1, keepdim=True)


def _loss(target: Target, labels: Array, typical: Array) -> Callable[[Array], tuple[float, Array]]:
    """Return the log loss of all rows (a regression's squared error in units of what `typical` leaves), with gradient.

    The returned function takes outputs (n_rows, outputs) and returns (value, gradient (n_rows, outputs)).
    """
    if target.kind == "regression":
        wanted = labels[:, None]
        design = np.column_stack([np.ones(len(labels)), typical])
        left = wanted - design @ np.linalg.lstsq(design, wanted, rcond=None)[0] if len(labels) else wanted
        variance = max(float(np.mean(left**2)) if left.size else 1.0, 1e-4)
        return lambda z: (float(((z - wanted) ** 2).sum()) / 2 / variance, (z - wanted) / variance)
    if target.kind in {"binary", "multilabel"}:
        y = bits(labels, target.outputs) if target.kind == "multilabel" else labels[:, None]

        def binary(z: Array) -> tuple[float, Array]:
            return float((np.logaddexp(0, z) - y * z).sum()), 1 / (1 + np.exp(-z)) - y

        return binary
    hit = np.eye(target.outputs)[labels.astype(int)]

    def several(z: Array) -> tuple[float, Array]:
        shifted = z - z.max(1, keepdims=True) if len(z) else z
        log_sum = np.log(np.exp(shifted).sum(1, keepdims=True))
        return float(((log_sum - shifted) * hit).sum()), np.exp(shifted - log_sum) - hit

    return several
