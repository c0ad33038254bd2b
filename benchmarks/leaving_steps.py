"""How far is a replay without a participant from a training that it never joined? (`consortia leave`, runs of steps.)

    python benchmarks/leaving_steps.py [--seeds 6] [--rounds 20] [--units 1000] [--epsilon inf 8 3]

Six banks of one population (synthetic loans), the committed terms of `banks-network`, `keeps_updates = true`. The sixth
leaves: an honest one, or one with flipped labels. Prints the distance of the replay from a training of the other five,
as a share of how far that training moved; the same of the old model, and of a second training of the five, which is
what noise alone does; and the AUC of each on rows of nobody. Coordinator, training, noise and replay are the
platform's; participants train in this process without ledger and outbox.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from contributions_of_updates import NAMES, Participants, scenario, tables
from sklearn.metrics import roc_auc_score

from clients import bank
from clients.dataset import prepare
from clients.models import predict
from consortia.coordinator import updates
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.leaving_steps import final, flat
from consortia.coordinator.rounds import Coordinator
from consortia.terms.scopes import State, build_module, for_participant, initial_groups, load_state
from privacy.randomness import numpy_generator

LEAVER = NAMES[-1]
MODELS = ("old", "replay", "without", "again")


def play(epsilon: float, planted: str, *, seed: int, rounds: int, units: int) -> dict[str, State]:
    """Return the old model, the replay without the leaver, and two trainings that it never joined."""
    what, rows = scenario(epsilon, units, rounds), tables(planted, seed, units)
    stay = what.model_copy(update={"roster": tuple(one for one in what.roster if one.name != LEAVER)})
    out: dict[str, State] = {}
    for name, who in (("old", what), ("without", stay), ("again", stay)):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            Coordinator(who, "run", folder, Participants(who, rows)).run()
            state = load_latest(folder)
            assert state is not None
            out[name] = final(who, state)
            if who is what:
                *_, last = updates.replayed(folder, what, state.round, NAMES[:-1])
                out["replay"] = final(what, last)
    return out


def measured(epsilon: float, planted: str, *, seed: int, rounds: int, units: int) -> dict[str, float]:
    """Return distances as shares of what a training moved, and AUCs."""
    found = play(epsilon, planted, seed=seed, rounds=rounds, units=units)
    contract = scenario(epsilon, units, rounds).contract
    start = flat(for_participant(initial_groups(contract, ["bank"]), "bank"))
    moved = float(torch.linalg.vector_norm(flat(found["without"]) - start))
    frame = bank.synthesise(numpy_generator("leaving-benchmark", seed), 4000, "other")
    test = prepare(bank.CLIENT, frame.reset_index(drop=True), key=b"leaving")
    out = {}
    for name in MODELS:
        module = build_module(contract, "bank")
        load_state(module, found[name])
        out[f"auc {name}"] = float(roc_auc_score(test.target.numpy(), np.asarray(predict(module, test.inputs))))
        out[name] = float(torch.linalg.vector_norm(flat(found[name]) - flat(found["without"]))) / moved
    return out


def main() -> int:
    """Print a line for each budget and leaver: means over seeds, and the largest distance of the replay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--units", type=int, default=1000)
    parser.add_argument("--epsilon", nargs="*", type=float, default=[float("inf"), 8.0, 3.0])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for epsilon in options.epsilon:
        for planted in ("honest", "flipped"):
            seeds = range(options.seeds)
            found = [
                measured(epsilon, planted, seed=seed, rounds=options.rounds, units=options.units) for seed in seeds
            ]
            means = {key: round(statistics.fmean(one[key] for one in found), 4) for key in found[0]}
            most = round(max(one["replay"] for one in found), 4)
            print(json.dumps({"epsilon": epsilon, "leaver": planted, **means, "most": most}), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
