"""Says what is in the images, and looks it up among known vulnerabilities: `python platform/locks/supply.py sbom|scan`.

sbom    a bill of materials in CycloneDX for each image, from its locks: every package with its version and the hashes
        that pip demands, our own version and build, and the wheels of partners in wheels/
scan    pip-audit over the same packages. 0: none is known to be vulnerable, 1: some are, 3: not scanned, or not all of
        it, since no database knew. PIP_AUDIT_VULNERABILITY_SERVICE=osv with PIP_AUDIT_OSV_URL=… asks one of your own.

The base image and Debian's packages (haproxy, openssl) are in neither: they have no lock of ours.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Locks of each image besides PyTorch's.
IMAGES = {"participant": ("participant",), "coordinator": ("participant", "coordinator")}
#: Where a marker of a lock is asked: an image's Python, on any machine that PyTorch is built for.
_PLATFORM = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
_TORCH_CPU = "https://download.pytorch.org/whl/cpu/torch/"
FOUND, BAD_INPUT, NOT_SCANNED = 1, 2, 3


def requirements(files: list[Path]) -> list[str]:
    """Return the requirements of locks that are installed into an image, each with its hashes, without markers."""
    kept = []
    for file in files:
        for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ \t]+.*)*", file.read_text(encoding="utf-8"), flags=re.MULTILINE):
            words = block.replace("\\\n", " ").split("--hash=")
            wanted = Requirement(words[0])
            if wanted.marker is None or wanted.marker.evaluate(_PLATFORM):
                hashes = " ".join(f"--hash={each.strip()}" for each in words[1:])
                kept.append(f"{wanted.name}{wanted.specifier} {hashes}")
    return kept


def partners(folder: Path) -> list[str]:
    """Return the wheels of partners as requirements with the hash of the file; what these need has no lock."""
    named = [(parse_wheel_filename(wheel.name), wheel.read_bytes()) for wheel in sorted(folder.glob("*.whl"))]
    return [
        f"{name}=={version} --hash=sha256:{hashlib.sha256(data).hexdigest()}" for (name, version, *_), data in named
    ]


def bill(image: str, torch: str) -> dict[str, Any]:
    """Return the bill of materials of one image."""
    lines = requirements([HERE / f"torch-{torch}.txt", *(HERE / f"{name}.txt" for name in IMAGES[image])])
    command = [sys.executable, "-W", "ignore", "-m", "cyclonedx_py", "requirements", "-", "--output-reproducible"]
    command += ["--pyproject", str(ROOT / "pyproject.toml")]
    text = "\n".join([*lines, *partners(ROOT / "wheels")])
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        raise SystemExit(done.stderr)
    made: dict[str, Any] = json.loads(done.stdout)
    for component in made["components"]:
        del component["description"]  # a line number in the text above, and the hashes once more
        if (component["name"], torch) == ("torch", "cpu"):
            component["externalReferences"][0]["url"] = _TORCH_CPU  # PyPI's file is another
    base = os.environ.get("CONSORTIA_BASE", "python:3.11-slim-bookworm")
    script = ["sh", str(ROOT / "platform" / "build_id.sh"), str(ROOT), base, torch]
    build = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    own = {"image": image, "build": build, "base": base, "torch": torch}
    made["metadata"]["component"]["properties"] = [
        {"name": f"consortia:{name}", "value": value} for name, value in own.items()
    ]
    return made


def write_bills(folder: Path, torch: str) -> None:
    """Write a bill for each image."""
    folder.mkdir(parents=True, exist_ok=True)
    for image in IMAGES:
        made, file = bill(image, torch), folder / f"{image}.cdx.json"
        file.write_text(json.dumps(made, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        sys.stdout.write(f"{file}: {len(made['components'])} packages\n")


def scan(files: list[Path]) -> int:
    """Print what is known of the packages of some locks; return the exit status of the command."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "asked.txt", Path(folder) / "answered.json"
        lines = requirements(files)
        asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(asked), "--require-hashes", "--no-deps"]
        command += ["--disable-pip", "--format", "json", "--output", str(answered), "--progress-spinner", "off"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        try:
            found = json.loads(answered.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError):  # pip-audit's own status is 1 for this, too
            return _not_scanned((done.stderr.strip().splitlines() or ["no word"])[-1])
    bad = [(package, known) for package in found for known in package.get("vulns", ())]
    for package, known in bad:
        fixed = ", ".join(known["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{package['name']} {package['version']}: {known['id']}, fixed in {fixed}\n")
    unknown = [package["name"] for package in found if "skip_reason" in package]
    sys.stdout.write(
        f"{len(lines) - len(unknown)} of {len(lines)} packages looked up, {len(bad)} vulnerabilities known\n"
    )
    if bad:
        return FOUND
    return _not_scanned(f"one that does not know {', '.join(unknown)}") if unknown else 0


def _not_scanned(got: str) -> int:
    sys.stderr.write(
        f"scan: not scanned: wanted a database of vulnerabilities, got {got[:300]}; ask from a host that reaches "
        "one, or name your own (PIP_AUDIT_VULNERABILITY_SERVICE=osv PIP_AUDIT_OSV_URL=…)\n"
    )
    return NOT_SCANNED


def main() -> int:
    """Write the bills, or scan."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sbom", "scan"))
    parser.add_argument("--out", type=Path, default=Path("sbom"), help="folder of the bills")
    parser.add_argument("--torch", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "locks", nargs="*", type=Path, help="what to scan; all locks of the coordinator's image without"
    )
    asked = parser.parse_args()
    if asked.what == "sbom":
        write_bills(asked.out, asked.torch)
        return 0
    if missing := [file for file in asked.locks if not file.is_file()]:
        sys.stderr.write(f"scan: wanted a lock with hashes, got nothing at {missing[0]}; check the path\n")
        return BAD_INPUT
    return scan(asked.locks or [HERE / f"torch-{asked.torch}.txt", HERE / "participant.txt", HERE / "coordinator.txt"])


if __name__ == "__main__":
    sys.exit(main())
