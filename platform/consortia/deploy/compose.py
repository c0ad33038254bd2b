"""Writes a scenario's compose file from its roster."""

from __future__ import annotations

from importlib import resources
from string import Template

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
    volumes for its keys. Each launcher reserves so many GPUs.
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
            name=participant.name, industry=participant.industry, reservation=reservation
        )
        for participant in scenario.roster
    ]
    return template("compose.yml.txt").substitute(
        scenario=scenario.name,
        most_bytes=str(largest_answer(scenario)),
        door=ranges["door"],
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


def template(name: str) -> _Text:
    """Return a template of the package."""
    return _Text((resources.files("consortia") / "templates" / name).read_text(encoding="utf-8"))
