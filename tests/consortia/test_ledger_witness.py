"""A ledger that forgot what it charged releases nothing; a pair only ever leads to a refusal."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consortia.common.errors import InputError, RunFailedError
from consortia.coordinator.ledger_heads import Heads
from consortia.coordinator.rounds import Coordinator
from consortia.deploy.homes import make_home
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import decode
from consortia.messages.exchange import Answer
from consortia.messages.ledger_anchor import anchor_from, to_header
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.participant.ledger_witness import witness_file
from privacy.ledger import Anchor, Ledger

Make = Callable[..., Any]


def _pair(reply: Any) -> dict[str, str]:
    return {key: reply.header[key] for key in ("ledger_counter", "ledger_head")}


def _copy(source: Path, target: Path) -> None:
    """Restore as an owner would: the database and its log, whatever lay there gone."""
    for ending in ("", "-wal", "-shm"):
        target.with_name(target.name + ending).unlink(missing_ok=True)
        if source.with_name(source.name + ending).exists():
            shutil.copyfile(source.with_name(source.name + ending), target.with_name(target.name + ending))


@pytest.fixture
def charged(make_site: Make, tmp_path: Path) -> Any:
    """A participant whose ledger is its owner's own, so that it has a witness at home."""
    site = make_site("bank-a", rounds=5)
    site.home = replace(site.home, ledger_folder=site.home.folder)
    return site


def test_a_reply_carries_the_link_of_its_reservation_and_repeats_identically(site: Any) -> None:
    first = handle(site.message(1), site.home)
    pair = _pair(decode(first))
    with site.ledger() as ledger:
        assert ledger.anchor("run-1") == Anchor(int(pair["ledger_counter"]), pair["ledger_head"])
    second = site.ask(2, **pair)
    assert int(second.header["ledger_counter"]) > int(pair["ledger_counter"])
    # Asked again with a newer pair, or with none: the same bytes, free of charge.
    assert handle(site.message(1, **_pair(second)), site.home) == first
    assert handle(site.message(1), site.home) == first
    closing = handle(site.message(6, kind="evaluate"), site.home)
    assert _pair(decode(closing)) == _pair(second)
    assert handle(site.message(6, kind="evaluate"), site.home) == closing
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 2


def _truncate(path: Path) -> None:
    connection = sqlite3.connect(path)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    connection.execute("DELETE FROM outbox WHERE entry > 1")
    connection.execute("DELETE FROM entries WHERE seq > 1")
    connection.execute("DELETE FROM chain WHERE kind IN ('reserved', 'committed') AND CAST(ref AS INTEGER) > 1")
    connection.commit()
    connection.close()


