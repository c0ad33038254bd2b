"""Connections: the published files' format on a generated file, the operators' parts, rows like the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clients import registry
from clients.dataset import prepare
from clients.sources import parse_source, read
from clients.telecom import COLUMNS, FILES, PARTS, SITES, synthesise

CLIENT = registry.get("telecom")


def _line(service: str, attack: str, sent: int) -> str:
    values = dict.fromkeys(COLUMNS, "0") | {"protocol_type": "tcp", "service": service, "flag": "SF"}
    return ",".join([*(values | {"src_bytes": str(sent)}).values(), attack, "21"])


@pytest.fixture
def public(tmp_path: Path) -> Path:
    folder = tmp_path / CLIENT.dataset
    folder.mkdir()
    first = [_line("http", "normal", n) for n in range(6)] + [
        _line("private", "neptune", 7),
        _line("smtp", "normal", 8),
    ]
    second = [_line("http", "apache2", 100), _line("telnet", "normal", 101), _line("unheard_of", "mscan", 102)]
    for file, lines in zip(FILES, (first, second), strict=True):
        (folder / file).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


def _sent(public: Path, site: str) -> dict[int, int]:
    """Return what a site reads: bytes sent (they number the lines here) and whether it is an attack."""
    source = parse_source(f"public:{public}")
    frame = read(source, CLIENT, site)
    table = prepare(CLIENT, frame)
    assert table.quarantine.rows_kept == len(frame)
    assert not table.synthetic
    return dict(zip(frame["src_bytes"].astype(int), table.target.int().tolist(), strict=True))


def test_both_files_are_read_and_dealt_by_service(public: Path) -> None:
    assert _sent(public, "web") == {**dict.fromkeys(range(6), 0), 100: 1}
    assert _sent(public, "mail") == {8: 0}
    assert _sent(public, "remote") == {101: 0}
    assert _sent(public, "core") == {7: 1, 102: 1}


def test_an_operators_parts_are_all_of_its_rows_once(public: Path) -> None:
    parts = [_sent(public, f"web/{number}") for number in range(1, PARTS + 1)]
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    assert set().union(*parts) == set(_sent(public, "web"))


def test_neither_service_nor_label_is_a_feature() -> None:
    assert not [name for name in CLIENT.schema.feature_names if "service" in name or "label" in name]


@pytest.mark.parametrize(("site", "attacks"), [("core", 0.76), ("web", 0.11), ("mail", 0.52), ("remote", 0.71)])
def test_synthetic_rows_have_the_published_shares_of_attacks(site: str, attacks: float) -> None:
    frame = synthesise(np.random.default_rng(3), 800, f"{site}/1")
    table = prepare(CLIENT, frame)
    assert table.quarantine.rows_kept == 800
    assert table.target.mean().item() == pytest.approx(attacks, abs=0.05)
    assert site in SITES
