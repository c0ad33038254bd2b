"""Rows that one message's process read are found by the next one, as they were, and only while nothing has changed."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import registry
from clients.dataset import Table, prepare
from consortia.deploy.shelf import Shelf
from consortia.participant import data, kept_rows
from consortia.participant.data import load_partitions
from consortia.participant.partitions import Partitions
from consortia.terms.policy import DatasetTerms, load_policy


class Reader:
    """A participant with a file, whose messages come in processes of their own; counts how often the file is read."""

    def __init__(self, site: Any, file: Path, patch: pytest.MonkeyPatch, shelf: Shelf) -> None:
        self.site, self.file, self._patch = site, file, patch
        self.reads = 0
        read = data.read_rows

        def counted(*given: Any, **named: Any) -> Any:
            self.reads += 1
            return read(*given, **named)

        patch.setattr(data, "read_rows", counted)
        self.shelf = shelf
        kept_rows.use(shelf)

    def terms(self) -> DatasetTerms:
        (terms,) = load_policy(self.site.home.policy, simulation=True).dataset.values()
        return terms

    def message(self, run: str = "run-1", **changes: Any) -> Partitions:
        """Read as the next message's process would: nothing is left in this one."""
        self._patch.setattr(data, "_cache", data.Latest[Partitions](4))
        self.shelf.take()
        contract = self.site.scenario.contract.model_copy(update=changes)
        return load_partitions(self.site.home, self.terms(), "credit", contract, run)

    def settle(self) -> None:
        """Let time pass: what was written just now is not kept."""
        now = time.time() + 60
        self._patch.setattr(kept_rows.time, "time", lambda: now)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    made.open()
    yield made
    kept_rows.use(None)
    made.close()


@pytest.fixture
def reader(make_site: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shelf: Shelf) -> Reader:
    site = make_site("bank-a")
    from clients.sources import parse_source, read

    client = registry.get("bank")
    file = tmp_path / "rows.csv"
    read(parse_source("synthetic:60"), client, client.sites[0], 1).to_csv(file, index=False)

    def own(policy: dict[str, Any]) -> None:
        (name,) = policy["dataset"]
        policy["dataset"] = {"credit": {**policy["dataset"][name], "source": f"csv:{file}"}}

    site.policy(own)
    made = Reader(site, file, monkeypatch, shelf)
    made.settle()
    return made


def same(one: Table, other: Table) -> bool:
    tensors = [(one.inputs[name], other.inputs[name]) for name in one.inputs]
    tensors += [(one.target, other.target), (one.unit_index, other.unit_index)]
    texts = ("feature_names", "unit_ids", "row_ids", "split_keys", "synthetic", "rows_capped", "quarantine")
    return (
        all(torch.equal(a, b) and a.dtype == b.dtype for a, b in tensors)
        and all(getattr(one, name) == getattr(other, name) for name in texts)
        and np.array_equal(one.marks, other.marks)
        and np.array_equal(one.measured, other.measured)
    )


def test_the_next_message_finds_the_rows_as_they_were_read(reader: Reader) -> None:
    first, second, third = reader.message(), reader.message(), reader.message()
    assert reader.reads == 1
    for found in (second, third):
        assert all(same(getattr(first, part), getattr(found, part)) for part in ("train", "validation", "test"))
        assert replace(found, train=first.train, validation=first.validation, test=first.test) == first
        assert np.array_equal(found.quarantine.broken, first.quarantine.broken)
    second.train.target.zero_()  # its own copy: what is kept stays as it was
    assert same(reader.message().train, first.train)


def test_rows_of_strata_are_kept_with_them(tmp_path: Path) -> None:
    client = registry.get("survival")
    table = prepare(client, client.synthesise(np.random.default_rng(1), 20, "city"), unit="patient")
    assert table.strata is not None
    file = tmp_path / "rows.safetensors"
    rows = Partitions(
        table, table.take([3]), table.take([0]), table.quarantine, synthetic=True, conditional_on_split=False
    )
    file.write_bytes(kept_rows._encoded(rows))
    found = kept_rows._decoded(str(file))
    assert same(found.train, table)
    assert found.validation.measured.tolist() == table.measured[[3]].tolist()


