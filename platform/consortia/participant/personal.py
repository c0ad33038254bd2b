"""Personal models. They are built at home from the federated model and own rows, and chosen on held-out rows.

Candidates
----------
* `local`: uses nothing from other participants (`consortia.participant.baseline`).
* `federated`: the received model.
* `centred`: the federated model's own score as an offset, corrected by a ridge model on the participant's features,
  ``score(x) = federated(x) + b + u . x`` with penalty ``strength x |u|^2``. For a linear model this is the local
  model centred on the federated one; strength 0 is the local model, infinity the federated one.
* `fine-tuned`: the federated network trained on with a proximal term ``lam / 2 |w - w_federated|^2`` (Ditto's local
  objective, Li et al. 2021, eq. 2, at the final federated model; lam = 0 is plain fine-tuning).

None of them feeds a release, so they train without DP (invariant 7), and the choice never leaves (invariant 14).

How the choice is made
----------------------
The choice uses the log loss (the squared error for a regression) on rows that the candidate was not fitted to. These
are the validation rows. If they have fewer than 200 units, the training rows are added, cross-fitted in folds of whole
units. The participant keeps `local` unless another model passes two tests on at least 30 units. Its loss must be lower
by more than one standard error of the paired difference, clustered by unit. And the receipt's first metric must not be
worse, because a correction may improve the scale of a score and damage its order. Among the models that pass, the best
is kept. The federated model has seen the training rows. They count only if this has no visible effect: its loss on them
may be lower than on the validation rows by at most one standard error. The test rows only report.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from torch import nn

from clients import registry
from clients._labels import bits
from clients.dataset import Table
from clients.industry import IndustryClient
from clients.metrics import compute
from clients.models import FederatedModule, loss_for, predictions
from clients.schema import Target
from consortia.participant.baseline import Own
from consortia.participant.early_stopping import mean_loss, set_aside, train_until_it_stops
from consortia.participant.evaluation import Scores, better, headline, module_scorer, row_losses
from consortia.participant.own_candidates import Candidate, Fit
from consortia.participant.own_model import AT_HOME, FEDERATED, OwnModel, Scorer
from privacy.randomness import numpy_generator, seeded_generator

STRENGTHS = tuple(float(s) for s in np.logspace(-1, 4, 6))
PROXIMAL = (0.0, 1.0)
_FOLDS = 4
_ENOUGH = 200
_LEAST = 30
_EPOCHS = 40
_PATIENCE = 6


@dataclass(frozen=True)
class Kept:
    """The chosen model.

    Attributes
    ----------
    kind : "local", "federated", "centred" or "fine-tuned".
    detail : the candidate's settings.
    scorer : the kept model.
    personal, personal_kind : the best of `centred` and `fine-tuned`, even if it is not kept.
    """

    kind: str
    detail: str
    scorer: Scorer
    personal: Scorer
    personal_kind: str


def candidates(module: FederatedModule, industry: str, alone: Own, participant: str) -> list[Candidate]:
    """Return the candidates for one participant, `local` first."""
    client = registry.get(industry)
    scorer = module_scorer(module)
    found = [
        Candidate("local", alone.name, alone.fit, alone.scorer),
        Candidate("federated", "", lambda _: scorer, scorer),
    ]
    found += [
        Candidate("centred", f"strength {strength:g}", _centred(client, module, strength)) for strength in STRENGTHS
    ]
    trained = any(parameter.requires_grad for parameter in module.parameters())
    if trained and any(isinstance(layer, nn.Tanh | nn.ReLU) for layer in module.modules()):
        found += [
            Candidate("fine-tuned", f"lambda {lam:g}", _fine_tuned(client, module, lam, participant))
            for lam in PROXIMAL
        ]
    return found


def of_sums(alone: Own, fit: Fit, fitted: Scorer) -> list[Candidate]:
    """Return the candidates for the learner `sums`: `local`, and the others' sums finished on own rows."""
    return [Candidate("local", alone.name, alone.fit, alone.scorer), Candidate(AT_HOME, "", fit, fitted)]


