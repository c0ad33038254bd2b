"""A home survives its disk: consistent, encrypted, and no restore forgets a charge."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import APP
from typer.testing import CliRunner

from consortia.common.errors import InputError, RefusedError
from consortia.messages.envelope import decode
from consortia.participant import backup, own_sums
from consortia.participant.backup import restore, write_backup
from consortia.participant.handle import handle
from consortia.participant.home import Home
from privacy.ledger import Ledger
from privacy.secure_sum.store import KeyStore

WORDS = "correct horse battery staple"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap key derivation; the file says which one it was written with."""
    monkeypatch.setattr(backup, "_LOG_N", 10)


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    """A participant whose ledger is its owner's own, so that it has a witness at home."""
    made = make_site("bank-a", rounds=5)
    made.home = replace(made.home, ledger_folder=made.home.folder)
    return made


def _deployed(home: Home) -> Home:
    return Home(home.folder, home.participant)


def _lose(home: Home, *, witness: bool) -> bytes:
    """Lose the disk; what `$CONSORTIA_WITNESS` would have kept is put back."""
    kept = (home.folder / "witness.json").read_bytes()
    shutil.rmtree(home.folder)
    if not witness:
        home.folder.mkdir()
        (home.folder / "witness.json").write_bytes(kept)
    return kept


def test_a_restored_home_goes_on_where_it_was(site: Any, tmp_path: Path) -> None:
    """The budget is right to the last event, and the next round runs."""
    first = handle(site.message(1), site.home)
    with site.ledger() as ledger:
        before = ledger.export()
    found = write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    assert found.participant == "bank-a"
    key = (site.home.folder / "split.key").read_bytes()
    _lose(site.home, witness=False)
    restore(_deployed(site.home), tmp_path / "b", WORDS)
    assert (site.home.folder / "split.key").read_bytes() == key
    with site.ledger() as ledger:
        after = ledger.export()
        assert len(ledger.entries()) == 1
        (note,) = [note for _, note in ledger.notes() if note["what"] == "restored"]
        assert note["witnessed"] is True
    assert after["entries"] == before["entries"]
    assert handle(site.message(1), site.home) == first  # the outbox came back, too: same bytes, no charge
    pair = decode(first).header
    reply = site.ask(2, ledger_counter=pair["ledger_counter"], ledger_head=pair["ledger_head"])
    assert reply.header["status"] == "OK"
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 2


def test_an_older_ledger_is_refused_where_a_witness_is_left(site: Any, tmp_path: Path) -> None:
    site.ask(1)
    write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    site.ask(2)
    _lose(site.home, witness=False)
    for declared in (False, True):  # the owner's word does not outweigh a witness
        with pytest.raises(RefusedError, match=r"witness\.json knows better") as refusal:
            restore(_deployed(site.home), tmp_path / "b", WORDS, nothing_left_since=declared)
        assert refusal.value.code == "LEDGER_BEHIND"
    assert [path.name for path in site.home.folder.iterdir()] == ["witness.json"]


def test_an_older_ledger_is_refused_by_the_coordinator_when_no_witness_is_left(site: Any, tmp_path: Path) -> None:
    """The declaration lets a backup in; a reply that did leave is held against it all the same."""
    site.ask(1)
    write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    newest = site.ask(2).header
    _lose(site.home, witness=True)
    with pytest.raises(InputError, match="nobody can tell whether a reply"):
        restore(_deployed(site.home), tmp_path / "b", WORDS)
    assert not site.home.folder.exists()
    restore(_deployed(site.home), tmp_path / "b", WORDS, nothing_left_since=True)
    with site.ledger() as ledger:
        (note,) = [note for _, note in ledger.notes() if note["what"] == "restored"]
        assert note["witnessed"] is False
    reply = site.ask(3, ledger_counter=newest["ledger_counter"], ledger_head=newest["ledger_head"])
    assert (reply.header["status"], reply.header["code"]) == ("REFUSED", "LEDGER_FORKED")


def test_a_backup_while_others_write_is_whole(site: Any, tmp_path: Path) -> None:
    """Notes are written all the time; each backup holds a chain that recounts."""
    site.ask(1)
    stop = threading.Event()

    def write() -> None:
        with Ledger.open(site.home.ledger, "bank-a") as ledger:
            count = 0
            while not stop.is_set():
                count += 1
                ledger.note({"what": "test", "count": count})

    writer = threading.Thread(target=write)
    writer.start()
    try:
        found = [write_backup(_deployed(site.home), tmp_path / f"b{n}", WORDS) for n in range(5)]
    finally:
        stop.set()
        writer.join()
    for n, said in enumerate(found):
        home = Home(tmp_path / f"again{n}", "bank-a")
        restore(home, tmp_path / f"b{n}", WORDS, nothing_left_since=True)
        with Ledger.open(home.ledger, "bank-a") as ledger:
            assert ledger.verify().counter == said.entries + 1  # and the note of the restore


