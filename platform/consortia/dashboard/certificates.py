"""Tells when certificates expire."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

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


def _read(file: Path, folder: Path) -> Certificate:
    name = str(file.relative_to(folder))
    try:
        ends = expiry(file)
    except (OSError, ValueError, IndexError):
        return Certificate(name, None, None)
    return Certificate(name, ends, (ends - datetime.datetime.now(datetime.UTC)).days)
