"""Says what a run waits for: its round, who was asked and has not answered, since when, and how long at most."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any, Final

from consortia.messages.answer_codes import meaning
from consortia.terms.scenario import Scenario
from consortia.vertical.request import total_steps

#: While nothing else is printed, a line comes at least this often (seconds).
EVERY_SECONDS: Final = 60.0
_NAMED: Final = 5
_FAILURES_TOLD: Final = 20


class Waiting:
    """Follows a run's events.

    Parameters
    ----------
    scenario : Scenario
    """

    def __init__(self, scenario: Scenario) -> None:
        self._deadline = scenario.contract.round.deadline_seconds
        self._attempts = scenario.contract.round.attempts
        self._vertical = scenario.contract.vertical is not None
        self._total = total_steps(scenario)
        self._begun = False
        self._absent: Sequence[str] = ()
        self._kind, self._round, self._asked_at = "", 0, 0.0
        self._open: dict[str, None] = {}
        self._asked: set[str] = set()
        self._failed: set[tuple[str, str]] = set()

    def read(self, event: Mapping[str, Any]) -> list[str]:
        """Take one event in; return what is worth a line at once."""
        name, kind = event["participant"], event["event"]
        if kind == "joining":
            self._absent = event["absent"]
        elif kind == "asked":
            return self._ask(event)
        elif kind in {"heard", "failure"} and name is not None:
            self._open.pop(name, None)
            if kind == "failure":
                return self._failure(event)
        return []

    def _ask(self, event: Mapping[str, Any]) -> list[str]:
        asked = (event["kind"], event["round"])
        fresh = asked != (self._kind, self._round)
        if fresh:
            self._asked, self._open = set(), {}
        if fresh or not self._open:  # another attempt asks those that are left
            self._asked_at = event["time"]
        (self._kind, self._round), self._absent = asked, ()
        self._asked.add(event["participant"])
        self._open[event["participant"]] = None
        if fresh and not self._begun and event["kind"] != "ready":
            self._begun = True
            return [f"{self._where()} has begun at {_clock(event['time'])}"]
        return []

    def _failure(self, event: Mapping[str, Any]) -> list[str]:
        told = (event["participant"], event["code"])
        if told in self._failed or len(self._failed) >= _FAILURES_TOLD:
            return []
        self._failed.add(told)
        why = meaning(event["code"])
        unit = "batch" if self._vertical else "round"
        return [f"{unit} {event['round']}: {told[0]}: {told[1]}{f': {why}' if why else ''}"]

    def sentence(self, now: float) -> str:
        """Return what the run waits for, in one line."""
        if self._absent:
            return f"waiting for {_names(self._absent)} to join"
        if not self._kind:
            return "waiting for the coordinator's app to start"
        answered = f"{self._where()}: {len(self._asked) - len(self._open)} of {len(self._asked)} answered"
        if not self._open:
            return f"{answered}; the coordinator works on the answers"
        waited = now - self._asked_at
        left = max(0.0, self._deadline - waited)
        since = f"since {_clock(self._asked_at)} ({_span(waited)})"
        until = f"at most {_span(left)} more before another attempt (of {self._attempts}) or the next step"
        return f"{answered}; waiting for {_names(list(self._open))} {since}, {until}"

    def _where(self) -> str:
        if self._kind == "ready":
            return "before round 1"
        if self._kind == "evaluate" and not self._vertical:
            return "closing evaluation"
        return f"batch {self._round}, {self._kind}" if self._vertical else f"round {self._round} of {self._total}"


def _names(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _clock(time: float) -> str:
    return f"{datetime.datetime.fromtimestamp(time, datetime.UTC):%H:%M:%S} UTC"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
