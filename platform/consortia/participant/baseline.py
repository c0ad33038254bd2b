"""The best model that a participant can train alone. Its own cross-validation chooses among several kinds.

Guarantees
----------
* It uses training rows only, never validation or test rows.
* Nothing of it leaves (invariant 17). Only `receipt`, `personal` and `joined` use it, and they make no reply.

How the choice is made
----------------------
Every candidate of `consortia.participant.own_candidates` is fitted on four of five folds and scores the fifth. Folds
consist of whole units, have similar shares of each label, and come from a fixed seed. The receipt's first metric
decides, averaged over the folds. Candidates within half a standard error of the best (paired over folds) count as
equal. Among these the search takes the one with the lowest log loss (squared error for a regression) on all rows. The
search uses at most `SEARCH_ROWS` rows, a public constant. The chosen model is then fitted to all training rows.

Of anomalies no label may choose, so there is no search: the model of one's own is the contract's network, the second
one an isolation forest. Their scores of the training rows are not out of fold; they only standardise others.

The second model is the best one of another kind. The two stacked are the control of every gain: the value of a second
model without any partner.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from clients import registry
from clients._labels import bits
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import get
from consortia.common.latest import Latest
from consortia.participant.evaluation import Scores, headline, row_losses
from consortia.participant.own_candidates import Candidate, Fit, candidates, majority, ridge, unlabelled
from consortia.participant.own_model import Scorer
from consortia.terms.contract import Contract
from privacy.randomness import numpy_generator

__all__ = ["FOLDS", "SEARCH_ROWS", "Baseline", "Own", "baseline", "of_run"]

FOLDS = 5
#: Largest number of rows that the search uses.
SEARCH_ROWS = 1000
#: Candidates within this many standard errors of the best count as equal.
_NEAR = 0.5
_CACHED = 16


@dataclass(frozen=True)
class Own:
    """One of the participant's own models.

    Attributes
    ----------
    kind, detail : str
        The family, and its settings.
    scorer : Scorer
        Fitted to all training rows.
    fit : callable
        Fits a model of the same kind and settings to other rows.
    out_of_fold : array (n_rows,) or (n_rows, n_classes)
        Scores of `Baseline.rows`. Each comes from a model that was not fitted to the row's unit. Empty without folds.
    """

    kind: str
    detail: str
    scorer: Scorer
    fit: Fit
    out_of_fold: Scores

    @property
    def name(self) -> str:
        """Kind and settings."""
        return f"{self.kind}, {self.detail}".removesuffix(", ")


@dataclass(frozen=True)
class Baseline:
    """A participant's alternatives to the federated model.

    Attributes
    ----------
    majority : Scorer
        The constant prediction.
    alone : Own
        The best own model.
    second : Own or None
        The best model of another kind; None if there are too few rows for a search.
    places : array of int64 (n_rows,)
        The training rows that the search used; empty without a search.
    rows : Table
        These rows.
    fold : array of int64 (n_rows,)
        The fold in which each of these rows was held out.
    tried : tuple of (kind, detail, value)
        The deciding metric of each candidate, averaged over folds; NaN if undefined.
    """

    majority: Scorer
    alone: Own
    second: Own | None
    places: NDArray[np.int64]
    rows: Table
    fold: NDArray[np.int64]
    tried: tuple[tuple[str, str, float], ...]


def baseline(
    contract: Contract, industry: str, train: Table, participant: str, client: IndustryClient | None = None
) -> Baseline:
    """Search among the candidates, as the module's docstring says. It uses one thread.

    Parameters
    ----------
    client : IndustryClient, optional
        The industry. The metrics that the rows' owner wants come first.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return _searched(contract, client or registry.get(industry), train, participant)


def _searched(contract: Contract, client: IndustryClient, train: Table, participant: str) -> Baseline:
    constant = majority(client, train)
    places = _drawn(train, participant)
    rows = train.take(places)
    if client.schema.target.kind == "anomaly":
        alone, another = (
            Own(one.kind, one.detail, scorer := one.fit(train), one.fit, scorer(rows))
            for one in unlabelled(contract, client, participant)
        )
        return Baseline(constant, alone, another, places, rows, np.zeros(len(places), dtype=np.int64), ())
    fold = _folds(client, rows, participant)
    if fold is None:
        nowhere = np.zeros(0, dtype=np.int64)
        none = train.take(nowhere)
        fit: Fit = lambda rows: ridge(client, rows, participant, 0.1)  # noqa: E731 - a value like the candidates'
        only = Own("ridge", "strength 0.1", fit(train), fit, constant(none))
        return Baseline(constant, only, None, nowhere, none, nowhere, ())
    offered = candidates(contract, client.name, participant)
    held = [_out_of_fold(candidate, rows, fold) for candidate in offered]
    by_fold = np.array([_by_fold(client, scores, rows, fold) for scores in held])
    best = _best(client, by_fold, held, rows, range(len(offered)))
    others = [place for place, candidate in enumerate(offered) if candidate.kind != offered[best].kind]
    second = _best(client, by_fold, held, rows, others)
    alone, another = (
        Own(offered[place].kind, offered[place].detail, offered[place].fit(train), offered[place].fit, held[place])
        for place in (best, second)
    )
    sign = get(headline(client, rows.measured)).sign
    known = np.isfinite(by_fold).all(0)
    values = sign * by_fold[:, known].mean(1) if known.any() else np.full(len(offered), math.nan)
    tried = tuple((c.kind, c.detail, float(v)) for c, v in zip(offered, values, strict=True))
    return Baseline(constant, alone, another, places, rows, fold, tried)


