"""Play the neighbour game on every path: how far does one unit move what noise is added to, of what was charged?

    PYTHONPATH=.:platform:tests/helpers python benchmarks/neighbour_games.py [--games 10000] [--seed 1] [--out FILE]
    PYTHONPATH=.:platform:tests/helpers python benchmarks/neighbour_games.py --seed 1 --replay "sums: sums, mode one" 17

Nine games in ten are played with one mechanism at a time, the others with messages, on small scenarios: local noise
(embedded, private head, FedRep, sizes, metrics, vectorised engine), secure sums in both modes, and vertical training.
Prints for each path its games, its largest move over the charge, and the recipe of that game: the seed in it plays the
scene again (`--split-seed` for rows and split, where an audit named one). Exits 1 when a game was lost. `--out` keeps
the tallies as JSON now and then.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from audited_scenario import SCENARIOS

from consortia.audit.games import Board
from consortia.audit.neighbours import deal, mechanisms, paths
from consortia.audit.probe import workspace
from consortia.audit.settings import Audit
from consortia.audit.step_games import STEPS
from consortia.terms.scenario import load_scenario

#: Of the games with messages, by scenario.
SHARES = {"local": 0.75, "sums": 0.2, "vertical": 0.05}
MESSAGES = 0.1


def table(board: Board) -> str:
    """Return the tallies as text."""
    lines = [f"{'path':42} {'games':>6} {'lost':>5}  largest move over the charge, and how to play it again"]
    for path, tally in board.tallies.items():
        if tally.worst is not None:
            lines.append(f"{path:42} {tally.games:6} {len(tally.lost):5}  {tally.worst.ratio:.6f} {tally.worst.recipe}")
    return "\n".join([*lines, f"{board.games} games, {len(board.lost)} lost"])


def keep(board: Board, file: Path | None) -> None:
    """Write the tallies as JSON."""
    if file is not None:
        found = {
            path: {"games": t.games, "lost": [g.recipe for g in t.lost], "worst": t.worst and t.worst.ratio}
            for path, t in board.tallies.items()
        }
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")


def audit_of(name: str, folder: Path, seed: int, split_seed: int | None) -> Audit:
    """Return the audit of one of the small scenarios, the same for the same seed."""
    home = folder / name
    home.mkdir()
    (home / "scenario.toml").write_text(SCENARIOS[name], encoding="utf-8")
    random = np.random.default_rng(seed)
    audit = Audit(load_scenario(str(home / "scenario.toml")), home, quick=True, random=random)
    audit.split_seed = audit.split_seed if split_seed is None else split_seed
    return audit


def main() -> int:
    """Play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--split-seed", type=int)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--replay", nargs=2, metavar=("PATH", "SEED"))
    options = parser.parse_args()
    logging.getLogger("consortia.participant").addHandler(logging.NullHandler())
    logging.getLogger("consortia.participant").propagate = False
    board, started = Board(), time.process_time()
    with workspace() as folder:
        if options.replay:
            where, seed = options.replay[0], int(options.replay[1])
            scenario, _, path = where.partition(": ")
            if where in STEPS:
                board.add(STEPS[where][0](seed))
            else:
                board.add(paths(audit_of(scenario, Path(folder), options.seed, options.split_seed))[0][path](seed))
            print(table(board))
            return 1 if board.lost else 0
        messages = int(MESSAGES * options.games)
        for number, games in enumerate(mechanisms(options.seed, options.games - messages)):
            board.add(games)
            if number % 100 == 0:
                keep(board, options.out)
        print(
            f"{board.games} games with mechanisms, {time.process_time() - started:.0f} s of processor time", flush=True
        )
        for name, share in SHARES.items():
            players, skipped = paths(audit_of(name, Path(folder), options.seed, options.split_seed))
            players = {path: player for path, player in players.items() if name == "local" or path.startswith(name)}
            print(f"{name}: {', '.join(players)}; skipped: {'; '.join(skipped)}", flush=True)
            for number, games in enumerate(deal(players, options.seed, int(share * messages), lambda _: None)):
                board.add(games)
                if number % 20 == 0:
                    keep(board, options.out)
    keep(board, options.out)
    print(table(board))
    print(f"{time.process_time() - started:.0f} s of processor time")
    return 1 if board.lost else 0


if __name__ == "__main__":
    sys.exit(main())
