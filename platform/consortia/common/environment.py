"""What a process finds around it: versions (no names of machines or users), Flower's switches, where homes lie."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["WANTED_BUILD", "build", "default_root", "describe", "flower_stays_offline", "hashes"]

PACKAGES = ("consortia", "flwr", "torch", "opacus", "dp-accounting", "numpy", "pandas", "scikit-learn", "safetensors")

#: The image of this container by its ID, as whoever started it says.
_IMAGE = "CONSORTIA_IMAGE"
#: The coordinator's build, as a join kit says.
WANTED_BUILD = "CONSORTIA_WANTED_BUILD"


def default_root() -> Path:
    """Return where the homes of participants lie when nobody says so: `$CONSORTIA_HOME`, or `~/.consortia`."""
    return Path(os.environ.get("CONSORTIA_HOME") or Path.home() / ".consortia")


def flower_stays_offline() -> None:
    """Set what Flower reads when it is imported: a run needs no network."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")


def build() -> dict[str, str]:
    """Return what this image was built of (`build` of platform/build_id.sh, `base`, `torch_variant`); {} elsewhere."""
    try:
        found: dict[str, str] = json.loads((Path(sys.prefix) / "consortia-build.json").read_text(encoding="utf-8"))
    except OSError:
        return {}
    return found


def describe() -> dict[str, str]:
    """Return the interpreter, the kind of system, and the versions of the packages that a result depends on.

    In a container also the image's build and, where it is known, its ID.
    """
    found = {"python": platform.python_version(), "system": platform.system(), "processor": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that is on the path without being installed
            found[package] = "not installed"
    image = os.environ.get(_IMAGE, "")
    return {**found, **build(), **({"image": image} if image else {})}


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what the coordinator wrote: scenario, events, record, models, kept updates, who left."""
    files = [folder / name for name in ("scenario.json", "events.jsonl", "coordinator.json")]
    files += [file for name in ("model", "updates") for file in sorted((folder / name).glob("*.safetensors"))]
    files += sorted((folder / "left").glob("*.json"))
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }
