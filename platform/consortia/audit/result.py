"""Results of an instrument: checks, each with its probability if the law holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

#: Chance of a false alarm of one instrument.
ALPHA = 1e-3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Check:
    """One law on one subject.

    Attributes
    ----------
    law : str
        What must hold.
    subject : str
        Participant and probe.
    wanted, got : str
    p : float
        Chance of a result at least as far off while the law holds.
    certain : bool
        No chance is involved: p is 0 for a broken law and 1 for one that holds.
    """

    law: str
    subject: str
    wanted: str
    got: str
    p: float
    certain: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:  # a NaN must not pass for "no violation"
            object.__setattr__(self, "p", 0.0)


def fact(law: str, subject: str, holds: bool, *, wanted: object = "", got: object = "") -> Check:
    """Return the check of something that is true or false."""
    return Check(law, subject, str(wanted), str(got), 1.0 if holds else 0.0, certain=True)


@dataclass
class Findings:
    """The checks of one instrument; `skipped` says why an instrument has none."""

    instrument: str
    checks: list[Check] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: str = ""
    seconds: float = 0.0

    @property
    def threshold(self) -> float:
        """Bonferroni: a check violates below this, so that the instrument's false alarms are at most ALPHA."""
        return ALPHA / max(1, sum(not check.certain for check in self.checks))

    @property
    def violations(self) -> list[Check]:
        """The checks whose law does not hold."""
        return [check for check in self.checks if check.p < self.threshold]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        broken = self.violations
        return {
            "instrument": self.instrument,
            "alpha": ALPHA,
            "threshold": self.threshold,
            "checks": len(self.checks),
            "smallest_p": min((check.p for check in self.checks), default=1.0),
            "violations": [asdict(check) for check in broken],
            "notes": self.notes,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
