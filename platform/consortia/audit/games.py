"""The neighbour game: measures how far two data sets that differ in one unit move a sum before its noise.

`privacy.observation` tells what stood there before the noise and how large the noise was; the participant's own ledger
tells what was charged. A step of DP-SGD is charged with a noise multiplier z, so its noise must have a deviation of z
times the move, or more, in all that the step noises together. What was observed is not trusted alone: each game also
counts the sum a second time (`audit.reference`), and the other instruments measure the noise from outside.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from privacy.noise_context import NoiseContext
from privacy.observation import Note
from privacy.secure_noise import SLACK

Array = NDArray[np.float64]

#: Noise of a game answers no message and leaves nowhere.
CONTEXT = NoiseContext(purpose="game", message="game", attempt=0, ledger="")
#: Promised room for rounding: of float64 sums on a public grid, and of float32 sums in simulations.
GRID, SIMULATION = SLACK, 2.0**-10
#: Of arithmetic in the audit itself.
OWN = 1e-9


@dataclass(frozen=True)
class Game:
    """One game.

    Attributes
    ----------
    path : what was played, such as "embedded, secure noise".
    recipe : how to play it again.
    ratio : the move over what was charged for, promised room included: above 1 the charge is too small. Infinite where
        a unit changes the number or the form of noised sums, or one of them is not finite.
    off : how far the observed sum is from the second count, over the tolerance of that count; None without one.
    """

    path: str
    recipe: str
    ratio: float
    off: float | None = None

    @property
    def lost(self) -> bool:
        """Whether the claim is refuted."""
        return not (self.ratio <= 1 + OWN) or (self.off is not None and not self.off <= 1)


@dataclass
class Tally:
    """The games of one path."""

    games: int = 0
    worst: Game | None = None
    farthest: Game | None = None
    lost: list[Game] = field(default_factory=list)

    def add(self, game: Game) -> None:
        """Count one game."""
        self.games += 1
        if self.worst is None or not game.ratio <= self.worst.ratio:
            self.worst = game
        if game.off is not None and (self.farthest is None or not game.off <= (self.farthest.off or 0.0)):
            self.farthest = game
        if game.lost:
            self.lost.append(game)


class Board:
    """Tallies by path, in the order of their first games."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {}

    def add(self, games: Sequence[Game]) -> None:
        """Count games."""
        for game in games:
            self.tallies.setdefault(game.path, Tally()).add(game)

    @property
    def games(self) -> int:
        """How many were played."""
        return sum(tally.games for tally in self.tallies.values())

    @property
    def lost(self) -> list[Game]:
        """Those that refute the claim."""
        return [game for tally in self.tallies.values() for game in tally.lost]


def moved(first: Sequence[Note], second: Sequence[Note], multiplier: float, *, exact: bool = False) -> float:
    """Return how far one step moves, in units of what a noise multiplier of `multiplier` is charged for.

    Several sums that are noised apart are one mechanism: Gaussian moves add up in squares, each over its deviation.

    Parameters
    ----------
    first, second : the noised sums of a step, with the unit and without it.
    exact : compare the sums as computed, before a grid rounds them.
    """
    if len(first) != len(second):
        return math.inf
    total = 0.0
    for one, other in zip(first, second, strict=True):
        a, b = (one.exact, other.exact) if exact else (one.noised, other.noised)
        if a.shape != b.shape or one.deviation != other.deviation or one.law != other.law or not one.deviation > 0:
            return math.inf
        size = np.abs(a - b).sum() if one.law == "laplace" else np.linalg.norm(a - b)
        total += (float(size) / one.deviation) ** 2
    distance = math.sqrt(total) * multiplier
    return distance if math.isfinite(distance) else math.inf


def room(notes: Sequence[Note]) -> float:
    """Return the promised room of a step: on a grid it is in the deviation already."""
    return 1.0 + (SIMULATION if any(note.where in {"dp_sgd", "stacked"} for note in notes) else 0.0)


def step_ratio(first: Sequence[Note], second: Sequence[Note], multiplier: float) -> float:
    """Return the move of a step of DP-SGD over its charge and the promised room."""
    return moved(first, second, multiplier) / room(first)


def clip_ratio(first: Sequence[Note], second: Sequence[Note], clip: float) -> float:
    """Return the move of the sums as computed over the plan's clip and the promised room."""
    if len(first) != len(second) or any(a.exact.shape != b.exact.shape for a, b in zip(first, second, strict=True)):
        return math.inf
    size = math.sqrt(sum(float(np.square(a.exact - b.exact).sum()) for a, b in zip(first, second, strict=True)))
    return size / (clip * max(room(first), 1 + GRID)) if math.isfinite(size) else math.inf


def distance(seen: Array, counted: Array, scale: float, tolerance: float) -> float:
    """Return how far an observed sum is from its second count, over `tolerance` x `scale`."""
    if seen.shape != counted.shape or not np.isfinite(seen).all():
        return math.inf
    return float(np.linalg.norm(seen - counted)) / (tolerance * scale)