def touch(reader: Reader) -> None:
    reader.file.write_text(reader.file.read_text())


def replaced(reader: Reader) -> None:
    """Another file of equal size and times, as an atomic replacement leaves it."""
    before = reader.file.stat()
    other = reader.file.with_suffix(".new")
    other.write_bytes(reader.file.read_bytes())
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(reader.file)


def shorter(reader: Reader) -> None:
    reader.file.write_text("".join(reader.file.read_text().splitlines(keepends=True)[:-1]))


def stricter(reader: Reader) -> None:
    def change(policy: dict[str, Any]) -> None:
        policy["dataset"]["credit"]["max_rows_per_unit"] = 3

    reader.site.policy(change)


def poorer(reader: Reader) -> None:
    """A line of the policy that says nothing of the rows: who changes a policy may mean anything."""

    def change(policy: dict[str, Any]) -> None:
        policy["allow"]["sweeps"] = not policy["allow"].get("sweeps", False)

    reader.site.policy(change)


def other_key(reader: Reader) -> None:
    (reader.site.home.folder / "split.key").write_bytes(b"k" * 32)


@pytest.mark.parametrize("change", [touch, replaced, shorter, stricter, poorer, other_key])
def test_a_change_of_policy_key_or_file_reads_again_and_lets_the_old_rows_go(
    reader: Reader, change: Callable[[Reader], None]
) -> None:
    reader.message()
    change(reader)
    reader.settle()
    reader.message()
    assert reader.reads == 2
    reader.shelf.take()
    assert len(reader.shelf._held) == (2 if change is other_key else 1)  # a slot's name is keyed, too
    reader.message()
    assert reader.reads == 2


def test_another_run_or_contract_reads_again(reader: Reader) -> None:
    reader.message()
    reader.message("run-2")
    assert reader.reads == 2
    reader.message("run-2", rounds=3)
    assert reader.reads == 3
    assert len(reader.shelf._held) == 1


def test_a_file_that_changed_just_now_or_while_it_was_read_is_not_kept(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_rows.time, "time", lambda: reader.file.stat().st_mtime + 1)
    reader.message()
    reader.message()
    assert reader.reads == 2
    reader.settle()
    read = data.read_rows

    def changing(*given: Any, **named: Any) -> Any:
        found = read(*given, **named)
        touch(reader)
        return found

    monkeypatch.setattr(data, "read_rows", changing)
    reader.message()
    reader.message()
    assert reader.reads == 4


def test_broken_bytes_and_a_full_shelf_read_again(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    first = reader.message()
    monkeypatch.setattr(kept_rows, "_encoded", lambda rows: b"no rows")
    touch(reader)
    reader.settle()
    reader.message()
    assert same(reader.message().train, first.train)
    assert reader.reads == 3
    small = Shelf(100)
    small.open()
    kept_rows.use(small)
    reader.shelf = small
    monkeypatch.undo()
    kept = kept_rows.key_of(reader.site.home, reader.terms(), "credit", reader.site.scenario.contract, "r", b"k")
    kept_rows.keep(kept, first)
    small.take()
    assert kept_rows.find(kept) is None
    assert not small._held
    small.close()


def test_the_zygote_takes_sealed_files_only_and_no_more_than_its_bound(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    import socket

    small = Shelf(10)
    small.open()
    request.addfinalizer(small.close)
    assert small._to is not None
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    with (tmp_path / "file").open("wb") as on_disk:
        for descriptor in (loose, on_disk.fileno()):
            socket.send_fds(small._to, [b"s" * 64], [descriptor])
            small.take()
            assert not small._held
    os.close(loose)
    for slot in (b"a", b"b", b"c"):
        small.put(slot * 32, b"k" * 32, b"12345")
    small.take()
    assert [slot[:1] for slot in small._held] == [b"b", b"c"]  # the oldest went
    assert small.find(b"c" * 32, b"o" * 32) is None
    file = small.find(b"c" * 32, b"k" * 32)
    assert file is not None
    assert Path(file).read_bytes() == b"12345"
    with pytest.raises(PermissionError), Path(file).open("r+b") as stream:
        stream.write(b"x")
    assert select.select([small._from], [], [], 0)[0] == []
