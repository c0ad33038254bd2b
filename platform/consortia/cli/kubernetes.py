"""`consortia kubernetes`: writes Kubernetes manifests; it calls no cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from consortia.common.console import tell
from consortia.common.errors import InputError
from consortia.deploy.members import MemberFolder
from consortia.deploy.prepare import effective


def kubernetes(
    scenario: Annotated[
        str, typer.Argument(help="The scenario whose coordinator to write; none with --participant.")
    ] = "",
    participant: Annotated[str, typer.Option(help="Write this participant, from its join kit.")] = "",
    address: Annotated[str, typer.Option(help="HOST:PORT under which participants call the coordinator.")] = "",
    service_ip: Annotated[
        str, typer.Option(help="Free address of the cluster's service range, for a participant's SuperNode.")
    ] = "",
    kit: Annotated[Path | None, typer.Option(help="The participant's join kit; kits/NAME without it.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", help="Folder of the coordinator; kubernetes/SCENARIO without it.")
    ] = None,
    members: Annotated[Path, typer.Option(help="Folder of who joined and who left.")] = Path("members"),
    pki: Annotated[Path, typer.Option(help="Folder of certificates.")] = Path("pki"),
    registry: Annotated[str, typer.Option(help="Where the cluster pulls the images from.")] = "",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs to reserve for the launcher, or for the ServerApp.")] = 0,
) -> None:
    """Write Kubernetes manifests of a coordinator or of a participant, with the walls of the compose files."""
    from consortia.deploy.kubernetes.folder import write_coordinator, write_participant

    if bool(scenario) == bool(participant):
        raise InputError("kubernetes: wanted either a scenario or --participant NAME, got neither or both")
    if participant:
        written = write_participant(
            kit or Path("kits") / participant, participant, service_ip, registry=registry, gpus=gpus
        )
        tell(f"wrote {written}; install it: kubectl apply -f {written}")
        tell(f"then send {written.parent / participant}.pub to the coordinator, and make the ledger once:")
        tell(
            f"kubectl -n consortia-{participant} exec deploy/{participant}-app -- "
            f"consortia budget init {participant} --home /home"
        )
        return
    loaded = effective(scenario)
    target = folder or Path("kubernetes") / loaded.name
    missing = write_coordinator(
        target, loaded, MemberFolder(members, loaded.name), address, pki=pki, registry=registry, gpus=gpus
    )
    tell(f"wrote {target}; install it: kubectl apply -f {target}")
    for name in missing:
        tell(
            f"no key of {name} yet: hand over {target / 'kits' / name}; when {name}.pub has come: "
            f"consortia participant key {name} --public-key {name}.pub --scenario {scenario}, and write this again"
        )
    tell(f"let participants in: kubectl create -f {target / 'jobs' / 'register.yaml'}")
    tell(f"run: kubectl create -f {target / 'jobs' / 'runner.yaml'}")
