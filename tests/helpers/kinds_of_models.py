"""What works with each kind of model, and what is refused by name: the table in docs/how_to/networks.md.

`FEATURES` says it; `table` writes it for the page; `test_kinds_of_models.py` holds both to runs of a tiny client of
each kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import shaped_rows
import tomli_w
import torch

from clients.industry import IndustryClient, ModelSpec
from clients.models import build
from clients.networks import GROUP
from clients.schema import Column, Schema, Target
from consortia.terms.learners import STEPS
from strategies.registry import NAMES

#: A kind that a package brings; `OWN_PACKAGE` are what `packages.Packages.install` takes.
OWN = "torch:own"
OWN_PACKAGE = ("own", f"[{GROUP}]\nown = own_network:NETWORK\n")
OWN_MODULE = """
from dataclasses import dataclass
import torch
from torch import nn
from clients.networks import NetworkKind
from clients.shapes import Sequence

@dataclass(frozen=True)
class Options:
    bands: int = 2

class Bands(nn.Module):
    def __init__(self, shape, width, options):
        super().__init__()
        self.look = nn.Conv1d(shape.channels, options.bands, 3)
        self.sum = nn.Linear(options.bands * (shape.length - 2), width)

    def forward(self, x):
        return torch.tanh(self.sum(torch.flatten(torch.tanh(self.look(x)), 1)))

