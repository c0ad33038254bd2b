"""DP training of a partner's model. It limits the influence of one row's columns on the scores of *other* rows.

Features are scaled by public bounds (the holding's schema). A row is used in all fold models except one, and their
steps compose.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consortia.terms.vertical import ModelPrivacy
from consortia.vertical.assistance import FOLDS, Assistance
from privacy.dp_logistic import replace_noise, train_logistic
from privacy.events import ReplaceGaussian
from privacy.noise_context import NoiseContext
from privacy.randomness import fresh_generator

__all__ = ["Linear", "assist_privately", "model_event"]


class Linear:
    """A linear model with given weights and scikit-learn's interface."""

    def __init__(self, weights: NDArray[np.float64]) -> None:
        self.weights = weights

    def fit(self, x: Any, y: Any) -> Linear:
        """Do nothing: the weights were trained with noise before."""
        del x, y
        return self

    def predict_proba(self, x: Any) -> NDArray[np.float64]:
        """Return probabilities (n, 2)."""
        positive = 1 / (1 + np.exp(-self.logits(x)))
        return np.column_stack([1 - positive, positive])

    def logits(self, x: Any) -> NDArray[np.float64]:
        """Return the linear scores (n,). A row with a non-finite value gets the intercept, as if it had no columns."""
        rows = np.asarray(x, dtype=np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            scores = np.asarray(np.where(np.isfinite(rows), rows, 0.0) @ self.weights[:-1] + self.weights[-1])
            usable = np.isfinite((rows**2).sum(1))
        return np.where(usable, scores, self.weights[-1])


@lru_cache(maxsize=16)
def _noise(epsilon: float, delta: float, releases: int) -> float:
    return replace_noise(epsilon=epsilon, delta=delta, releases=releases)


def model_event(terms: ModelPrivacy, unit: str) -> ReplaceGaussian:
    """Return the cost of training: the steps of the fold models that use a row."""
    releases = terms.steps * (FOLDS - 1)
    noise = _noise(terms.epsilon, terms.delta, releases)
    return ReplaceGaussian(noise_multiplier=noise, count=releases, partition="train", unit=unit)


def assist_privately(x: NDArray[Any], labels: NDArray[Any], terms: ModelPrivacy, noise: NoiseContext) -> Assistance:
    """Fit logistic regression with DP, cross-fitted. There is no choice among models, because a choice would be another
    release.

    Parameters
    ----------
    noise : the charged attempt. Each fold's model has its own purpose in it.
    """
    event = model_event(terms, "record")
    fold = np.arange(len(x)) % FOLDS
    labelled = labels >= 0
    models = []
    logits = np.zeros(len(x))
    rest = np.zeros(len(x))
    for number in range(FOLDS):
        inside = labelled & (fold != number)
        weights = train_logistic(
            x[inside],
            labels[inside],
            noise_multiplier=event.noise_multiplier,
            steps=terms.steps,
            generator=fresh_generator(noise.to(f"fold {number}")),
        )
        models.append(Linear(weights))
        every = models[-1].logits(x)
        logits = np.where(labelled & (fold == number), every, logits)
        rest += every / FOLDS
    return Assistance(np.where(labelled, logits, rest), "logistic (DP)", tuple(models))
