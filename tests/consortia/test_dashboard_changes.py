"""Changes from the dashboard's pages: who may, what they leave in the ledger, what changes nothing."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dashboard_changes import CHANGE_TOKEN, ORIGIN, call, linear_template, lines, post, signed_in, ticket_of, two_homes
from dashboard_pages import TOKEN, crawl, get
from fastapi import FastAPI

from consortia.common.errors import InputError
from consortia.dashboard.app import build
from consortia.dashboard.coordinator import CoordinatorView
from consortia.dashboard.owner import OwnerView
from consortia.dashboard.security import Tickets
from consortia.dashboard.starting import Starter
from consortia.participant import budget_change, ledger_witness
from consortia.participant.home import Home
from consortia.terms.policy import load_policy
from privacy.errors import LedgerBusyError
from privacy.ledger import Ledger

template = pytest.fixture(scope="module")(linear_template)
homes = pytest.fixture(two_homes)


@pytest.fixture
def app(homes: Path) -> FastAPI:
    return build(OwnerView.of(homes / "page" / "line-a", None), TOKEN, CHANGE_TOKEN)


def test_a_changed_budget_leaves_what_the_command_leaves(app: FastAPI, homes: Path) -> None:
    owner = signed_in(app, CHANGE_TOKEN)
    before = lines(homes / "page")
    shown = post(app, "/change/budget", owner, run="0.5", lifetime="9", lifetime_delta="")
    assert "lifetime: ε 4 at δ 4e-05 -&gt; ε 9 at δ 4e-05 (add/remove one unit: record)" in shown.text
    assert "Raised" in shown.text
    assert lines(homes / "page") == before  # it was shown, not made
    made = post(app, "/change/confirm", owner, ticket=ticket_of(shown))
    assert (made.status_code, made.headers["location"]) == (303, "/policy")
    call("budget", "set", "line-a", "--run", "0.5", "--lifetime", "9", "--home", str(homes / "command"))
    assert lines(homes / "page") == lines(homes / "command") != before


def test_a_change_is_made_once(app: FastAPI, homes: Path) -> None:
    owner = signed_in(app, CHANGE_TOKEN)
    ticket = ticket_of(post(app, "/change/budget", owner, lifetime="9"))
    assert post(app, "/change/confirm", owner, ticket=ticket).status_code == 303
    call("budget", "set", "line-a", "--lifetime", "5", "--home", str(homes / "page"))
    after = lines(homes / "page")
    again = post(app, "/change/confirm", owner, ticket=ticket)
    assert again.status_code == 409
    assert "made already" in again.text
    assert lines(homes / "page") == after


def test_a_change_that_was_shown_of_another_policy_is_not_made(app: FastAPI, homes: Path) -> None:
    owner = signed_in(app, CHANGE_TOKEN)
    ticket = ticket_of(post(app, "/change/budget", owner, lifetime="9"))
    call("budget", "set", "line-a", "--lifetime", "2", "--home", str(homes / "page"))
    after = lines(homes / "page")
    answer = post(app, "/change/confirm", owner, ticket=ticket)
    assert answer.status_code == 422
    assert "nothing was changed" in answer.text
    assert lines(homes / "page") == after


def test_of_two_changes_at_once_one_is_made(homes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both were checked on the same policy: the later one is refused, and ledger and policy say the same."""
    home = Home(homes / "page" / "line-a", "line-a")
    one, other = (budget_change.check(home, {"lifetime": value}) for value in (9.0, 7.0))
    refused: list[str] = []
    note = ledger_witness.note_budget

    def second() -> None:
        try:
            other.make()
        except InputError as error:
            refused.append(str(error))

    thread = threading.Thread(target=second)

    def first_notes(*given: Any) -> None:
        monkeypatch.setattr(ledger_witness, "note_budget", note)
        thread.start()
        thread.join(0.2)  # time for the other one to come between, where nothing holds it back
        note(*given)

    monkeypatch.setattr(ledger_witness, "note_budget", first_notes)
    one.make()
    thread.join()
    assert len(refused) == 1
    assert "nothing was changed" in refused[0]
    after = load_policy(home.policy, simulation=True)
    assert after.budget.lifetime.epsilon == 9.0
    with Ledger.open(home.ledger, "line-a") as ledger:
        assert ledger.notes()[-1][1] == {"what": "budget", **after.budget.model_dump(mode="json")}