NETWORK = NetworkKind(options=Options, build=Bands, shapes=(Sequence,))
"""
__all__ = ["FEATURES", "KINDS", "SECURE", "STEPS", "below_sums", "client_of", "table", "write"]

KINDS = ("linear", "mlp", "cnn", "tcn", "gru", "lstm", "transformer", "two-tower", "autoencoder", OWN)
SMALL = 3
#: What a strategy needs besides its name.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "fedprox": {"mu": 0.1},
    "fedbuff": {"buffer_size": 2},
    "clustered": {"after": 1, "least": 1, "separation": 0.0},
    "norm-bound": {"relative": 1.2},
    "server-optimizer": {"optimizer": "adam"},
}
#: How many participants a strategy takes to run, where it is more than `SMALL`.
LEAST = {"krum": 5, "multi-krum": 5, "bulyan": 7}
SECURE = {"colluders": 1, "min_cohort": SMALL, "spare": 0}
CENTRAL = {"unit": "office", "units": SMALL, "sampling_rate": 1.0, "clip": 0.5, "epsilon": 8.0, "delta": 1e-4}
SPARSE = tuple(kind for kind in KINDS if kind not in {"linear", "mlp"})

Change = Callable[[dict[str, Any]], None]


def _strategy(name: str) -> Change:
    def change(contract: dict[str, Any]) -> None:
        contract["strategy"] = {"name": name, "weighting": "equal", "options": dict(OPTIONS.get(name, {}))}

    return change


def _with(**terms: Any) -> Change:
    return lambda contract: contract.update(terms)


def _trains(**terms: Any) -> Change:
    def change(contract: dict[str, Any]) -> None:
        for one in contract["industries"].values():
            one.update(terms)

    return change


def _both(*changes: Change) -> Change:
    def change(contract: dict[str, Any]) -> None:
        for one in changes:
            one(contract)

    return change


def below_sums(contract: dict[str, Any]) -> None:
    """A network, started from a file that `write` makes, gives the columns of noisy sums."""
    contract.update(learner="sums", rounds=2, sums={})
    for name, one in contract["industries"].items():
        contract["industries"][name] = {"model": one["model"], "init": START}


#: Stands for a file with the network's numbers.
START = "a file"
_SECURE, _CENTRAL = _with(trust="aggregate", secure=SECURE), _with(trust="coordinator", central=CENTRAL)
_FREEZE, _LORA = _trains(freeze=["encoder.*"]), _trains(lora={"rank": 1})
_SHORT = _with(compression={"kind": "int8"})
_NO_FREEZE = (("linear",), "freeze: wanted names of parameters")
_NO_LORA = (("linear", "two-tower"), "lora.layers: wanted names of dense")

#: Of each feature what changes in the contract, the kinds that are refused, and words of the refusal.
FEATURES: Mapping[str, tuple[Change, tuple[str, ...], str]] = {
    **{f"`{name}`": (_strategy(name), (), "") for name in NAMES},
    "updates in 8 bits": (_SHORT, (), ""),
    "updates in 4 bits": (_with(compression={"kind": "int4"}), (), ""),
    "the largest tenth of an update": (_with(compression={"kind": "top-k"}), (), ""),
    'secure sums (`trust = "aggregate"`)': (_SECURE, (), ""),
    'a trusted coordinator (`trust = "coordinator"`)': (_CENTRAL, (), ""),
    "a private head": (_with(scopes={"head": "private"}), (), ""),
    "a frozen encoder (`freeze`)": (_FREEZE, *_NO_FREEZE),
    "`freeze` and secure sums": (_both(_SECURE, _FREEZE), *_NO_FREEZE),
    "`freeze` and a trusted coordinator": (_both(_CENTRAL, _FREEZE), *_NO_FREEZE),
    "`freeze` and updates in 8 bits": (_both(_SHORT, _FREEZE), *_NO_FREEZE),
    "adapters (`lora`)": (_LORA, *_NO_LORA),
    "`lora` and secure sums": (_both(_SECURE, _LORA), *_NO_LORA),
    "`lora` and a trusted coordinator": (_both(_CENTRAL, _LORA), *_NO_LORA),
    "`lora` and updates in 8 bits": (_both(_SHORT, _LORA), *_NO_LORA),
    "`--resume`": (_with(rounds=2), (), ""),
    "`--engine vectorized`": (_with(), SPARSE, "--engine vectorized: industry"),
    **{f'`learner = "{name}"`': (_with(learner=name), KINDS, "no model, init, clip") for name in ("sums", "additive")},
    'a frozen network below `learner = "sums"`': (below_sums, ("linear", "two-tower", "autoencoder"), "learner"),
}


def client_of(kind: str) -> IndustryClient:
    """Return a client of three classes whose rows suit that kind; of ordinary and other rows for an autoencoder."""
    called = f"tiny_{kind.replace(':', '_')}"
    if kind in {"linear", "mlp", "autoencoder"}:
        target = Target(name="y", kind="binary", classes=("a", "b"))
        if kind == "autoencoder":
            target = Target(name="y", kind="anomaly", classes=("a", "b"), prior=(0.8, 0.2))
        columns = tuple(Column(name=name, dtype="number", low=-1, high=1) for name in "pqrs")
        return IndustryClient(
            name=called,
            title="Tiny",
            schema=Schema(name="tiny", version=1, columns=columns, target=target),
            read=lambda folder, site: None,  # type: ignore[arg-type, return-value]
            sites=("one",),
            dataset="tiny",
            metrics=("auc",),
        )
    return shaped_rows.of(shaped_rows.shape_of(kind), name=called)


def _start(folder: Path, kind: str, model: Mapping[str, Any]) -> dict[str, str]:
    """Write a file with numbers for the network of that kind; return `init`."""
    client = client_of(kind)
    network = build(client, ModelSpec(**model), client.schema.width, torch.Generator().manual_seed(5))
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "start.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def write(folder: Path, kind: str, change: Change, *, participants: int = SMALL, private: bool = True) -> str:
    """Write a scenario of that kind and its policies; return its path."""
    industry = client_of(kind).name
    model: dict[str, Any] = {"kind": kind, "hidden": [] if kind == "linear" else [4 if kind == "two-tower" else 3]}
    if kind not in {"linear", "mlp", "autoencoder"}:
        model["options"] = {**shaped_rows.OPTIONS.get(kind, {})}
    contract: dict[str, Any] = {
        "schema": 1,
        "wire": 1,
        "mode": "horizontal",
        "rounds": 1,
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2},
        "industries": {
            industry: {"model": model, "local_steps": 1, "sampling_rate": 1.0, "clip": 1.0, "learning_rate": 0.1}
        },
    }
    change(contract)
    for one in contract["industries"].values():
        if one.get("init") == START:
            one["init"] = _start(folder, kind, {**model, "hidden": tuple(model["hidden"])})
    summed = contract.get("trust") == "aggregate"
    if contract.get("trust") == "coordinator":
        contract["strategy"], private = {"name": "fedavg", "weighting": "equal"}, False
    releases = ["update", "metrics"] if contract.get("strategy", {}).get("name") == "qfedavg" else ["update"]
    releases = releases if "sums" not in contract else ["sums"]
    contract["releases"] = releases
    names = [f"office-{number}" for number in range(participants)]
    roster = [
        {
            "name": name,
            "industry": industry,
            "dataset": "rows",
            "site": client_of(kind).sites[0],
            "units": 24,
            "epsilon": 8.0 if private else float("inf"),
            "delta": 1e-3,
        }
        for name in names
    ]
    (folder / "policies" / "tiny").mkdir(parents=True)
    for number, name in enumerate(names):
        policy: dict[str, Any] = {
            "schema": 1,
            "participant": name,
            "demo": True,
            "dataset": {
                "rows": {
                    "industry": industry,
                    "source": f"synthetic:24?seed={number}",
                    "site": client_of(kind).sites[0],
                    "unit": "record",
                    "declared_units": 24,
                }
            },
            "budget": {"run": {"epsilon": 8.0, "delta": 1e-3}, "lifetime": {"epsilon": 32.0, "delta": 4e-3}},
            "allow": {
                "releases": releases,
                "exact_metrics": not private,
                "non_private": not private,
                "contracts": "any",
            },
        }
        if summed:
            policy["secure"] = {"min_cohort": SMALL, "colluders": 1, "max_attempts": 3}
        (folder / "policies" / "tiny" / f"{name}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    path = folder / "tiny.toml"
    data = {"schema": 1, "name": "tiny", "title": "Tiny", "contract": contract, "roster": roster}
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return str(path)


def table(features: Iterable[str] = FEATURES) -> str:
    """Return the table of the page, in Markdown."""
    lines = [f"| | {' | '.join(f'`{kind}`' for kind in KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    for name in features:
        _, refused, _ = FEATURES[name]
        cells = ("refused" if kind in refused else "yes" for kind in KINDS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