def without_labels(module: FederatedModule, industry: str, train: Table, participant: str) -> Kept:
    """Return the federated model of an anomaly as kept, and it fine-tuned as personal: no label may choose."""
    tuned = Candidate("fine-tuned", "lambda 1", _fine_tuned(registry.get(industry), module, 1.0, participant))
    return Kept(FEDERATED, "", module_scorer(module), tuned.fit(train), _label(tuned))


def keep(offered: list[Candidate], client: IndustryClient, train: Table, validation: Table, participant: str) -> Kept:
    """Choose among `offered`, the local model first, as the module's docstring says. Test rows are never used."""
    fitted = [candidate.ready or candidate.fit(train) for candidate in offered]
    tables, scores = [validation], [[scorer(validation)] for scorer in fitted]
    held = _losses(client, scores, tables)
    units = np.asarray(validation.unit_index)
    folds = _folds(train, participant)
    if folds and validation.n_units < _ENOUGH and not _flattered(client, offered, train, held):
        outside = np.concatenate([rows for _, rows in folds])
        units = np.concatenate([units, np.asarray(train.unit_index)[outside] + validation.n_units])
        crossed = [(train.take(inside), train.take(rows)) for inside, rows in folds]
        tables += [held_out for _, held_out in crossed]
        for candidate, found in zip(offered, scores, strict=True):
            found += [candidate.fit(inside)(held_out) for inside, held_out in crossed]
        held = _losses(client, scores, tables)
    metric, led = _led(client, scores, tables)
    chosen = 0
    for index in range(1, len(offered)) if len(np.unique(units)) >= _LEAST else ():
        pays = _pays(held[0] - held[index], units) and not better(metric, led[0], led[index])
        if pays and held[index].mean() < held[chosen].mean():
            chosen = index
    own = [i for i, candidate in enumerate(offered) if candidate.kind not in {"local", "federated"}]
    personal = min(own, key=lambda index: float(held[index].mean()) if len(held[index]) else 0.0)
    return Kept(
        offered[chosen].kind, offered[chosen].detail, fitted[chosen], fitted[personal], _label(offered[personal])
    )


def _losses(client: IndustryClient, scores: list[list[Scores]], tables: list[Table]) -> list[Scores]:
    """Return each candidate's losses on the rows of all tables, in sequence."""
    return [np.concatenate([row_losses(client, *pair) for pair in zip(found, tables, strict=True)]) for found in scores]


def _led(client: IndustryClient, scores: list[list[Scores]], tables: list[Table]) -> tuple[str, list[float | None]]:
    """Return the receipt's first metric, and its value for each candidate on the rows of all tables."""
    target, kind = np.concatenate([table.measured for table in tables]), client.schema.target.kind
    name = headline(client, target)
    return name, [compute([name], kind, np.concatenate(found), target)[name] for found in scores]


def _pays(gain: Scores, units: NDArray[np.int64]) -> bool:
    """Return whether the mean of `gain` over rows is above one standard error, clustered by unit."""
    if len(gain) < 2:
        return False
    sums = np.bincount(units, weights=gain - gain.mean())
    present = np.bincount(units) > 0
    error = np.sqrt((sums[present] ** 2).sum()) / len(gain)
    return bool(gain.mean() > error)


def _flattered(client: IndustryClient, offered: list[Candidate], train: Table, held: list[Scores]) -> bool:
    """Return whether the federated model is better on the rows that it was trained on than on others."""
    for candidate, losses in zip(offered, held, strict=True):
        if candidate.kind == FEDERATED and candidate.ready is not None:
            if len(losses) < 2:
                return True
            error = float(losses.std(ddof=1)) / np.sqrt(len(losses))
            return bool(row_losses(client, candidate.ready(train), train).mean() < losses.mean() - error)
    return False  # all candidates are fitted to each fold again


def _label(candidate: Candidate) -> str:
    return f"{candidate.kind}, {candidate.detail}"


def _folds(train: Table, participant: str) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return (rows inside, rows outside) of each fold. A unit's rows stay together."""
    if train.n_units < 2 * _FOLDS:
        return []
    fold = numpy_generator("folds", participant).permutation(train.n_units) % _FOLDS
    of_row = fold[np.asarray(train.unit_index)]
    return [(np.flatnonzero(of_row != k), np.flatnonzero(of_row == k)) for k in range(_FOLDS)]


