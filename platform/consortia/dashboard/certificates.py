"""Tells when certificates expire."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily

from consortia.deploy.pki_folder import DUE_DAYS, expiry


@dataclass(frozen=True)
class Certificate:
    """One file's first certificate; `days` are left, None where it cannot be read."""

    name: str
    ends: datetime.datetime | None
    days: int | None

    @property
    def due(self) -> bool:
        """Whether it has to be renewed now."""
        return self.days is None or self.days < DUE_DAYS


def certificates(folder: Path | None) -> list[Certificate]:
    """Return the certificates in a folder and below it, by name."""
    if folder is None or not folder.is_dir():
        return []
    return [_read(file, folder) for file in sorted([*folder.rglob("*.pem"), *folder.rglob("*.crt")])]


def expiry_metric(folder: Path | None) -> GaugeMetricFamily:
    """Return when each certificate ends, for Prometheus; one that cannot be read is left out."""
    family = GaugeMetricFamily("consortia_certificate_end_timestamp_seconds", "When it ends.", labels=["file"])
    for certificate in certificates(folder):
        if certificate.ends is not None:
            family.add_metric([certificate.name], certificate.ends.timestamp())
    return family


def _read(file: Path, folder: Path) -> Certificate:
    name = str(file.relative_to(folder))
    try:
        ends = expiry(file)
    except (OSError, ValueError, IndexError):
        return Certificate(name, None, None)
    return Certificate(name, ends, (ends - datetime.datetime.now(datetime.UTC)).days)
