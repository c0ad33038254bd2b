"""What the images are made of: locks with hashes, a tag that follows from the content. test_federation.py runs them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "platform" / "locks").glob("*.txt"))
EVERYWHERE = ("postgres", "excel", "duckdb")


def _name(text: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", text)
    assert found, text
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _locked(file: Path) -> dict[str, str]:
    """Return name and version of each requirement."""
    pins = re.findall(r"^([a-z0-9][^=\s]*)==(\S+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {_name(name): version for name, version in pins}


@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.stem)
def test_every_locked_file_has_its_hash(file: Path) -> None:
    blocks = re.findall(r"^[a-z0-9]\S*.*(?:\n[ \t]+.*)*", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert blocks
    assert [block for block in blocks if "--hash=sha256:" not in block or "://" in block] == []


def test_locks_have_what_the_project_asks_for_in_the_versions_that_the_tests_use() -> None:
    """When it fails: `python platform/locks/write.py`."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(_pair(line) for line in lines if "==" in line)
    locks = {file.stem: _locked(file) for file in LOCKS}
    for file, pins in locks.items():
        assert [name for name, version in pins.items() if tested.get(name, version) != version] == [], file
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    asked = {_name(line) for line in [*project["dependencies"], *(one for each in EVERYWHERE for one in extras[each])]}
    assert asked - set(locks["participant"]) == {"torch"}
    assert "torch" in locks["torch-cpu"]
    assert "torch" in locks["torch-cuda"]
    for extra in ("track", "otel", "oidc"):
        assert {_name(line) for line in extras[extra]} <= set(locks["coordinator"])
    assert not set(locks["coordinator"]) & set(locks["participant"])


def test_a_base_by_digest_is_taken_recorded_and_kept(tmp_path: Path) -> None:
    """`make up` with a script in place of docker, which notes the base that compose would see."""
    for name in ("platform", "strategies", "clients", "privacy", "scenarios", "wheels"):
        (tmp_path / name).mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "platform/build_id.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scenarios" / "linear.compose.yml").touch()
    (tmp_path / ".env").write_text("CONSORTIA_SUBNETS=10.77\n")
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\necho "$CONSORTIA_BASE" >>asked\ncase $1 in wait) echo 0 ;; *) echo x ;; esac\n')
    docker.chmod(0o755)
    digest = "python@sha256:" + "a" * 64
    tag = ["sh", "platform/build_id.sh", ".", digest, "cpu"]
    made = subprocess.run(tag, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.strip()
    # BASE in the environment is some other tool's.
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "BASE": "elsewhere"}
    for words in ([f"BASE={digest}"], []):
        command = ["make", "up", "SCENARIO=linear", *words]
        subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
        kept = (tmp_path / ".env").read_text().splitlines()
        assert sorted(kept) == [f"CONSORTIA_BASE={digest}", "CONSORTIA_SUBNETS=10.77", f"CONSORTIA_TAG={made}"]
    assert set((tmp_path / "asked").read_text().split()) == {digest}


@pytest.mark.parametrize(
    ("engine", "base", "kept"),
    [
        ("a registry's image", "python@sha256:" + "b" * 64, True),
        ("an image of this machine", "python:3.11-slim-bookworm", False),
    ],
)
def test_the_base_is_a_digest_unless_the_engine_has_none(engine: str, base: str, kept: bool, tmp_path: Path) -> None:
    """`make up` with a script in place of docker, which knows a digest of the default tag or does not."""
    for name in ("platform", "strategies", "clients", "privacy", "scenarios", "wheels"):
        (tmp_path / name).mkdir()
    files = ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE")
    for name in (*files, "platform/build_id.sh", "platform/base.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "scenarios" / "linear.compose.yml").touch()
    docker = tmp_path / "docker"
    digest = f"echo {base}" if kept else "true"
    docker.write_text(
        f'#!/bin/sh\ncase "$*" in *RepoDigests*) {digest}; exit ;; esac\n'
        'echo "$CONSORTIA_BASE" >>asked\ncase $1 in wait) echo 0 ;; *) echo x ;; esac\n'
    )
    docker.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for _ in range(2):
        subprocess.run(
            ["make", "up", "SCENARIO=linear"], cwd=tmp_path, env=environment, capture_output=True, check=True
        )
    lines = (tmp_path / ".env").read_text().splitlines()
    assert (f"CONSORTIA_BASE={base}" in lines) is kept
    assert base in (tmp_path / "asked").read_text().split()
    assert set((tmp_path / "asked").read_text().split()) == {base}


def _pair(line: str) -> tuple[str, str]:
    name, version = line.split("==")
    return _name(name), version


def test_a_tag_follows_from_the_content(tmp_path: Path) -> None:
    def tag(folder: Path, *words: str) -> str:
        command = ["sh", str(ROOT / "platform" / "build_id.sh"), str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    first, second = tmp_path / "first", tmp_path / "second place"
    for folder in (first, second):
        for name in ("platform", "strategies", "clients", "privacy", "scenarios", "wheels"):
            (folder / name).mkdir(parents=True)
            (folder / name / "a file").write_text(name)
        for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
            (folder / name).write_text(name)
    made = tag(first, "base", "cpu")
    assert re.fullmatch("[0-9a-f]{12}", made)
    assert tag(second, "base", "cpu") == made
    assert tag(first, "base", "cuda") != made
    (first / "clients" / "__pycache__").mkdir()
    (first / "clients" / "__pycache__" / "a.pyc").write_text("x")
    (first / "runs").mkdir()
    assert tag(first, "base", "cpu") == made
    shutil.move(first / "clients" / "a file", first / "clients" / "b")
    assert tag(first, "base", "cpu") != made
