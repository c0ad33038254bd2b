"""How a run's budget is shared among its blocks, and what they cost. The terms read this: nothing heavy is imported."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from privacy.events import Event, GaussianRelease, NonPrivate

__all__ = ["OWN_KIND", "Shares"]

#: The word of contracts and policies for what a learner of an installed package releases.
OWN_KIND: Final = "blocks"


@dataclass(frozen=True)
class Shares:
    """Shares of mu^2; they sum to 1.

    Attributes
    ----------
    what : is released: the learner, as contracts and policies name it.
    parts : of each message, the shares of its blocks.
    """

    what: str
    parts: tuple[tuple[float, ...], ...]

    @property
    def messages(self) -> int:
        """How many messages a run has."""
        return len(self.parts)

    @property
    def least_part(self) -> float:
        """By which part of a member's weight one unit moves the smallest block of a secure sum."""
        return math.sqrt(min(min(part) for part in self.parts if part))

    def of(self, message: int) -> tuple[float, ...]:
        """Return the shares of a message's blocks."""
        return self.parts[message - 1]

    def events(self, message: int, multiplier: float, unit: str) -> tuple[Event, ...]:
        """Return what a message costs: one event a block; `multiplier` is z, 0 where nothing is noised."""
        if not multiplier:
            return (NonPrivate(what=f"{self.what}, message {message}", partition="train", unit=unit),)
        return tuple(
            GaussianRelease(noise_multiplier=multiplier / math.sqrt(share), partition="train", unit=unit)
            for share in self.of(message)
        )

    def plan(self, multiplier: float, unit: str, spare: int = 0) -> tuple[int, tuple[Event, ...]]:
        """Return what a run costs at most: how often, and which events each time.

        Parameters
        ----------
        spare : attempts that are paid for beyond one for each message. Where all messages cost alike, an attempt is one
            message; otherwise it is a whole run, since any message may need it.
        """
        if self._alike and multiplier:
            return self.messages + spare, self.events(1, multiplier, unit)
        messages = range(1, self.messages + 1)
        return 1 + spare, tuple(event for message in messages for event in self.events(message, multiplier, unit))

    def planned(self, spare: int = 0) -> float:
        """Return the part of mu^2 that `plan` costs: 1, and more with spare attempts."""
        return 1 + spare * (1 / self.messages if self._alike else 1)

    def taken(self, rounds: int, messages: Iterable[int] = ()) -> float:
        """Return the part of mu^2 that some messages cost: those named, or the costliest `rounds` of them."""
        named = set(messages)
        costs = [math.fsum(part) for number, part in enumerate(self.parts, 1) if not named or number in named]
        return min(1.0, math.fsum(sorted(costs, reverse=True)[: len(named) or rounds]))

    @property
    def _alike(self) -> bool:
        return self.messages > 1 and len(set(self.parts)) == 1
