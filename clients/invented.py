"""Makes synthetic rows of any schema: values within the public bounds, a target that depends on the features.

For trying things out, and for `check_client`. Nothing of anybody's rows is in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients._labels import NONE, SEPARATOR
from clients._pandas import pd
from clients._seeded import numpy_generator
from clients.schema import Column, Schema, Target

__all__ = ["inventor"]

MISSING: Final = 0.05  # share of a nullable column
_STEEP: Final = 3.0  # how strongly the target follows the features


def inventor(schema: Schema) -> Callable[[np.random.Generator, int, str], pd.DataFrame]:
    """Return a generator of rows (`IndustryClient.synthesise`) of a schema."""

    def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
        # The industry decides what a target depends on, the site how values are spread. The draw decides neither.
        lean = numpy_generator(schema.name, "site", site)
        weights = numpy_generator(schema.name, "weights")
        frame = pd.DataFrame({c.name: _values(c, generator, lean, rows) for c in schema.columns})
        target = schema.target
        outputs = target.outputs
        score = np.zeros((rows, outputs))
        for column in schema.columns:
            weight = weights.normal(size=outputs)
            if column.is_feature:
                score += np.outer(_position(column, frame[column.name]), weight)
        score *= _STEEP / max(1.0, np.sqrt(sum(c.is_feature for c in schema.columns)))
        frame[target.name] = _target(target, score, generator)
        for column in schema.columns:
            if column.nullable and column.identifier is None:
                frame[column.name] = frame[column.name].mask(generator.random(rows) < MISSING)
        return frame

    return synthesise


def _values(column: Column, generator: np.random.Generator, lean: np.random.Generator, rows: int) -> Any:
    shift = lean.uniform(1.5, 2.5, size=2)
    if column.dtype == "category":
        shares = lean.dirichlet(np.full(len(column.categories), 4.0))
        return generator.choice(np.array(column.categories, dtype=object), rows, p=shares)
    if column.dtype == "flag":
        return (generator.random(rows) < shift[0] / 5).astype(int)
    if column.dtype == "text":
        return [f"synthetic-{number:012d}" for number in generator.integers(0, 10**12, rows)]
    low = max(column.valid_low, -100.0 if column.low is None else column.low)
    high = min(column.valid_high, 100.0 if column.high is None else column.high)
    drawn = low + (high - low) * generator.beta(float(shift[0]), float(shift[1]), size=rows)
    if column.dtype == "integer":
        return np.clip(np.round(drawn), np.ceil(low), np.floor(high)).astype(np.int64)
    return np.array([float(f"{each:.4g}") for each in drawn]).clip(low, high)


def _position(column: Column, values: pd.Series[Any]) -> NDArray[np.float64]:
    """Each value in [-1, 1]: where it lies between the bounds or in the list of categories."""
    if column.dtype == "category":
        places = {name: number for number, name in enumerate(column.categories)}
        most = max(1, len(column.categories) - 1)
        return np.array([2 * places[value] / most - 1 for value in values])
    if column.dtype == "flag":
        return values.to_numpy(np.float64) * 2 - 1
    if column.low is None or column.high is None:
        return np.zeros(len(values))
    middle, half = (column.low + column.high) / 2, (column.high - column.low) / 2
    return np.asarray((values.to_numpy(np.float64) - middle) / half)


def _target(target: Target, score: NDArray[np.float64], generator: np.random.Generator) -> Any:
    rows = len(score)
    if target.kind == "regression":
        value = np.tanh(0.5 * score[:, 0] + generator.normal(0, 0.15, rows))
        middle, half = target.scale
        return np.array([float(f"{each:.5g}") for each in middle + half * value])
    spelled = {name: value for value, name in target.mapping.items()}
    if target.kind == "multilabel":
        odds = np.array(target.prior or np.full(target.outputs, 0.5)).clip(0.01, 0.99)
        there = generator.random(score.shape) < 1 / (1 + np.exp(-(score + np.log(odds / (1 - odds)))))
        named = [spelled.get(name, name) for name in target.classes]
        return [SEPARATOR.join(n for n, one in zip(named, row, strict=True) if one) or NONE for row in there]
    prior = np.array(target.prior or np.full(len(target.classes), 1 / len(target.classes)))
    if target.kind in {"binary", "anomaly"}:
        chance = 1 / (1 + np.exp(-(score[:, 0] + np.log(prior[1] / prior[0]))))
        codes = (generator.random(rows) < chance).astype(int)
    else:
        codes = (score + np.log(prior) + generator.gumbel(size=score.shape)).argmax(axis=1)
    return [spelled.get(target.classes[code], target.classes[code]) for code in codes]
