"""Gives every network of a compose file a small subnet of its own, and checks that nothing else has it.

An engine's own pools end near 30 networks; a scenario has two for each participant. `$CONSORTIA_SUBNETS` names the
private range by its first two numbers (`10.213` is 10.213.0.0/16), since compose can only put text into text. A
scenario's place in the range follows from its name alone, and its participants follow in the roster's order, so that a
participant at the roster's end moves nobody.

    { docker compose config --format json; docker network inspect $(docker network ls --quiet); } |
    docker run --rm --interactive --network host --env CONSORTIA_SUBNETS IMAGE python -m consortia.deploy.subnets

compares what a project asks for with the host's routes and with the engine's networks; `make up` does it before
anything starts.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from consortia.common.errors import InputError

VARIABLE: Final = "CONSORTIA_SUBNETS"
DEFAULT: Final = "10.213"
#: A /28 has room for the engine's gateway and 13 containers.
_PREFIX: Final = 28
_IN_RANGE: Final = 2 ** (_PREFIX - 16)
_BY_THIRD_NUMBER: Final = 2 ** (_PREFIX - 24)
_ROUTES: Final = Path("/proc/net/route")
_PROJECT: Final = "com.docker.compose.project"

Subnet = ipaddress.IPv4Network


def subnets(scenario: str, networks: Sequence[str]) -> dict[str, str]:
    """Return the subnet of each network of a scenario, as compose text.

    Raises
    ------
    InputError
        When a range has no room for so many.
    """
    if len(networks) > _IN_RANGE:
        raise InputError(
            f"{scenario}: wanted at most {_IN_RANGE} networks (two a participant), what one private range has, "
            f"got {len(networks)}; run so many participants as processes, or from join kits on their own machines"
        )
    start = hashlib.sha256(scenario.encode()).digest()[0] * _BY_THIRD_NUMBER
    found = {}
    for number, network in enumerate(networks, start=start):
        third, place = divmod(number % _IN_RANGE, _BY_THIRD_NUMBER)
        fourth = place * 2 ** (32 - _PREFIX)
        found[network] = f"${{{VARIABLE}:-{DEFAULT}}}.{third}.{fourth}/{_PREFIX}"
    return found


def check(config: dict[str, Any], existing: Iterable[dict[str, Any]], routes: Iterable[tuple[str, Subnet]]) -> int:
    """Return how many subnets a project asks for, none of which anything else has.

    Parameters
    ----------
    config : dict
        What `docker compose config --format json` says.
    existing : iterable of dict
        What `docker network inspect` says of all networks.
    routes : iterable of (str, network)
        Interface and destination of the host's routes.

    Raises
    ------
    InputError
        When a subnet is malformed, not private, or taken; it names by whom, and the setting to change. Where networks
        of the project itself have it, from another roster, it names them and the command that removes them.
    """
    project = config["name"]
    wanted = {
        subnet: name
        for name, network in config["networks"].items()
        for asked in (network.get("ipam") or {}).get("config") or ()
        for subnet in [_private(asked["subnet"])]
    }
    others: list[tuple[str, Subnet]] = []
    own: dict[str, list[Subnet]] = {}
    bridges = set()  # of the engine's networks: their routes say the same once more, or are the project's own
    for network in existing:
        bridges.add((network.get("Options") or {}).get("com.docker.network.bridge.name", f"br-{network['Id'][:12]}"))
        if (network.get("Labels") or {}).get(_PROJECT) == project:
            own[network["Name"]] = _subnets_of(network)
        else:
            others += [(f"the network {network['Name']}", subnet) for subnet in _subnets_of(network)]
    others += [(f"the host's route by {name}", subnet) for name, subnet in routes if name not in bridges]
    for subnet, name in wanted.items():
        for who, taken in others:
            if subnet.overlaps(taken):
                raise InputError(
                    f"{VARIABLE}={os.environ.get(VARIABLE) or DEFAULT}: wanted free subnets for the project {project}, "
                    f"got {subnet} (network {name}), which {who} has as {taken}; choose another private range by its "
                    f"first two numbers, such as {VARIABLE}={_free(others)}"
                )
    _check_former(config, wanted, own)
    return len(wanted)


def _check_former(config: dict[str, Any], wanted: dict[Subnet, str], own: dict[str, list[Subnet]]) -> None:
    """Refuse where networks that the project made for another roster have a subnet of one that it wants now."""
    project = config["name"]
    names = {key: network.get("name") or f"{project}_{key}" for key, network in config["networks"].items()}
    former = {
        name: taken
        for name, each in own.items()
        for taken in each
        if any(taken.overlaps(subnet) and names[key] != name for subnet, key in wanted.items())
    }
    if former:
        # `make down` alone removes the networks that the file names. Without a file, compose goes by the labels.
        raise InputError(
            f"project {project}: wanted the subnets of the present roster free, got networks that the project made for "
            f"another roster: {', '.join(f'{name} ({taken})' for name, taken in sorted(former.items()))}; remove the "
            f"project's containers and networks (volumes stay) and try again: "
            f"docker compose --project-name {project} down --remove-orphans"
        )


def read_routes(file: Path = _ROUTES) -> list[tuple[str, Subnet]]:
    """Return interface and destination of every IPv4 route of this host but the default one."""
    found = []
    for line in file.read_text(encoding="ascii").splitlines()[1:]:
        interface, destination, _, _, _, _, _, mask, *_ = line.split()
        address, width = (int.from_bytes(bytes.fromhex(word), "little") for word in (destination, mask))
        if width:
            found.append((interface, ipaddress.IPv4Network((address, width.bit_count()))))
    return found


def _private(text: str) -> Subnet:
    wanted = "wanted the first two numbers of a private range (10.N, 172.16 to 172.31, 192.168)"
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError:
        raise InputError(f"{VARIABLE}: {wanted}, got a value that makes the subnet {text}") from None
    if not any(
        subnet.subnet_of(ipaddress.IPv4Network(one)) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
    ):
        raise InputError(f"{VARIABLE}: {wanted}, got one with the public subnet {subnet}")
    return subnet


def _subnets_of(network: dict[str, Any]) -> list[Subnet]:
    given = [part["Subnet"] for part in (network.get("IPAM") or {}).get("Config") or () if "Subnet" in part]
    return [ipaddress.IPv4Network(text) for text in given if ":" not in text]


def _free(others: Iterable[tuple[str, Subnet]]) -> str:
    """Return a range that nobody is in; the default one where all have somebody."""
    taken = [subnet for _, subnet in others]
    for second in range(213, 213 + 256):
        candidate = f"10.{second % 256}"
        if not any(ipaddress.IPv4Network(f"{candidate}.0.0/16").overlaps(subnet) for subnet in taken):
            return candidate
    return DEFAULT


def main() -> int:
    """Check the project and the networks on standard input, one JSON value after the other; all well prints nothing."""
    text = sys.stdin.read()
    try:
        config, end = json.JSONDecoder().raw_decode(text)
        check(config, json.loads(text[end:]), read_routes())
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
