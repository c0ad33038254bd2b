"""Draws who shares what with whom under which ε: a line from every participant to the model that it helps to make.

Words have one size on every page and lines are stretched, as in `consortia.reports.charts`. Every participant is a link
with its name; its state is a word and a mark. The same stands in sentences beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

from consortia.common.words import epsilon_text
from consortia.reports.charts import PALETTE
from consortia.reports.decision import listed
from consortia.reports.live_runs import SILENT, LiveParticipant, Run
from consortia.reports.many_participants import first, rest
from consortia.terms.contract import Contract

__all__ = ["ShareMap", "share_map"]

#: Height of a participant, of the room that a group's three lines need, and where a line is below the name.
_ROW, _GROUP, _LINE = 52, 58, 42
_STRETCH, _TURN, _NODE = 1000, 480, 620
_LONGEST = 24
_SEES: Final = {
    "local": "the coordinator, which sees each noisy release",
    "aggregate": "the coordinator, which sees sums of all of them only",
    "coordinator": "the coordinator, which sees each change and adds the noise",
}


@dataclass(frozen=True)
class ShareMap:
    """The drawing and the same in sentences; `about` says whose ε, `rest` how many of a crowd neither shows."""

    caption: str
    about: str
    drawing: Markup
    sentences: list[str]
    rest: str | None


@dataclass(frozen=True)
class _Group:
    """What is made together: three short lines, and who makes it."""

    key: str
    lines: tuple[str, str, str]
    members: list[LiveParticipant]


def share_map(run: Run) -> ShareMap:
    """Return the map of a run as it stands."""
    everybody = list(run.participants.values())
    shown = list(first(everybody))
    groups = _groups(run, shown)
    return ShareMap(
        f"Who shares what with whom: {run.scenario.title}",
        _about(shown),
        _drawing(run, groups, trunk=_has_trunk(run.scenario.contract)),
        [_sentence(run, participant) for participant in shown],
        rest(len(everybody)),
    )


def _groups(run: Run, shown: Sequence[LiveParticipant]) -> list[_Group]:
    contract = run.scenario.contract
    if contract.vertical is not None:
        owner = contract.vertical.label_owner
        return [_Group("", ("matched rows", f"label: {_short(owner)}", f"{len(shown)} share them"), list(shown))]
    groups = []
    for industry in dict.fromkeys(participant.roster.industry for participant in shown):
        members = [participant for participant in shown if participant.roster.industry == industry]
        made = "statistics" if contract.of(industry).statistics is not None else "model"
        share = f"{len(members)} share it" if len(members) > 1 else "alone in it"
        groups.append(_Group(industry, (industry, made, share), members))
    return groups


def _has_trunk(contract: Contract) -> bool:
    return contract.vertical is None and contract.noisy_sums is None and "consortium" in contract.scopes.named


def _what(run: Run, participant: LiveParticipant) -> str:
    contract = run.scenario.contract
    if contract.vertical is not None:
        return ", ".join(contract.vertical.releases_of(participant.name))
    return ", ".join(contract.of(participant.roster.industry).releases)


def _epsilon(run: Run, participant: LiveParticipant) -> str:
    vertical = run.scenario.contract.vertical
    if vertical is not None and participant.name in vertical.partners:
        return "∞ (scores)" if vertical.scores_epsilon is None else epsilon_text(vertical.scores_epsilon)
    if participant.non_private or (participant.non_private is None and participant.roster.non_private):
        return "∞ (non-private)"
    return epsilon_text(participant.budget)


def _state(run: Run, participant: LiveParticipant) -> tuple[str, str]:
    """Return the state as the class of a mark and as a word."""
    if participant.state == "REFUSED":
        return "refused", "refused"
    if participant.state != "ACTIVE":
        word = participant.state_in_words
        return ("refused" if word.startswith("refused") else "idle"), word
    if run.status == "running" and participant.waited_since is not None:
        return "waited", "waited for"
    if participant.seen is None:
        return "idle", "not heard" if run.started else "not asked"
    silent = [one for one in run.failures if one.participant == participant.name and one.code in SILENT]
    if silent and silent[-1].time >= participant.seen:
        return "idle", "silent"
    return "heard", "answered"


def _others(run: Run, participant: LiveParticipant) -> list[str]:
    contract = run.scenario.contract
    together = contract.vertical is not None or _has_trunk(contract)
    return [
        one.name
        for one in run.participants.values()
        if one is not participant and (together or one.roster.industry == participant.roster.industry)
    ]


def _sentence(run: Run, participant: LiveParticipant) -> str:
    contract = run.scenario.contract
    others = _others(run, participant)
    named = listed(others) if len(others) <= 10 else f"{', '.join(others[:10])} and {len(others) - 10} more"
    by = "directly" if contract.vertical else f"by way of {_SEES[contract.of(participant.roster.industry).trust]}"
    unit = participant.unit or participant.roster.unit or "unit"
    return (
        f"{participant.name} ({participant.roster.industry}) shares {_what(run, participant)} with "
        f"{named or 'nobody'}, {by}, under ε {_epsilon(run, participant)} a run at δ {participant.delta:g}, adding or "
        f"removing one {unit}; {_state(run, participant)[1]}."
    )


def _about(shown: Sequence[LiveParticipant]) -> str:
    deltas = [f"{delta:g}" for delta in sorted({participant.delta for participant in shown})]
    said = deltas[0] if len(deltas) == 1 else f"{deltas[0]} to {deltas[-1]}"
    return f"ε is what one run may take, at δ = {said}, adding or removing one unit."


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"


def _drawing(run: Run, groups: Sequence[_Group], *, trunk: bool) -> Markup:
    lines, marks, height, nodes, number = [], [], 0, [], 0
    for place, group in enumerate(groups):
        tall = max(_ROW * len(group.members), _GROUP)
        middle = height + tall // 2
        kind = f"c{place % PALETTE}"
        for index, participant in enumerate(group.members):
            top = height + _ROW * index + (tall - _ROW * len(group.members)) // 2
            number += 1
            lines.append(_link(top + _LINE, middle, kind))
            marks.append(_participant(run, participant, top, number))
        nodes.append(middle)
        marks.append(_node(middle, kind, group.lines))
        height += tall + 10
    if trunk:
        middle = height + _GROUP // 2
        lines.insert(0, f'<path class="trunk-line" d="M{_NODE} {nodes[0]}V{middle}"/>')
        marks.append(_node(middle, "", ("everybody", "trunk", f"{number} share it")))
        height += _GROUP
    stretched = (
        f'<svg width="100%" height="{height}" viewBox="0 0 {_STRETCH} {height}" preserveAspectRatio="none" '
        f'aria-hidden="true">{"".join(lines)}</svg>'
    )
    head = Markup('<svg class="chart map" width="100%" height="{}" role="group" aria-label="{}">').format(
        height, "Who shares what with whom; the same in words below"
    )
    return head + Markup(stretched + "".join(marks) + "</svg>")  # noqa: S704 - numbers, our own words, names escaped


def _link(y: int, middle: int, kind: str) -> str:
    bend = (_TURN + _NODE) // 2
    return f'<path class="line {kind}" d="M0 {y}H{_TURN}C{bend} {y} {bend} {middle} {_NODE} {middle}"/>'


def _participant(run: Run, participant: LiveParticipant, top: int, number: int) -> str:
    kind, word = _state(run, participant)
    says = f"{_what(run, participant)} · ε {_epsilon(run, participant)} · {word}"
    y = top + _LINE
    mark = (
        f'<rect class="spot {kind}" x="0" y="{y - 5}" width="10" height="10"/>'
        if kind == "refused"
        else f'<circle class="spot {kind}" cx="5" cy="{y}" r="5"/>'
    )
    label = escape(f"{participant.name}: {says}")
    return (
        f'<a href="/runs/{escape(run.id)}/{escape(participant.name)}" id="map-{number}" aria-label="{label}">'
        f'<rect class="reach" x="0" y="{top + 2}" width="48%" height="{_LINE + 6}"/>'
        f'<text class="map-name" x="0" y="{top + 16}">{escape(_short(participant.name))}</text>'
        f'<text class="map-says" x="0" y="{top + 32}">{escape(says)}</text>{mark}</a>'
    )


def _node(y: int, kind: str, lines: tuple[str, str, str]) -> str:
    x = f"{100 * _NODE / _STRETCH:g}%"
    texts = "".join(
        f'<text class="{"map-name" if row == 0 else "map-says"}" x="{x}" dx="14" y="{y - 11 + 15 * row}">'
        f"{escape(text)}</text>"
        for row, text in enumerate(lines)
    )
    return f'<circle class="dot {kind or "everybody"}" cx="{x}" cy="{y}" r="7"/>{texts}'
