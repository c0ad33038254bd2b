"""What the work on one message offers to the part of a trust mode: the participant's own files, ledger and log."""

from __future__ import annotations

from typing import Protocol

from clients.models import FederatedModule
from consortia.messages.request import Request
from consortia.participant.home import Home
from consortia.participant.training import Partitions
from consortia.terms.policy import Policy
from consortia.terms.scopes import State
from privacy.events import Event
from privacy.ledger import Budget, Ledger, Reservation, RunPlan

__all__ = ["Context"]


class Context(Protocol):
    """The work on one request; `consortia.participant.handle` has it.

    Attributes
    ----------
    key : str
        Under which the outbox keeps the reply to this message.
    """

    request: Request
    home: Home
    policy: Policy
    key: str

    def _lifetime(self, non_private: bool) -> Budget: ...
    def _header(self, plan: RunPlan, status: str) -> dict[str, str]: ...
    def _reserve(self, ledger: Ledger, run_id: str, events: tuple[Event, ...], lifetime: Budget) -> Reservation: ...
    def _sent(self, ledger: Ledger, run_id: str) -> bytes: ...
    def _private_state(self) -> State: ...
    def _keep_private(self, private: State) -> None: ...
    def _note_progress(self, module: FederatedModule, parts: Partitions) -> None: ...
    def _log_round(self, report: object, seconds: float) -> None: ...
