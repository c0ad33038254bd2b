"""Writes the pod of a service: what its container may do is what the compose service may do."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from consortia.common.errors import InputError
from consortia.deploy.kubernetes.cluster import LABEL, Cluster, Manifest, mounts, port, read_only
from consortia.deploy.kubernetes.walls import closed

_HEALTH: Final = ["sh", "/opt/health.sh"]
_PROXY_HEALTH: Final = ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8001"]
#: Mounted by the ServerApp's pod and by the job that follows it: one node, hence one claim.
SHARED: Final = "runs"


def template(name: str, services: Mapping[str, Manifest], cluster: Cluster) -> Manifest:
    """Return the pod template of one service."""
    service = services[name]
    user, group = (int(part) for part in service["user"].split(":"))
    container: Manifest = {
        "name": name,
        "image": cluster.registry + service["image"],
        **({"command": service["command"]} if "command" in service else {}),
        **({"workingDir": service["working_dir"]} if "working_dir" in service else {}),
        "env": [{"name": key, "value": value} for key, value in _environment(name, service).items()],
        "securityContext": {
            "allowPrivilegeEscalation": "no-new-privileges:true" not in service["security_opt"],
            "readOnlyRootFilesystem": service["read_only"],
            "capabilities": {"drop": [cap.upper() for cap in service["cap_drop"]]},
        },
        "resources": _resources(name, service, cluster),
        **_probes(name, service),
    }
    volumes, mounted = _volumes(name, service, cluster)
    pod: Manifest = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": group,
            "fsGroup": group,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [{**container, "volumeMounts": mounted}],
        "volumes": volumes,
    }
    if closed(name, services, cluster):
        pod["hostAliases"] = [{"ip": ip, "hostnames": [host]} for host, ip in cluster.hosts.items() if host != name]
        pod["dnsPolicy"] = "None"
        pod["dnsConfig"] = {"nameservers": ["127.0.0.1"]}
    if shares := [
        other
        for other, there in services.items()
        if other != name and "restart" in there and "restart" not in service and share_claim(service, there)
    ]:
        term = {
            "labelSelector": {"matchExpressions": [{"key": LABEL, "operator": "In", "values": shares}]},
            "topologyKey": "kubernetes.io/hostname",
        }
        pod["affinity"] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    return {"metadata": {"labels": {LABEL: name}}, "spec": pod}


def share_claim(one: Manifest, other: Manifest) -> bool:
    return any(source == SHARED for source, _ in mounts(one)) and any(source == SHARED for source, _ in mounts(other))


def _environment(name: str, service: Manifest) -> dict[str, str]:
    """Return a service's variables; one without a health check of its own asks whom it serves."""
    own = {key: "" if value is None else str(value) for key, value in service.get("environment", {}).items()}
    if "CONSORTIA_HEALTH_URL" in own:
        # Its own name leads through the Service, which has no pod before the first probe succeeded.
        own["CONSORTIA_HEALTH_URL"] = f"https://localhost:{port(name, service)}/health"
    options = dict(word.split("=", 1) for word in service.get("command", []) if word.startswith("--") and "=" in word)
    if "--runtime-api-address" in options:
        own["CONSORTIA_HEALTH_URL"] = f"https://{options['--runtime-api-address']}/health"
        own["CONSORTIA_HEALTH_CA"] = options["--root-certificates"]
    return own


def _probes(name: str, service: Manifest) -> Manifest:
    """Return the probes. A launcher's says whether it reaches its SuperNode; its process ending is its own alarm."""
    if "restart" not in service:
        return {}
    asks: Manifest = {"exec": {"command": _PROXY_HEALTH if name == "proxy" else _HEALTH}, "timeoutSeconds": 10}
    ready = {"readinessProbe": {**asks, "periodSeconds": 10, "failureThreshold": 3}}
    if port(name, service) is None:
        return ready
    return {
        "startupProbe": {**asks, "periodSeconds": 5, "failureThreshold": 60},
        **ready,
        "livenessProbe": {**asks, "periodSeconds": 30, "failureThreshold": 10},
    }


def _resources(name: str, service: Manifest, cluster: Cluster) -> Manifest:
    memory = re.sub(r"^(\d+)([mg])$", lambda found: f"{found[1]}{found[2].upper()}i", service["mem_limit"])
    limits: Manifest = {"cpu": f"{int(float(service['cpus']) * 1000)}m", "memory": memory}
    if gpus := cluster.gpus.get(name, 0):
        limits["nvidia.com/gpu"] = gpus
    return {"requests": {"cpu": "100m", "memory": memory}, "limits": limits}


def _volumes(name: str, service: Manifest, cluster: Cluster) -> tuple[list[Manifest], list[Manifest]]:
    volumes: list[Manifest] = []
    mounted: list[Manifest] = []
    for entry in service["tmpfs"]:
        path, _, options = entry.partition(":")
        size = re.search(r"size=(\d+)m", options)
        volumes.append({"name": "tmp", "emptyDir": {"medium": "Memory", "sizeLimit": f"{size[1] if size else 64}Mi"}})
        mounted.append({"name": "tmp", "mountPath": path})
    for source, path in mounts(service):
        alias = source.replace(".", "-")
        mount: Manifest = {"name": alias, "mountPath": path}
        if read_only(service, path):
            mount["readOnly"] = True
        if source in cluster.storage:
            volumes.append({"name": alias, "persistentVolumeClaim": {"claimName": source}})
        elif source in cluster.secrets:
            files = cluster.secrets[source]
            items = [{"key": file.replace("/", "."), "path": file} for file in files]
            volumes.append({"name": alias, "secret": {"secretName": alias, "defaultMode": 0o440, "items": items}})
            if list(files) == [source]:  # one file, over one of another mount
                mount["subPath"] = source
        else:
            raise InputError(f"service {name}: wanted a claim or a secret for the mount {source}:{path}, got neither")
        mounted.append(mount)
    if name in cluster.files:
        path, _ = cluster.files[name]
        volumes.append({"name": "files", "configMap": {"name": f"{name}-files"}})
        mounted.append({"name": "files", "mountPath": path, "subPath": path.rpartition("/")[2], "readOnly": True})
    return volumes, mounted
