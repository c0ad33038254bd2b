"""The embedded engine's own cost per round: everything but the training step and the validation metric.

    python benchmarks/embedded_overhead.py [--json]

Runs `cross-industry-network` (six participants) with the training step replaced by one that hands back what came in,
and without the validation metric; what is left is messages, serialisation, policy and contract checks, two durable
ledger transactions a participant, the release gate, validation, aggregation and the checkpoint. Prints the
median, and the slowest of 30 rounds after 5 to warm up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant import local
from consortia.participant.context import Work
from consortia.participant.training import RoundOutcome
from privacy.dp_sgd import StepReport

WANTED_MS = 20.0
WARM_UP = 5


def _no_training(*args: Any, **_: Any) -> RoundOutcome:
    return RoundOutcome(dict(args[5]), {}, StepReport(steps_taken=0, mean_clip_fraction=0.0, draws=()), 0.0)


def main() -> int:
    """Measure; exit 1 when the median misses its target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(local, "train_round", _no_training),
        mock.patch.object(Work, "note_progress"),
    ):
        options = Options(scenario="cross-industry-network", rounds=35, out=Path(folder))
        result = execute(prepare(options), options).result
    rounds = [1000 * line["seconds"] for line in result["history"]][WARM_UP:]
    median = statistics.median(rounds)
    data = {"name": "embedded overhead", "unit": "ms a round, 6 participants", "median": median, "max": max(rounds)}
    sentence = f"median {median:.1f} ms, slowest {max(rounds):.1f} ms; wanted < {WANTED_MS} ms"
    print(json.dumps(data) if as_json else sentence)
    return 0 if median < WANTED_MS else 1


if __name__ == "__main__":
    raise SystemExit(main())
