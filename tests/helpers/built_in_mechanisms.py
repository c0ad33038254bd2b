"""The platform's own mechanisms in the shape of `privacy.mechanism.Mechanism`, each through the code that releases."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from noise_contexts import TEST, generator, stream
from scipy import stats
from torch import nn

from consortia.messages import size_release
from privacy.dp_logistic import train_logistic
from privacy.dp_sgd import DpSgdPlan, train_private
from privacy.events import Event, LaplaceRelease, RandomizedResponse, ReplaceGaussian
from privacy.histogram import HistogramNoise, noisy_histogram
from privacy.mechanism import AdditiveNoise, Array, Data, Response, Rounded
from privacy.randomized_response import keep_probability, respond
from privacy.randomness import seeded_generator

#: So little noise is none beside what is compared.
NONE = 1e-9


def rows(seed: int, n_units: int, n_columns: int, per_unit: int = 1) -> Data:
    """Return rows of standard normal numbers, unit by unit."""
    values = np.random.default_rng(seed).normal(size=(n_units * per_unit, n_columns))
    return Data(values, np.repeat(np.arange(n_units), per_unit))


@dataclass(frozen=True)
class Histogram:
    """A histogram of the cell 0..7 that the first column names; a unit brings at most three rows."""

    kind: Any = "laplace"
    multiplier: float = 2.0
    rows_per_unit: int = 3
    cells: int = 8
    sampling_rate: float = 1.0

    @property
    def sensitivity(self) -> float:
        return float(self.rows_per_unit)

    @property
    def norm(self) -> Any:
        return "l1" if self.kind == "laplace" else "l2"

    @property
    def noise(self) -> Any:
        law = stats.laplace if self.kind == "laplace" else stats.norm
        return AdditiveNoise(Rounded(law(scale=self.multiplier * self.rows_per_unit)))

    def event(self) -> Event:
        return HistogramNoise(self.kind, self.multiplier).event(partition="evaluation", unit="record")

    def _counts(self, data: Data, multiplier: float) -> Array:
        first = data.values[:, 0] * 2 + 4
        cells = np.where((first >= 0) & (first < self.cells), first, -1.0).astype(np.int64)
        noise = HistogramNoise(self.kind, multiplier)
        found = noisy_histogram(
            cells, self.cells, data.units, rows_per_unit=self.rows_per_unit, noise=noise, context=TEST
        )
        return found.astype(np.float64)

    def query(self, data: Data) -> Array:
        return self._counts(data, NONE)

    def release(self, data: Data) -> Array:
        return self._counts(data, self.multiplier)

    def example(self, seed: int) -> Data:
        return rows(seed, 12, 2, per_unit=2)


class _Line(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.line = nn.Linear(width, 1)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.5)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.line(inputs["x"]).squeeze(1)


@dataclass(frozen=True)
class DpSgdStep:
    """The clipped gradient sum of one step of DP-SGD, read off the model that the step leaves behind."""

    sampling_rate: float = 1.0
    multiplier: float = 1.3
    clip: float = 0.7
    width: int = 99
    secure: bool = False
    norm: Any = "l2"

    @property
    def sensitivity(self) -> float:
        return self.clip

    @property
    def noise(self) -> Any:
        return AdditiveNoise(stats.norm(scale=self.multiplier * self.clip))

    def _plan(self, rate: float, multiplier: float) -> DpSgdPlan:
        return DpSgdPlan(noise_multiplier=multiplier, clip=self.clip, sampling_rate=rate, declared_units=1, steps=1)

    def event(self) -> Event:
        return self._plan(self.sampling_rate, self.multiplier).event(unit="patient")

    def _step(self, data: Data, plan: DpSgdPlan, generator: torch.Generator, secure: bool) -> Array:
        module = _Line(self.width)
        with np.errstate(over="ignore"):
            x, y = (torch.from_numpy(v.astype(np.float32)) for v in (data.values[:, :-1], data.values[:, -1]))
        present, index = np.unique(data.units, return_inverse=True)
        train_private(
            module,
            {"x": x},
            y,
            torch.from_numpy(index.astype(np.int64)),
            len(present),
            lambda output, target: (output - target) ** 2,
            lambda parameters: torch.optim.SGD(parameters, lr=1.0),
            plan,
            generator,
            secure=secure,
        )
        left = torch.cat([parameter.detach().ravel() for parameter in module.parameters()])
        return (0.5 - left.double().numpy()) * plan.expected_batch

    def query(self, data: Data) -> Array:
        return self._step(data, self._plan(1.0, NONE), seeded_generator("query"), secure=False)

    def release(self, data: Data) -> Array:
        plan = self._plan(self.sampling_rate, self.multiplier)
        return self._step(data, plan, generator(), self.secure)

    def example(self, seed: int) -> Data:
        return rows(seed, 10, self.width + 1, per_unit=2)


@dataclass(frozen=True)
class VerticalLogistic:
    """The gradient sum of one step of the vertical mode's logistic regression."""

    multiplier: float = 1.1
    clip: float = 0.5
    norm: Any = "l2"
    sampling_rate: float = 1.0

    @property
    def sensitivity(self) -> float:
        return 2 * self.clip

    @property
    def noise(self) -> Any:
        return AdditiveNoise(stats.norm(scale=self.multiplier * 2 * self.clip))

    def event(self) -> Event:
        return ReplaceGaussian(noise_multiplier=self.multiplier, partition="train", unit="record")

    def _sum(self, data: Data, multiplier: float, generator: torch.Generator) -> Array:
        weights = train_logistic(
            data.values[:, :-1],
            data.values[:, -1],
            noise_multiplier=multiplier,
            steps=1,
            generator=generator,
            clip=self.clip,
            rate=1.0,
        )
        return -weights * len(data.values)

    def query(self, data: Data) -> Array:
        return self._sum(data, NONE, seeded_generator("query"))

    def release(self, data: Data) -> Array:
        return self._sum(data, self.multiplier, generator())

    def example(self, seed: int) -> Data:
        data = rows(seed, 30, 80)
        return Data(np.column_stack([data.values[:, :-1], data.values[:, -1] > 0]), data.units)


