"""The log of acts: every act has its line before it happens, and no line can be changed, left out or put in."""

from __future__ import annotations

import json
import shutil
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from dashboard_changes import CHANGE_TOKEN, call, linear_template, policy, post, signed_in, ticket_of
from dashboard_pages import TOKEN, get
from typer.testing import CliRunner

from consortia.common import acts
from consortia.common.acts import FILE, BrokenActsError, acting, noted, record, verify
from consortia.common.errors import InputError
from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.owner import OwnerView
from consortia.deploy import pki_folder
from consortia.deploy.members import MemberFolder
from consortia.terms.scenario import load_scenario
from privacy.hash_chain import next_head


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return linear_template(tmp_path_factory)


def _told(folder: Path) -> list[tuple[str, str, str]]:
    return [(line.act, line.about, line.outcome) for line in verify(folder / FILE)]


def _three(folder: Path) -> Path:
    for about in ("one", "two", "three"):
        record(folder, "run.start", about)
    return folder / FILE


def test_an_act_has_its_line_before_it_and_one_after(tmp_path: Path) -> None:
    with noted(tmp_path, "budget.set", "run=1"):
        assert _told(tmp_path) == [("budget.set", "run=1", "begun")]
    with pytest.raises(KeyError), noted(tmp_path, "budget.set", "run=2"):
        raise KeyError("Lovelace 4711")
    assert [outcome for *_, outcome in _told(tmp_path)] == ["begun", "done", "begun", "failed"]
    assert "4711" not in (tmp_path / FILE).read_text()
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_noted_is_not_done(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(InputError, match="nothing was done"), noted(tmp_path, "budget.set"):
        pytest.fail("it was done")


def test_who_acts_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    record(tmp_path, "run.start")
    with acting("248289761001\nforged"):
        record(tmp_path, "run.start")
    assert [line.who for line in verify(tmp_path / FILE)] == ["user ada", "248289761001?forged"]


FORGED: dict[str, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]] = {
    "a word changed": lambda lines: [{**lines[0], "about": "other"}, *lines[1:]],
    "a time changed": lambda lines: [lines[0], {**lines[1], "time": lines[0]["time"] + "0"}, lines[2]],
    "an actor changed": lambda lines: [{**lines[0], "who": "another"}, *lines[1:]],
    "an outcome changed": lambda lines: [*lines[:2], {**lines[2], "outcome": "failed"}],
    "a number changed": lambda lines: [lines[0], {**lines[1], "n": 7}, lines[2]],
    "a line left out": lambda lines: [lines[0], lines[2]],
    "the first left out": lambda lines: lines[1:],
    "lines moved": lambda lines: [lines[1], lines[0], lines[2]],
    "a line twice": lambda lines: [lines[0], lines[0], *lines[1:]],
    "another head": lambda lines: [*lines[:2], {**lines[2], "head": "0" * 64}],
    "no line": lambda lines: [lines[0], {"n": 2}, lines[2]],  # type: ignore[list-item]
}


@pytest.mark.parametrize("forged", FORGED)
def test_every_forgery_is_found(tmp_path: Path, forged: str) -> None:
    file = _three(tmp_path)
    lines = FORGED[forged]([json.loads(line) for line in file.read_text().splitlines()])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(BrokenActsError, match="wanted line"):
        verify(file)


def test_a_kept_head_tells_what_was_cut_off(tmp_path: Path) -> None:
    file = _three(tmp_path)
    head = verify(file)[-1].head
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:2]))
    assert len(verify(file)) == 2
    with pytest.raises(BrokenActsError, match="in the chain, got 2 lines"):
        verify(file, head)
    record(tmp_path, "run.start", "another")  # even where somebody went on after it
    with pytest.raises(BrokenActsError):
        verify(file, head[:16])


def test_what_a_crash_left_of_a_line_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    file = _three(tmp_path)
    with file.open("a") as stream:
        stream.write('{"n": 4, "ti')
    assert len(verify(file)) == 3
    record(tmp_path, "run.start", "x" * 9000)  # longer than what is read at once from the end
    record(tmp_path, "run.start", "five")
    assert [line.n for line in verify(file)] == [1, 2, 3, 4, 5]
    with file.open("a") as stream:
        stream.write("Lovelace\n")
    with pytest.raises(InputError, match="wanted a line of acts"):
        record(tmp_path, "run.start")


