"""The errors of the privacy package. No message holds a value of a row."""

__all__ = [
    "BudgetExhaustedError",
    "ContractMismatchError",
    "LedgerBehindError",
    "LedgerBrokenError",
    "LedgerBusyError",
    "LedgerDiskError",
    "LedgerForkedError",
    "LedgerMissingError",
    "LedgerSchemaError",
    "MechanismError",
    "PlanError",
    "PrivacyError",
    "ReleaseRefusedError",
    "RetriesExhaustedError",
    "UnknownEventError",
]


class PrivacyError(Exception):
    """Base of every refusal here: whatever raises it has released nothing and charged nothing, unless it says so."""


class PlanError(PrivacyError, ValueError):
    """A parameter of a plan is out of range: names the parameter, what is wanted and what was got."""


class UnknownEventError(PrivacyError):
    """An event of unknown kind, key, schema or range: it cannot be counted, so it is refused."""


class MechanismError(UnknownEventError):
    """A kind of event that lacks a law, claims another one's name, or whose package cannot be loaded."""


class LedgerMissingError(PrivacyError):
    """There is no ledger: a participant that cannot count does not release."""


class LedgerSchemaError(PrivacyError):
    """The file is no ledger, has another schema version, or belongs to another participant."""


class LedgerBusyError(PrivacyError):
    """Another process held the ledger longer than the bounded wait, or this handle crossed a fork."""


class LedgerDiskError(PrivacyError):
    """The ledger's disk did not take or give what was wanted, such as a full one: the change is not in the ledger."""


class LedgerBehindError(PrivacyError):
    """The ledger lacks rows that it had when a reply left: truncated, restored from a backup or made anew."""


class LedgerForkedError(PrivacyError):
    """The ledger's history is another one than the one that a reply left with."""


class LedgerBrokenError(PrivacyError):
    """The rows of the ledger and its hash chain do not agree."""


class BudgetExhaustedError(PrivacyError):
    """The release would exceed the run's allowance or the lifetime of the data set; nothing was written."""


class RetriesExhaustedError(PrivacyError):
    """One round was attempted as often as it may be; nothing was written."""


class ContractMismatchError(PrivacyError):
    """The run was opened under another contract, or the data set under another privacy unit."""


class ReleaseRefusedError(PrivacyError):
    """A release that is not covered by an open reservation of this run's plan."""
