"""Built-in industries are the package's files; a partner's wheel is found by its entry point."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import clients
from clients import registry
from clients.errors import ClientLoadError, UnknownClientError
from clients.industry import IndustryClient
from consortia_plugins import rescan


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """Install a package as pip would lay it out: a module, and metadata with an entry point."""

    def install(package: str, entry: str, source: str) -> None:
        module = entry.split("=")[1].split(":", maxsplit=1)[0].strip()
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[consortia.clients]\n{entry}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        rescan()  # installed while this process runs

    monkeypatch.syspath_prepend(tmp_path)
    return install


GOOD = """
from dataclasses import replace
from clients.linear import CLIENT as LINE
CLIENT = replace(LINE, name="insurer", title="Insurer")
"""


def test_built_in_industries():
    assert {"bank", "factory", "hospital", "linear"} <= set(registry.names())
    for name in ("bank", "factory", "hospital", "linear"):
        assert registry.get(name).name == name


def test_every_file_of_the_package_is_the_seams_or_a_client():
    files = {p.stem for p in Path(clients.__file__).parent.glob("*.py") if not p.stem.startswith("_")}
    assert files >= registry.SEAM - {"holdings", "metrics", "networks", "sources"}  # packages
    for name in sorted(files - registry.SEAM):
        assert isinstance(registry.get(name), IndustryClient)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UnknownClientError, match=r"wanted one of bank, .*, got 'zoo'; correct the name"):
        registry.get("zoo")


def test_a_partners_wheel(wheel):
    wheel("partner", "insurer = partner_insurer:CLIENT", GOOD)
    assert "insurer" in registry.names()
    assert registry.get("insurer").title == "Insurer"


def test_a_broken_wheel_is_an_error_only_when_asked_for(wheel):
    wheel("broken", "insurer = broken_insurer:CLIENT", "raise RuntimeError('no GPU')")
    assert "insurer" in registry.names()
    assert registry.get("bank").name == "bank"
    with pytest.raises(
        ClientLoadError, match="'insurer' of broken cannot be loaded from 'broken_insurer:CLIENT': Runt"
    ):
        registry.get("insurer")


@pytest.mark.parametrize(("source", "got"), [("CLIENT = 3", "got int"), (GOOD, "got one named 'insurer'")])
def test_a_wheel_that_holds_something_else(wheel, source, got):
    wheel("strange", "zoo = strange_zoo:CLIENT", source)
    with pytest.raises(ClientLoadError, match=got):
        registry.get("zoo")


def test_two_wheels_of_one_name_are_refused(wheel):
    wheel("first", "insurer = first_insurer:CLIENT", GOOD)
    wheel("second", "insurer = second_insurer:CLIENT", GOOD)
    with pytest.raises(ClientLoadError, match="first, second all bring one"):
        registry.get("insurer")


def test_a_wheel_cannot_replace_a_built_in_client(wheel):
    wheel("bad", "hospital = bad_hospital:CLIENT", GOOD)
    with pytest.raises(ClientLoadError, match="'hospital' is built in, and bad brings another"):
        registry.get("hospital")
