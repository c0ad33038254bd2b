"""Writes the folder of manifests of a coordinator, or of one participant's join kit.

    FOLDER/coordinator.yaml    (kit: kubernetes/participant.yaml) everything that is installed, without a secret
    FOLDER/secrets.yaml        (kit: kubernetes/secrets.yaml) readable by its owner alone
    FOLDER/jobs/*.yaml         jobs of the coordinator: `kubectl create -f`, once for each run
    FOLDER/keys/               the coordinator's keys, made once; secrets.yaml is written from them
    FOLDER/kits/NAME/          the join kit of everybody on the roster who has none yet

Nothing here calls a cluster.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Final

import tomli_w

from consortia.common.disk import write_secret
from consortia.common.errors import InputError
from consortia.common.pki import public_half
from consortia.deploy.compose import compose_text
from consortia.deploy.kit import check_address, check_certificate, write_kit
from consortia.deploy.kit_signature import check_kit
from consortia.deploy.kubernetes.cluster import Cluster, Manifest, services_of
from consortia.deploy.kubernetes.manifests import manifests, secret, to_yaml
from consortia.deploy.members import MemberFolder, apply
from consortia.deploy.prepare import coordinator_keys, participant_keys
from consortia.terms.scenario import Scenario

_COORDINATOR_STORAGE: Final = {"state": "1Gi", "runs": "10Gi"}
_KIT_STORAGE: Final = {"home": "1Gi", "data": "10Gi"}
_NOTE: Final = "Written by `consortia kubernetes`; do not edit. It was checked against the schemas of Kubernetes only."

Files = dict[str, bytes]


def write_coordinator(
    folder: Path, scenario: Scenario, members: MemberFolder, address: str, *, pki: Path, registry: str, gpus: int
) -> list[str]:
    """Write the coordinator's manifests, and kits for those of the roster who have none; return what is still missing.

    Parameters
    ----------
    address : str
        host:port under which participants call the coordinator.
    pki : Path
        Folder of certificates, made or brought (`consortia.deploy.pki_folder`).

    Raises
    ------
    InputError
        When the address, the certificates or the roster cannot be used.
    """
    check_address(address)
    scenario = apply(scenario, members.load())
    coordinator_keys(folder / "keys", pki, address=address)
    authority = check_certificate(pki, address)
    parts: dict[str, Files] = {}
    for part in ("public", "superlink", "superexec", "proxy"):
        parts[f"keys-{part}"] = _files(folder / "keys" / part)
    missing = []
    for participant in scenario.roster:
        key = members.public_key(participant.name)
        if key.is_file():
            parts["keys-public"][f"{participant.name}.pub"] = key.read_bytes()
        else:
            missing.append(participant.name)
        if not (kit := folder / "kits" / participant.name).exists():
            write_kit(kit, scenario, participant.name, address, authority, has_key=key.is_file(), pki=pki)
    whole = scenario.model_dump(mode="python", by_alias=True, exclude_none=True)
    parts["scenarios"] = {f"{scenario.name}.toml": tomli_w.dumps(whole).encode()}
    namespace = _namespace(scenario.name)
    services = services_of(
        compose_text(scenario),
        [name for participant in scenario.roster for name in (participant.name, f"{participant.name}-app")],
    )
    proxy = (resources.files("consortia") / "deploy" / "haproxy.cfg").read_text(encoding="utf-8")
    cluster = Cluster(
        namespace=namespace,
        registry=_registry(registry),
        storage=_COORDINATOR_STORAGE,
        secrets={name: sorted(files) for name, files in parts.items()},
        gpus={"superexec": gpus},
        # Its resolver knows no search domains: the short name would go down at the second look-up.
        files={
            "proxy": (
                "/etc/haproxy/haproxy.cfg",
                proxy.replace("superlink:8000", f"superlink.{namespace}.svc.cluster.local:8000").replace(
                    "${CONSORTIA_DOOR-255.255.255.255}",
                    "255.255.255.255",  # there is no door
                ),
            )
        },
    )
    installed, jobs = manifests(services, cluster)
    _write(folder, "coordinator.yaml", installed, cluster, parts)
    (folder / "jobs").mkdir(exist_ok=True)
    for name, job in jobs.items():
        (folder / "jobs" / f"{name}.yaml").write_text(to_yaml([job], _NOTE), encoding="utf-8")
    return missing


def write_participant(kit: Path, name: str, service_ip: str, *, registry: str, gpus: int) -> Path:
    """Write a participant's manifests into its join kit; return their folder.

    Keys are made where the kit has none, as its own `keys` step does. The compose file of the kit is the description.

    Raises
    ------
    InputError
        When the kit is not the participant's, its policy is not filled in, or the address is none.
    """
    try:
        ipaddress.ip_address(service_ip)
    except ValueError:
        raise InputError(
            f"--service-ip: wanted a free address of the cluster's service range, got {service_ip!r}; the launcher "
            "resolves no names, so its SuperNode needs a fixed one (`kubectl get service kubernetes -n default` "
            "shows the range)"
        ) from None
    compose = kit / "compose.yml"
    if not compose.is_file():
        raise InputError(f"{compose}: wanted the join kit of {name}, got nothing there; ask the coordinator, or --kit")
    services = services_of(compose.read_text(encoding="utf-8"))
    if not {name, f"{name}-app"} <= set(services):
        raise InputError(f"{compose}: wanted the join kit of {name}, got one of {', '.join(sorted(services))}")
    policy = (kit / "policy.toml").read_bytes()
    if b"FILL IN" in policy:
        raise InputError(f"{kit / 'policy.toml'}: wanted a policy, got lines that say FILL IN; fill them in first")
    check_kit(kit, name, accepted=True)
    participant_keys(name, kit / "keys", kit / "keys-app", (kit / "ca.crt").read_bytes())
    (kit / f"{name}.pub").write_bytes(public_half((kit / "keys" / "node.key").read_bytes()))
    parts = {
        "keys": _files(kit / "keys"),
        "keys-app": _files(kit / "keys-app"),
        "policy.toml": {"policy.toml": policy},
        "clients": _files(kit / "clients"),  # the industry's file, where it is one
    }
    address = re.search(r"--superlink=(\S+)", compose.read_text(encoding="utf-8"))
    if address is None:
        raise InputError(f"{compose}: wanted --superlink=HOST:PORT in a command, got none; ask for a new kit")
    cluster = Cluster(
        namespace=_namespace(name),
        registry=_registry(registry),
        storage=_KIT_STORAGE,
        secrets={part: sorted(files) for part, files in parts.items()},
        hosts={name: service_ip},
        outside_port=check_address(address[1])[1],
        gpus={f"{name}-app": gpus},
    )
    installed, _ = manifests(services, cluster)
    folder = kit / "kubernetes"
    folder.mkdir(exist_ok=True)
    _write(folder, "participant.yaml", installed, cluster, parts)
    return folder


def _write(
    folder: Path, file: str, installed: Sequence[Manifest], cluster: Cluster, parts: Mapping[str, Files]
) -> None:
    (folder / file).write_text(to_yaml(installed, _NOTE), encoding="utf-8")
    secrets = [secret(cluster, name, files) for name, files in parts.items()]
    write_secret(folder / "secrets.yaml", to_yaml(secrets, _NOTE).encode())


def _files(folder: Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _namespace(name: str) -> str:
    return f"consortia-{name}"


def _registry(prefix: str) -> str:
    return f"{prefix.rstrip('/')}/" if prefix else ""
