"""One attacker of seven: strategies x attacks x final AUC, with DP noise and without.

    python benchmarks/attacks.py --data ../shared/data [--seeds 3] [--rounds 20] [--strategies krum] [--noise dp]

Seven banks that lend for different purposes (German credit; synthetic rows without --data), 50 to 280 loans each, the
committed terms of the scenario `banks-network`. The coordinator, its validation and the aggregation are the platform's;
participants train in this process without ledger and outbox. The attacker rotates with the seed; AUC is that of the
final model on the pooled test rows of the six others, mean over seeds. `loss` is against the same strategy's run
without an attacker. The committed default (`DEFAULT`) must lose at most .03 to every attack, and in the runs without
an attacker no participant's mean weight may fall below half its share. Exits 1 when it misses one of them.

The weight of a participant is the mean diagonal of the Jacobian of the aggregate by its update (Hutchinson's
estimate, central differences): a mean gives its weight, a median the share of coordinates in which it is the middle.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clients import bank
from clients.dataset import Table, assign, prepare
from clients.metrics import compute
from clients.models import predict
from consortia.common.errors import RunFailedError
from consortia.coordinator.aggregation import honest_bound
from consortia.coordinator.checkpoint import load_latest
from consortia.coordinator.rounds import Coordinator
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.participant import training
from consortia.terms.policy import DatasetTerms
from consortia.terms.scenario import Scenario, load_scenario, scenario_from_json
from consortia.terms.scopes import build_module, for_participant, load_state
from privacy.ledger import Budget, RunPlan
from privacy.noise_context import NoiseContext
from privacy.randomness import numpy_generator
from strategies.base import Strategy, Update

State = dict[str, Tensor]
PURPOSES = {
    "new-car": ("A40",),
    "used-car": ("A41",),
    "furniture": ("A42",),
    "radio-tv": ("A43",),
    "business": ("A49",),
    "education": ("A46", "A48"),
    "house": ("A44", "A45", "A410"),
}
#: What noise in a benchmark is for: no message.
NOISE = NoiseContext(purpose="benchmark", message="benchmark", attempt=0, ledger="")
UNITS = {
    "new-car": 234,
    "used-car": 103,
    "furniture": 181,
    "radio-tv": 280,
    "business": 97,
    "education": 59,
    "house": 46,
}
PARTS = {"train": 0.6, "validation": 0.1, "test": 0.3}
MOST_LOST = 0.03
LEAST_WEIGHT = 0.5

#: What a scenario with seven or more participants who need not be trusted should take.
DEFAULT = "norm-bound"
STRATEGIES: dict[str, dict[str, Any]] = {
    "fedavg": {"name": "fedavg"},
    "median": {"name": "median"},
    "trimmed-mean": {"name": "trimmed-mean"},
    "geometric-median": {"name": "geometric-median"},
    "krum": {"name": "krum"},
    "multi-krum": {"name": "multi-krum"},
    "bulyan": {"name": "bulyan"},
    "norm-bound": {"name": "norm-bound", "options": {"relative": 1.2}},
}


@dataclass
class Attacker:
    """What one participant does to its honest reply, and what it remembers.

    Attributes
    ----------
    first : dict
        Its first honest reply.
    """

    attack: str
    rounds: int
    first: State = field(default_factory=dict)

    def __call__(self, number: int, sent: State, honest: State, header: dict[str, str]) -> tuple[dict[str, str], State]:
        """Return the header and tensors that it sends."""
        self.first = self.first or honest
        generator = torch.Generator().manual_seed(number)
        change = {n: honest[n] - sent[n] for n in sent}
        moved: Callable[[float], State] = lambda size: {n: sent[n] + size * change[n] for n in sent}  # noqa: E731
        if self.attack == "sign flip":
            return header, moved(-5.0)
        if self.attack == "scaling":
            return header, moved(100.0)
        if self.attack == "free rider":
            return header, dict(sent)
        if self.attack == "replay":
            return header, self.first
        if self.attack == "NaN":
            return header, {n: t * float("nan") for n, t in honest.items()}
        if self.attack == "shape":
            return header, {n: t[..., :-1] if t.shape[-1] > 1 else t.repeat(2) for n, t in honest.items()}
        if self.attack == "weight inflation":  # there is no field for it; with something to gain from it
            return {**header, "num_examples": "1e12", "weight": "1e12"}, moved(-1.0)
        if self.attack == "understated sigma":
            noise = {n: 3.0 * torch.randn(t.shape, generator=generator) for n, t in honest.items()}
            return {**header, "noise_multiplier": "1e-6"}, {n: honest[n] + noise[n] for n in honest}
        if self.attack == "sleeper":
            return header, moved(-20.0) if number > self.rounds // 2 else honest
        return header, honest  # "none", and "label flip", whose labels are wrong already


ATTACKS = (
    "none",
    "sign flip",
    "scaling",
    "label flip",
    "free rider",
    "replay",
    "NaN",
    "shape",
    "weight inflation",
    "understated sigma",
    "sleeper",
)


@functools.cache
def tables(data: Path | None, seed: int) -> dict[str, dict[str, Table]]:
    """Return train, validation and test rows of the seven, split by a key of the seed."""
    out = {}
    for name, purposes in PURPOSES.items():
        if data is None:
            site = name if name in bank.HABITS else "other"
            frame = bank.synthesise(numpy_generator("attacks", seed, name), UNITS[name], site)
        else:
            every = [bank.read(data / "bank" / "german_credit", site) for site in bank.PURPOSES]
            frame = next(f[f["purpose"].isin(purposes)] for f in every if f["purpose"].isin(purposes).any())
        key = f"attacks-{seed}".encode()
        table = prepare(bank.CLIENT, frame.reset_index(drop=True), key=key)
        where = assign(table.split_keys, key, PARTS)
        out[name] = {part: table.take(where == part) for part in PARTS}
    return out


def scenario(strategy: Mapping[str, Any], *, private: bool, rounds: int) -> Scenario:
    """Return the committed terms of `banks-network` with seven participants of one vote each."""
    data = load_scenario("banks-network").with_overrides(rounds=rounds).model_dump(mode="python", by_alias=True)
    (participant, *_) = data["roster"]
    data["roster"] = [
        {**participant, "name": name, "units": units, "epsilon": 3.0 if private else float("inf"), "delta": 1e-4}
        for name, units in UNITS.items()
    ]
    data["contract"]["strategy"] = {"weighting": "equal", **strategy}
    data["contract"]["round"] = {"attempts": 1}
    return scenario_from_json(json.dumps(data))


class Participants:
    """Seven participants in this process, one of them perhaps an attacker: the coordinator's exchange."""

    def __init__(self, what: Scenario, rows: Mapping[str, Mapping[str, Table]], attacker: str, attack: str) -> None:
        self.contract = what.contract
        self.rows = rows
        self.attacker = attacker
        self.does = Attacker(attack, what.contract.rounds)
        self.plans = {participant.name: _plan(what, participant.name) for participant in what.roster}

    def __call__(self, kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        """Train and answer; nobody answers the closing evaluation, which is measured here."""
        del deadline
        return [Answer(n, self._reply(n, data)) for n, data in envelopes.items()] if kind == "train" else []

    def _reply(self, name: str, data: bytes) -> bytes:
        message = decode(data)
        number, plan, train = int(message.header["round"]), self.plans[name], self.rows[name]["train"]
        if name == self.attacker and self.does.attack == "label flip":
            train = replace(train, target=1 - train.target)
        sent = dict(message.tensors)
        module = training.ready_module(self.contract, "bank", plan, train, sent, {})
        outcome = training.train_round(
            module, self.contract, "bank", plan, train, sent, participant=name, round_number=number, noise=NOISE
        )
        header = {
            **{key: message.header[key] for key in ("kind", "participant", "run", "round")},
            "status": "OK",
            "contract": self.contract.sha256(),
            "noise_multiplier": repr(plan.noise_multiplier),
            "epsilon_budget": "null" if plan.non_private else "3.0",
            "delta": "1e-4",
            "unit": "record",
            "non_private": str(plan.non_private).lower(),
        }
        tensors = outcome.update
        if name == self.attacker:
            header, tensors = self.does(number, sent, tensors, header)
        return encode(Envelope(header, tensors))


def _plan(what: Scenario, name: str) -> RunPlan:
    participant = what.participant(name)
    terms = DatasetTerms(industry="bank", source="synthetic:", unit="record", declared_units=participant.units)
    allowance = None if participant.non_private else Budget(participant.epsilon, participant.delta)
    return training.make_plan(what.contract, terms, "credit", "run", allowance)


@dataclass(frozen=True)
class Played:
    """One run: the AUC of those who do not attack, and each participant's mean weight over its share."""

    auc: float
    weights: dict[str, float]


def play(
    terms: Mapping[str, Any], attack: str, *, private: bool, seed: int, rounds: int, data: Path | None = None
) -> Played:
    """Run once. A run that fails is worth .5."""
    what = scenario(terms, private=private, rounds=rounds)
    rows = tables(data, seed)
    attacker = list(UNITS)[seed % len(UNITS)] if attack != "none" else ""
    victims = [name for name in UNITS if name != list(UNITS)[seed % len(UNITS)]]
    people = Participants(what, rows, attacker, attack)
    weights: dict[str, list[float]] = {name: [] for name in UNITS}
    with tempfile.TemporaryDirectory() as folder:
        coordinator = Coordinator(what, "run", Path(folder), people)
        if attack == "none":
            _watch(coordinator, weights)
        try:
            coordinator.run()
        except RunFailedError:
            return Played(0.5, {})
        state = load_latest(Path(folder))
    assert state is not None
    module = build_module(what.contract, "bank")
    load_state(module, for_participant(state.groups, "bank"))
    tests = [rows[name]["test"] for name in victims]
    scores = np.concatenate([np.asarray(predict(module, t.inputs)) for t in tests])
    target = np.concatenate([np.asarray(t.target) for t in tests])
    auc = compute(["auc"], "binary", scores, target)["auc"]
    return Played(0.5 if auc is None else auc, {n: statistics.fmean(v) * len(UNITS) for n, v in weights.items() if v})


def _watch(coordinator: Coordinator, weights: dict[str, list[float]]) -> None:
    """Measure everybody's weight in every round, beside the run."""
    ask = coordinator._ask

    def watched(kind: str, number: int, sent: Mapping[str, State], *rest: Any, **more: Any) -> dict[str, State]:
        accepted = ask(kind, number, sent, *rest, **more)
        if kind == "train" and accepted:
            for name, weight in influence(coordinator, next(iter(sent.values())), accepted).items():
                weights[name].append(weight)
        return accepted

    coordinator._ask = watched  # type: ignore[method-assign]


def influence(
    coordinator: Coordinator, current: State, accepted: Mapping[str, State], probes: int = 4
) -> dict[str, float]:
    """Return the mean diagonal of d aggregate / d update of each participant."""
    strategy: Strategy = coordinator.strategy
    what = coordinator.scenario
    now = {n: t.double() for n, t in current.items()}
    updates = [
        Update(
            participant.name,
            {n: t.double() for n, t in accepted[participant.name].items()},
            1 / len(accepted),
            bound=honest_bound(what.contract, participant, now) if strategy.fit.bound != "no" else float("inf"),
        )
        for participant in sorted(what.roster, key=lambda s: s.name)
        if participant.name in accepted
    ]
    generator = torch.Generator().manual_seed(len(updates))
    size = sum(t.numel() for t in now.values())
    spread = torch.stack([(u.state[n] - now[n]).abs().mean() for u in updates for n in now]).mean()
    step = 1e-6 * float(spread) + 1e-12
    out = {}
    for index, update in enumerate(updates):
        total = 0.0
        for _ in range(probes):
            signs = {n: torch.randint(0, 2, t.shape, generator=generator).double() * 2 - 1 for n, t in now.items()}
            ends = []
            for sign in (1, -1):
                shifted = {n: t + sign * step * signs[n] for n, t in update.state.items()}
                moved = [*updates[:index], replace(update, state=shifted), *updates[index + 1 :]]
                ends.append(strategy.aggregate(now, moved, {})[0])
            total += sum(float((signs[n] * (ends[0][n] - ends[1][n])).sum()) for n in now) / (2 * step)
        out[update.participant] = total / probes / size
    return out


def main() -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder of the public data sets; synthetic rows without")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--strategies", nargs="*", default=list(STRATEGIES), choices=list(STRATEGIES))
    parser.add_argument("--noise", choices=("none", "dp", "both"), default="both")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, missed = [], []
    for private in {"none": (False,), "dp": (True,), "both": (False, True)}[options.noise]:
        for name in options.strategies:
            terms = STRATEGIES[name]
            auc: dict[str, float] = {}
            least: dict[str, list[float]] = {}
            for attack in ATTACKS:
                played = [
                    play(terms, attack, private=private, seed=seed, rounds=options.rounds, data=options.data)
                    for seed in range(42, 42 + options.seeds)
                ]
                auc[attack] = statistics.fmean(p.auc for p in played)
                for one in played:
                    for who, weight in one.weights.items():
                        least.setdefault(who, []).append(weight)
                print(f"{name} {'DP' if private else 'no DP'} {attack}: {auc[attack]:.3f}", file=sys.stderr, flush=True)
            lowest = min(statistics.fmean(values) for values in least.values())
            worst = auc["none"] - min(auc.values())
            rows.append({"strategy": name, "private": private, "auc": auc, "lost": worst, "least_weight": lowest})
            if name == DEFAULT and (worst > MOST_LOST or lowest < LEAST_WEIGHT):
                missed.append(f"{name}, {'DP' if private else 'no DP'}: lost {worst:.3f}, least weight {lowest:.2f}")
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(("public data (German credit)" if options.data else "SYNTHETIC rows") + f", {options.seeds} seeds")
        print(f"{'strategy':<18}{'noise':<7}" + "".join(f"{a[:10]:>11}" for a in ATTACKS) + f"{'lost':>8}{'weight':>8}")
        for row in rows:
            cells = "".join(f"{row['auc'][a]:>11.3f}" for a in ATTACKS)
            noise = "DP" if row["private"] else "none"
            print(f"{row['strategy']:<18}{noise:<7}{cells}{row['lost']:>8.3f}{row['least_weight']:>8.2f}")
        print("\n".join(f"MISSED {text}" for text in missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
