"""Writes a scenario, or one participant, as Kubernetes manifests."""
