"""What a reply may say, worked out from public things alone: contract, proposal, policy, the ledger's own chain."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

from consortia.messages.envelope import decode
from consortia.metrics.score_bins import HISTOGRAM
from consortia.terms.contract import Contract
from consortia.terms.policy import Policy
from consortia.terms.roster import RosterParticipant
from consortia.terms.scopes import for_participant, initial_groups
from privacy.accounting import solve_noise_multiplier
from privacy.egress import KINDS
from privacy.histogram import plan_noise
from privacy.ledger import Ledger


def header(
    contract: Contract, participant: RosterParticipant, policy: Policy, run: str, number: int, kind: str
) -> dict[str, str]:
    """Return every value of an honest reply's header but the link of the ledger; the ledger was empty before."""
    terms = contract.industries[participant.industry]
    epsilon = min(participant.epsilon, policy.budget.run.epsilon)
    delta = min(participant.delta, policy.budget.run.delta)
    unit = policy.dataset[participant.dataset].unit
    steps = terms.local_steps * contract.rounds
    sigma = solve_noise_multiplier(epsilon=epsilon, delta=delta, sampling_rate=terms.sampling_rate, steps=steps)
    said = {
        "wire": "1",
        "status": "OK" if kind == "train" else "EVALUATED",
        "kind": kind,
        "participant": participant.name,
        "run": run,
        "round": str(number),
        "contract": contract.sha256(),
        "noise_multiplier": repr(sigma),
        "epsilon_budget": repr(epsilon),
        "delta": repr(delta),
        "unit": unit,
        "non_private": "false",
    }
    partition = contract.evaluation.due(kind, number)
    if partition is None or policy.budget.evaluation is None:
        return said
    paid = policy.budget.evaluation.run
    releases = 1 if partition == "evaluation" else contract.evaluation.releases_between(contract.rounds)
    noise = plan_noise(epsilon=paid.epsilon, delta=paid.delta, releases=releases)
    rows = 1 if unit == "record" else policy.dataset[participant.dataset].max_rows_per_unit
    return said | {
        "metrics_non_private": "false",
        "metrics_partition": partition,
        "metrics_mechanism": noise.mechanism,
        "metrics_multiplier": repr(noise.multiplier),
        "metrics_rows_per_unit": str(rows),
        "metrics_epsilon": repr(paid.epsilon),
        "metrics_delta": repr(paid.delta),
    }


def unaccounted(
    data: bytes, said: Mapping[str, str], contract: Contract, participant: RosterParticipant, ledger: Ledger
) -> list[str]:
    """Return what of an envelope is neither a public value nor backed by an event of this very reply.

    Also names bytes that belong to nothing, and tensors of another shape or dtype than public terms give.
    """
    envelope = decode(data)
    found = [f"header {key}" for key in sorted(said) if envelope.header.get(key) != said[key]]
    extra = {key: value for key, value in envelope.header.items() if key not in said}
    chain = {(str(link["seq"]), link["head"]): link for link in ledger.export()["chain"]}
    link = chain.get((extra.pop("ledger_counter", ""), extra.pop("ledger_head", "")))
    entries = {str(e.seq): e for e in ledger.entries() if e.state == "committed" and str(e.round) == said["round"]}
    if link is None or link["kind"] != "reserved" or link["ref"] not in entries:
        found.append("header ledger_counter, ledger_head")
    found += [f"header {key}" for key in sorted(extra)]
    events = [event for entry in entries.values() for event in entry.events]
    model = for_participant(initial_groups(contract, [participant.industry]), participant.industry)
    wanted = {name: (tuple(t.shape), t.dtype) for name, t in model.items()} if said["status"] == "OK" else {}
    for name, tensor in envelope.tensors.items():
        kind = "metrics" if name == HISTOGRAM else "update"
        if not any(kind in event.releases and event.partition in KINDS[kind].partitions for event in events):
            found.append(f"tensor {name}: no event")
        if name != HISTOGRAM and wanted.get(name) != (tuple(tensor.shape), tensor.dtype):
            found.append(f"tensor {name}: its shape or dtype")
        if name == HISTOGRAM and tuple(tensor.shape) != (2, contract.evaluation.bins):
            found.append(f"tensor {name}: its shape")
    due = contract.evaluation.due(said["kind"], int(said["round"])) is not None
    if set(envelope.tensors) != set(wanted) | ({HISTOGRAM} if due else set()):
        found.append("tensors: others than contract and policy give")
    (length,) = struct.unpack("<Q", data[:8])
    if len(data) != 8 + length + sum(t.numel() * t.element_size() for t in envelope.tensors.values()):
        found.append("bytes that belong to nothing")
    return found


def forms(value: float | str) -> list[bytes]:
    """Return the bytes as which a value can leave: text, and numbers of four and eight bytes in both orders.

    Whole numbers up to 2^12 are looked for as text and floats only: as integers, lengths and counts look alike.
    """
    if isinstance(value, str):
        return [value.encode()]
    texts = {repr(value), f"{value:g}", repr(float(value))}
    kinds = "fdiq" if value == int(value) and abs(value) > 2**12 else "fd"
    packed: list[Any] = [int(value) if kind in "iq" else value for kind in kinds]
    numbers = [struct.pack(order + kind, item) for order in "<>" for kind, item in zip(kinds, packed, strict=True)]
    return [text.encode() for text in sorted(texts)] + numbers


def planted_in(data: bytes, values: Sequence[float | str]) -> list[float | str]:
    """Return the values that stand somewhere in `data`."""
    return [value for value in values if any(form in data for form in forms(value))]
