"""Rounds a minute of a simulation with many participants: `--engine vectorized` beside a plain loop and its peers.

    python benchmarks/simulation.py [--quick] [--json FILE] [--crowd N]

1000 participants of 200 rows, MLP 30-64-32-1 with tanh, 7 local steps of about 29 rows (rate 1/7), FedAvg over all of
them. Ours is the whole round of the engine's coordinator: accounts, draws, training, checks, aggregation, history. The
plain loop trains one participant after the other with torch (module, autograd, SGD, rows drawn by index), which is what
simulators that hold a model for each client do at best. CPU time, one thread, interleaved; ratios are loop ÷ variant.
The loop plays a tenth of the participants, times ten. Peers that are not run here are cited, and called so.

A line more has the same crowds on two cores, by the clock, beside one core by the clock, in turns.

A second table has the time of a round at 1000, 3000 and 10,000 participants, and what the process held beyond its rows.

`--crowd N` plays one whole run of one round with N participants instead, without noise and with DP. Of more than 10,000
participants several hold the same rows, so that memory for rows does not grow further.
"""

import math
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ratios import options, write
from torch import nn

import consortia.terms.scenario
from clients import registry
from clients.dataset import QuarantineReport, Table
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target
from consortia.engines.base import Job
from consortia.engines.vectorized import receipts
from consortia.engines.vectorized.accounts import ScratchAccount
from consortia.engines.vectorized.coordinator import CrowdCoordinator
from consortia.engines.vectorized.participants import Place, _steps
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions
from consortia.participant.training import make_plan
from consortia.terms.policy import Allowance, AllowTerms, BudgetTerms, DatasetTerms, Policy
from consortia.terms.scenario import Scenario
from privacy.ledger import Budget

FEATURES, ROWS, STEPS = 30, 200, 7
MOST_TABLES = 10_000
RATE = 1 / STEPS
#: Measured once with the same sizes on a machine of this kind (2 cores), not by this program.
CITED = {"Flower's simulation (Ray), both cores": 8.0, "pfl-research, one core": 43.0}

METER = IndustryClient(
    name="meter",
    title="Meter",
    schema=Schema(
        name="meter",
        version=1,
        columns=tuple(Column(name=f"x{i}", dtype="number", low=-1, high=1) for i in range(FEATURES)),
        target=Target(
            name="y", kind="binary", classes=("no", "yes"), mapping={"0": "no", "1": "yes"}, prior=(0.5, 0.5)
        ),
    ),
    read=lambda folder, site: pd.DataFrame(),
    sites=("a",),
    dataset="meter",
    synthesise=lambda generator, rows, site: pd.DataFrame(),
    metrics=("auc",),
)


def scenario(participants: int, rounds: int, epsilon: float) -> Scenario:
    """Return the scenario, whose industry is this file's own."""
    found = registry.get
    registry.get = lambda name: METER if name == "meter" else found(name)
    consortia.terms.scenario.client_names = lambda: ("meter",)
    roster = [
        {
            "name": f"meter-{number}",
            "industry": "meter",
            "dataset": "meter",
            "site": "a",
            "units": ROWS,
            "epsilon": epsilon,
            "delta": 1e-5,
        }
        for number in range(participants)
    ]
    terms = {
        "model": {"kind": "mlp", "hidden": (64, 32)},
        "local_steps": STEPS,
        "sampling_rate": RATE,
        "clip": 1.0,
        "learning_rate": 0.1,
    }
    contract = {
        "schema": 1,
        "wire": 1,
        "rounds": rounds,
        "split": {"train": 0.998, "validation": 0.001, "test": 0.001},
        "industries": {"meter": terms},
    }
    data = {"schema": 1, "name": "meters", "title": "Meters", "contract": contract, "roster": tuple(roster)}
    return Scenario.model_validate(data)


