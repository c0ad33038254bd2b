"""Limits what a coordinator may send as a Flower app bundle: names and numbers, never code.

A bundle (FAB) is a zip file. Stock Flower unpacks it and puts its folder first on the import path of the process that
holds the rows. Here the bundle is read in memory and checked. Nothing in it is written to disk, imported or added to a
path.

Guarantees
----------
* A bundle holds pyproject.toml, Flower's own manifest and `scenarios/NAME.toml`, and nothing else. The manifest lists
  each file with its SHA-256. A bundle with anything that cannot be checked is refused.
* pyproject.toml names this package's two components and no other.
* The owner's policy lists the contract that the run is announced with.
"""

from __future__ import annotations

import hashlib
import io
import re
import tomllib
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import tomli_w

from consortia.common.errors import InputError, RefusedError
from consortia.terms.contract import Contract
from consortia.terms.policy import Policy, check_listed
from consortia.terms.scenario import scenario_from_json

#: The only code that a run may name. It is installed at the participant and never comes with a message.
COMPONENTS: Final = {"serverapp": "consortia.server_app:app", "clientapp": "consortia.client_app:app"}

_PROJECT: Final = "pyproject.toml"
_MANIFEST: Final = ".info/CONTENT"
_ALLOWED: Final = re.compile(r"pyproject\.toml|\.info/CONTENT|scenarios/[a-z0-9][a-z0-9-]{0,63}\.toml")
_MOST_BYTES: Final = 4 * 2**20
_MOST_FILES: Final = 64


def make_bundle(run_config: Mapping[str, str | bool | float]) -> bytes:
    """Return the bundle of a run: a pyproject.toml with its run config, and Flower's manifest."""
    app = {"publisher": "consortia", "components": COMPONENTS, "config": dict(run_config)}
    head = {"name": "consortia-run", "version": "1.0.0", "license": "Apache-2.0"}
    return pack({_PROJECT: tomli_w.dumps({"project": head, "tool": {"flwr": {"app": app}}}).encode()})


def pack(files: Mapping[str, bytes]) -> bytes:
    """Pack files as Flower does: a zip file with a manifest of `path,sha256,bits`."""
    lines = [f"{name},{hashlib.sha256(data).hexdigest()},{len(data) * 8}" for name, data in files.items()]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(_MANIFEST, "\n".join(lines))
    return buffer.getvalue()


def check_bundle(content: bytes) -> None:
    """Check a bundle.

    Raises
    ------
    RefusedError
        The code is BUNDLE_REFUSED. The sentence names the first mistake.
    """
    try:
        files = _read(content)
        _check_manifest(files)
        for name, data in files.items():
            if name != _MANIFEST:
                project = tomllib.loads(data.decode("utf-8-sig"))
                if name == _PROJECT:
                    _check_components(project)
    except RefusedError:
        raise
    except Exception as error:  # noqa: BLE001 - a zip file has many ways to be broken; all of them end here
        raise _refused(f"wanted a readable bundle, got {type(error).__name__} while reading it") from None


def check_announced(run_config: Mapping[str, Any], policy: Policy) -> Contract:
    """Return the contract of the run config after checking that the policy lists it.

    Raises
    ------
    RefusedError
        BUNDLE_REFUSED when there is no contract to check, CONTRACT_NOT_ALLOWED when the policy does not list it.
    """
    text = run_config.get("scenario")
    if not isinstance(text, str):
        raise _refused("run config: wanted the scenario, got none")
    try:
        contract = scenario_from_json(text).contract
    except (InputError, ValueError, TypeError, KeyError) as error:
        raise _refused(f"run config: wanted a scenario, got {type(error).__name__} while reading it") from None
    check_listed(policy, contract)
    return contract


def _read(content: bytes) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = archive.infolist()
        if len(entries) > _MOST_FILES:
            raise _refused(f"wanted at most {_MOST_FILES} files, got {len(entries)}")
        left = _MOST_BYTES
        for entry in entries:
            # Use the name exactly as the archive has it. A normalised name could look allowed.
            if entry.orig_filename != entry.filename or not _ALLOWED.fullmatch(entry.filename):
                raise _refused(f"it holds {entry.orig_filename!r}; wanted pyproject.toml and scenarios/NAME.toml only")
            if entry.filename in files:
                raise _refused(f"it holds {entry.filename!r} twice")
            with archive.open(entry) as file:
                data = file.read(left + 1)
            left -= len(data)
            if left < 0:
                raise _refused(f"wanted at most {_MOST_BYTES} bytes when unpacked")
            files[entry.filename] = data
    for name in (_PROJECT, _MANIFEST):
        if name not in files:
            raise _refused(f"wanted {name}, got none")
    return files


def _check_manifest(files: Mapping[str, bytes]) -> None:
    """Check Flower's list of `path,sha256,bits` against the files, both ways."""
    listed = dict(line.split(",")[:2] for line in files[_MANIFEST].decode("ascii").split("\n") if line)
    found = {name: hashlib.sha256(data).hexdigest() for name, data in files.items() if name != _MANIFEST}
    if listed != found:
        raise _refused("its manifest does not fit its files")


def _check_components(project: Mapping[str, Any]) -> None:
    named = project["tool"]["flwr"]["app"]["components"]
    if named != COMPONENTS:
        raise _refused(f"it names the components {named!r}; wanted {COMPONENTS!r}")


def _refused(detail: str) -> RefusedError:
    return RefusedError("BUNDLE_REFUSED", f"the bundle of the run: {detail}")
