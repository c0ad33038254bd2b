"""A run's passport: signed statements of the coordinator and the participants about a finished run, checked offline."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

__all__ = ["FILE", "known_passport"]

#: The passport in a run's folder.
FILE: Final = "passport.json"


def known_passport(folder: Path) -> dict[str, str]:
    """Return `passport_sha256` of a run's folder; an empty mapping while the run has no passport."""
    file = folder / FILE
    return {"passport_sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.is_file() else {}