def test_many_writers_make_one_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(*link: Any) -> str:  # others come between reading the last line and writing the next
        time.sleep(0.005)
        return next_head(*link)

    monkeypatch.setattr(acts, "next_head", slow)
    writers = [threading.Thread(target=lambda: [record(tmp_path, "run.start") for _ in range(3)]) for _ in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert len(verify(tmp_path / FILE)) == 12


def test_members_and_certificates_are_told(tmp_path: Path) -> None:
    scenario = load_scenario("linear", settle=False)
    members = MemberFolder(tmp_path / "members", scenario.name)
    members.put_key("line-a", b"a key")
    members.remove(scenario, "line-b")
    assert _told(tmp_path / "members") == [
        ("participant.key", "linear/line-a", "begun"),
        ("participant.key", "linear/line-a", "done"),
        ("participant.remove", "linear/line-b", "begun"),
        ("participant.remove", "linear/line-b", "done"),
    ]
    pki = tmp_path / "pki"
    pki_folder.ensure(pki, pki_folder.pairs(""))
    first = _told(pki)
    assert [act for act, _, outcome in first if outcome == "done"] == ["authority.make"] + ["certificate.renew"] * 2
    pki_folder.ensure(pki, pki_folder.pairs(""))  # nothing was due
    assert _told(pki) == first
    assert "PRIVATE" not in (pki / FILE).read_text()
    text = call("participant", "acts", *("--members", str(tmp_path / "members"), "--pki", str(pki)))
    assert "participant.remove linear/line-b – done" in text
    assert "4 lines follow from one another" in text


@pytest.mark.end_to_end
def test_commands_of_a_home_are_told_and_shown(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "homes"
    shutil.copytree(template, home)
    call("budget", "set", "line-a", "--home", str(home), "--run", "3")
    secret = tmp_path / "passphrase"
    secret.write_text("a passphrase of this test")
    backup, where = str(tmp_path / "line-a.backup"), ("--passphrase-file", str(secret))
    call("home", "backup", "line-a", "--to", backup, "--home", str(home), *where)
    told = _told(home / "line-a")[-4:]
    assert told == [
        ("budget.set", "run_epsilon=3", "begun"),
        ("budget.set", "run_epsilon=3", "done"),
        ("home.backup", "line-a.backup", "begun"),
        ("home.backup", "line-a.backup", "done"),
    ]
    other = str(tmp_path / "restored")
    call("home", "restore", "line-a", "--from", backup, "--home", other, "--nothing-left-since", *where)
    assert [act for act, *_ in _told(tmp_path / "restored" / "line-a")[-2:]] == ["home.backup", "home.restore"]
    shown = call("home", "log", "line-a", "--acts", "--home", str(home))
    assert "budget.set run_epsilon=3 – done" in shown
    head = json.loads(call("home", "log", "line-a", "--acts", "--home", str(home), "--json"))[-1]["head"]
    call("home", "log", "line-a", "--acts", "--home", str(home), "--head", head[:16])
    file = home / "line-a" / FILE
    file.write_text(file.read_text().replace("run_epsilon=3", "run_epsilon=2"))
    done = CliRunner().invoke(APP, ["home", "log", "line-a", "--acts", "--home", str(home)])
    assert done.exit_code == 1
    assert "wanted line" in done.output
    assert not any(word in file.read_text() for word in ("passphrase of", str(tmp_path)))


def test_acts_on_a_page_are_told_with_who_signed_in(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template / "line-a", tmp_path / "line-a")
    home = tmp_path / "line-a"
    app = build(OwnerView.of(home, None), TOKEN, CHANGE_TOKEN, acts=home)
    get(app, "/sign-in", "POST", data={"token": "a-wrong-token-4711"})
    signed_in(app, TOKEN)
    who = signed_in(app, CHANGE_TOKEN)
    before = policy(tmp_path)
    post(app, "/change/confirm", who, ticket=ticket_of(post(app, "/change/budget", who, run="3")))
    assert policy(tmp_path) != before
    entry = ticket_of(post(app, "/change/withdraw", who, contract=_entry(home)))
    post(app, "/change/confirm", who, ticket=entry)
    get(app, "/sign-out", "POST", headers=who)
    get(app, "/sign-out", "POST")  # of nobody
    found = [(line.who, line.act, line.outcome) for line in verify(home / FILE)]
    assert found[-9:] == [
        ("nobody", "sign-in", "refused"),
        ("token", "sign-in", "done"),
        ("token for changes", "sign-in", "done"),
        ("token for changes", "budget.set", "begun"),
        ("token for changes", "budget.set", "done"),
        ("token for changes", "contract.withdraw", "begun"),
        ("token for changes", "contract.withdraw", "done"),
        ("token for changes", "sign-out", "done"),
    ]
    assert not any(secret in (home / FILE).read_text() for secret in (TOKEN, CHANGE_TOKEN, "4711"))


def _entry(home: Path) -> str:
    contract: str = tomllib.loads((home / "policy.toml").read_text())["allow"]["contracts"][0]
    return contract


def test_whoever_cannot_be_noted_is_not_signed_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = build(CoordinatorView(tmp_path, None), TOKEN, acts=tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(acts.disk, "append", full)
    answer = get(app, "/sign-in", "POST", data={"token": TOKEN})
    assert answer.status_code == 503
    assert "set-cookie" not in answer.headers
