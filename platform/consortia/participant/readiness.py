"""Answers whether this participant can take part in a run, before anything is charged.

Guarantees
----------
* Nothing is reserved, no run is opened and no number computed from rows leaves. The answer is a constant, a refusal
  code or an incident id. A participant that would fail in the first round because of its rows fails here, with the same
  code.
* A run with a spent budget is refused before a row is read. When `limits.unpaid_runs` is reached, no row is read for a
  further run that has charged nothing, and its answer depends on budget and policy alone. So requests cannot make a
  participant work without limit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consortia.common.errors import RefusedError
from consortia.messages.envelope import Envelope, encode
from consortia.participant import unpaid_requests
from consortia.participant.identity import load_identity
from consortia.participant.partitions import Partitions
from consortia.participant.training import ready_module
from consortia.terms.scopes import build_module, travelling
from privacy.egress import gate
from privacy.ledger import Ledger, RunPlan
from strategies.base import Controlled

if TYPE_CHECKING:
    from consortia.participant.context import Work


def answer(work: Work, ledger: Ledger) -> bytes:
    """Return READY if budget, keys, rows and network allow the first round.

    Raises
    ------
    RefusedError, ClientError, PrivacyError
        The same errors as in the first round.
    """
    request = work.request
    contract = request.contract
    plan = work.affordable(ledger)
    if contract.trust == "aggregate":
        load_identity(work.home)
    if _admitted(work, ledger):
        _look(work, plan, work.partitions(ledger))
    header = {
        "status": "READY",
        "kind": request.kind,
        "participant": work.home.participant,
        "run": request.run_id,
        "round": str(request.round),
        "contract": contract.sha256(),
    }
    return encode(Envelope(header, gate([], header, allowed=(), charged=(), shared=())))


def _admitted(work: Work, ledger: Ledger) -> bool:
    """Return whether rows may be read for a run without charges, and note it in the run's folder."""
    try:
        unpaid_requests.run_folder(work.home, ledger, work.request.run_id, work.policy.limits)
    except RefusedError:
        return False
    return True


def _look(work: Work, plan: RunPlan, parts: Partitions) -> None:
    """Make the checks of the first round that need rows or the network."""
    contract, industry = work.request.contract, work.request.industry
    if contract.noisy_sums is not None:
        if contract.industries[industry].init is not None:
            build_module(contract, industry)
        return
    shared = travelling(build_module(contract, industry), contract)
    control = shared if isinstance(contract.strategy.strategy(), Controlled) else {}
    floats = {name: tensor for name, tensor in control.items() if tensor.is_floating_point()}
    ready_module(contract, industry, plan, parts.train, shared, {}, control=floats)