def table(number: int) -> Table:
    """Return made-up rows of one participant."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(ROWS, FEATURES)).astype(np.float32)
    y = (x[:, :5].sum(1) + rng.normal(size=ROWS) > 0).astype(np.float32)
    ids = tuple(map(str, range(ROWS)))
    report = QuarantineReport(rows_read=ROWS, rows_kept=ROWS, reasons={})
    index = torch.arange(ROWS)
    names = tuple(f"x{i}" for i in range(FEATURES))
    return Table({"features": torch.from_numpy(x)}, torch.from_numpy(y), names, ids, index, ids, ids, report)


class Crowd:
    """Participants whose rows and plans are ready; `rounds(n)` plays n rounds and returns seconds of `clock`."""

    def __init__(
        self,
        epsilon: float,
        tables: list[Table],
        cores: int = 1,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self.epsilon, self.tables, self.cores, self.clock = epsilon, tables, cores, clock

    def rounds(self, number: int) -> float:
        job_scenario = scenario(len(self.tables), number, self.epsilon)
        with tempfile.TemporaryDirectory() as folder:
            homes = {
                participant.name: Home(Path(folder) / "homes", participant.name, True)
                for participant in job_scenario.roster
            }
            torch.set_num_threads(self.cores)
            coordinator = CrowdCoordinator(Job(job_scenario, "run", Path(folder), homes, {}))
            self._participant(coordinator, job_scenario)
            receipts.write = lambda *_: None  # a round is measured, not the end
            start = self.clock()
            coordinator.run()
            return self.clock() - start

    def _participant(self, coordinator: CrowdCoordinator, one: Scenario) -> None:
        private = math.isfinite(self.epsilon)
        terms = DatasetTerms(industry="meter", source="synthetic:", declared_units=ROWS)
        life = Budget(self.epsilon, 1e-5)
        allowance = Allowance(epsilon=self.epsilon if private else 1.0, delta=1e-5)
        for participant, rows in zip(one.roster, self.tables, strict=True):
            plan = make_plan(one.contract, terms, participant.dataset, "run", life if private else None)
            policy = Policy(
                schema=1,
                participant=participant.name,
                demo=True,
                dataset={"meter": terms},
                budget=BudgetTerms(run=allowance, lifetime=allowance),
                allow=AllowTerms(),
            )
            parts = Partitions(rows, rows, rows, rows.quarantine, True, False)
            place = Place(participant, policy, terms, parts, plan, ScratchAccount(plan, life), _steps(plan))
            coordinator.places[participant.name] = place
            coordinator.participants[participant.name].header = place.header


def loop(tables: list[Table]) -> Callable[[int], float]:
    """Return plain FedAvg: a module, an optimizer, autograd, one participant after the other."""

    def rounds(number: int) -> float:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(FEATURES, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
        shared = {name: tensor.clone() for name, tensor in net.state_dict().items()}
        criterion, size = nn.BCEWithLogitsLoss(), round(RATE * ROWS)
        start = time.process_time()
        for _ in range(number):
            total = {name: torch.zeros_like(tensor) for name, tensor in shared.items()}
            for rows in tables:
                net.load_state_dict(shared)
                optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
                for batch in torch.randperm(ROWS)[: STEPS * size].split(size):
                    optimizer.zero_grad(set_to_none=True)
                    criterion(net(rows.inputs["features"][batch]).squeeze(1), rows.target[batch]).backward()
                    optimizer.step()
                for name, tensor in net.state_dict().items():
                    total[name].add_(tensor, alpha=1 / len(tables))
            shared = total
        return time.process_time() - start

    return rounds


def speed(participants: int, count: int, repeats: int) -> list[dict[str, Any]]:
    """Measure, interleaved; print and return the first table."""
    tables = [table(number) for number in range(participants)]
    few = tables[: max(1, participants // 10)]
    plain = loop(few)
    crowds = {"vectorized": Crowd(math.inf, tables), "vectorized, DP": Crowd(3.0, tables)}
    variants: dict[str, Callable[[], float]] = {"plain loop": lambda: plain(1) * participants / len(few)}
    for name, crowd in crowds.items():
        # A run's beginning and end are no round.
        variants[name] = lambda crowd=crowd: (crowd.rounds(1 + count) - crowd.rounds(1)) / count
    for step in variants.values():
        step()
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for name, step in variants.items():
            taken[name].append(step())
    print(f"{participants} participants x {ROWS} rows, 30-64-32-1, {STEPS} steps: rounds a minute of one core")
    found = []
    for name, values in taken.items():
        ratios = [one / own for one, own in zip(taken["plain loop"], values, strict=True)]
        rate, ratio = 60 / statistics.median(values), statistics.median(ratios)
        print(f"  {name:40s} {rate:8.1f}   {ratio:6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})")
        found.append(line(f"simulation/{participants}/{name}", rate, "rounds/min", ratio, min(ratios), max(ratios)))
    for name, rate in CITED.items():
        print(f"  {name + ' (cited)':40s} {rate:8.1f}   measured once on another day, by none of this")
    return found


def cores(participants: int, count: int, repeats: int) -> list[dict[str, Any]]:
    """Measure one core and two by the clock, in turns; print and return how many times as fast two are."""
    tables, found = [table(number) for number in range(participants)], []
    for name, epsilon in (("vectorized", math.inf), ("vectorized, DP", 3.0)):
        crowds = [Crowd(epsilon, tables, number, time.perf_counter) for number in (1, 2)]
        taken: list[list[float]] = [[], []]
        for crowd in crowds:
            crowd.rounds(1)
        for _ in range(repeats):
            for crowd, seconds in zip(crowds, taken, strict=True):
                seconds.append((crowd.rounds(1 + count) - crowd.rounds(1)) / count)
        ratios = [one / two for one, two in zip(*taken, strict=True)]
        rate, ratio = 60 / statistics.median(taken[1]), statistics.median(ratios)
        print(f"  {name + ', two cores':40s} {rate:8.1f}   {ratio:6.2f}  ({min(ratios):.2f} to {max(ratios):.2f}) of one")
        found.append(
            line(f"simulation/{participants}/{name}/two", rate, "rounds/min", ratio, min(ratios), max(ratios))
        )
    return found


def line(name: str, value: float, unit: str, *ratios: float) -> dict[str, Any]:
    """Return a line of the JSON list."""
    return {
        "name": name,
        "value": value,
        "unit": unit,
        **dict(zip(("ratio", "ratio_min", "ratio_max"), ratios, strict=True)),
    }


def growth(sizes: list[int]) -> list[dict[str, Any]]:
    """Measure one round at each size: CPU time, its ratio a participant, memory beyond the rows."""
    found, first = [], 0.0
    print("participants    s a round    ratio a participant    MiB held beyond the rows")
    for participants in sizes:
        folder = str(Path(__file__).parent)
        code = (
            f"import sys; sys.path.insert(0, {folder!r}); import simulation; print(*simulation.alone({participants}))"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True,
            text=True,
            check=True,
        )
        seconds, mebibytes = map(float, done.stdout.split()[-2:])
        first = first or seconds / participants
        ratio = seconds / participants / first
        print(f"  {participants:9d}    {seconds:9.2f}    {ratio:19.2f}    {mebibytes:14.0f}")
        found.append(line(f"simulation/{participants}/seconds", seconds, "s", ratio, ratio, ratio))
        found.append(line(f"simulation/{participants}/memory", mebibytes, "MiB", ratio, ratio, ratio))
    return found


def alone(participants: int) -> tuple[float, float]:
    """Return seconds of CPU of a round, and the MiB that a few rounds added to what the rows held."""
    torch.set_num_threads(1)
    crowd = Crowd(math.inf, [table(number) for number in range(participants)])
    Crowd(math.inf, crowd.tables[:64]).rounds(1)  # libraries and their buffers
    before = held()
    crowd.rounds(1)  # the first pass over all rows is dearer
    one = crowd.rounds(1)
    return (crowd.rounds(4) - one) / 3, held() - before


def crowd(participants: int) -> list[dict[str, Any]]:
    """Print and return seconds of CPU of a run of one round, its beginning and end among them, and the peak memory."""
    tables = [table(number) for number in range(min(participants, MOST_TABLES))]
    rows, found = held(), []
    print(f"{participants} participants, {len(tables)} tables of {ROWS} rows in {rows:.0f} MiB; one round")
    for name, epsilon in (("vectorized", math.inf), ("vectorized, DP", 3.0)):
        started = time.process_time()
        Crowd(epsilon, [tables[number % len(tables)] for number in range(participants)]).rounds(1)
        seconds, peak = time.process_time() - started, held()
        print(f"  {name:20s} {seconds:9.1f} s of CPU    {peak:9.0f} MiB at most in this process", flush=True)
        found.append(line(f"simulation/crowd/{participants}/{name}", seconds, "s", 1.0, 1.0, 1.0))
        found.append(line(f"simulation/crowd/{participants}/{name}/memory", peak, "MiB", 1.0, 1.0, 1.0))
    return found


def held() -> float:
    """Return the largest memory that this process ever held, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    chosen = options(
        "rounds a minute of a simulation with many participants",
        "100 participants, fewer repeats, no growth",
        crowd="one round of so many participants instead",
    )
    torch.set_num_threads(1)
    if chosen.crowd:
        write(crowd(chosen.crowd), chosen.json)
        return 0
    size = (128, 2, 3) if chosen.quick else (1000, 4, 5)
    found = speed(*size) + cores(*size)
    if not chosen.quick:
        found += growth([1000, 3000, 10_000])
    write(found, chosen.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