@pytest.mark.parametrize("fails", [1, 2])
def test_a_note_that_fails_leaves_a_change_whole_or_not_made(
    homes: Path, monkeypatch: pytest.MonkeyPatch, fails: int
) -> None:
    home = Home(homes / "page" / "line-a", "line-a")
    change = budget_change.check(home, {"lifetime": 9.0})
    before, note, calls = home.policy.read_text(), ledger_witness.note_budget, iter((1, 2))

    def noted(*given: Any) -> None:
        if next(calls) == fails:
            raise LedgerBusyError("ledger: busy")
        note(*given)

    monkeypatch.setattr(ledger_witness, "note_budget", noted)
    if fails == 1:
        with pytest.raises(InputError, match="nothing was changed"):
            change.make()
        assert home.policy.read_text() == before
    else:
        change.make()  # the next message notes the policy as it is (`consortia.participant.handle`)
        assert home.policy.read_text() == change.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "null"},
        {"Origin": "http://elsewhere.example"},
        {"Origin": "http://127.0.0.1.elsewhere.example"},
        {"Origin": "http://127.0.0.1:8051"},
        {"Origin": "http://["},
        {**ORIGIN, "Sec-Fetch-Site": "cross-site"},
        {**ORIGIN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_request_from_another_page_changes_nothing(app: FastAPI, homes: Path, headers: dict[str, str]) -> None:
    owner = signed_in(app, CHANGE_TOKEN)
    before = lines(homes / "page")
    assert post(app, "/change/budget", owner, headers, lifetime="9").status_code == 403
    ticket = ticket_of(post(app, "/change/budget", owner, lifetime="9"))
    assert post(app, "/change/confirm", owner, headers, ticket=ticket).status_code == 403
    assert lines(homes / "page") == before


def test_who_may_only_look_changes_nothing(app: FastAPI, homes: Path) -> None:
    owner, viewer = signed_in(app, CHANGE_TOKEN), signed_in(app, TOKEN)
    ticket = ticket_of(post(app, "/change/budget", owner, lifetime="9"))
    before = lines(homes / "page")
    for who in (viewer, {}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": f"Bearer {CHANGE_TOKEN}"}):
        assert post(app, "/change/budget", who, lifetime="9").status_code == 403
        assert post(app, "/change/confirm", who, ticket=ticket).status_code == 403
    assert lines(homes / "page") == before
    assert "Change the budget" not in get(app, "/policy", headers=viewer).text
    assert "Change the budget" in get(app, "/policy", headers=owner).text


def test_without_allow_changes_nobody_may(homes: Path) -> None:
    app = build(OwnerView.of(homes / "page" / "line-a", None), TOKEN)
    viewer = signed_in(app, TOKEN)
    before = lines(homes / "page")
    for path in ("/change/budget", "/change/confirm"):
        assert post(app, path, viewer, lifetime="9", ticket="x").status_code == 405
    assert get(app, "/sign-in", "POST", data={"token": ""}).status_code == 403
    assert lines(homes / "page") == before
    assert not any("/change/" in text for text in crawl(app).values())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "got the same"),
        ({"lifetime": "4"}, "got the same"),
        ({"lifetime": "much"}, "wanted a number"),
        ({"run": "nan"}, "finite"),
        ({"run": "9"}, "lifetime epsilon and delta at least as large"),
        ({"evaluation_run": "1"}, "--evaluation-lifetime"),
    ],
)
def test_a_budget_that_cannot_be_is_refused_in_words(
    app: FastAPI, homes: Path, given: dict[str, str], words: str
) -> None:
    before = lines(homes / "page")
    answer = post(app, "/change/budget", signed_in(app, CHANGE_TOKEN), **given)
    assert answer.status_code == 422
    assert words in answer.text
    assert "ticket" not in answer.text
    assert lines(homes / "page") == before


def test_a_ticket_ends_after_ten_minutes_and_the_oldest_of_many_is_dropped() -> None:
    now = iter([0.0, 599.0, 700.0, 1301.0, *range(2000, 2200)])
    tickets = Tickets(lambda: next(now))
    assert tickets.take(tickets.give("in time")) == "in time"
    assert tickets.take(tickets.give("too late")) is None
    many = [tickets.give(number) for number in range(101)]
    assert tickets.take(many[0]) is None
    assert tickets.take(many[1]) == 1


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[tuple[FastAPI, CoordinatorView]]:
    view = CoordinatorView(tmp_path, None)
    yield build(view, TOKEN, CHANGE_TOKEN), view
    view.starter.end()


@pytest.mark.parametrize("name", ["", "../banks", "/etc/passwd", "banks; ls", "scenarios/banks.toml"])
def test_only_a_scenario_of_the_platform_is_started(runs: tuple[FastAPI, CoordinatorView], name: str) -> None:
    answer = post(runs[0], "/change/run", signed_in(runs[0], CHANGE_TOKEN), scenario=name)
    assert answer.status_code == 422
    assert "one of the list" in answer.text


def test_of_two_confirmations_at_once_one_run_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starter, both, begun, refused = Starter(tmp_path), threading.Barrier(2), [], []
    popen = subprocess.Popen

    def slowly(*_: object, **given: Any) -> Any:
        begun.append(popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **given))
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for another one that begins, too
        return begun[-1]

    def confirm() -> None:
        try:
            starter.start("banks")
        except InputError as error:
            refused.append(str(error))

    monkeypatch.setattr("consortia.dashboard.starting.subprocess.Popen", slowly)
    threads = [threading.Thread(target=confirm) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for process in begun:
        process.communicate(b"\n")
    assert (len(begun), len(refused)) == (1, 1)


@pytest.mark.end_to_end
def test_the_coordinator_starts_a_scenario_and_sees_it(runs: tuple[FastAPI, CoordinatorView], tmp_path: Path) -> None:
    app, view = runs
    coordinator = signed_in(app, CHANGE_TOKEN)
    shown = post(app, "/change/run", coordinator, scenario="banks")
    assert "ε 3 at δ 1e-05" in shown.text
    assert not list(tmp_path.iterdir())
    second = ticket_of(post(app, "/change/run", coordinator, scenario="banks"))
    assert post(app, "/change/confirm", coordinator, ticket=ticket_of(shown)).status_code == 303
    busy = post(app, "/change/confirm", coordinator, ticket=second)
    assert (busy.status_code, "one that goes on" in busy.text) == (422, True)
    assert view.starter._run is not None
    assert view.starter._run.wait(300) == 0, (tmp_path / "started.log").read_text()
    assert "completed" in get(app, "/", headers=coordinator).text
