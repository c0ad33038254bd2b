"""What a process finds around it: versions (no names of machines or users), Flower's switches, where homes lie."""

from __future__ import annotations

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["default_root", "describe", "flower_stays_offline", "hashes"]

PACKAGES = ("consortia", "flwr", "torch", "opacus", "dp-accounting", "numpy", "pandas", "scikit-learn", "safetensors")


def default_root() -> Path:
    """Return where the homes of participants lie when nobody says so: `$CONSORTIA_HOME`, or `~/.consortia`."""
    return Path(os.environ.get("CONSORTIA_HOME") or Path.home() / ".consortia")


def flower_stays_offline() -> None:
    """Set what Flower reads when it is imported: a run needs no network."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    os.environ.setdefault("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1")


def describe() -> dict[str, str]:
    """Return the interpreter, the kind of system, and the versions of the packages that a result depends on."""
    found = {"python": platform.python_version(), "system": platform.system(), "processor": platform.machine()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a source tree that is on the path without being installed
            found[package] = "not installed"
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of what the coordinator wrote: scenario, events, record, models, kept updates, who left."""
    files = [folder / name for name in ("scenario.json", "events.jsonl", "coordinator.json")]
    files += [file for name in ("model", "updates") for file in sorted((folder / name).glob("*.safetensors"))]
    files += sorted((folder / "left").glob("*.json"))
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()
    }
