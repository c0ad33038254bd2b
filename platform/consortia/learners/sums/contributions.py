"""Who contributed: Shapley values over coalitions of released sums. All of it is post-processing, and free.

The model of a coalition S is that of its members' sums, in closed form. Each participant's sums also judge the models
that they are not in: ``g_j(w) = -(w' A_j w - 2 b_j' w) / n`` is what the model w saves of the squared loss on the rows
of j, for each unit of all n, against the public expectation. The noise in (A_j, b_j) has mean 0 and w saw neither that
noise nor those rows, so g_j has no bias of the noise. The game is ``v(S) = sum over j of g_j(w of S without j)``: what
the members of S are worth to everybody else. Shapley values split v of all exactly.

Who holds the same rows as j would be judged by rows that its model saw. So participants that look like copies of each
other do not judge each other's models, either. `copies` compares two explanations of the difference of their products
b: noise alone, or noise and the scatter of different rows. Two participants with rows of their own, of one population,
are taken for copies of each other with probability 1 % at most, all pairs together (a likelihood ratio's mean is 1, so
Markov's inequality bounds it); of different populations, less often.

Their standard deviation comes from draws of the noise, and of the scatter of rows, with the models' first-order answer
to it: ``dw = K (db - dA w)`` with ``w = K b``. Each draw is added and taken off. v is quadratic in w, and w is noisy
already, so the odd half has the wanted variance and that of the even half once too often; it is taken off.

References: Shapley 1953; Ghorbani & Zou 2019, *Data Shapley*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from consortia.learners import shapley
from consortia.learners.blocks.parts import Part
from consortia.learners.blocks.release import deviations
from consortia.learners.sums.combine import combined, precision_weights
from consortia.learners.sums.model import Recipe
from consortia.learners.sums.solution import operators
from consortia.learners.sums.statistics import unpacked

__all__ = ["Contributions", "contributions", "copies"]

Array = NDArray[np.float64]
_DRAWS: Final = 60
#: Of many participants, about so many models; whoever judges a model is of another fold than its members.
_MODELS: Final = 4000
_FOLDS: Final = 5
_CHUNK: Final = 128
#: Part of the public variance that rows scatter by at least.
_LEAST: Final = 0.1
#: Probability of taking any two participants for copies that are none.
_MISTAKEN: Final = 0.01
#: Variance by which sums of the same rows may differ without noise.
_ROUNDING: Final = 1e-6


@dataclass(frozen=True)
class Contributions:
    """What each participant is worth to the others, in squared loss a unit (of a regression, on its public scale).

    Attributes
    ----------
    values : float64 (n,)
        They sum to `total`.
    deviations : float64 (n,)
        Standard deviation by noise, scatter of rows and, where coalitions were sampled, the sample.
    total : float
        The gain of all over the public expectation, each judged by sums that its model did not see.
    copies : tuple of pairs
        Participants that look as if they held the same rows.
    sampled : bool
    """

    values: Array
    deviations: Array
    total: float
    copies: tuple[tuple[int, int], ...]
    sampled: bool


def contributions(recipe: Recipe, parts: Sequence[Part], generator: np.random.Generator) -> Contributions:
    """Return the Shapley values of participants.

    Parameters
    ----------
    parts : what each released in message 2, with noise of its own; at least two.
    generator : for simulated noise and sampled orders; nothing here protects anybody.

    Raises
    ------
    ValueError
        For fewer than two parts: nobody else could judge.
    """
    count = len(parts)
    if count < 2:
        raise ValueError(f"contributions: wanted at least 2 participants, got {count}")
    sampled = count > shapley.MOST_EXACT
    same = copies(recipe, parts)
    folds = (generator.permutation(count) % _FOLDS if sampled else np.arange(count)).tolist()
    unseen = [_others(j, same, folds) for j in range(count)]
    shares = shapley.shares(count, generator, _MODELS // _FOLDS)
    models = _Models(recipe, parts, sorted({s & mask for one in shares for s in one for mask in unseen}))
    judged = models.judged()
    each = np.stack([_values(one, models, judged, unseen) for one in shares])
    values = each.mean(axis=0)
    total = math.fsum(judged[models.place[mask], j] for j, mask in enumerate(unseen))
    again = [
        [np.mean([_values(one, models, judged, unseen) for one in shares], axis=0) for judged in both]
        for both in models.judged_again(_DRAWS, total, generator)
    ]
    plus, minus = np.array(again).transpose(1, 0, 2)
    odd, even = ((plus - minus) / 2).var(axis=0, ddof=1), ((plus + minus) / 2).var(axis=0, ddof=1)
    variance = np.maximum(odd - even, even)
    if sampled:
        variance = variance + each.var(axis=0, ddof=1).mean() / len(each)  # of all alike: samples are few
    return Contributions(values, np.sqrt(variance), total, tuple(same), sampled)


def _others(judge: int, same: Sequence[tuple[int, int]], folds: Sequence[int]) -> int:
    """Return whose models a participant judges, as a coalition: all but its fold and its copies."""
    out = {one for pair in same if judge in pair for one in pair}
    return sum(1 << i for i, fold in enumerate(folds) if fold != folds[judge] and i not in out)


def copies(recipe: Recipe, parts: Sequence[Part]) -> list[tuple[int, int]]:
    """Return the pairs of participants whose sums look like those of the same rows."""
    size, directions = recipe.columns.size, recipe.outcome.directions
    noise = [deviations(recipe, 2, part.multiplier)[1] if part.multiplier else 0.0 for part in parts]
    grams = [unpacked(part.blocks[0], size) for part in parts]
    slopes = [part.blocks[1].reshape(size, directions) for part in parts]
    pairs = [(i, j) for i in range(len(parts)) for j in range(i)]
    found = []
    for i, j in pairs:
        values, vectors = np.linalg.eigh(grams[i] + grams[j])
        own = noise[i] ** 2 + noise[j] ** 2 + _ROUNDING
        apart = np.square(vectors.T @ (slopes[i] - slopes[j]))
        ratio = 0.0
        for direction, c in enumerate(recipe.outcome.variances):
            wider = own + c * np.maximum(values, 0.0)
            ratio += float(np.sum(np.log(wider / own) + apart[:, direction] * (1 / wider - 1 / own))) / 2
        if ratio > math.log(len(pairs) / _MISTAKEN):
            found.append((j, i))
    return found


def _values(shares: dict[int, Array], models: _Models, judged: Array, unseen: Sequence[int]) -> Array:
    """Return Shapley values (n,) from what each participant's sums say of each model (n_models, n).

    Parameters
    ----------
    unseen : for each participant, those whose models it judges, as a coalition.
    """
    worth = [math.fsum(judged[models.place[members & mask], j] for j, mask in enumerate(unseen)) for members in shares]
    return np.asarray(np.array(worth) @ np.stack(list(shares.values())))


class _Models:
    """The models of coalitions, and what the sums of each participant say of them.

    Parameters
    ----------
    coalitions : bit i of each is set where participant i is in it.
    """

    def __init__(self, recipe: Recipe, parts: Sequence[Part], coalitions: Sequence[int]) -> None:
        size, directions = recipe.columns.size, recipe.outcome.directions
        self.place = {members: place for place, members in enumerate(coalitions)}
        self._variances = np.asarray(recipe.outcome.variances)
        self._units = math.fsum(part.units for part in parts)
        self._grams = np.stack([unpacked(part.blocks[0], size) for part in parts])
        self._slopes = np.stack([part.blocks[1].reshape(size, directions) for part in parts])
        noise = [deviations(recipe, 2, part.multiplier) if part.multiplier else (0.0, 0.0) for part in parts]
        self._of_gram, self._of_slope = (np.array([one[block] for one in noise]) for block in (0, 1))
        self._counted = np.zeros((len(coalitions), len(parts)))
        self._weights = np.zeros((len(coalitions), size, directions))
        self._operators = np.zeros((len(coalitions), directions, size, size), dtype=np.float32)
        for place, members in enumerate(coalitions):
            chosen = [i for i in range(len(parts)) if members >> i & 1]
            if not chosen:
                continue
            some = [parts[i] for i in chosen]
            counted = precision_weights(recipe, some)
            released = combined(recipe, some, counted)
            found = operators(released, recipe.outcome)
            self._counted[place, chosen] = counted
            self._operators[place] = found
            self._weights[place] = np.einsum("dij,jd->id", found, released.slope)

    def judged(self) -> Array:
        """Return g_j of each model (n_models, n)."""
        return self._judge(self._weights, self._grams, self._slopes)

    def judged_again(self, draws: int, total: float, generator: np.random.Generator) -> Iterator[tuple[Array, Array]]:
        """Yield the same with noise and scatter of rows added once more, and with them taken off, `draws` times.

        Parameters
        ----------
        total : what the model of all saves of the squared loss a unit: by so much rows scatter less.
        """
        values, vectors = np.linalg.eigh(self._grams)
        roots = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        whole = float(self._variances.sum())
        scatter = np.sqrt(self._variances * max(1 - total / whole, _LEAST))
        for _ in range(draws):
            half = generator.normal(size=self._grams.shape) * self._of_gram[:, None, None] / 2
            of_grams = half + half.transpose(0, 2, 1)
            of_slopes = generator.normal(size=self._slopes.shape) * self._of_slope[:, None, None]
            of_slopes += roots @ generator.normal(size=self._slopes.shape) * scatter
            moved = np.zeros_like(self._weights)
            for start in range(0, len(moved), _CHUNK):
                cut = slice(start, start + _CHUNK)
                left = np.einsum("sn,nid->sid", self._counted[cut], of_slopes)
                left -= np.tensordot(self._counted[cut], of_grams, 1) @ self._weights[cut]
                moved[cut] = np.einsum("sdij,sjd->sid", self._operators[cut], left)
            yield (
                self._judge(self._weights + moved, self._grams + of_grams, self._slopes + of_slopes),
                self._judge(self._weights - moved, self._grams - of_grams, self._slopes - of_slopes),
            )

    def _judge(self, weights: Array, grams: Array, slopes: Array) -> Array:
        flat = weights.reshape(len(weights), -1)
        products = 2 * flat @ slopes.reshape(len(slopes), -1).T
        squares = np.stack([np.einsum("sid,sid->s", weights, gram @ weights) for gram in grams], axis=1)
        return np.asarray((products - squares) / self._units)
