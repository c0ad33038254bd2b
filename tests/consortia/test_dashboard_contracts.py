"""Contracts accepted and taken back from an owner's page: the same policy and ledger as the commands leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomlkit
from dashboard_changes import CHANGE_TOKEN, call, linear_template, lines, policy, post, signed_in, ticket_of, two_homes
from dashboard_pages import TOKEN, get
from fastapi import FastAPI

from consortia.common.errors import InputError
from consortia.dashboard.app import build
from consortia.dashboard.owner import OwnerView
from consortia.participant import contract_list
from consortia.participant.home import Home
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from privacy.errors import LedgerBusyError
from privacy.ledger import Ledger

SHA256 = load_scenario("linear").with_overrides(rounds=3).contract.sha256()
ENTRY = f"sha256:{SHA256}"
ACCEPT: Any = {"scenario": "linear", "rounds": "3"}
NAMED = ("line-a", "linear", "--rounds", "3")


template = pytest.fixture(scope="module")(linear_template)
homes = pytest.fixture(two_homes)


@pytest.fixture
def app(homes: Path) -> FastAPI:
    return build(OwnerView.of(homes / "page" / "line-a", None), TOKEN, CHANGE_TOKEN)


@pytest.fixture
def owner(app: FastAPI) -> dict[str, str]:
    return signed_in(app, CHANGE_TOKEN)


def accepted(home: Path) -> Any:
    return load_policy(home / "line-a" / "policy.toml", simulation=True).allow.contracts


def made(app: FastAPI, owner: dict[str, str], path: str, **given: Any) -> Any:
    """Propose and confirm; return the page that asked."""
    shown = post(app, path, owner, **given)
    answer = post(app, "/change/confirm", owner, ticket=ticket_of(shown))
    assert (answer.status_code, answer.headers.get("location")) == (303, "/policy"), answer.text
    return shown


def signs_only(homes: Path) -> None:
    for file in homes.glob("*/line-a/policy.toml"):
        document: Any = tomlkit.parse(file.read_text())
        document["allow"]["signed"] = True
        file.write_text(tomlkit.dumps(document))


def test_an_accepted_contract_leaves_what_the_command_leaves(app: FastAPI, homes: Path, owner: dict[str, str]) -> None:
    before = lines(homes / "page")
    shown = post(app, "/change/contract", owner, **ACCEPT)
    for words in ("what leaves:  update, of data set", "together with: line-b", "for which ε:", ENTRY):
        assert words in shown.text
    assert lines(homes / "page") == before  # it was shown, not made
    made(app, owner, "/change/contract", **ACCEPT)
    call("budget", "allow", *NAMED, "--home", str(homes / "command"))
    assert lines(homes / "page") == lines(homes / "command") != before
    assert ENTRY in accepted(homes / "page")
    assert {"what": "contract accepted", "detail": ENTRY[:19]} in lines(homes / "page")


def test_a_contract_that_is_taken_back_leaves_what_the_command_leaves(
    app: FastAPI, homes: Path, owner: dict[str, str]
) -> None:
    for place in ("page", "command"):
        call("budget", "allow", *NAMED, "--home", str(homes / place))
    made(app, owner, "/change/withdraw", contract=ENTRY)
    call("budget", "allow", *NAMED, "--withdraw", "--home", str(homes / "command"))
    assert lines(homes / "page") == lines(homes / "command")
    assert ENTRY not in accepted(homes / "page")
    assert {"what": "contract taken off", "detail": ENTRY[:19]} in lines(homes / "page")


@pytest.mark.parametrize("already_signs", [True, False])
def test_a_signed_contract_leaves_what_agree_leaves(
    app: FastAPI, homes: Path, owner: dict[str, str], already_signs: bool
) -> None:
    if already_signs:
        signs_only(homes)
    given = {**ACCEPT, "purpose": "fit a line", "until": "2999-12-31"}
    shown = made(app, owner, "/change/contract", **given)
    assert "for what:     fit a line" in shown.text
    assert ("1 listed without a signature: refused until signed" in shown.text) is not already_signs
    agree = ("agree", *NAMED, "--home", str(homes / "command"))
    call(*agree, "--purpose", "fit a line", "--until", "2999-12-31", "--yes")
    assert lines(homes / "page") == lines(homes / "command")
    files = [file.relative_to(homes / place) for place in ("page", "command") for file in homes.glob(f"{place}/**/*")]
    assert Path("line-a/agreements") / f"{SHA256}.json" in files
    assert sum(file.name == f"{SHA256}.json" for file in files) == 2
    made(app, owner, "/change/withdraw", contract=ENTRY)
    call(*agree, "--withdraw")
    assert lines(homes / "page") == lines(homes / "command")
    assert not list(homes.glob("*/line-a/agreements/*.json"))


def test_where_signed_contracts_alone_count_none_is_accepted_without_a_purpose(
    app: FastAPI, homes: Path, owner: dict[str, str]
) -> None:
    signs_only(homes)
    before = lines(homes / "page")
    answer = post(app, "/change/contract", owner, **ACCEPT)
    assert (answer.status_code, "purpose" in answer.text) == (422, True)
    assert lines(homes / "page") == before


CHANGES = [("/change/contract", ACCEPT), ("/change/withdraw", {"contract": "listed"})]


@pytest.fixture(params=CHANGES, ids=["accept", "take back"])
def change(request: pytest.FixtureRequest, homes: Path) -> tuple[str, dict[str, str]]:
    path, given = request.param
    return path, {"contract": accepted(homes / "page")[0]} if "contract" in given else given


def test_it_is_made_once(app: FastAPI, homes: Path, owner: dict[str, str], change: Any) -> None:
    path, given = change
    ticket = ticket_of(post(app, path, owner, **given))
    assert post(app, "/change/confirm", owner, ticket=ticket).status_code == 303
    after = lines(homes / "page")
    assert post(app, "/change/confirm", owner, ticket=ticket).status_code == 409
    assert lines(homes / "page") == after


def test_who_may_not_changes_nothing(app: FastAPI, homes: Path, owner: dict[str, str], change: Any) -> None:
    path, given = change
    viewer = signed_in(app, TOKEN)
    ticket = ticket_of(post(app, path, owner, **given))
    before = lines(homes / "page")
    elsewhere = {"Origin": "http://elsewhere.example"}
    for who, headers in ((viewer, None), ({}, None), (owner, elsewhere), (owner, {})):
        assert post(app, path, who, headers, **given).status_code == 403
        assert post(app, "/change/confirm", who, headers, ticket=ticket).status_code == 403
    reading = build(OwnerView.of(homes / "page" / "line-a", None), TOKEN)
    assert post(reading, path, signed_in(reading, TOKEN), **given).status_code == 405
    assert lines(homes / "page") == before
    for words in ("Accept a contract", "Take a contract back"):
        assert words in get(app, "/policy", headers=owner).text
        assert words not in get(app, "/policy", headers=viewer).text


def test_what_was_shown_of_another_policy_is_not_made(
    app: FastAPI, homes: Path, owner: dict[str, str], change: Any
) -> None:
    path, given = change
    ticket = ticket_of(post(app, path, owner, **given))
    call("budget", "set", "line-a", "--lifetime", "2", "--home", str(homes / "page"))
    after = lines(homes / "page")
    answer = post(app, "/change/confirm", owner, ticket=ticket)
    assert (answer.status_code, "nothing was changed" in answer.text) == (422, True)
    assert lines(homes / "page") == after


@pytest.mark.parametrize(
    ("path", "given", "words"),
    [
        ("/change/contract", {"scenario": "../policy.toml"}, "one of the list"),
        ("/change/contract", {"scenario": "banks"}, "one of the list"),
        ("/change/contract", {"scenario": "linear"}, "does not accept yet"),
        ("/change/contract", {"scenario": "linear", "rounds": "many"}, "whole number"),
        ("/change/contract", {**ACCEPT, "purpose": "fit", "until": "soon"}, "wanted a day"),
        ("/change/withdraw", {"contract": ENTRY}, "one of the list"),
    ],
)
def test_what_cannot_be_is_refused_in_words(
    app: FastAPI, homes: Path, owner: dict[str, str], path: str, given: Any, words: str
) -> None:
    before = lines(homes / "page")
    answer = post(app, path, owner, **given)
    assert (answer.status_code, "ticket" in answer.text) == (422, False)
    assert words in answer.text
    assert lines(homes / "page") == before


def test_a_scenario_that_the_server_was_started_with_is_offered(homes: Path, owner: dict[str, str]) -> None:
    file = homes / "ours.toml"
    text = (Path(__file__).resolve().parents[2] / "scenarios" / "linear.toml").read_text()
    file.write_text(text.replace('name = "linear"', 'name = "ours"'))
    app = build(OwnerView.of(homes / "page" / "line-a", None, [file]), TOKEN, CHANGE_TOKEN)
    owner = signed_in(app, CHANGE_TOKEN)
    assert "<option>ours.toml</option>" in get(app, "/policy", headers=owner).text
    shown = post(app, "/change/contract", owner, scenario="ours.toml", rounds="3")
    assert "Accept the contract of ours?" in shown.text


@pytest.mark.parametrize(("listed", "wanted"), [(True, False), (False, False)])
def test_a_ledger_that_takes_no_note_leaves_no_contract_accepted(
    homes: Path, monkeypatch: pytest.MonkeyPatch, listed: bool, wanted: bool
) -> None:
    home = Home(homes / "page" / "line-a", "line-a")
    if not listed:
        contract_list.accept(home, ENTRY)

    def busy(*_: Any) -> None:
        raise LedgerBusyError("ledger: busy")

    monkeypatch.setattr(Ledger, "note", busy)
    with pytest.raises(InputError, match="nothing was changed" if listed else "off the list"):
        (contract_list.accept if listed else contract_list.remove)(home, ENTRY)
    assert (ENTRY in accepted(homes / "page")) is wanted
    assert policy(homes / "page")
