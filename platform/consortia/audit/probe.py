"""A participant of the audit's own, which is asked as a coordinator asks."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.torch
import tomli_w
import torch
from torch import Tensor

import privacy._optimizer  # noqa: F401 - Opacus is here before a fork: a child that is killed dies at its work
from consortia.common.errors import RunFailedError
from consortia.learners.blocks.shares import OWN_KIND
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.learners import TABLES
from consortia.terms.scopes import CONTROL, State, build_module, for_participant, initial_groups, state_of
from privacy.ledger import Ledger
from strategies.base import Controlled


@dataclass(frozen=True)
class Sent:
    """One exchange: what was asked and what came back, to the byte."""

    run_id: str
    round: int
    request: bytes
    reply: bytes

    @property
    def model(self) -> State:
        """The shared parameters that were sent."""
        return {name: t for name, t in decode(self.request).tensors.items() if not name.startswith(CONTROL)}

    @property
    def header(self) -> Mapping[str, str]:
        """The reply's header."""
        return decode(self.reply).header

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The reply's tensors."""
        return decode(self.reply).tensors


def altered(contract: Contract, industry: str, **changes: Any) -> Contract:
    """Return a contract for one industry with other terms of it (or `rounds`, `scopes`, `strategy`, `evaluation`).

    Updates alone leave unless `evaluation` says otherwise, and each participant's in the clear: in secure sums every
    member takes the same DP step, with a share of the noise.
    """
    data = {**json.loads(contract.canonical()), "stopping": None, "trust": "local", "secure": None}
    data["evaluation"] = changes.pop("evaluation", {"metrics": "none"})
    # It asks in every round; a local step has local noise; each game is a first release on a ledger of its own.
    for key in ("max_participations", "compression", "central", "steps"):
        data.pop(key, None)
    if data["strategy"].get("weighting") == "noised":
        data["strategy"]["weighting"] = "declared"  # the count that leaves once is no update
    for key in ("rounds", "scopes", "strategy"):
        if key in changes:
            data[key] = changes.pop(key)
    for key in ("learner", "options", *TABLES):  # these instruments are about steps, `statistics_games` about sums
        data.pop(key, None)
    if contract.strategy.strategy().fit.loss:
        data["strategy"] = {"name": "fedavg"}  # it fits non-private runs only, which claim nothing to audit
    # Rows are the audit's own, so neither a published split nor a pretrained file applies; steps move all parameters.
    terms = {**data["industries"][industry], "split": "hash", "init": None, "private_steps": 0, **changes}
    data["releases"] = ["update"] if data["evaluation"]["metrics"] == "none" else ["update", "metrics"]
    if data["strategy"].get("weighting") == "noised":
        data["releases"].append("size")
    return contract_from_json(json.dumps({**data, "industries": {industry: terms}}))


