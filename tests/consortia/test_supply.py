"""Bills of materials of the images, and the scan: a real pip-audit against a database on this machine."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "platform" / "locks"
SCRIPT = LOCKS / "supply.py"

pytestmark = [
    pytest.mark.end_to_end,
    pytest.mark.skipif(
        not (find_spec("cyclonedx_py") and find_spec("pip_audit")),
        reason="cyclonedx-bom and pip-audit: the extra `dev`",
    ),
]


@pytest.fixture(scope="module")
def supply() -> Any:
    spec = importlib.util.spec_from_file_location("supply", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("bills")
    subprocess.run([sys.executable, str(SCRIPT), "sbom", "--out", str(folder)], cwd=ROOT, check=True)
    return {name: json.loads((folder / f"{name}.cdx.json").read_text()) for name in ("participant", "coordinator")}


def _listed(bill: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Return the hashes of each package of a bill, by name and version."""
    return {
        (part["name"], part["version"]): {
            each["content"] for reference in part["externalReferences"] for each in reference["hashes"]
        }
        for part in bill["components"]
    }


def _locked(*names: str) -> dict[tuple[str, str], set[str]]:
    """Return the same of locks, read line by line; what another system alone has is left out."""
    found: dict[tuple[str, str], set[str]] = {}
    last: set[str] = set()
    for line in "\n".join((LOCKS / f"{name}.txt").read_text() for name in names).splitlines():
        if pin := re.match(r"([a-z0-9][^=\[]*)(?:\[.*\])?==(\S+)(.*)", line):
            last = set()
            if not re.search("[^!]= '(win32|emscripten)'", pin[3]):
                found[pin[1], pin[2]] = last
        elif "--hash=sha256:" in line:
            last.add(line.split(":")[1].rstrip(" \\"))
    return found


def test_a_bill_lists_every_locked_package_with_its_version_and_hashes(bills: dict[str, dict[str, Any]]) -> None:
    ours = [f.name for f in (ROOT / "wheels").glob("*.whl")]
    if ours:
        pytest.skip(f"wheels of partners are listed besides: {ours}")
    assert _listed(bills["participant"]) == _locked("torch-cpu", "participant")
    assert _listed(bills["coordinator"]) == _locked("torch-cpu", "participant", "coordinator")
    names = {name: {part["name"] for part in bill["components"]} for name, bill in bills.items()}
    assert names["participant"] < names["coordinator"]
    assert {"mlflow-skinny", "tensorboard"} <= names["coordinator"] - names["participant"]


def test_a_bill_is_valid_and_names_the_project_and_its_build(bills: dict[str, dict[str, Any]]) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    words = (os.environ.get("CONSORTIA_BASE", "python:3.11-slim-bookworm"), "cpu")
    script = ["sh", str(ROOT / "platform" / "build_id.sh"), str(ROOT), *words]
    build = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
    for name, bill in bills.items():
        assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None
        own = bill["metadata"]["component"]
        assert (own["name"], own["version"]) == ("consortia", "0.1.0")
        told = {each["name"]: each["value"] for each in own["properties"]}
        assert (told["consortia:image"], told["consortia:build"]) == (name, build)


def test_a_partners_wheel_is_listed_by_its_own_hash(tmp_path: Path, supply: Any) -> None:
    (tmp_path / "insurers-1.2-py3-none-any.whl").write_bytes(b"a wheel")
    (line,) = supply.partners(tmp_path)
    assert line == f"insurers==1.2 --hash=sha256:{hashlib.sha256(b'a wheel').hexdigest()}"


class _Database(http.server.BaseHTTPRequestHandler):
    """Answers as OSV does: one package is known to be vulnerable."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = {
            "id": "PYSEC-2026-1",
            "aliases": [],
            "details": "a hole",
            "affected": [
                {"package": {"ecosystem": "PyPI", "name": "smmap"},
                 "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.0"}]}]}
            ],
        }  # fmt: skip
        body = json.dumps({"vulns": [known]} if asked["package"]["name"] == "smmap" else {}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Database) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()


def _scan(database: str, lock: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PIP_AUDIT_VULNERABILITY_SERVICE": "osv", "PIP_AUDIT_OSV_URL": database}
    command = [sys.executable, str(SCRIPT), "scan", str(lock)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_scan_tells_found_from_fine_and_from_not_scanned(database: str, tmp_path: Path) -> None:
    lock = LOCKS / "coordinator.txt"
    found = _scan(database, lock)
    assert found.returncode == 1, found.stderr
    assert re.search(r"^smmap \S+: PYSEC-2026-1, fixed in 99\.0$", found.stdout, flags=re.MULTILINE)
    count = len(_locked("coordinator"))
    assert f"{count} of {count} packages looked up, 1 vulnerabilities known" in found.stdout
    clean = tmp_path / "clean.txt"
    clean.write_text(re.sub(r"^smmap==.*\n(?: +--hash.*\n)+", "", lock.read_text(), flags=re.MULTILINE))
    fine = _scan(database, clean)
    assert fine.returncode == 0, fine.stderr
    away = _scan("http://127.0.0.1:9/v1/query", lock)
    assert away.returncode == 3
    assert away.stderr.startswith("scan: not scanned: wanted a database of vulnerabilities, got ")
    assert away.stderr.count("\n") == 1
    assert _scan(database, tmp_path / "nowhere.txt").returncode == 2
