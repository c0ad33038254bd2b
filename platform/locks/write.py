"""Writes the hash locks of the images: `python platform/locks/write.py [--torch-cpu WHEEL …]`.

    participant.txt   what every image has, without PyTorch
    coordinator.txt   what the coordinator's image has besides: the trackers
    torch-cuda.txt    PyTorch as the package index has it, with its CUDA libraries
    torch-cpu.txt     PyTorch's own builds without CUDA; their hashes are those of the wheels named with --torch-cpu
    build.txt         what builds our own wheel

Versions are those of constraints.txt. It needs `uv` (Flower brings it) and a package index.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: Extras of every image: the drivers of the built-in sources.
SOURCES = ("postgres", "excel", "duckdb")
#: Extras of the coordinator's image: what CONSORTIA_TRACK names.
TRACKERS = ("track", "otel", "oidc")
_TORCH = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)$")
_HEADER = "# Written by platform/locks/write.py; do not edit.\n"


def compiled(source: Path, *extras: str) -> dict[str, str]:
    """Return the locked requirements by name: version, marker and the hashes of all files of that version."""
    options = [word for extra in extras for word in ("--extra", extra)]
    command = ["uv", "pip", "compile", str(source), *options, "--constraint", str(ROOT / "constraints.txt"), "--quiet"]
    command += ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
    if done.returncode:
        raise SystemExit(done.stderr)
    blocks = re.findall(r"^\S.*(?:\n[ \t]+.*)*", done.stdout, flags=re.MULTILINE)
    return {re.split(r"[=\[ ]", block, maxsplit=1)[0]: block for block in blocks if not block.startswith("#")}


def write(name: str, blocks: list[str]) -> None:
    """Write one lock."""
    (HERE / f"{name}.txt").write_text(_HEADER + "\n".join(sorted(blocks)) + "\n", encoding="utf-8")


def main() -> None:
    """Write all locks; torch-cpu.txt only where its wheels are named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-cpu", nargs="*", type=Path, default=[], metavar="WHEEL")
    wheels = parser.parse_args().torch_cpu
    project = ROOT / "pyproject.toml"
    participant = compiled(project, *SOURCES)
    coordinator = compiled(project, *SOURCES, *TRACKERS)
    if differ := [name for name, block in participant.items() if coordinator.get(name) != block]:
        raise SystemExit(f"locks differ in {', '.join(differ)}: pin them in constraints.txt")
    write("participant", [block for name, block in participant.items() if not _TORCH.match(name)])
    write("coordinator", [block for name, block in coordinator.items() if name not in participant])
    write("torch-cuda", [block for name, block in participant.items() if _TORCH.match(name)])
    with tempfile.NamedTemporaryFile("w", suffix=".in") as asked:
        build = tomllib.loads(project.read_text(encoding="utf-8"))["build-system"]["requires"]
        asked.write("\n".join(build))
        asked.flush()
        write("build", [*compiled(Path(asked.name)).values()])
    if wheels:
        hashes = sorted(hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in wheels)
        first = participant["torch"].split(" ", 1)[0]
        write("torch-cpu", [" \\\n".join([first, *(f"    --hash=sha256:{one}" for one in hashes)])])


if __name__ == "__main__":
    main()
