"""Everything that a participant sends in a run, byte by byte: each field has an event or a place on the list."""

from __future__ import annotations

import copy
import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from clients.bank import CLIENT as BANK
from clients.sources import parse_source, read
from consortia.participant import handle
from consortia.scenario import contract_from_json
from consortia.wire import decode
from privacy.egress import KINDS, PUBLIC_CONSTANTS

#: Values of rows that no honest field holds.
PLANTED = (7_777, 4_321)
TERMS = {"run": {"epsilon": 3.0, "delta": 1e-5}, "lifetime": {"epsilon": 6.0, "delta": 2e-5}}


def _site(make_site: Callable[..., Any], tmp_path: Path, rows: int, *, planted: bool) -> Any:
    site = make_site("bank-a", rounds=4)
    frame: pd.DataFrame = read(parse_source(f"synthetic:{rows}?seed=3"), BANK, BANK.sites[0])
    if planted:
        frame["amount"] = [PLANTED[i % len(PLANTED)] for i in range(len(frame))]
    file = tmp_path / f"rows-{rows}-{planted}.csv"
    frame.to_csv(file, index=False)
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"] |= {"metrics": "dp", "every": 1}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})

    def change(policy: dict[str, Any]) -> None:
        policy["allow"]["releases"] = ["update", "metrics"]
        policy["budget"]["evaluation"] = TERMS
        policy["dataset"]["credit"]["source"] = f"csv:{file}"

    site.policy(change)
    return site


def _sent(site: Any) -> list[bytes]:
    sent = [handle(site.message(number), site.home) for number in range(1, 5)]
    return [*sent, handle(site.message(5, kind="evaluate"), site.home)]


def _representations(value: int) -> list[bytes]:
    texts = [str(value).encode(), f"{value}.0".encode()]
    return texts + [struct.pack(f"{order}{kind}", value) for order in "<>" for kind in ("f", "d", "i", "q")]


def test_every_field_is_accounted_for_and_planted_values_stay(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = _site(make_site, tmp_path, 300, planted=True)
    sent = _sent(site)
    assert [decode(data).header["status"] for data in sent] == ["OK"] * 4 + ["EVALUATED"]
    with site.ledger() as ledger:
        entries = [entry for entry in ledger.entries() if entry.state == "committed"]
    unaccounted = []
    for data in sent:
        envelope = decode(data)
        unaccounted += sorted(set(envelope.header) - PUBLIC_CONSTANTS)
        events = [e for entry in entries if entry.round == int(envelope.header["round"]) for e in entry.events]
        for name in envelope.tensors:
            kind = "metrics" if name.startswith(KINDS["metrics"].prefix) else "update"
            terms = KINDS[kind]
            if not any(isinstance(e, terms.events) and e.partition in terms.partitions for e in events):
                unaccounted.append(name)
        # Nothing but the envelope's own length, header and tensors: safetensors leaves no gap.
        (length,) = struct.unpack("<Q", data[:8])
        assert len(data) == 8 + length + sum(t.numel() * t.element_size() for t in envelope.tensors.values())
        for value in PLANTED:
            assert not [form for form in _representations(value) if form in data]
    assert unaccounted == []


def test_planted_values_would_be_found(make_site: Callable[..., Any], tmp_path: Path) -> None:
    """The search above can fail: the rows themselves hold what it looks for."""
    site = _site(make_site, tmp_path, 300, planted=True)
    rows = Path(site.home.policy.read_text().split('source = "csv:')[1].split('"')[0]).read_bytes()
    assert any(form in rows for value in PLANTED for form in _representations(value))


def test_sizes_do_not_depend_on_rows(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = _site(make_site, tmp_path, 300, planted=False)
    twin = copy.copy(site)
    twin.home = dataclasses.replace(site.home, folder=tmp_path / "twin")
    shutil.copytree(site.home.folder, twin.home.folder)
    frame: pd.DataFrame = read(parse_source("synthetic:151?seed=4"), BANK, BANK.sites[0])
    frame.to_csv(tmp_path / "others.csv", index=False)
    twin.policy(lambda p: p["dataset"]["credit"].update(source=f"csv:{tmp_path / 'others.csv'}"))
    assert [len(data) for data in _sent(site)] == [len(data) for data in _sent(twin)]
