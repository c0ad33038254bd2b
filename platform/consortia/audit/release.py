"""Takes a release apart: what it moved, and what the exported ledger claims about it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from consortia.audit.probe import Bench, Sent, first_private
from consortia.audit.reference import Array, Response, flat, noise_deviation, parameter_names, response
from consortia.audit.result import Check, fact
from consortia.common.errors import RunFailedError
from consortia.terms.contract import Contract
from consortia.terms.scopes import State


@dataclass(frozen=True)
class Observed:
    """One round of training, seen from outside and from the participant's own folder.

    Attributes
    ----------
    start : all parameters before the round, private ones included.
    moved : ndarray (n_parameters,)
        Parameters after the round, less what the public optimizer makes of gradients that are all zero.
    known : Response
    noise : the claimed deviation of one step's noise on the sum of the clipped units (`reference.noise_deviation`).
    normaliser : the claimed public one: q x declared units.
    rounding : ndarray (n_parameters,), variance of what float32 rounds away from `moved`.
    """

    start: State
    moved: Array
    known: Response
    noise: float
    normaliser: float
    rounding: Array

    @property
    def deviation(self) -> Array:
        """The claimed deviation of each parameter's noise, with what float32 rounds away."""
        variance = (self.noise / self.normaliser) ** 2 * self.known.energy + self.rounding
        out: Array = np.sqrt(variance)
        return out

    @property
    def standardised(self) -> Array:
        """The release as noise, in units of its claimed deviation."""
        return self.moved / self.deviation

    @property
    def total(self) -> Array:
        """The noisy sums of all steps added up: sum_t (clipped units_t + noise_t), where the steps weigh the same."""
        out: Array = self.moved * self.normaliser / self.known.weights.mean(axis=0)
        return out


def observe(
    bench: Bench, contract: Contract, sents: Sequence[Sent], subject: str
) -> tuple[list[Observed], list[Check]]:
    """Take the releases of one contract apart; the checks are facts about names and accounts."""
    ledger = bench.export()
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in ledger["entries"]:
        entries.setdefault(entry["reply_sha256"], []).append(entry)
    plans = {plan["run_id"]: plan for plan in ledger["runs"]}
    rules = contract.industries[bench.industry]
    sizes = parameter_names(contract, bench.industry)
    names = [name for name, _ in sizes]
    seen: list[Observed] = []
    checks: dict[str, Check] = {}

    def must(law: str, holds: bool, wanted: object, got: object) -> None:
        if law not in checks or not holds:  # one line for each law, the first that breaks it
            checks[law] = fact(law, subject, holds, wanted=wanted, got=got)

    for sent in sents:
        stored = entries.get(hashlib.sha256(sent.reply).hexdigest(), [])
        lines = [line for line in stored if line["run_id"] == sent.run_id]
        events = [event for line in lines for event in line["events"]]
        must("every release has exactly one event in the exported ledger", len(events) == 1, 1, len(events))
        if len(events) != 1:
            continue
        (event,) = events
        plan = plans[lines[0]["run_id"]]
        must("the event is DP-SGD", event["kind"] == "poisson_gaussian", "poisson_gaussian", event["kind"])
        if event["kind"] != "poisson_gaussian":
            continue
        for key, value in (("steps", rules.local_steps), ("sampling_rate", rules.sampling_rate), ("unit", bench.unit)):
            must(f"the event's {key} is what was asked for", event[key] == value, value, event[key])
        must("the plan's clip is the contract's", plan["clip"] == rules.clip, rules.clip, plan["clip"])
        public = max(1, round(bench.declared_units * contract.split.train))
        must("the normaliser is public", plan["declared_units"] == public, public, plan["declared_units"])
        model = sent.model
        before = {
            **first_private(contract, bench.industry, model),
            **bench.private_state(sent.run_id, sent.round - 1),
        }
        start = {**before, **model}
        kept = bench.private_state(sent.run_id, sent.round)
        released = sent.tensors
        must("a release holds the shared parameters", set(released) == set(model), sorted(model), sorted(released))
        missing = sorted(set(names) - set(released) - set(kept))
        must("private parameters are kept at home", not missing, "all of them", f"missing: {', '.join(missing)}")
        if missing or not set(model) <= set(released):
            continue
        after = {**kept, **released}
        if contract.strategy.strategy().fit.gradient:
            after |= {name: start[name] - tensor for name, tensor in released.items()}
        known = response(contract, bench.industry, start, model)
        place = np.spacing(np.abs(flat(after, names)).astype(np.float32)).astype(np.float64)
        seen.append(
            Observed(
                start,
                flat(after, names) - known.zero,
                known,
                noise_deviation(event["noise_multiplier"], rules.clip, sum(size for _, size in sizes), bench.noise),
                rules.sampling_rate * public,
                rules.local_steps * place**2 / 12,
            )
        )
    if not seen:
        raise RunFailedError(
            f"audit: {subject}: no release could be taken apart: "
            + "; ".join(f"{c.law}: wanted {c.wanted}, got {c.got}" for c in checks.values() if c.p == 0)
        )
    return seen, list(checks.values())


def parameters(contract: Contract, industry: str) -> int:
    """Return how many numbers one round trains."""
    return sum(size for _, size in parameter_names(contract, industry))
