"""Installed packages for tests: a module and the metadata that an installer leaves beside it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from consortia_plugins import rescan


class Packages:
    """Packages that this process finds until the test ends."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch = folder, monkeypatch
        folder.mkdir(exist_ok=True)
        monkeypatch.syspath_prepend(str(folder))

    def install(self, package: str, points: str, **modules: str) -> None:
        """Write a package: what stands in its `entry_points.txt`, and its modules by name."""
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text, encoding="utf-8")
            self._monkeypatch.delitem(sys.modules, name, raising=False)
        info = self.folder / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(points, encoding="utf-8")
        rescan()
