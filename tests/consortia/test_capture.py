"""Everything that a participant sends in a run, byte by byte: each field has an event or a place on the list."""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from captured_bank import PLANTED, ROUNDS, captured_bank, unaccounted_in
from public_values import planted_in

from clients.bank import CLIENT as BANK
from clients.sources import parse_source, read
from consortia.messages.envelope import decode
from consortia.participant import context
from consortia.participant.handle import handle
from privacy.egress import PUBLIC_CONSTANTS


def _sent(site: Any) -> list[bytes]:
    sent = [handle(site.message(number), site.home) for number in range(1, ROUNDS + 1)]
    return [*sent, handle(site.message(ROUNDS + 1, kind="evaluate"), site.home)]


@pytest.mark.end_to_end
def test_every_field_is_accounted_for_and_planted_values_stay(make_site: Callable[..., Any], tmp_path: Path) -> None:
    """Names of fields and their values: each is a public constant, worked out anew here, or has an event."""
    site = captured_bank(make_site, tmp_path, 300, planted=True)
    sent = _sent(site)
    assert [decode(data).header["status"] for data in sent] == ["OK"] * ROUNDS + ["EVALUATED"]
    assert all(set(decode(data).header) <= PUBLIC_CONSTANTS for data in sent)
    assert unaccounted_in(site, sent) == []
    assert planted_in(b"".join(sent), PLANTED) == []


@pytest.mark.parametrize("key", ["incident", "unit", "epsilon_budget", "ledger_counter"])
def test_a_count_of_rows_under_a_public_name_is_found(
    make_site: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """The gate knows names; values are what this capture is for."""
    site = captured_bank(make_site, tmp_path, 60, planted=False)
    honest, load, seen = context.Work.header, context.load_partitions, []

    def loading(*arguments: Any) -> Any:
        parts = load(*arguments)
        seen.append(len(parts.train.target))
        return parts

    def leaking(self: Any, *arguments: Any) -> dict[str, str]:
        return honest(self, *arguments) | {key: str(seen[-1])}

    monkeypatch.setattr(context, "load_partitions", loading)
    monkeypatch.setattr(context.Work, "header", leaking)
    found = unaccounted_in(site, [handle(site.message(1), site.home)])
    assert [line for line in found if key in line]


def test_planted_values_would_be_found(make_site: Callable[..., Any], tmp_path: Path) -> None:
    """The search above can fail: the rows themselves hold what it looks for."""
    site = captured_bank(make_site, tmp_path, 300, planted=True)
    rows = Path(site.home.policy.read_text().split('source = "csv:')[1].split('"')[0]).read_bytes()
    assert planted_in(rows, PLANTED) == list(PLANTED)


@pytest.mark.end_to_end
def test_sizes_do_not_depend_on_rows(make_site: Callable[..., Any], tmp_path: Path) -> None:
    site = captured_bank(make_site, tmp_path, 300, planted=False)
    twin = copy.copy(site)
    twin.home = dataclasses.replace(site.home, folder=tmp_path / "twin")
    shutil.copytree(site.home.folder, twin.home.folder)
    frame: pd.DataFrame = read(parse_source("synthetic:151?seed=4"), BANK, BANK.sites[0])
    frame.to_csv(tmp_path / "others.csv", index=False)
    twin.policy(lambda p: p["dataset"]["credit"].update(source=f"csv:{tmp_path / 'others.csv'}"))
    assert [len(data) for data in _sent(site)] == [len(data) for data in _sent(twin)]