def _delete(path: Path, name: str) -> None:
    for ending in ("", "-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)
    Ledger.create(path, name).close()


@pytest.mark.parametrize(
    ("loss", "witness"),
    [
        *((loss, who) for loss in ("truncated", "restored", "deleted") for who in ("coordinator", "home")),
        ("forked", "coordinator"),
    ],
)
def test_a_ledger_that_forgot_releases_nothing(
    charged: Any, tmp_path: Path, loss: str, witness: str, caplog: pytest.LogCaptureFixture
) -> None:
    charged.ask(1)
    _copy(charged.home.ledger, tmp_path / "backup.db")
    pair = _pair(charged.ask(2))
    if loss == "truncated":
        _truncate(charged.home.ledger)
    elif loss == "deleted":
        _delete(charged.home.ledger, charged.name)
    else:
        _copy(tmp_path / "backup.db", charged.home.ledger)
    if witness == "coordinator" or loss == "forked":
        witness_file(charged.home).unlink()
    if loss == "forked":
        for number in (2, 3, 4):  # the restored copy goes on for a coordinator that knows nothing
            assert charged.ask(number, run="run-2").header["status"] == "OK"
    with charged.ledger() as ledger:
        before = len(ledger.entries())
    caplog.set_level(logging.WARNING, "consortia.participant")
    logging.getLogger("consortia.participant").propagate = True
    for kind, number in (("train", 3), ("train", 2), ("evaluate", 6)):
        reply = charged.ask(number, kind=kind, **(pair if witness == "coordinator" else {}))
        assert reply.header["status"] == "REFUSED"
        assert reply.header["code"] == ("LEDGER_FORKED" if loss == "forked" else "LEDGER_BEHIND")
        assert not reply.tensors
        assert "ledger_head" not in reply.header
    assert "Put the newest copy of ledger.db back" in caplog.text
    with charged.ledger() as ledger:
        assert len(ledger.entries()) == before  # nothing was charged either


def test_two_forks_of_one_ledger(charged: Any, tmp_path: Path) -> None:
    """Two machines go on from one copy: each is refused by whoever has heard of the other."""
    pair = _pair(charged.ask(1))
    other = replace(charged.home, folder=tmp_path / "other", ledger_folder=tmp_path / "other")
    shutil.copytree(charged.home.folder, other.folder)
    here = _pair(charged.ask(2, **pair))
    there = _pair(decode(handle(charged.message(2, **pair), other)))
    assert here["ledger_counter"] == there["ledger_counter"]
    assert here["ledger_head"] == there["ledger_head"]  # the same charge for the same message, its noise not yet known
    here, there = _pair(charged.ask(3, **here)), _pair(decode(handle(charged.message(3, **there), other)))
    assert here["ledger_head"] != there["ledger_head"]  # the replies differed, and the chain holds their hashes
    assert charged.ask(4, **there).header["code"] == "LEDGER_FORKED"
    assert decode(handle(charged.message(4, **here), other)).header["code"] == "LEDGER_FORKED"
    assert charged.ask(4, **here).header["status"] == "OK"


@pytest.mark.parametrize(
    ("pair", "code"),
    [
        ({"ledger_counter": "3", "ledger_head": "0" * 64}, "LEDGER_FORKED"),
        ({"ledger_counter": "999999", "ledger_head": "0" * 64}, "LEDGER_BEHIND"),
        ({"ledger_counter": "3"}, "BAD_MESSAGE"),
        ({"ledger_counter": "-1", "ledger_head": "0" * 64}, "BAD_MESSAGE"),
        ({"ledger_counter": "1" * 30, "ledger_head": "0" * 64}, "BAD_MESSAGE"),
        ({"ledger_counter": "3", "ledger_head": "x"}, "BAD_MESSAGE"),
    ],
)
def test_a_wrong_pair_only_ever_refuses(site: Any, pair: dict[str, str], code: str) -> None:
    assert site.ask(1).header["status"] == "OK"
    assert site.ask(2, **pair).header["code"] == code
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 1
    assert site.ask(2).header["status"] == "OK"  # and does no lasting harm


def test_a_deleted_ledger_refuses_and_no_new_one_is_made_beside_a_witness(charged: Any) -> None:
    charged.ask(1)
    _delete(charged.home.ledger, charged.name)
    charged.home.ledger.unlink()
    assert charged.ask(2).header["code"] == "NO_LEDGER"
    with pytest.raises(InputError, match="witness of an older ledger"):
        make_home(charged.home, None, "")
    assert not charged.home.ledger.exists()


def test_an_edited_ledger_is_named_broken(charged: Any, tmp_path: Path) -> None:
    charged.ask(1)
    _copy(charged.home.ledger, tmp_path / "copy.db")
    connection = sqlite3.connect(tmp_path / "copy.db")
    connection.execute("DROP TRIGGER entries_keep")
    connection.execute("UPDATE entries SET round = 9")
    connection.commit()
    connection.close()
    _copy(tmp_path / "copy.db", charged.home.ledger)
    assert charged.ask(2).header["code"] == "LEDGER_BROKEN"


def test_the_witness_may_lie_elsewhere(charged: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSORTIA_WITNESS", str(tmp_path / "usb"))
    charged.ask(1)
    assert [file.name for file in (tmp_path / "usb").iterdir()] == ["bank-a.json"]
    (tmp_path / "usb" / "bank-a.json").write_text("torn")
    assert charged.ask(2).header["code"] == "LEDGER_FORKED"  # unreadable is no permission


def test_a_simulation_with_a_scratch_ledger_has_no_witness(site: Any) -> None:
    site.ask(1)
    assert not witness_file(site.home).exists()


def test_every_change_of_the_owners_budget_is_a_note_in_the_chain(site: Any) -> None:
    site.ask(1)
    site.ask(2)
    site.policy(lambda p: p["budget"]["lifetime"].update(epsilon=50.0))
    site.ask(3)
    with site.ledger() as ledger:
        notes = [note["lifetime"]["epsilon"] for _, note in ledger.notes()]
        assert notes[-1] == 50.0
        assert len(notes) == 2
        ledger.verify()


# The coordinator's side


def test_the_coordinator_keeps_the_newest_pair_over_runs(tmp_path: Path) -> None:
    file = tmp_path / "heads.json"
    one, two = Heads(file), Heads(file)
    one.take("a", to_header(Anchor(5, "5" * 64)))
    one.save()
    two.take("a", to_header(Anchor(3, "3" * 64)))
    two.take("b", to_header(Anchor(1, "1" * 64)))
    two.save()
    assert Heads(file).known == {"a": Anchor(5, "5" * 64), "b": Anchor(1, "1" * 64)}
    assert anchor_from(Heads(file).header("a")) == Anchor(5, "5" * 64)
    assert Heads(file).header("nobody") == {}
    file.write_text("[]")
    with pytest.raises(RunFailedError, match="wanted the ledgers' heads"):
        Heads(file)


def test_a_malformed_pair_in_a_reply_is_a_bad_reply(tmp_path: Path, site: Any) -> None:
    from consortia.messages.envelope import Envelope, encode
    from consortia.terms.scenario import load_scenario

    scenario = load_scenario("cross-industry-network").with_overrides(rounds=5)

    def exchange(kind: str, envelopes: Any, deadline: float) -> list[Answer]:
        reply = decode(handle(envelopes["bank-a"], site.home))
        return [Answer("bank-a", encode(Envelope({**reply.header, "ledger_head": "x"}, reply.tensors)))]

    coordinator = Coordinator(scenario, "run-1", tmp_path, exchange)
    with pytest.raises(RunFailedError):
        coordinator.run()
    assert "ledger_head: wanted 64" in coordinator.participants["bank-a"].failures[0]["detail"]


@pytest.mark.long
@pytest.mark.end_to_end
def test_the_flower_engine_refuses_a_restored_ledger_in_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from consortia.cli.budget import allow, init

    homes, out = tmp_path / "homes", tmp_path / "runs"
    monkeypatch.setenv("CONSORTIA_HOME", str(homes))
    init("", scenario="linear")
    for name in ("line-a", "line-b"):
        allow([name, "linear"], rounds=2)
    options = Options(scenario="linear", rounds=2, epsilon=("0.5",), engine="flower", out=out)
    mine = Home(homes / "line-a", "line-a")
    _copy(mine.ledger, tmp_path / "backup.db")
    first = execute(prepare(options), options).result
    assert first["participants"]["line-a"]["rounds_contributed"] == 2
    assert set(Heads(out / "heads.json").known) == {"line-a", "line-b"}
    _copy(tmp_path / "backup.db", mine.ledger)
    witness_file(mine).unlink()  # the whole home was restored; the coordinator still knows
    second = execute(prepare(options), options).result
    assert [f["code"] for f in second["participants"]["line-a"]["failures"]] == ["LEDGER_BEHIND"]
    assert second["participants"]["line-a"]["rounds_contributed"] == 0
    assert second["participants"]["line-b"]["rounds_contributed"] == 2
    assert "Put the newest copy of ledger.db back" in mine.log.read_text(encoding="utf-8")
    with Ledger.open(mine.ledger, "line-a") as ledger:
        assert not ledger.entries()


@pytest.mark.end_to_end
def test_the_embedded_engine_refuses_a_restored_ledger_in_the_next_run(tmp_path: Path) -> None:
    from consortia.cli.budget import init

    homes, out = tmp_path / "homes", tmp_path / "runs"
    init(scenario="linear", home=homes)
    options = Options(scenario="linear", epsilon=("0.5",), ledger=homes, out=out)
    mine = Home(homes / "line-a", "line-a")
    _copy(mine.ledger, tmp_path / "backup.db")
    first = execute(prepare(options), options).result
    assert first["participants"]["line-a"]["rounds_contributed"] > 0
    assert set(Heads(homes / "heads.json").known) == {"line-a", "line-b"}
    _copy(tmp_path / "backup.db", mine.ledger)
    witness_file(mine).unlink()  # the whole home was restored; the coordinator still knows
    second = execute(prepare(options), options).result
    assert second["participants"]["line-a"]["failures"][-1]["code"] == "LEDGER_BEHIND"
    assert second["participants"]["line-a"]["rounds_contributed"] == 0
    assert second["participants"]["line-b"]["state"] != "REFUSED"
