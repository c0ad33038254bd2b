"""Parses and checks a message of the coordinator."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from consortia.common.errors import InputError, RefusedError, WireError
from consortia.messages.envelope import decode
from consortia.messages.ledger_anchor import anchor_from
from consortia.terms.contract import Contract, contract_from_json, last_number
from consortia.terms.forecast import Forecast, forecast_from_header
from consortia.terms.policy import Proposal
from consortia.terms.scopes import CONTROL
from privacy.ledger import Anchor

#: Messages that open a secure sum of mode two. No row is read for them.
OPENING = frozenset({"confirm", "unmask"})
#: Asks a participant before the first round whether it can take part. The message charges nothing and carries no model.
READY = "ready"


@dataclass(frozen=True)
class Request:
    """A message of the coordinator, parsed."""

    kind: str
    participant: str
    industry: str
    run_id: str
    round: int
    contract: Contract
    contract_json: str
    proposal: Proposal
    model: Mapping[str, Tensor]
    control: Mapping[str, Tensor]
    secure: str = ""
    anchor: Anchor | None = None
    forecast: Forecast | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All received tensors, for the outbox key: a different control means a different release."""
        return {**self.model, **{CONTROL + name: tensor for name, tensor in self.control.items()}}

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Parse an envelope. Raise `RefusedError` with code BAD_MESSAGE for anything unexpected."""
        try:
            envelope = decode(data)
            header = envelope.header
            request = cls(
                **common_fields(header),
                round=int(header["round"]),
                model={n: t for n, t in envelope.tensors.items() if not n.startswith(CONTROL)},
                control={n[len(CONTROL) :]: t for n, t in envelope.tensors.items() if n.startswith(CONTROL)},
                secure=header.get("secure", ""),
                forecast=forecast_from_header(header),
            )
        except (WireError, InputError, KeyError, ValueError, TypeError) as error:
            raise RefusedError("BAD_MESSAGE", f"{type(error).__name__} while reading the message") from None
        contract = request.contract
        last = last_number(contract) + (1 if request.kind == "evaluate" else 0)
        kinds = {READY, "train", "evaluate"} | ({"run-key", *OPENING} if contract.trust == "aggregate" else set())
        if request.kind not in kinds or not 1 <= request.round <= last:
            raise RefusedError("BAD_MESSAGE", "kind or round is outside the contract")
        check_terms(request.proposal, request.run_id, request.industry)
        return request


def common_fields(header: Mapping[str, str]) -> dict[str, Any]:
    """Return the header fields that every message has, by the name of their attribute here.

    Raises
    ------
    InputError, KeyError, ValueError, TypeError
        A field is missing or cannot be read.
    """
    contract = contract_from_json(header["contract"]).of(header["industry"])
    offer = json.loads(header["proposal"])
    epsilon = offer["epsilon"]
    return {
        "kind": header["kind"],
        "participant": header["participant"],
        "industry": header["industry"],
        "run_id": header["run"],
        "contract": contract,
        "contract_json": contract.canonical(),
        "proposal": Proposal(
            str(offer["dataset"]),
            None if epsilon is None else float(epsilon),
            float(offer["delta"]),
            str(offer.get("unit", "")),
        ),
        "anchor": anchor_from(dict(header)),
    }


def check_terms(proposal: Proposal, run_id: str, industry: str) -> None:
    """Raise RefusedError unless the proposal is a valid budget and the names are valid."""
    if proposal.epsilon is not None and not (0 < proposal.epsilon < math.inf and 0 < proposal.delta < 1):
        raise RefusedError("BAD_MESSAGE", "the proposal is not a budget")
    if not all(is_name(name) for name in (run_id, proposal.dataset, industry)):
        raise RefusedError("BAD_MESSAGE", "run id, data set or industry is not a name")


def is_name(text: str) -> bool:
    """Return whether the text can name a run, a data set or an industry."""
    return 0 < len(text) <= 80 and all(c.isascii() and (c.isalnum() or c in "-_") for c in text)