def _drawn(train: Table, participant: str) -> NDArray[np.int64]:
    """Return the indices of rows of whole units, in a fixed order of units, up to `SEARCH_ROWS` rows."""
    if len(train) <= SEARCH_ROWS:
        return np.arange(len(train))
    order = numpy_generator("search", participant).permutation(train.n_units)
    units = np.asarray(train.unit_index)
    size = np.bincount(units, minlength=train.n_units)
    taken = order[np.cumsum(size[order]) <= SEARCH_ROWS]
    return np.flatnonzero(np.isin(units, taken))


def _folds(client: IndustryClient, rows: Table, participant: str) -> NDArray[np.int64] | None:
    """Return each row's fold; None if there are too few units, or too few units of a second class."""
    units, n_units = np.asarray(rows.unit_index), rows.n_units
    if n_units < 2 * FOLDS:
        return None
    target = np.asarray(rows.target, dtype=np.float64)
    label = np.bincount(units, weights=target, minlength=n_units) / np.bincount(units, minlength=n_units)
    if client.schema.target.kind == "multilabel":
        # A unit counts for the labels of its first row; folds are similar in how many there are.
        there = bits(target[np.unique(units, return_index=True)[1]], client.schema.target.outputs)
        if np.minimum(there.sum(0), n_units - there.sum(0)).max() < FOLDS:
            return None
        label = there.sum(1)
    elif client.schema.target.classes:
        # A unit counts for the class of its first row.
        label = target[np.unique(units, return_index=True)[1]]
        counts = np.sort(np.bincount(label.astype(int)))
        if len(counts) < 2 or counts[-2] < FOLDS:
            return None
    # Units are distributed in the order of their labels, so that folds are similar. Ties are broken at random.
    order = np.lexsort((numpy_generator("folds", participant).permutation(n_units), label))
    fold = np.empty(n_units, dtype=np.int64)
    fold[order] = np.arange(n_units) % FOLDS
    return np.asarray(fold[units])


def _out_of_fold(candidate: Candidate, rows: Table, fold: NDArray[np.int64]) -> Scores:
    found: Scores | None = None
    for number in range(FOLDS):
        held_out = np.flatnonzero(fold == number)
        scores = candidate.fit(rows.take(np.flatnonzero(fold != number)))(rows.take(held_out))
        found = np.zeros((len(fold), *scores.shape[1:])) if found is None else found
        found[held_out] = scores
    assert found is not None
    return found


def _by_fold(client: IndustryClient, scores: Scores, rows: Table, fold: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the first metric of each fold, with the sign such that larger is better; NaN if undefined."""
    metric, target = get(headline(client, rows.measured)), rows.measured
    values = [metric.value(scores[fold == number], target[fold == number]) for number in range(FOLDS)]
    return np.array([math.nan if value is None else metric.sign * value for value in values])


def _best(
    client: IndustryClient, by_fold: NDArray[np.float64], held: Sequence[Scores], rows: Table, places: Sequence[int]
) -> int:
    """Return the index of the best candidate among `places`."""
    known = np.isfinite(by_fold[list(places)]).all(0)
    near = list(places)
    if known.any():
        values = by_fold[:, known]
        first = max(places, key=lambda place: float(values[place].mean()))
        behind = values[first] - values[near]
        error = behind.std(1, ddof=1) / math.sqrt(known.sum()) if known.sum() > 1 else np.zeros(len(near))
        near = [place for place, mean, se in zip(near, behind.mean(1), error, strict=True) if mean <= _NEAR * se]
    return min(near, key=lambda place: float(row_losses(client, held[place], rows).mean()))


#: The last baselines. A run that measures several models searches once. Runs that differ only in what the search does
#: not use share one search, too: budgets, and for a linear model the whole contract.
_cache: Latest[Baseline] = Latest(_CACHED)


def of_run(contract: Contract, client: IndustryClient, train: Table, name: str) -> Baseline:
    """Return `baseline` of the participant `name`. It is computed once for the same name, network, metrics and rows."""
    key = (name, _network(contract, client.name), client.name, repr(client.schema), *client.metrics, _digest(train))
    found = _cache.get(key)
    if found is None:
        found = baseline(contract, client.name, train, name, client)
        _cache.put(key, found)
    return found


def _network(contract: Contract, industry: str) -> str:
    """Return the part of a contract that the search uses: the network if it is a candidate, otherwise nothing."""
    return "" if contract.industries[industry].model.kind == "linear" else contract.sha256()


def _digest(train: Table) -> str:
    parts = (*(train.inputs[name] for name in sorted(train.inputs)), train.target, train.unit_index)
    return hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts)).hexdigest()
