"""Keeps models in folders `NAME/VERSION/` with safetensors, ONNX and a manifest, never code.

A version is written whole or not at all and never changed. The manifest names its files' SHA-256, the run, the
contract and the guarantee; whoever loads a version checks all of them first. The hashes find damage and mixed-up files,
not somebody who may write the folder and rewrites the manifest, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from consortia.common.disk import write_json
from consortia.common.errors import InputError
from consortia.models.rows import columns_of, outputs_of, view_of
from consortia.models.source import Found, check_leaves
from consortia.participant.own_model import About, OwnModel, from_bytes

__all__ = ["MANIFEST", "Entry", "entries", "load", "register"]

MANIFEST = "manifest.json"
MANIFEST_SCHEMA = 1
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Entry:
    """A version, and what is wrong with it ("" for nothing)."""

    folder: Path
    manifest: dict[str, Any]
    problem: str


def register(root: Path, name: str, found: Found, onnx: bytes | None) -> Path:
    """Add the next version of `name` and return its folder.

    Raises
    ------
    InputError
        `name` is no plain folder name, or the model is one that never leaves.
    """
    check_leaves(found)
    if not name or Path(name).name != name or name.startswith("."):
        raise InputError(f"--name: wanted a plain name, got {name!r}")
    files = {_WEIGHTS: found.data} | ({"model.onnx": onnx} if onnx is not None else {})
    (root / name).mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=root / name))
    try:
        for file, data in files.items():
            (draft / file).write_bytes(data)
        number = max([0, *_versions(root / name)]) + 1
        while True:
            write_json(draft / MANIFEST, _manifest(name, number, found, files))
            try:
                draft.rename(root / name / str(number))
            except OSError:
                if not (root / name / str(number)).exists():
                    raise
                number += 1  # somebody else was first
            else:
                return root / name / str(number)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def load(folder: Path) -> tuple[OwnModel, About, dict[str, Any]]:
    """Return a version's model after checking every file's hash.

    Raises
    ------
    InputError
        The manifest is missing, of an unknown schema, or a file is not the one that it names.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        wanted = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{folder}: wanted a version of a model with {MANIFEST}, got none") from None
    if manifest.get("schema") != MANIFEST_SCHEMA:
        raise InputError(f"{folder}: wanted a manifest of schema {MANIFEST_SCHEMA}, got {manifest.get('schema')!r}")
    contents = {}
    for name, sha256 in wanted.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise InputError(f"{file}: wanted a file beside the manifest, got none")
        contents[name] = file.read_bytes()
        if (got := hashlib.sha256(contents[name]).hexdigest()) != sha256:
            raise InputError(f"{file}: wanted sha256 {sha256}, got {got}; it is not the file that was registered")
    if _WEIGHTS not in contents:
        raise InputError(f"{folder}: wanted {_WEIGHTS} in the manifest, got {', '.join(wanted) or 'nothing'}")
    model, about = from_bytes(contents[_WEIGHTS], str(folder / _WEIGHTS))
    if (about.run_id, about.contract.sha256()) != (manifest["run_id"], manifest["contract_sha256"]):
        raise InputError(f"{folder}: the model is of run {about.run_id}, the manifest of run {manifest['run_id']}")
    return model, about, manifest


def entries(root: Path) -> Iterator[Entry]:
    """Yield every version in the folder, by name and number, checked."""
    for name in sorted(path for path in root.iterdir() if path.is_dir()):
        for number in sorted(_versions(name)):
            folder, problem = name / str(number), ""
            manifest: dict[str, Any] = {}
            try:
                _, _, manifest = load(folder)
            except InputError as error:
                problem = "; ".join(error.problems)
                with contextlib.suppress(OSError, ValueError):
                    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            yield Entry(folder, manifest, problem)


def _versions(folder: Path) -> list[int]:
    return [int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()]


def _manifest(name: str, number: int, found: Found, files: dict[str, bytes]) -> dict[str, Any]:
    about = found.about
    view = view_of(about)
    return {
        "schema": MANIFEST_SCHEMA,
        "name": name,
        "version": number,
        "run_id": about.run_id,
        "participant": about.participant or None,
        "industry": about.industry,
        "model": about.kind,
        "detail": about.detail,
        "contract_sha256": about.contract.sha256(),
        **found.passport,
        "guarantee": found.guarantee,
        "inputs": [column.name for column in columns_of(view)],
        "outputs": outputs_of(view.target),
        "data_schema": view.describe(),
        "files": {file: hashlib.sha256(data).hexdigest() for file, data in files.items()},
        "packages": {package: version(package) for package in ("torch", "safetensors")},
    }
