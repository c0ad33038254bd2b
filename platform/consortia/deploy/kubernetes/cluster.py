"""Reads the services of a compose file, the one description of the walls, and says what only a cluster knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from consortia.common.errors import InputError

#: `${NAME:-default}` and `${NAME-default}` of compose.
_VARIABLE: Final = re.compile(r"\$\{[A-Z_]+:?-([^}]*)\}")
#: Keys of a service that are translated, or that the cluster's own objects replace.
_KNOWN: Final = frozenset(
    {"build", "cap_add", "cap_drop", "command", "cpus", "depends_on", "entrypoint", "environment", "healthcheck"}
    | {"image", "logging", "mem_limit", "memswap_limit", "network_mode", "networks", "pids_limit", "ports", "profiles"}
    | {"read_only", "restart", "security_opt", "tmpfs", "user", "volumes", "working_dir"}
)
#: Mounts that a cluster has no use for: who joined is in the scenario's own text here.
_LEFT_OUT: Final = frozenset({"members"})
_PROXY_PORT: Final = 8000
LABEL: Final = "app.kubernetes.io/name"

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """What a compose file cannot know.

    Attributes
    ----------
    namespace : str
    registry : str
        Stands before the images' names, with a slash; may be empty.
    storage : mapping of str to str
        Size of each claim, such as {"home": "1Gi"}.
    secrets : mapping of str to sequence of str
        The files of each secret, as paths below its mount.
    hosts : mapping of str to str
        Fixed cluster addresses of services; a pod all of whose peers are here resolves no names.
    outside_port : int or None
        The port on which a SuperNode calls the coordinator.
    gpus : mapping of str to int
        GPUs that a service reserves.
    files : mapping of str to (str, str)
        A file of a config map over one of the image: service to (path in the container, its text).
    """

    namespace: str
    secrets: Mapping[str, Sequence[str]]
    storage: Mapping[str, str]
    registry: str = ""
    hosts: Mapping[str, str] = field(default_factory=dict)
    outside_port: int | None = None
    gpus: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def services_of(compose: str, leave_out: Sequence[str] = ()) -> dict[str, Manifest]:
    """Return the services that run in a cluster, with every variable at its default.

    Steps that start as root are left out, since they run where the manifests are written; so is what has a profile.

    Raises
    ------
    InputError
        When a service has a key that no translation knows.
    """
    found = yaml.safe_load(_VARIABLE.sub(r"\1", compose))["services"]
    kept = {
        name: service
        for name, service in found.items()
        if name not in leave_out and service["user"] != "0:0" and "profiles" not in service
    }
    for name, service in kept.items():
        if unknown := sorted(set(service) - _KNOWN):
            raise InputError(
                f"service {name}: wanted keys of compose that have a translation, got {', '.join(unknown)}; "
                "teach platform/consortia/deploy/kubernetes/ what they mean in a cluster"
            )
    return kept


def mounts(service: Manifest) -> list[tuple[str, str]]:
    """Return (source without `./`, path) of every mount."""
    parts = [text.split(":") for text in service.get("volumes", [])]
    return [(p[0].removeprefix("./"), p[1]) for p in parts if p[0].removeprefix("./") not in _LEFT_OUT]


def read_only(service: Manifest, path: str) -> bool:
    """Return whether a service only reads what is mounted at a path."""
    return any(text.split(":")[1:] == [path, "ro"] for text in service["volumes"])


def port(name: str, service: Manifest) -> int | None:
    """Return the port on which a service listens, or None."""
    if name == "proxy":
        return _PROXY_PORT
    found = [word.partition("=")[2] for word in service.get("command", []) if word.startswith("--port=")]
    return int(found[0]) if found else None


def peers(name: str, services: Mapping[str, Manifest]) -> list[str]:
    """Return who shares a network with a service."""
    own = set(services[name]["networks"])
    return [other for other, service in services.items() if other != name and own & set(service["networks"])]


def meta(cluster: Cluster, name: str) -> Manifest:
    """Return the metadata of an object of the namespace."""
    return {"name": name, "namespace": cluster.namespace, "labels": {LABEL: name}}
