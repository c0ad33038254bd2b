"""Parses and checks a message of a vertical run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from consortia.common.errors import InputError, RefusedError, WireError
from consortia.messages.envelope import decode
from consortia.messages.request import check_terms, common_fields
from consortia.terms.contract import Contract
from consortia.terms.policy import Proposal
from consortia.terms.scenario import Scenario
from consortia.terms.vertical import VerticalTerms
from privacy.ledger import Anchor

__all__ = ["STEPS", "Step", "total_steps"]

#: The steps in their order, with their receivers.
STEPS: Final = {
    "hello": "partner",
    "blind": "label owner",
    "match": "partner",
    "label": "label owner",
    "assist": "partner",
    "stack": "label owner",
}


def total_steps(scenario: Scenario) -> int:
    """Return the number of progress lines of a run: rounds, or the steps of a vertical run."""
    terms = scenario.contract.vertical
    return scenario.rounds if terms is None else (terms.batches + 1) * len(STEPS)


@dataclass(frozen=True)
class Step:
    """A message of the coordinator.

    Attributes
    ----------
    greetings, sealed : mapping
        By sender: new signed keys, and content sealed for this participant.
    batch : int
        0 trains; 1 and more score new persons.
    attempt : int
        Attempt of the assist step. If a partner drops out, a masked sum starts again with new masks.
    """

    kind: str
    participant: str
    industry: str
    run_id: str
    batch: int
    attempt: int
    contract: Contract
    contract_json: str
    proposal: Proposal
    greetings: Mapping[str, bytes]
    sealed: Mapping[str, bytes]
    tensors: Mapping[str, torch.Tensor]
    anchor: Anchor | None

    @property
    def terms(self) -> VerticalTerms:
        """The vertical part of the contract."""
        assert self.contract.vertical is not None
        return self.contract.vertical

    @classmethod
    def parse(cls, data: bytes) -> Step:
        """Parse an envelope. Raise `RefusedError` with code BAD_MESSAGE for anything unexpected."""
        try:
            envelope = decode(data)
            header = envelope.header
            step = cls(
                **common_fields(header),
                batch=int(header["batch"]),
                attempt=int(header["attempt"]),
                greetings=_by_sender(envelope.tensors, "greeting/"),
                sealed=_by_sender(envelope.tensors, "sealed/"),
                tensors=envelope.tensors,
            )
        except (WireError, InputError, KeyError, ValueError, TypeError) as error:
            raise RefusedError("BAD_MESSAGE", f"{type(error).__name__} while reading the message") from None
        terms = step.contract.vertical
        if terms is None or step.kind not in STEPS:
            raise RefusedError("BAD_MESSAGE", "not a step of a vertical contract")
        if not 0 <= step.batch <= terms.batches or not 1 <= step.attempt <= step.contract.round.attempts:
            raise RefusedError("BAD_MESSAGE", "batch or attempt is outside the contract")
        check_terms(step.proposal, step.run_id, step.industry)
        members = {terms.label_owner, *terms.partners}
        if not {*step.greetings, *step.sealed} <= members:
            raise RefusedError("BAD_MESSAGE", "a key or a sealed message of somebody who is not in the contract")
        role = "label owner" if step.participant == terms.label_owner else "partner"
        if step.participant not in members or role != STEPS[step.kind]:
            raise RefusedError("BAD_MESSAGE", "the step is not this participant's")
        return step


def _by_sender(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, bytes]:
    found = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            if tensor.dtype != torch.uint8 or tensor.dim() != 1:
                raise ValueError(f"{name}: wanted bytes")
            found[name.removeprefix(prefix)] = tensor.numpy().tobytes()
    return found
