"""Writes a scenario's compose file from its roster."""

from __future__ import annotations

import json
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

from consortia.common.errors import InputError
from consortia.deploy.subnets import subnets
from consortia.terms.scenario import Scenario

#: Networks that a scenario has whoever takes part; the second two lead out of the host, or to who looks at it.
_SHARED = ("coordinator", "door", "outside", "watch")
_OPEN = frozenset({"outside", "watch"})


class _Text(Template):
    """A template with `@{name}`: the dollar belongs to compose."""

    delimiter = "@"


def compose_text(scenario: Scenario, gpus: int = 0) -> str:
    """Return the compose file of a scenario.

    Every participant has two services (SuperNode and launcher), two networks (each with a subnet of its own) and two
    volumes for its keys. A file to start from (`init`) is mounted where the coordinator and that industry's launchers
    look for it; the hash of the contract decides whether it is the agreed one. Each launcher reserves so many GPUs.

    Raises
    ------
    InputError
        Two industries start from two files of one name.
    """
    from consortia.planning.answer_size import largest_answer  # loads torch; a wrong name is refused before

    names = [participant.name for participant in scenario.roster]
    networks = [*_SHARED, *(f"{name}-{kind}" for name in names for kind in ("fleet", "private"))]
    ranges = subnets(scenario.name, networks)
    own = [volume for name in names for volume in (name, f"{name}-app")]
    devices = f"[{{driver: nvidia, count: {gpus}, capabilities: [gpu]}}]"
    reservation = f"\n    deploy: {{resources: {{reservations: {{devices: {devices}}}}}}}" if gpus else ""
    blocks = [
        template("compose_participant.yml.txt").substitute(
            name=participant.name,
            industry=participant.industry,
            start=mounted(starts_of(scenario, [participant.industry]), "/home"),
            reservation=reservation,
        )
        for participant in scenario.roster
    ]
    starts = starts_of(scenario, scenario.contract.industries)
    return template("compose.yml.txt").substitute(
        scenario=scenario.name,
        most_bytes=str(largest_answer(scenario)),
        door=ranges["door"],
        start_home="      CONSORTIA_HOME: /start\n" if starts else "",
        start=mounted(starts, "/start"),
        key_mounts="".join(f"      - keys-{name}:/keys/{name}\n" for name in own),
        fleet_networks=", ".join(f"{name}-fleet" for name in names),
        participant_conditions="".join(
            # Not "healthy": a SuperNode that comes back within a minute is refused until the SuperLink has noticed
            # that it was gone, and is started again; the coordinator waits for everybody to join.
            f"      {name}: {{condition: service_started}}\n      {name}-app: {{condition: service_started}}\n"
            for name in names
        ),
        participants="\n".join(blocks),
        networks="".join(
            f"  {network}: {{{'' if network in _OPEN else 'internal: true, driver_opts: *isolated, '}"
            f'ipam: {{config: [{{subnet: "{subnet}"}}]}}}}\n'
            for network, subnet in ranges.items()
        ),
        volumes="".join(f"  keys-{name}: {{}}\n" for name in own).rstrip(),
    )


def starts_of(scenario: Scenario, industries: Iterable[str]) -> dict[str, str]:
    """Return the path of each file that these industries start from, by its name."""
    found: dict[str, str] = {}
    for industry in industries:
        terms = scenario.contract.industries.get(industry)  # a vertical contract has none
        init = terms.init if terms is not None else None
        if init is None:
            continue
        if found.setdefault(Path(init.file).name, init.file) != init.file:
            raise InputError(
                f"contract.industries.{industry}.init.file: wanted a name of its own, since containers have all files "
                "to start from in one folder, got that of another industry's file; rename one"
            )
    return found


def mounted(starts: dict[str, str], folder: str) -> str:
    """Return the lines that mount files read-only; one that is not there stops the service, and no folder is made."""
    lines = []
    for name, path in starts.items():
        source, target = (
            json.dumps(each.replace("$", "$$"))  # compose would fill a variable in
            for each in (path if Path(path).is_absolute() else f"./{path}", f"{folder}/{name}")
        )
        terms = f"type: bind, source: {source}, target: {target}, read_only: true, bind: {{create_host_path: false}}"
        lines.append(f"      - {{{terms}}}\n")
    return "".join(lines)


def template(name: str) -> _Text:
    """Return a template of the package."""
    return _Text((resources.files("consortia") / "templates" / name).read_text(encoding="utf-8"))
