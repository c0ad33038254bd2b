"""Translates a compose file into Kubernetes manifests. The compose file is the only description of the walls.

Guarantees
----------
* What a container may do is what its compose service may do: user, read-only root, dropped capabilities, memory, CPU,
  commands and mounts are read from there. A key of compose that this module does not know is an error.
* Pods reach each other exactly where their services share a network; everything else is denied, both ways.
* A launcher resolves no names: its one peer stands in `hostAliases`. A look-up could carry bytes out of a cluster.
* No pod gets a service account token. Every namespace enforces the `restricted` pod security standard.

Networks, volumes and secrets of participants lie in a namespace of each; nothing refers to another namespace.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from consortia.deploy.kubernetes.cluster import LABEL, Cluster, Manifest, meta, mounts, port
from consortia.deploy.kubernetes.pods import SHARED, template
from consortia.deploy.kubernetes.walls import policy, walls


def manifests(services: Mapping[str, Manifest], cluster: Cluster) -> tuple[list[Manifest], dict[str, Manifest]]:
    """Return what is installed and, by name, the jobs, which are created one at a time.

    A service that restarts becomes a Deployment of one pod; a service that ends becomes a Job.
    """
    installed: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": cluster.namespace,
                "labels": {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")},
            },
        },
        policy(cluster, "deny-all", {}, [], []),
    ]
    claims = {source for service in services.values() for source, _ in mounts(service) if source in cluster.storage}
    installed += [_claim(cluster, claim) for claim in sorted(claims)]
    jobs = {}
    for name, service in services.items():
        installed.append(walls(name, services, cluster))
        if name in cluster.files:
            path, text = cluster.files[name]
            data = {path.rpartition("/")[2]: text}
            installed.append(
                {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta(cluster, f"{name}-files"), "data": data}
            )
        if (listens := port(name, service)) is not None:
            spec: Manifest = {"selector": {LABEL: name}, "ports": [{"port": listens, "targetPort": listens}]}
            if name in cluster.hosts:
                spec["clusterIP"] = cluster.hosts[name]
            installed.append({"apiVersion": "v1", "kind": "Service", "metadata": meta(cluster, name), "spec": spec})
        pod = template(name, services, cluster)
        if "restart" in service:
            installed.append(
                {
                    "apiVersion": "apps/v1",
                    "kind": "Deployment",
                    "metadata": meta(cluster, name),
                    # Never two at a time: a home, a node key and the SuperLink's database have one user.
                    "spec": {
                        "replicas": 1,
                        "strategy": {"type": "Recreate"},
                        "selector": {"matchLabels": {LABEL: name}},
                        "template": pod,
                    },
                }
            )
        else:
            pod["spec"]["restartPolicy"] = "Never"
            # A run that failed is not begun again by itself: it would be charged again.
            jobs[name] = {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "metadata": {"generateName": f"{name}-", "namespace": cluster.namespace, "labels": {LABEL: name}},
                "spec": {"backoffLimit": 0, "template": pod},
            }
    return installed, jobs


def _claim(cluster: Cluster, name: str) -> Manifest:
    # One pod writes; `runs` has two, of one node. `data` is only read, and its owner fills it from another pod.
    mode = "ReadWriteOnce" if name in {SHARED, "data"} else "ReadWriteOncePod"
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": meta(cluster, name),
        "spec": {"accessModes": [mode], "resources": {"requests": {"storage": cluster.storage[name]}}},
    }


def secret(cluster: Cluster, name: str, files: Mapping[str, bytes]) -> Manifest:
    """Return a secret of some files; a path's slashes are dots in its keys."""
    data = {path.replace("/", "."): base64.b64encode(content).decode() for path, content in sorted(files.items())}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": meta(cluster, name.replace(".", "-")),
        "type": "Opaque",
        "data": data,
    }


def to_yaml(documents: Sequence[Manifest], head: str) -> str:
    """Return the documents as one file, below a comment."""
    lines = "".join(f"# {line}\n" for line in head.splitlines())
    text: str = yaml.dump_all(documents, Dumper=_Plain, sort_keys=False, width=120, explicit_start=True)
    return lines + text


class _Plain(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
    """Writes no aliases, and text of several lines as it is."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


_Plain.add_representer(str, _text)
