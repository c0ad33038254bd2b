"""The neighbour game of blocks that learners of noisy sums release, on the real path."""

from __future__ import annotations

from collections.abc import Iterable

from consortia.audit import statistics_games
from consortia.audit.games import Game
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit


def play(audit: Audit, seeds: Iterable[int], place: int = 0) -> list[Game]:
    """Return the games of one participant's rows; `place` is where it stands on the roster."""
    participant = audit.scenario.roster[place]
    deck = Deck(audit.pool(participant))
    return [game for seed in seeds for game in statistics_games.scene(audit, participant, deck, seed)]
