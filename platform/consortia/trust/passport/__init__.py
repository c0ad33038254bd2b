"""A run's passport: what coordinator and participants state about a finished run, signed, to be checked offline."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

__all__ = ["FILE", "known_passport"]

#: The passport in a run's folder.
FILE: Final = "passport.json"


def known_passport(folder: Path) -> dict[str, str]:
    """Return `passport_sha256` of a run's folder, for what names its run; nothing where there is no passport yet."""
    file = folder / FILE
    return {"passport_sha256": hashlib.sha256(file.read_bytes()).hexdigest()} if file.is_file() else {}
