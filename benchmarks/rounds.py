"""Seconds of a round above training on real Flower processes: ours against the stock arrangement of the same app.

    python benchmarks/rounds.py [--rounds 20] [--stock-rounds 5] [--quick] [--json]

Both run the six participants of `cross-industry-network` with one local step, as real processes on loopback with TLS
and node authentication: a SuperLink, and for each participant a SuperNode and what answers its messages. *Ours* is what
`consortia run --engine flower` starts. *Stock* is the same ServerApp and ClientApp under Flower's own commands:
`flower-supernode` with its SuperExec, one `flwr-clientapp` process for each message, Flower's own waits. (The stock
ServerApp still pushes and pulls by itself, as part of the app; Flower's `send_and_receive` would make it slower.)

A round's seconds above training are the coordinator's seconds for the round less the longest training step of a
participant in it; reading and checking the rows counts as overhead. The first round is left out: σ is solved there. The
ratio is stock's median over ours; its bounds put stock's quartiles over ours crosswise. CPU seconds are those of all
processes together, per round.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import threading
import tomllib
from pathlib import Path
from typing import Any
from unittest import mock

import tomli_w

from consortia.cli.budget import allow, init
from consortia.engines.base import Job
from consortia.engines.demonstration import demo_policy_file
from consortia.engines.flower import Federation, _free_port, tomli_inline
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.flower_pace import SWITCH
from consortia.terms.scenario import find_scenario

WANTED_SECONDS = 1.5
WANTED_RATIO = 10.0
SCENARIO = "rounds"


class StockFederation(Federation):
    """Flower's own commands."""

    def _start_participant(self, name: str, key: Path) -> None:
        self._spawn(
            name,
            "flower-supernode",
            *("--superlink", f"127.0.0.1:{self.port}"),
            *("--root-certificates", str(self.folder / "pki" / "ca.crt")),
            *("--auth-supernode-private-key", str(key)),
            *("--host", "127.0.0.1", "--port", str(_free_port())),
            *("--node-config", tomli_inline(self.job.node_config(name))),
        )


class Meter:
    """Reads the CPU seconds of a federation's processes (and of those that they waited for) at each round's end."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        events = self.federation.job.folder / "events.jsonl"
        while not self._stop.wait(0.02):
            done = events.read_text().count('"event": "round"') if events.is_file() else 0
            if done > len(self.seconds):
                self.seconds += [self._cpu()] * (done - len(self.seconds))

    def _cpu(self) -> float:
        groups = {process.pid for process in self.federation.processes.values()}
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) in groups:  # process group; then user, system, and both of those waited for
                ticks += sum(int(fields[i]) for i in (11, 12, 13, 14))
        return ticks / os.sysconf("SC_CLK_TCK")


def lay_out(folder: Path) -> Path:
    """Write `cross-industry-network` with one local step, and its policies, as a scenario of its own."""
    scenario = tomllib.loads(find_scenario("cross-industry-network").read_text())
    scenario["name"] = SCENARIO
    for terms in scenario["contract"]["industries"].values():
        terms["local_steps"] = 1
    scenario["contract"]["round"] = {"deadline_seconds": 600.0}  # stock on a busy machine passes the default
    policies = folder / "policies" / SCENARIO
    shutil.copytree(demo_policy_file("cross-industry-network", "bank-a").parent, policies)
    file = folder / f"{SCENARIO}.toml"
    file.write_text(tomli_w.dumps(scenario))
    return file


def measure(folder: Path, scenario: Path, rounds: int, *, stock: bool) -> dict[str, Any]:
    """Run a federation; return seconds a round above training, of training, and of CPU."""
    homes = folder / ("stock" if stock else "ours")
    environment = {"CONSORTIA_HOME": str(homes), SWITCH: "1" if stock else ""}
    made: list[Meter] = []

    class Measured(StockFederation if stock else Federation):  # type: ignore[misc]
        def start(self) -> None:
            super().start()
            made.append(Meter(self))

        def __exit__(self, *error: object) -> None:
            for meter in made:
                meter.stop()
            super().__exit__(*error)

    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("consortia.engines.flower.Federation", Measured),
        mock.patch("consortia.common.console.out"),
    ):
        init("", scenario=str(scenario))
        for home in homes.iterdir():
            allow([home.name, str(scenario)], rounds=rounds)
        options = Options(scenario=str(scenario), rounds=rounds, engine="flower", out=folder / f"runs-{homes.name}")
        job = prepare(options)
        result = execute(job, options).result
    if result["status"] != "completed":
        raise RuntimeError((job.folder / "coordinator.json").read_text()[:2000])
    total = [line["seconds"] for line in result["history"]]
    training = _training(job)
    cpu = [after - before for before, after in zip(made[0].seconds, made[0].seconds[1:], strict=False)]
    return {
        "above": [whole - trained for whole, trained in zip(total, training, strict=True)][1:],
        "training": training[1:],
        "cpu": cpu,
    }


def _training(job: Job) -> list[float]:
    lines = [
        json.loads(line)
        for home in job.homes.values()
        for line in (home.folder / "runs" / job.run_id / "training.jsonl").read_text().splitlines()
    ]
    rounds = sorted({line["round"] for line in lines})
    return [max(line["seconds"] for line in lines if line["round"] == number) for number in rounds]


def _quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 4:
        return min(values), max(values)
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def main() -> int:
    """Measure; exit 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="measured rounds, ours")
    parser.add_argument("--stock-rounds", type=int, default=5, help="measured rounds, stock")
    parser.add_argument("--quick", action="store_true", help="5 rounds of ours, 2 of stock")
    parser.add_argument("--ours", action="store_true", help="measure ours alone")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ours_rounds, stock_rounds = (5, 2) if options.quick else (options.rounds, options.stock_rounds)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scenario = lay_out(folder)
        ours = measure(folder, scenario, ours_rounds + 1, stock=False)
        stock = None if options.ours else measure(folder, scenario, stock_rounds + 1, stock=True)
    median = statistics.median(ours["above"])
    low, high = _quartiles(ours["above"])
    line: dict[str, Any] = {"name": "round above training", "value": median, "unit": "s", "rounds": len(ours["above"])}
    lines = [line]
    if stock is not None:
        reference = statistics.median(stock["above"])
        stock_low, stock_high = _quartiles(stock["above"])
        line.update(ratio=reference / median, ratio_min=stock_low / high, ratio_max=stock_high / low)
        lines.append({"name": "round above training, stock", "value": reference, "unit": "s", "rounds": stock_rounds})
    for who, found in (("", ours), (", stock", stock)):
        if found is not None and found["cpu"]:
            lines.append({"name": f"CPU of a round{who}", "value": statistics.median(found["cpu"]), "unit": "s"})
            lines.append({"name": f"longest training{who}", "value": statistics.median(found["training"]), "unit": "s"})
    for item in lines:
        for key in ("ratio", "ratio_min", "ratio_max"):
            item.setdefault(key, None)
    if options.json:
        print(json.dumps(lines, indent=1))
    else:
        print("\n".join(f"{item['name']}: {item['value']:.2f} {item['unit']}" for item in lines))
        print(f"ours: {low:.2f} to {high:.2f} s (quartiles); wanted <= {WANTED_SECONDS} s")
        if line["ratio"] is not None:
            span = f"{line['ratio_min']:.1f} to {line['ratio_max']:.1f}"
            print(f"{line['ratio']:.1f} times faster than stock ({span}); wanted >= {WANTED_RATIO:.0f}")
    missed = median > WANTED_SECONDS or (line["ratio"] is not None and line["ratio"] < WANTED_RATIO)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
