"""One participant ten times slower: a synchronous run against FedBuff, on real Flower processes.

    python benchmarks/asynchronous.py [--fast 2] [--slow 20] [--rounds 6] [--data DIR] [--json]

Banks as in `consortia run banks-network --engine flower`: a SuperLink, a SuperNode and a launcher each, TLS and node
keys on loopback; non-private, so that the metric has no noise. Every launcher sleeps before it trains, `--slow`
seconds at the first bank and `--fast` at the others, in place of a longer training. FedAvg plays
`--rounds` rounds; FedBuff makes as many steps of one reply each of the other banks, with the same most participations
of one participant.

Seconds are the coordinator's, from its first message to the end of the closing evaluation (for which both wait for
everybody, FedBuff for what the slow one has in hand); `to the last step` leaves the evaluation out. The AUC is that of
the final model on the pooled test rows of all banks. Wanted: FedAvg's AUC less .01 in at most a third of its seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import safetensors.torch
import tomli_w

from clients.metrics import compute
from clients.models import predict
from consortia.cli.budget import allow, init
from consortia.common.strict import read_toml
from consortia.engines.base import Job
from consortia.engines.flower import Federation
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.data import load_partitions
from consortia.participant.home import Home
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module, load_state

WANTED = 1 / 3
TOLERANCE = 0.01
POLICIES = Path(__file__).resolve().parents[1] / "scenarios" / "policies" / "banks-network"
SLEEPY = """
import sys, time
from consortia.deploy import launcher
from consortia.common.errors import ConsortiaError
warm = launcher.warm
def warm_and_sleepy():
    warm()
    from consortia.participant import local as participant
    train = participant.train_round
    def slowly(*arguments, **options):
        time.sleep(float(sys.argv[1]))
        return train(*arguments, **options)
    participant.train_round = slowly
launcher.warm = warm_and_sleepy
sys.exit(launcher.main(sys.argv[2:]))
"""


def lay_out(folder: Path, name: str, strategy: dict[str, Any], *, rounds: int, banks: int, most: int | None) -> Path:
    """Write a scenario of the first `banks-network` banks, and its policies."""
    data = load_scenario("banks-network").model_dump(mode="json", by_alias=True, exclude_none=True)
    data |= {"name": name, "roster": data["roster"][:banks], "expect": {}}
    data["contract"] |= {"strategy": {"weighting": "equal", **strategy}, "rounds": rounds}
    if most is not None:
        data["contract"]["max_participations"] = most
    policies = folder / "policies" / name
    policies.mkdir(parents=True)
    for participant in data["roster"]:
        participant["epsilon"] = float("inf")
        policy = read_toml(POLICIES / f"{participant['name']}.toml")
        policy["allow"]["non_private"] = True
        (policies / f"{participant['name']}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    file = folder / f"{name}.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    return file


def play(folder: Path, file: Path, seconds: dict[str, float], data: Path | None) -> dict[str, Any]:
    """Run one scenario with participants that sleep so many seconds before they train."""

    class Sleepy(Federation):
        def _spawn(self, who: str, command: str, *arguments: str) -> None:
            if arguments[1:3] == ("-m", "consortia.deploy.launcher"):
                sleep = seconds[who.removesuffix("-app")]
                arguments = ("-P", "-c", SLEEPY, str(sleep), *arguments[3:])
            super()._spawn(who, command, *arguments)

    homes = folder / f"homes-{file.stem}"
    for name in seconds:
        Home(homes / name, name).create(split_seed=0)  # the same test rows in both runs
    environment = {"CONSORTIA_HOME": str(homes)}
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("consortia.engines.flower.Federation", Sleepy),
        mock.patch("consortia.cli.budget.out"),
    ):
        init("", scenario=str(file))
        for name in seconds:
            allow([name, str(file)])
        # A folder of its own: the coordinator's record of heads is of these homes' ledgers.
        options = Options(scenario=str(file), engine="flower", out=folder / f"runs-{file.stem}", data=data)
        job = prepare(options)
        execute(job, options)
    record = json.loads((job.folder / "coordinator.json").read_text(encoding="utf-8"))
    if record["status"] != "completed":
        raise SystemExit(f"{file.stem}: the run {record['status']}: {record['reason']}")
    found = {
        "seconds": record["seconds"],
        "to_last_step": sum(line["seconds"] for line in record["history"]),
        "steps": len(record["history"]),
        "auc": pooled_auc(job),
    }
    print(f"{file.stem}: {found}", file=sys.stderr, flush=True)
    return {**found, "record": record}


def pooled_auc(job: Job) -> float:
    """Return the AUC of the final model on the test rows of all homes together."""
    contract = job.scenario.contract
    module = build_module(contract, "bank")
    load_state(module, safetensors.torch.load((job.folder / "model" / "bank.safetensors").read_bytes()))
    scores, targets = [], []
    for participant in job.scenario.roster:
        home = job.homes[participant.name]
        terms = load_policy(home.policy, simulation=False).dataset[participant.dataset]
        if participant.name in job.sources:
            terms = terms.model_copy(update={"source": job.sources[participant.name]})
        test = load_partitions(home, terms, participant.dataset, contract, job.run_id).test
        scores.append(np.asarray(predict(module, test.inputs)))
        targets.append(np.asarray(test.target))
    auc = compute(["auc"], "binary", np.concatenate(scores), np.concatenate(targets))["auc"]
    return 0.5 if auc is None else auc


def compare(
    folder: Path, *, fast: float, slow: float, rounds: int, banks: int = 5, data: Path | None = None
) -> dict[str, dict[str, Any]]:
    """Play both; return what came of each."""
    names = [participant.name for participant in load_scenario("banks-network").roster[:banks]]
    seconds = {name: slow if name == names[0] else fast for name in names}
    buffered = {"name": "fedbuff", "options": {"buffer_size": banks - 1}}
    return {
        "fedavg": play(
            folder, lay_out(folder, "sync", {"name": "fedavg"}, rounds=rounds, banks=banks, most=None), seconds, data
        ),
        "fedbuff": play(
            folder, lay_out(folder, "async", buffered, rounds=rounds, banks=banks, most=rounds), seconds, data
        ),
    }


def main() -> int:
    """Measure; exit 1 when the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fast", type=float, default=2.0, help="seconds of work")
    parser.add_argument("--slow", type=float, default=20.0, help="seconds of work of the slow participant")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--data", type=Path, help="public data; synthetic rows without it")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = compare(Path(name), fast=options.fast, slow=options.slow, rounds=options.rounds, data=options.data)
    ratio = found["fedbuff"]["seconds"] / found["fedavg"]["seconds"]
    lines = [{"name": who, **{k: v for k, v in run.items() if k != "record"}} for who, run in found.items()]
    if options.json:
        print(json.dumps([*lines, {"name": "ratio", "value": ratio}], indent=1))
    else:
        for line in lines:
            print(
                f"{line['name']}: {line['seconds']:.1f} s ({line['to_last_step']:.1f} s to the last of {line['steps']} "
                f"steps), AUC {line['auc']:.3f}"
            )
        print(f"{ratio:.2f} of the synchronous seconds; wanted <= {WANTED:.2f} and an AUC less by at most {TOLERANCE}")
    return 0 if ratio <= WANTED and found["fedbuff"]["auc"] >= found["fedavg"]["auc"] - TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