@dataclass
class Bench:
    """One participant with a home, a policy and a ledger of its own.

    Parameters
    ----------
    epsilon, delta : what a run may cost; also what the coordinator proposes. An infinite one is a non-private run.
    lifetime : (epsilon, delta) for life; practically unlimited by default.
    evaluation : epsilon of a run and for life of the evaluation units; None lets no metric leave.
    noise : the policy's word: "secure", as deployed, or "float", as simulations are by default.
    """

    folder: Path
    name: str
    industry: str
    dataset: str
    site: str
    declared_units: int
    epsilon: float
    delta: float
    unit: str = "record"
    lifetime: tuple[float, float] | None = None
    split_seed: int = 0
    evaluation: tuple[float, float] | None = None
    max_rows_per_unit: int | None = None
    noise: Literal["secure", "float"] = "secure"
    captured: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.home = Home(self.folder, self.name, simulation=True)
        self.home.create(split_seed=self.split_seed)
        life = self.lifetime or (1e6, 0.999 / self.declared_units)
        limit = {} if self.max_rows_per_unit is None else {"max_rows_per_unit": self.max_rows_per_unit}
        budget: dict[str, Any] = {
            "run": {"epsilon": min(self.epsilon, 1e6), "delta": self.delta},
            "lifetime": {"epsilon": life[0], "delta": life[1]},
        }
        budget["statistics"] = budget["run"]
        releases = ["update", *TABLES, OWN_KIND, "size"]
        if self.evaluation is not None:
            releases.append("metrics")
            budget["evaluation"] = {
                "run": {"epsilon": self.evaluation[0], "delta": self.delta},
                "lifetime": {"epsilon": self.evaluation[1], "delta": 0.999 / self.declared_units},
            }
        policy = {
            "schema": 1,
            "participant": self.name,
            "demo": True,
            "dataset": {
                self.dataset: {
                    "industry": self.industry,
                    "source": "synthetic:1",  # replaced for each message by the probe's own file
                    "site": self.site,
                    "unit": self.unit,
                    "declared_units": self.declared_units,
                    "quarantine_threshold": 1.0,
                    **limit,
                }
            },
            "budget": budget,
            "noise": self.noise,
            "allow": {
                "releases": releases,
                "contracts": "any",
                "non_private": math.isinf(self.epsilon),
                "trusted_coordinator": math.isinf(self.epsilon),
            },
        }
        self.home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
        Ledger.create(self.home.ledger, self.name).close()

    def message(
        self, contract: Contract, run_id: str, number: int, model: Mapping[str, Tensor], kind: str = "train"
    ) -> bytes:
        """Return the coordinator's message."""
        header = {
            "kind": kind,
            "participant": self.name,
            "industry": self.industry,
            "run": run_id,
            "round": str(number),
            "contract": contract.canonical(),
            "proposal": json.dumps(
                {
                    "dataset": self.dataset,
                    "epsilon": None if math.isinf(self.epsilon) else self.epsilon,
                    "delta": self.delta,
                }
            ),
        }
        # A controlled strategy sends a correction beside the model; none is the simplest one.
        controlled = isinstance(contract.strategy.strategy(), Controlled)
        control = {CONTROL + name: torch.zeros_like(t) for name, t in model.items() if t.is_floating_point()}
        return encode(Envelope(header, {**model, **(control if controlled else {})}))

    def ask(self, request: bytes, source: Path) -> Sent:
        """Send one message and keep what came back."""
        return self.keep(request, handle(request, self.home, f"csv:{source}"))

    def keep(self, request: bytes, reply: bytes) -> Sent:
        """Record an exchange that was made elsewhere."""
        header = decode(request).header
        sent = Sent(header["run"], int(header["round"]), request, reply)
        self.captured.append(sent)
        return sent

    def train(self, contract: Contract, run_id: str, number: int, model: Mapping[str, Tensor], source: Path) -> Sent:
        """Ask for one round of training; RunFailedError when there is no update to audit."""
        return self.must(self.ask(self.message(contract, run_id, number, model), source))

    def must(self, sent: Sent) -> Sent:
        """Return `sent` when it carries an update."""
        header = sent.header
        if header.get("status") != "OK":
            raise RunFailedError(
                f"audit: {self.name} answered {header.get('status')} {header.get('code', '')} to round {sent.round} of "
                f"{sent.run_id}; wanted an update, for without one nothing can be audited (see {self.home.log})"
            )
        return sent

    def private_state(self, run_id: str, number: int) -> State:
        """Return the parameters that stayed at home after a round (the auditor is the owner's)."""
        found: State = {}
        for file in sorted(self.home.run_folder(run_id).glob(f"*-{number}.safetensors")):
            found |= safetensors.torch.load(file.read_bytes())
        return found

    def export(self) -> dict[str, Any]:
        """Return the exported ledger."""
        with Ledger.open(self.home.ledger, self.name) as ledger:
            return ledger.export()


def shared_start(contract: Contract, industry: str) -> State:
    """Return the shared parameters that a coordinator sends first."""
    return for_participant(initial_groups(contract, [industry]), industry)


def random_model(contract: Contract, industry: str, generator: np.random.Generator, scale: float) -> State:
    """Return shared parameters drawn at random, so that every layer has a gradient."""
    return {
        name: torch.from_numpy(generator.normal(0, scale, tensor.shape)).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in shared_start(contract, industry).items()
    }


def first_private(contract: Contract, industry: str, shared: Mapping[str, Tensor]) -> State:
    """Return the private parameters before the first round: the contract's initialisation."""
    return {name: t for name, t in state_of(build_module(contract, industry)).items() if name not in shared}


class Child:
    """A work done in a process forked from this very state, as a pre-forking launcher would."""

    def __init__(self, work: Callable[[], Any]) -> None:
        reader, writer = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.close(reader)
                with os.fdopen(writer, "wb") as pipe:
                    pickle.dump(work(), pipe)
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        self._reader = reader

    def finish(self) -> tuple[Any, float]:
        """Wait for the result; return it with the seconds of processor time that it took."""
        with os.fdopen(self._reader, "rb") as pipe:
            data = pipe.read()
        _, status, usage = os.wait4(self.pid, 0)
        if status != 0:
            raise RunFailedError("audit: a forked participant ended without an answer")
        return pickle.loads(data), usage.ru_utime + usage.ru_stime  # noqa: S301 - our own child wrote it

    def kill_after(self, seconds: float) -> bool:
        """Kill it once it has used so much processor time; False when it had ended before."""
        ticks = os.sysconf("SC_CLK_TCK")
        while True:
            done, _ = os.waitpid(self.pid, os.WNOHANG)
            if done:
                break
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / ticks >= seconds:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                break
            time.sleep(0.002)
        os.close(self._reader)
        return not done


def forked(works: Sequence[Callable[[], Any]], *, together: bool = False) -> list[Any]:
    """Do each work in a child of its own and return the results; `together` starts all before waiting for one."""
    if together:
        return [child.finish()[0] for child in [Child(work) for work in works]]
    return [Child(work).finish()[0] for work in works]


def same_global_seeds() -> None:
    """Put every global generator to one and the same state: noise must not come from any of them."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def workspace() -> tempfile.TemporaryDirectory[str]:
    """Return the audit's folder, gone when it ends: in memory where there is such a place, for a ledger syncs a lot."""
    memory = Path("/dev/shm")  # noqa: S108 - a fresh folder of ours in it
    return tempfile.TemporaryDirectory(prefix="consortia-audit-", dir=memory if os.access(memory, os.W_OK) else None)
