"""Plays neighbour games: one unit may move what noise is added to by no more than the ledger charged.

Games are played from message to sum (`message_games`; secure sums, vectorised engine and vertical training where the
scenario has them) and with one mechanism at a time on numbers that no schema lets through (`step_games`). A lost game
is a certain violation: no chance is involved, and its recipe plays it again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain

import numpy as np

from consortia.audit import block_sums, message_games, statistics_games, step_games, sums, vectorised, vertical
from consortia.audit.games import Board, Game
from consortia.audit.result import Findings, Progress, fact
from consortia.audit.scenes import Deck
from consortia.audit.settings import Audit

#: Games of one audit: with messages, and with single mechanisms.
_MESSAGES, _QUICK_MESSAGES = 160, 30
_STEPS, _QUICK_STEPS = 900, 100
_LAW = "one unit moves what is noised by no more than was charged for"
_COUNT = "what is noised is what a second count makes of the same rows"

Player = Callable[[int], list[Game]]


def run(audit: Audit, progress: Progress) -> Findings:
    """Play, and report the worst game of every path."""
    findings, board = Findings("neighbours"), Board()
    first = int(audit.random.integers(2**31))
    players, skipped = paths(audit)
    findings.notes += skipped
    messages, steps = (_QUICK_MESSAGES, _QUICK_STEPS) if audit.quick else (_MESSAGES, _STEPS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # of vmap, a recurrent layer's
        for games in chain(mechanisms(first, steps), deal(players, first, messages, progress)):
            progress(f"{board.games} games")
            board.add(games)
            if audit.fail_fast and board.lost:
                break
    for path, tally in board.tallies.items():
        worst, farthest = tally.worst, tally.farthest
        lost = [game for game in tally.lost if not game.ratio <= 1 + 1e-9]
        game = max(lost, key=lambda one: one.ratio) if lost else worst
        assert game is not None
        got = f"{game.ratio:.6g} at most in {tally.games} games ({game.recipe})"
        findings.checks.append(fact(_LAW, path, not lost, wanted="at most 1, promised rounding included", got=got))
        if farthest is not None and farthest.off is not None:
            told = f"{farthest.off:.3g} of the tolerance ({farthest.recipe})"
            findings.checks.append(fact(_COUNT, path, farthest.off <= 1, wanted="at most 1", got=told))
    findings.notes.append(f"{board.games} games from seed {first}, rows and split from seed {audit.split_seed}")
    return findings


def paths(audit: Audit) -> tuple[dict[str, Player], list[str]]:
    """Return what can be played with messages in this scenario, and why the rest was left out."""
    if audit.contract.vertical is not None:
        party = vertical.party(audit, 1000, 120)
        return {"vertical": partial(vertical.play, audit, party)}, ["horizontal paths: the contract is vertical"]
    players: dict[str, Player] = {}
    skipped = ["vertical training by message: the contract is horizontal"]
    decks = {participant.name: Deck(audit.pool(participant)) for participant in audit.participants()}
    if audit.contract.noisy_sums is not None:
        if audit.contract.trust == "aggregate" and (together := block_sums.members(audit)):
            players["blocks in a secure sum"] = partial(block_sums.play, audit, together, decks)
        for participant in audit.one_per_industry():
            players[f"{participant.name}, {audit.contract.learner}"] = partial(
                statistics_games.scene, audit, participant, decks[participant.name]
            )
        return players, [*skipped, f"gradients of networks: contract.learner = {audit.contract.learner!r}"]
    for participant in audit.one_per_industry():
        left_out, kinds = message_games.playable(audit, participant)
        skipped += [f"{participant.industry}, {kind}: {why}" for kind, why in left_out.items()]
        for kind in kinds:
            players[f"{participant.name}, {kind}"] = partial(
                message_games.scene, audit, participant, decks[participant.name], kind
            )
        if why := vectorised.why_not(audit):
            skipped.append(f"vectorised engine: {why}")
        else:
            players[f"{participant.name}, vectorised"] = partial(
                vectorised.play, audit, participant, decks[participant.name]
            )
    for mode in sums.MODES:
        if audit.contract.trust != "aggregate":
            skipped.append(f"secure sums, mode {mode}: contract.trust = {audit.contract.trust!r}, nothing is summed")
        elif not sums.members(audit, mode):
            skipped.append(f"secure sums, mode {mode}: the roster has too few members of one industry for it")
        else:
            players[f"sums, mode {mode}"] = partial(sums.play, audit, mode, decks)
    return players, skipped


def deal(players: dict[str, Player], first: int, count: int, progress: Progress) -> Iterator[list[Game]]:
    """Yield scenes of every path in turn until so many games were played."""
    played, seed = 0, first
    while played < count:
        for name, player in players.items():
            progress(f"{name}, {played} games")
            games = player(seed)
            played += len(games)
            yield games
            if played >= count:
                return
        seed += 1


def mechanisms(first: int, count: int) -> Iterator[list[Game]]:
    """Yield scenes of single mechanisms, in their shares, until so many games were played; each has its seed."""
    names = list(step_games.STEPS)
    shares = np.array([share for _, share in step_games.STEPS.values()], dtype=float)
    random, played = np.random.default_rng([first, 7]), 0
    for number in range(10 * count + 100):
        name = str(random.choice(names, p=shares / shares.sum()))
        games = step_games.STEPS[name][0](first + number)
        played += len(games)
        yield games
        if played >= count:
            return