def test_a_backup_is_closed_to_others(site: Any, tmp_path: Path) -> None:
    site.ask(1)
    target = tmp_path / "b"
    write_backup(_deployed(site.home), target, WORDS)
    data = target.read_bytes()
    assert target.stat().st_mode & 0o077 == 0
    assert (site.home.folder / "split.key").read_bytes() not in data
    assert b"SQLite" not in data
    home = Home(tmp_path / "elsewhere", "bank-a")
    with pytest.raises(InputError, match="wanted its passphrase and an unchanged file"):
        restore(home, target, WORDS + "!", nothing_left_since=True)
    for place in (20, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        (tmp_path / "changed").write_bytes(changed)
        with pytest.raises(InputError, match="wanted its passphrase and an unchanged file"):
            restore(home, tmp_path / "changed", WORDS, nothing_left_since=True)
    assert not home.folder.exists()


def test_a_restore_replaces_nothing(site: Any, tmp_path: Path) -> None:
    site.ask(1)
    target = tmp_path / "b"
    write_backup(_deployed(site.home), target, WORDS)
    with pytest.raises(InputError, match="a ledger is never replaced"):
        restore(_deployed(site.home), target, WORDS, nothing_left_since=True)
    with pytest.raises(InputError, match="a backup never replaces another"):
        write_backup(_deployed(site.home), target, WORDS)
    home = Home(tmp_path / "other", "bank-b")
    with pytest.raises(InputError, match="wanted a backup of bank-b, got one of bank-a"):
        restore(home, target, WORDS, nothing_left_since=True)
    home = Home(tmp_path / "elsewhere", "bank-a")
    home.create()
    with pytest.raises(InputError, match="wanted the key of the backup"):
        restore(home, target, WORDS, nothing_left_since=True)
    (home.folder / "split.key").unlink()
    home.policy.write_text("# newer\n", encoding="utf-8")
    restore(home, target, WORDS, nothing_left_since=True)
    assert home.policy.read_text(encoding="utf-8") == "# newer\n"


def test_no_secret_whose_deletion_is_promised_is_in_a_backup(site: Any, tmp_path: Path) -> None:
    """Else a stolen backup would open masked words long after the run, and a restored member could vote twice."""
    site.ask(1)
    private, pair = b"a run key of thirty-two bytes ..", b"the secret of two members ......"
    with closing(KeyStore.open(site.home.ledger)) as keys:
        keys.begin("run-2", "contract", private)
        keys.bind("run-2", "roster", {"bank-b": pair})
        keys.burn("run-2", 1, 0, "context")
        keys.settle_view("run-2", 1, "vote", "alive")
    own_sums.keep(site.home, "run-2", own_sums.Sent(bytes(32), (np.arange(3.0),), (1.0,)))
    write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    files = backup._opened(tmp_path / "b", WORDS)
    assert not [name for name, content in files.items() if private in content or pair.hex().encode() in content]
    assert not [name for name in files if own_sums.FILE in name]
    _lose(site.home, witness=False)
    restore(_deployed(site.home), tmp_path / "b", WORDS)
    with closing(KeyStore.open(site.home.ledger)) as keys:
        assert keys.run("run-2") is None
        assert keys.last("run-2") == (1, 0)  # so no key is ever made for it again
        assert keys.view("run-2", 1, "vote") == "alive"


def test_a_backup_that_still_has_keys_takes_no_part_in_its_sums(
    site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ask(1)
    with closing(KeyStore.open(site.home.ledger)) as keys:
        keys.begin("run-2", "contract", bytes(32))
    with monkeypatch.context() as patch:
        patch.setattr(backup, "_without_keys", backup._copy_of)  # as backups were written before
        write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    _lose(site.home, witness=False)
    restore(_deployed(site.home), tmp_path / "b", WORDS)
    with closing(KeyStore.open(site.home.ledger)) as keys:
        assert keys.run("run-2") is None


@pytest.mark.parametrize("ending", ["-wal", "-journal"])
def test_the_log_of_a_lost_ledger_is_not_written_into_a_restored_one(ending: str, site: Any, tmp_path: Path) -> None:
    """SQLite would: then the note of the restore is gone, and pages of two ledgers are mixed."""
    site.ask(1)
    write_backup(_deployed(site.home), tmp_path / "b", WORDS)
    shutil.rmtree(site.home.folder)
    site.home.folder.mkdir()
    log = site.home.ledger.with_name(f"ledger.db{ending}")
    log.write_bytes(b"charges that the backup lacks")
    with pytest.raises(InputError, match="it may hold charges that the backup lacks"):
        restore(_deployed(site.home), tmp_path / "b", WORDS, nothing_left_since=True)
    assert [path.name for path in site.home.folder.iterdir()] == [log.name]


def test_the_commands(site: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site.ask(1)
    root, target = site.home.folder.parent, tmp_path / "b"

    def call(*words: str) -> tuple[int, str]:
        whole = ["home", *words, "--home", str(root)]
        done = CliRunner().invoke(APP, whole)
        return done.exit_code, " ".join(done.output.split())

    monkeypatch.delenv("CONSORTIA_PASSPHRASE", raising=False)
    code, said = call("backup", "bank-a", "--to", str(target))
    assert (code, "wanted --passphrase-file or" in said) == (2, True), said
    monkeypatch.setenv("CONSORTIA_PASSPHRASE", "short")
    code, said = call("backup", "bank-a", "--to", str(target))
    assert (code, "wanted at least 12 characters, got 5" in said) == (2, True)
    (tmp_path / "words").write_text(WORDS + "\n", encoding="utf-8")
    file = ("--passphrase-file", str(tmp_path / "words"))
    code, said = call("backup", "bank-a", "--to", str(target), *file)
    assert code == 0, said
    assert WORDS not in said
    site.ask(2)
    _lose(site.home, witness=False)
    code, said = call("restore", "bank-a", "--from", str(target), *file)
    assert (code, "LEDGER_BEHIND" in said) == (2, True)
    (site.home.folder / "witness.json").unlink()
    code, said = call("restore", "bank-a", "--from", str(target), *file)
    assert (code, "--nothing-left-since" in said) == (2, True)
    code, said = call("restore", "bank-a", "--from", str(target), *file, "--nothing-left-since")
    assert code == 0, said
    witness = json.loads((site.home.folder / "witness.json").read_text(encoding="utf-8"))
    with site.ledger() as ledger:
        assert ledger.anchor().counter == witness["counter"]
