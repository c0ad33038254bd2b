"""Asks before the first round who can take part, and refuses a run that cannot succeed. Nobody is charged for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consortia.common.errors import RunRefusedError
from consortia.coordinator.aggregation import members_of, outweighed, weights_of
from consortia.coordinator.mailbox import Correspondence
from consortia.messages.answer_codes import meaning
from consortia.messages.reply import FINAL
from consortia.messages.request import READY
from consortia.terms.roster import RosterParticipant
from consortia.terms.scenario import Scenario
from consortia.terms.scopes import State
from strategies.base import TakesTurns

#: How often a participant is asked after a failure. A problem with data or policy does not go away by asking again.
_FAILED_TRIES = 2
#: What these codes mean before round 1, where they do not mean what `messages.answer_codes` says.
_WHY = {
    "NO_REPLY": "it did not answer in time",
    "NOT_JOINED": "it is not connected",
    "PARTICIPANT_ERROR": "its rows or its policy cannot be used; `consortia home log` names the cause there",
}


def ask(desk: Correspondence, groups: Mapping[str, State]) -> None:
    """Ask every participant whether it can take part. A participant that refuses is not asked again in this run.

    Parameters
    ----------
    groups : dict of str to State
        The shared parameters by group. Each group needs as many participants as the strategy and the trust mode
        require.

    Raises
    ------
    RunRefusedError
        Too few can take part. There is one line with the reason for each participant.
    """
    able: set[str] = set()
    tries = dict.fromkeys(desk.participants, 0)

    def open_names() -> list[str]:
        return [
            name
            for name, view in desk.participants.items()
            if name not in able and view.state not in FINAL and tries[name] < _FAILED_TRIES
        ]

    for attempt, names in desk.attempts(open_names):
        envelopes = {name: desk.envelope(READY, 1, name, {}, {}) for name in names}
        for answer in desk.post("evaluate", 1, attempt, envelopes):
            tries[answer.participant] += answer.data is not None
            if desk.accept(answer, READY, 1, attempt, {}) is not None:
                able.add(answer.participant)
        if not lacking(desk.scenario, able, groups):
            return
    if missing := lacking(desk.scenario, able, groups):
        why = [_reason(desk, name) for name in desk.participants if name not in able]
        raise RunRefusedError(*(f"{line}. Nothing was trained and nobody was charged" for line in missing), *why)


def lacking(scenario: Scenario, able: set[str], groups: Mapping[str, State]) -> list[str]:
    """Return what a run of these participants lacks: a quorum, or the minimum of a group; empty if it can succeed.

    `groups` holds the shared parameters by group.
    """
    if scenario.contract.by_industry:  # each industry has its own rounds, and the run needs all of them
        return [line for part in scenario.parts() for line in _lacking_in_part(part, able, groups)]
    contract, everybody = scenario.contract, len(scenario.roster)
    strategy = contract.strategy.strategy()
    names = ", ".join(sorted(able)) or "nobody"
    # With turns, sums of cohorts or a trusted coordinator a round can continue with fewer than the quorum.
    counted = contract.trust == "local" and not isinstance(strategy, TakesTurns)
    wanted = scenario.quorum if counted else 1
    if len(able) < wanted:
        return [f"wanted {wanted} of {everybody} participants that can take part, got {len(able)} ({names})"]
    found = []
    for group, parameters in groups.items():
        participants = members_of(scenario, group, parameters)
        here = [participant for participant in participants if participant.name in able]
        where = "the consortium" if group == "*" else group
        least = contract.secure_terms.least if contract.trust == "aggregate" else strategy.minimum_participants
        # A group without participants costs nothing. But a secure sum opens only if no group is missing.
        if len(here) < least and (here or contract.trust == "aggregate"):
            found.append(f"{where}: wanted at least {least} participants that can take part, got {_names(here)}")
        elif here and len(here) < len(participants) and outweighed(strategy, weights_of(contract, here)):
            found.append(f"{where}: wanted a majority beside the attackers of {contract.strategy.name}, got too few")
    return found


def _lacking_in_part(part: Scenario, able: set[str], groups: Mapping[str, State]) -> list[str]:
    shared = {name: groups[name] for name in part.contract.industries}
    found = lacking(part, able & {participant.name for participant in part.roster}, shared)
    return [line if line.startswith(tuple(shared)) else f"{' and '.join(shared)}: {line}" for line in found]


def _names(participants: Sequence[RosterParticipant]) -> str:
    return (
        f"{len(participants)} ({', '.join(participant.name for participant in participants)})"
        if participants
        else "nobody"
    )


def _reason(desk: Correspondence, name: str) -> str:
    failures = desk.participants[name].failures
    code = failures[-1]["code"] if failures else "NO_REPLY"
    incident = failures[-1]["detail"] if code == "PARTICIPANT_ERROR" else ""
    told = _WHY.get(code) or meaning(code) or "its own log says why: `consortia home log`"
    return f"{name}: {' '.join(filter(None, (code, incident)))}: {told}"
