"""Stacks own columns and scores with true labels at the label owner. It uses the partners only if that pays.

Nothing here is released. Cross-validation on the labelled rows chooses between "alone" and "assisted". The test rows
only report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold

from clients.metrics import compute
from consortia.common.errors import ArgumentError
from consortia.vertical.assistance import MODELS, Classifier, fitted

__all__ = ["MARGIN", "Decision", "Stack", "auc", "decide", "linear_features", "simplest", "tree_features"]

Floats = NDArray[np.float64]
Gaps = NDArray[np.bool_]
#: The mean gain must exceed one standard error plus this margin. A smaller gain is not worth a partner.
MARGIN: Final = 0.002
FOLDS: Final = 5


def linear_features(own: Floats, scores: Floats, gaps: Gaps) -> Floats:
    """Return own columns, scores (0 if missing), and for missing scores indicators and own columns times these.

    Without the last two a linear stack could not use other weights for its own columns if there is no score. Only score
    columns with `gaps` (partners,) have them. `gaps` depends on the rows of the fit, not on the current rows.
    """
    missing = np.isnan(scores)
    parts = [own, np.where(missing, 0.0, scores)]
    for column in missing.T[gaps]:
        parts += [column[:, None].astype(np.float64), own * column[:, None]]
    return np.column_stack(parts)


def tree_features(own: Floats, scores: Floats, gaps: Gaps) -> Floats:
    """Return own columns and scores, with NaN for missing scores."""
    del gaps
    return np.column_stack([own, scores])


#: From simple to complex. `stumps` is for few positives and few matched rows, because larger trees would overfit.
_STACKERS: Mapping[str, tuple[Callable[[], Classifier], Callable[[Floats, Floats, Gaps], Floats]]] = {
    "logistic": (MODELS["logistic"], linear_features),
    "stumps": (MODELS["stumps"], tree_features),
    "boosting": (MODELS["boosting"], tree_features),
}


@dataclass(frozen=True, eq=False, repr=False)
class Stack:
    """A fitted model of own columns and scores; without scores it is the own model.

    Attributes
    ----------
    known : (partners,)
        Partners with a score in some row of the fit. The scores of the others are not features.
    gaps : (known partners,)
        Partners without a score in some row of the fit.
    usual : (known partners,)
        The mean score of the fit. It replaces a score that is missing now but was never missing in the fit; 0 would
        mean even odds.
    """

    name: str
    model: Classifier
    known: Gaps
    gaps: Gaps
    usual: Floats

    def predict(self, own: Floats, scores: Floats) -> Floats:
        """Return the probability of the positive class, (n,)."""
        _, features = _STACKERS[self.name]
        scores = scores[:, self.known]
        scores = np.where(np.isnan(scores) & ~self.gaps, self.usual, scores)
        with np.errstate(all="ignore"):  # see `fit_quietly`
            return np.asarray(self.model.predict_proba(features(own, scores, self.gaps)), dtype=np.float64)[:, 1]


@dataclass(frozen=True, eq=False, repr=False)
class Decision:
    """The result of cross-validation.

    Attributes
    ----------
    joins : bool
        Mean gain of the folds > one standard error + `MARGIN`.
    gain, standard_error : float or None
        Mean and standard error of the folds' AUC, assisted minus alone; None if a class has too few rows for the folds.
    alone, assisted : Stack
        Fitted on all labelled rows.
    """

    joins: bool
    gain: float | None
    standard_error: float | None
    alone: Stack
    assisted: Stack


def decide(
    own: Floats,
    scores: Floats,
    labels: NDArray[Any],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Decision:
    """Choose the kind of model by cross-validation, both alone and with scores, on the same folds.

    With fewer than `FOLDS` rows of a class no choice is possible, so the simplest kind without scores is used. It is
    not an error, because an error would tell the coordinator something about the true labels.

    Parameters
    ----------
    own : (n, d)
    scores : (n, partners)
        NaN if a partner does not know the row.
    labels : (n,)
        True labels, 0 or 1.
    progress : callable
        Called with (fits done, fits in all).
    """
    none = np.empty((len(own), 0))
    if np.bincount(labels, minlength=2).min() < FOLDS:
        name = next(iter(_STACKERS))
        return Decision(False, None, None, _fit(name, own, none, labels), _fit(name, own, scores, labels))
    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(own, labels))
    half = len(_STACKERS) * FOLDS
    alone_name, alone_folds = _best(own, none, labels, folds, lambda done: progress(done, 2 * half))
    name, assisted_folds = _best(own, scores, labels, folds, lambda done: progress(half + done, 2 * half))
    gains = assisted_folds - alone_folds
    error = float(gains.std(ddof=1) / math.sqrt(len(gains)))
    return Decision(
        joins=bool(gains.mean() > error + MARGIN),
        gain=float(gains.mean()),
        standard_error=error,
        alone=_fit(alone_name, own, none, labels),
        assisted=_fit(name, own, scores, labels),
    )


def _best(
    own: Floats, scores: Floats, labels: NDArray[Any], folds: Any, progress: Callable[[int], None]
) -> tuple[str, Floats]:
    """Return the simplest kind within one standard error of the best, and its AUC in each fold."""
    found: dict[str, Floats] = {}
    for place, name in enumerate(_STACKERS):
        values = []
        for inside, outside in folds:
            stack = _fit(name, own[inside], scores[inside], labels[inside])
            values.append(auc(stack.predict(own[outside], scores[outside]), labels[outside]))
            progress(place * len(folds) + len(values))
        found[name] = np.array(values)
    return simplest(found)


def simplest(found: Mapping[str, Floats]) -> tuple[str, Floats]:
    """Return the first candidate whose mean shortfall from the best is within its standard error over the folds.

    This is the one-standard-error rule (Breiman et al. 1984, section 3.4.3). With few rows and noisy scores trees can
    win a cross-validation by chance.

    Parameters
    ----------
    found : mapping
        Candidates from simple to complex, each with its values (folds,). Larger is better.
    """
    if not found:
        raise ArgumentError("found: wanted one candidate or more, got none")
    best = max(found.values(), key=lambda values: float(values.mean()))
    for name, values in found.items():
        short = best - values
        if short.mean() <= short.std(ddof=1) / math.sqrt(len(short)):
            return name, values
    raise ArgumentError("found: wanted values that are numbers, got none")


def _fit(name: str, own: Floats, scores: Floats, labels: NDArray[Any]) -> Stack:
    make, features = _STACKERS[name]
    known: Gaps = np.atleast_1d(~np.isnan(scores).all(axis=0))
    scores = scores[:, known]
    gaps: Gaps = np.atleast_1d(np.isnan(scores).any(axis=0))
    usual = np.where(gaps, 0.0, scores.mean(axis=0))
    return Stack(name, fitted(make, features(own, scores, gaps), labels), known, gaps, usual)


def auc(scores: Floats, labels: NDArray[Any]) -> float:
    """Return the area under the ROC curve; NaN if a class is absent."""
    value = compute(["auc"], "binary", scores, labels)["auc"]
    return math.nan if value is None else value
