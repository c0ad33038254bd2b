"""Names the release that noise is for, so that the noise key is bound to it."""

from dataclasses import dataclass, replace
from typing import Self

from privacy.errors import PlanError

__all__ = ["NoiseContext"]


@dataclass(frozen=True, kw_only=True)
class NoiseContext:
    """One use of noise in one attempt at one answer. Nothing of it is secret, and nothing of it has to be.

    Parameters
    ----------
    purpose : what the noise is for, such as "train": two uses within one attempt have two purposes.
    message : what is answered; for a participant run, round and the outbox key, which is a hash over the incoming
        model, the contract, the round and the run.
    attempt : number of the attempt; for a participant the number of its entry in the ledger.
    ledger : head of the ledger's chain after the attempt was charged; "" where there is no ledger (a coordinator, a
        simulation without one).

    Raises
    ------
    PlanError
        Without a purpose or a message.
    """

    purpose: str
    message: str
    attempt: int
    ledger: str

    def __post_init__(self) -> None:
        for name in ("purpose", "message"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise PlanError(
                    f"noise context: wanted a non-empty {name}, got {getattr(self, name)!r}; say what it is"
                )

    def to(self, purpose: str) -> Self:
        """Return the context of another use in the same attempt."""
        return replace(self, purpose=purpose)

    def encoded(self) -> bytes:
        """Return bytes that no other context has: every field carries its length."""
        fields = (self.purpose, self.message, str(self.attempt), self.ledger)
        return b"".join(len(data).to_bytes(8, "big") + data for data in (field.encode() for field in fields))