def _logits(module: FederatedModule, table: Table) -> torch.Tensor:
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            return torch.as_tensor(module(table.inputs)).double()
    finally:
        module.train(training)


def _centred(client: IndustryClient, module: FederatedModule, strength: float) -> Fit:
    """Return the fit of ``federated(x) + b + u . x``: a convex problem in (u, b), solved by L-BFGS."""

    def fit(train: Table) -> Scorer:
        outputs = client.schema.target.outputs
        features = train.inputs["features"].double()
        offset = _logits(module, train)
        shape = (features.shape[1] + 1, outputs)  # u, and b below it

        x, at, y = np.asarray(features), np.asarray(offset), np.asarray(train.target)

        def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            weights = flat.reshape(shape)
            losses, slopes = _loss_and_slope(client.schema.target, at + x @ weights[:-1] + weights[-1], y)
            gradient = np.vstack([x.T @ slopes, slopes.sum(0)]) + strength * weights
            return losses + strength / 2 * float(np.square(weights).sum()), gradient.ravel()

        start = np.zeros(shape[0] * shape[1])
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 100, "gtol": 1e-6, "ftol": 1e-13}
        )
        solved = torch.from_numpy(found.x.reshape(shape))
        slope, intercept = solved[:-1], solved[-1]

        def scores(table: Table) -> Scores:
            logits = _logits(module, table) + table.inputs["features"].double() @ slope + intercept
            return _probabilities(client, logits)

        return Scorer(scores, lambda: OwnModel(module.target, module, slope, intercept))

    return fit


def _loss_and_slope(target: Target, logits: Scores, y: Scores) -> tuple[float, Scores]:
    """Return the sum of `loss_for`'s losses and their derivatives, shape (n, outputs), in closed form."""
    if target.kind == "multiclass":
        rows = np.arange(len(y))
        shares = log_softmax(logits, axis=1)
        slopes = np.exp(shares)
        slopes[rows, y] -= 1
        return -float(shares[rows, y].sum()), slopes
    if target.kind == "multilabel":
        there = bits(y, target.outputs)
        losses = (np.logaddexp(0, logits) - there * logits).sum() / target.outputs
        return float(losses), (expit(logits) - there) / target.outputs
    z = logits[:, 0]
    if target.kind == "binary":
        return float((np.logaddexp(0, z) - y * z).sum()), (expit(z) - y)[:, None]
    middle, half = target.scale
    error = z - (y - middle) / half
    return float(np.square(error).sum()), 2 * error[:, None]


def _probabilities(client: IndustryClient, logits: torch.Tensor) -> Scores:
    return np.asarray(predictions(client.schema.target, logits))


def _fine_tuned(client: IndustryClient, module: FederatedModule, lam: float, participant: str) -> Fit:
    """Return the fit of the federated network to local rows, with the proximal term ``lam / 2 |w - w0|^2``."""
    loss = loss_for(client.schema.target)

    def fit(train: Table) -> Scorer:
        tuned: Any = copy.deepcopy(module)
        generator = seeded_generator("fine-tuning", participant, str(lam))
        # A part of the training rows decides when to stop. Other rows choose the model.
        rows, watched = set_aside(train, generator)
        if not len(rows.target) or not len(watched.target):
            return module_scorer(tuned)
        anchor = [parameter.detach().clone() for parameter in tuned.parameters()]
        optimizer = torch.optim.Adam(tuned.parameters(), lr=1e-3)
        size = max(32, len(rows.target) // 8)

        def epoch() -> None:
            order = torch.randperm(len(rows.target), generator=generator)
            for batch in torch.split(order, size):
                optimizer.zero_grad()
                inputs = {name: tensor[batch] for name, tensor in rows.inputs.items()}
                loss(tuned(inputs), rows.target[batch]).mean().backward()  # type: ignore[no-untyped-call]
                for parameter, start in zip(tuned.parameters(), anchor, strict=True):
                    if parameter.grad is not None and lam:
                        parameter.grad.add_(parameter.detach() - start, alpha=lam)
                optimizer.step()

        def measure() -> float:
            return mean_loss(tuned, watched, loss)

        train_until_it_stops(tuned, epoch, measure, epochs=_EPOCHS, patience=_PATIENCE, best=measure())
        return module_scorer(tuned)

    return fit
