"""Writes one network policy a service: pods reach each other where their services share a network."""

from __future__ import annotations

from collections.abc import Mapping

from consortia.deploy.kubernetes.cluster import LABEL, Cluster, Manifest, meta, peers, port


def walls(name: str, services: Mapping[str, Manifest], cluster: Cluster) -> Manifest:
    """Return the network policy of one service."""
    service = services[name]
    ingress: list[Manifest] = []
    egress: list[Manifest] = []
    others = peers(name, services)
    if (listens := port(name, service)) is not None:
        # The proxy is what participants reach from elsewhere; the SuperLink behind it is not.
        callers = [] if name == "proxy" else [{"podSelector": {"matchLabels": {LABEL: peer}}} for peer in others]
        ingress.append({**({"from": callers} if callers else {}), "ports": [{"protocol": "TCP", "port": listens}]})
    for peer in others:
        if (there := port(peer, services[peer])) is not None:
            selector = {"podSelector": {"matchLabels": {LABEL: peer}}}
            egress.append({"to": [selector], "ports": [{"protocol": "TCP", "port": there}]})
    if "outside" in service["networks"]:
        egress.append({"ports": [{"protocol": "TCP", "port": cluster.outside_port}]})
    if not closed(name, services, cluster):
        egress.append(
            {
                "to": [
                    {
                        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
                        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
                    }
                ],
                "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
            }
        )
    return policy(cluster, name, {"matchLabels": {LABEL: name}}, ingress, egress)


def closed(name: str, services: Mapping[str, Manifest], cluster: Cluster) -> bool:
    """Return whether a pod needs no names: all its peers have fixed addresses and it calls nobody outside."""
    listening = [peer for peer in peers(name, services) if port(peer, services[peer]) is not None]
    return set(listening) <= set(cluster.hosts) and "outside" not in services[name]["networks"]


def policy(
    cluster: Cluster, name: str, selector: Manifest, ingress: list[Manifest], egress: list[Manifest]
) -> Manifest:
    """Return a policy for the pods of a selector: what neither list names is denied."""
    spec = {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], "ingress": ingress, "egress": egress}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": meta(cluster, name),
        "spec": spec,
    }