@dataclass(frozen=True)
class LabelResponse:
    """Labels through randomised response, one for each row."""

    epsilon: float = 1.2
    classes: int = 2
    sensitivity: float = 1.0
    norm: Any = "l0"
    sampling_rate: float = 1.0

    @property
    def noise(self) -> Any:
        keep = keep_probability(self.epsilon, self.classes)
        table = np.full((self.classes, self.classes), (1 - keep) / (self.classes - 1))
        np.fill_diagonal(table, keep)
        return Response(table)

    def event(self) -> Event:
        return RandomizedResponse(
            what="label", epsilon=self.epsilon, classes=self.classes, partition="train", unit="record"
        )

    def query(self, data: Data) -> Array:
        return np.digitize(data.values[:, -1], np.linspace(-1, 1, self.classes - 1)) * 1.0

    def release(self, data: Data) -> Array:
        return respond(self.query(data).astype(np.int64), self.classes, self.epsilon, entropy=stream().bytes).astype(
            np.float64
        )

    def example(self, seed: int) -> Data:
        return rows(seed, 150, 3)


@dataclass(frozen=True)
class SizeRelease:
    """The number of training units. No unit is missed at 1,000 of them by the cut at 1, which is post-processing."""

    multiplier: float = 2.5
    sensitivity: float = 1.0
    norm: Any = "l1"
    sampling_rate: float = 1.0

    @property
    def noise(self) -> Any:
        return AdditiveNoise(Rounded(stats.laplace(scale=self.multiplier)))

    def _event(self, multiplier: float) -> Event:
        return LaplaceRelease(noise_multiplier=multiplier, partition="train", unit="home")

    def event(self) -> Event:
        return self._event(self.multiplier)

    def _size(self, data: Data, multiplier: float) -> Array:
        table: Any = SimpleNamespace(n_units=len(np.unique(data.units)))
        (found,) = size_release.release((self._event(multiplier),), table, TEST)
        return found.tensors[size_release.SIZE].double().numpy()

    def query(self, data: Data) -> Array:
        return self._size(data, NONE)

    def release(self, data: Data) -> Array:
        return self._size(data, self.multiplier)

    def example(self, seed: int) -> Data:
        return rows(seed, 1000, 1)


BUILT_IN: dict[str, Callable[[], Any]] = {
    "histogram, Laplace": Histogram,
    "histogram, Gaussian": lambda: Histogram("gaussian", 1.5),
    "DP-SGD": DpSgdStep,
    "DP-SGD, sampled": lambda: DpSgdStep(sampling_rate=0.3),
    "DP-SGD, secure": lambda: DpSgdStep(secure=True),
    "vertical logistic": VerticalLogistic,
    "labels, two classes": LabelResponse,
    "labels, five classes": lambda: LabelResponse(epsilon=math.log(6), classes=5),
    "size": SizeRelease,
}
