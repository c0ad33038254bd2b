"""`[[crowd]]`: describes many participants in one table of a scenario.

A crowd has the keys of a roster's line and `count`. Its participants are called NAME-0001, NAME-0002 ...; `{number}` in
`site` becomes 1, 2 ... The roster that results is what everything else sees.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from consortia.common.errors import InputError
from consortia.common.strict import shown

_MOST = 100_000
_NUMBERED = re.compile(r"^(?P<crowd>.+)-\d{4,}$")


def with_crowds(data: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a scenario's data with the crowds as lines of its roster.

    Raises
    ------
    InputError
        For a count that is none, or crowds that are no tables.
    """
    if "crowd" not in data:
        return data
    crowds = data["crowd"]
    if not isinstance(crowds, list) or not all(isinstance(crowd, dict) for crowd in crowds):
        raise InputError(f"{where}: crowd: wanted tables [[crowd]], got something else")
    if not isinstance(data.get("roster", []), list):
        raise InputError(f"{where}: roster: wanted tables [[roster]], got something else")
    roster = list(data.get("roster", []))
    for crowd in crowds:
        count = crowd.get("count")
        if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST:
            raise InputError(f"{where}: crowd.count: wanted a whole number from 1 to {_MOST}, got {shown(count)}")
        line = {key: value for key, value in crowd.items() if key not in {"count", "first"}}
        first = crowd.get("first", 1)
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise InputError(f"{where}: crowd.first: wanted a whole number >= 0, got {shown(first)}")
        for number in range(1, count + 1):
            site = str(line.get("site", "")).replace("{number}", str(number))
            roster.append({**line, "name": f"{line.get('name', 'home')}-{first + number - 1:04d}", "site": site})
    return {**{key: value for key, value in data.items() if key != "crowd"}, "roster": roster}


def policy_of(folder: Path, participant: str) -> Path:
    """Return the demonstration policy of a participant: its own file, or else its crowd's."""
    own = folder / f"{participant}.toml"
    match = _NUMBERED.match(participant)
    return own if own.is_file() or match is None else folder / f"{match['crowd']}.toml"


def filled(policy: dict[str, Any], participant: str, site: str) -> dict[str, Any]:
    """Return a crowd's policy as one of its participants would have it: with its own name and site."""
    if _NUMBERED.match(participant) is None or policy.get("participant") == participant:
        return policy
    dataset = {name: {**terms, "site": site} for name, terms in policy["dataset"].items()}
    return {**policy, "participant": participant, "dataset": dataset}
