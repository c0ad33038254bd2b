"""Bundles as a coordinator may send them."""

from __future__ import annotations

import hashlib
import io
import zipfile

from consortia.messages.bundle import COMPONENTS

__all__ = ["COMPONENTS", "fab"]


def fab(files: dict[str, bytes], *, listed: dict[str, bytes] | None = None) -> bytes:
    """Build a bundle as `flwr build` does: the files and a manifest of `path,sha256,bits`."""
    named = files if listed is None else listed
    lines = [f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in named.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(".info/CONTENT", "\n".join(lines))
    return buffer.getvalue()
