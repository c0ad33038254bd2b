"""Fits a partner's model on its own columns and noisy labels, and returns coarse scores.

Labels are what the label owner sent: they went through randomised response once, so whatever is done here is
post-processing
of them. Scores are raw logits on a public grid: a model of labels that were kept with probability e^eps / (1 +
e^eps) has logits within [-eps, eps], whatever the columns say, so the grid is public and costs nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from consortia.common.errors import ArgumentError
from consortia.vertical.grid import Floats

__all__ = ["MODELS", "Assistance", "assist", "fit_quietly", "fitted"]

FOLDS: Final = 5
_LARGEST_LOGIT: Final = 12.0


class Classifier(Protocol):
    """The interface of a partner's model: two methods of scikit-learn."""

    def fit(self, x: Any, y: Any) -> Any:
        """Fit on features (n, d) and codes (n,)."""

    def predict_proba(self, x: Any) -> Any:
        """Return probabilities (n, 2)."""


class Network:
    """A small torch network behind scikit-learn's two methods: what a partner's own torch model looks like.

    Full-batch Adam with weight decay for a fixed number of steps, from a fixed seed.
    """

    def __init__(self, hidden: int = 16, steps: int = 200, rate: float = 0.02, seed: int = 0) -> None:
        self.hidden, self.steps, self.rate, self.seed = hidden, steps, rate, seed

    def _build(self, width: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, self.hidden), nn.GELU(), nn.Linear(self.hidden, 1))

    def __getstate__(self) -> dict[str, Any]:
        """Return settings and weights as arrays: what the store can keep."""
        weights = {name: tensor.numpy() for name, tensor in self.module.state_dict().items()}
        return {"settings": [self.hidden, self.steps, self.rate, self.seed], "weights": weights}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See `__getstate__`."""
        self.__init__(*state["settings"])  # type: ignore[misc]
        self.module = self._build(state["weights"]["0.weight"].shape[1])
        self.module.load_state_dict({name: torch.from_numpy(array) for name, array in state["weights"].items()})

    def fit(self, x: Any, y: Any) -> Network:
        """See `Classifier`."""
        generator = torch.Generator().manual_seed(self.seed)
        inputs = torch.as_tensor(np.asarray(x), dtype=torch.float32)
        target = torch.as_tensor(np.asarray(y), dtype=torch.float32)
        self.module = self._build(inputs.shape[1])
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        optimizer = torch.optim.Adam(self.module.parameters(), lr=self.rate, weight_decay=1e-3)
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(self.module(inputs).squeeze(1), target)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return self

    def predict_proba(self, x: Any) -> Floats:
        """See `Classifier`."""
        with torch.no_grad():
            positive = torch.sigmoid(self.module(torch.as_tensor(np.asarray(x), dtype=torch.float32)).squeeze(1))
        values = positive.double().numpy()
        return np.column_stack([1 - values, values])


def _boosting(leaves: int, rows: int, rate: float, trees: int) -> HistGradientBoostingClassifier:
    return HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=rate,
        max_leaf_nodes=leaves,
        min_samples_leaf=rows,
        early_stopping=False,
        random_state=0,
    )


#: The candidates by name; the owner's policy says which may be tried.
MODELS: Mapping[str, Callable[[], Classifier]] = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
    "boosting": lambda: _boosting(15, 20, 0.06, 120),
    "stumps": lambda: _boosting(4, 50, 0.06, 80),
    "network": Network,
}


def fit_quietly(model: Classifier, x: Any, y: Any) -> Classifier:
    """Fit a model. Warnings about convergence and floating point depend on rows, so they are dropped.

    NumPy's matrix product sometimes warns although all numbers are finite.
    """
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return model


@dataclass(frozen=True, eq=False, repr=False)
class Assistance:
    """The result of a partner's fit. All of it stays at home; only codes of `logits` leave.

    Attributes
    ----------
    logits : (n,)
        Out of fold on labelled rows, mean of the fold models elsewhere.
    model : str
        The candidate with the lowest out-of-fold log loss against the noisy labels.
    models : tuple
        Its fold models, for persons of later batches.
    """

    logits: Floats
    model: str
    models: tuple[Classifier, ...]

    def score(self, x: NDArray[Any]) -> Floats:
        """Return the mean logit of the fold models for rows that no model was fitted to. There may be no rows."""
        if not len(x):
            return np.empty(0)
        return np.asarray(np.mean([_logit(model, x) for model in self.models], axis=0))


def assist(
    x: NDArray[Any],
    labels: NDArray[Any],
    candidates: Sequence[str],
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Assistance:
    """Cross-fit every candidate, and keep the one with the lowest out-of-fold log loss.

    Parameters
    ----------
    x : (n, d)
        The partner's features of the matched rows, in the label owner's secret order. A row's fold is its position
        modulo 5.
    labels : (n,)
        0 or 1 as received; -1 if the label owner sent none.
    candidates : sequence of str
        Names of `MODELS`.
    progress : callable
        Called with (models fitted, models to fit).

    Notes
    -----
    Without cross-fitting the score of a labelled row would hold its own label, and the stack would trust it too much
    (measured on AI4I: .968 falls to .899).
    """
    n = len(x)
    fold = np.arange(n) % FOLDS
    labelled = labels >= 0
    best: Assistance | None = None
    best_loss = math.inf
    for name in candidates:
        models: list[Classifier] = []
        logits = np.zeros(n)
        rest = np.zeros(n)
        for number in range(FOLDS):
            inside = labelled & (fold != number)
            model = fitted(MODELS[name], x[inside], labels[inside])
            models.append(model)
            progress(candidates.index(name) * FOLDS + number + 1, len(candidates) * FOLDS)
            every = _logit(model, x)
            logits = np.where(labelled & (fold == number), every, logits)
            rest += every / FOLDS
        logits = np.where(labelled, logits, rest)
        loss = _log_loss(logits[labelled], labels[labelled])
        if loss < best_loss:
            best, best_loss = Assistance(logits, name, tuple(models)), loss
    if best is None:
        raise ArgumentError("candidates: wanted at least one model that can be fitted, got none")
    return best


class _Constant:
    """Predicts the rate of rows with only one class."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def fit(self, x: Any, y: Any) -> _Constant:
        """See `Classifier`."""
        return self

    def predict_proba(self, x: Any) -> Floats:
        """See `Classifier`."""
        return np.tile([1 - self.rate, self.rate], (len(x), 1))


def fitted(make: Callable[[], Classifier], x: NDArray[Any], y: NDArray[Any]) -> Classifier:
    """Return a model fitted to the rows. With only one class it predicts their rate."""
    if len(np.unique(y)) < 2:
        return _Constant((float(np.sum(y)) + 0.5) / (len(y) + 1))
    return fit_quietly(make(), x, y)


def _logit(model: Classifier, x: NDArray[Any]) -> Floats:
    with np.errstate(all="ignore"):  # see `fit_quietly`; log 0 is clipped
        positive = np.asarray(model.predict_proba(x), dtype=np.float64)[:, 1]
        logit: Floats = np.log(positive) - np.log1p(-positive)
    return np.clip(logit, -_LARGEST_LOGIT, _LARGEST_LOGIT)


def _log_loss(logits: Floats, labels: NDArray[Any]) -> float:
    signed = np.where(labels == 1, logits, -logits)
    return float(np.mean(np.logaddexp(0, -signed))) if len(labels) else math.inf
