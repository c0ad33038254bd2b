"""An agreement: shown in words, signed at home; without a valid one nothing runs and nothing is charged."""

from __future__ import annotations

import base64
import datetime
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from cryptography.hazmat.primitives.asymmetric import ec
from own_homes import own_homes
from typer.testing import CliRunner, Result

from consortia.cli.budget import allow
from consortia.common.errors import RefusedError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.participant.account import history
from consortia.participant.agreement import check_signed
from consortia.participant.home import Home
from consortia.participant.passport import make_part
from consortia.terms.policy import Proposal, load_policy
from consortia.trust.passport.envelope import signed
from privacy.errors import LedgerBusyError
from privacy.ledger import Ledger

ROUNDS = 2
Edit = Callable[[dict[str, Any]], None]


def call(home: Home, *arguments: str, answer: str = "") -> Result:
    place = ("--home", str(home.folder.parent), "--rounds", str(ROUNDS))
    scenario = "linear" if home.participant.startswith("line") else "banks-network"
    words = ["agree", home.participant, scenario, *arguments, *place]
    return CliRunner().invoke(APP, words, input=answer, env={"COLUMNS": "300"})


def agree(home: Home, *more: str) -> None:
    result = call(home, "--purpose", "fit a line", "--yes", *more)
    assert result.exit_code == 0, result.output


@pytest.fixture
def own(make_site: Callable[..., Any]) -> Any:
    """A participant with a policy of its own, which lists no contract; its runs are non-private."""
    return _own(make_site("line-a", "linear", rounds=ROUNDS))


@pytest.fixture
def private(make_site: Callable[..., Any]) -> Any:
    """Another one, whose runs have an ε."""
    return _own(make_site("used-car", "banks-network", rounds=ROUNDS))


def _own(site: Any) -> Any:
    site.policy(lambda p: (p.update(demo=False), p["allow"].update(contracts=[], signed=True)))
    return site


def agreement(home: Home) -> Path:
    (file,) = (home.kept / "agreements").iterdir()
    return file


def stated(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(file.read_text())["payload"]))
    return found


def refused(site: Any, words: str = "") -> None:
    """The real path refuses, with a code that tells nothing of the reason, and charges nothing."""
    reply = site.ask(1)
    assert (reply.header["status"], reply.header["code"]) == ("REFUSED", "CONTRACT_NOT_ALLOWED")
    assert words not in reply.header.values()
    with site.ledger() as ledger:
        assert ledger.entries() == []
        assert ledger.plan("run-1") is None
    if words:
        policy = load_policy(site.home.policy, simulation=True)
        with pytest.raises(RefusedError, match=words):
            check_signed(site.home, policy, site.scenario.contract, Proposal.to(site.scenario.participant(site.name)))


def test_what_is_signed_is_shown_in_words_and_then_runs(own: Any) -> None:
    refused(own)
    result = call(own.home, "--purpose", "fit a line", "--until", "2999-12-31", answer="y\n")
    assert result.exit_code == 0, result.output
    for words in (
        "what leaves:  update, of data set",
        "to whom:      the coordinator sees each noisy release by name",
        "together with: line-b",
        "for what:     fit a line",
        "until when:   2999-12-31, that day included",
        "for which ε:  ",
        "unit record, horizon: each run of this contract",
        "horizon: lifetime of the data set",
    ):
        assert words in result.output
    assert own.ask(1).header["status"] == "OK"
    with own.ledger() as ledger:
        assert ("agreement signed", "contract sha256:" + own.scenario.contract.sha256()[:12]) in [
            (line["what"], line["detail"]) for line in history(ledger)
        ]


def test_who_says_no_has_signed_nothing(own: Any) -> None:
    result = call(own.home, "--purpose", "fit a line", answer="n\n")
    assert result.exit_code == 2
    assert not (own.home.kept / "agreements").exists()
    refused(own)


def test_what_the_owner_changed_while_the_question_waited_stays(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signing lists its own contract, and none that was taken off the list meanwhile."""
    own.policy(lambda p: p["allow"].update(contracts=["sha256:" + "0" * 64]))

    def confirm(_: str) -> bool:
        own.policy(lambda p: p["allow"].update(contracts=[]))
        return True

    monkeypatch.setattr("consortia.cli.agree.typer.confirm", confirm)
    assert call(own.home, "--purpose", "fit a line").exit_code == 0
    listed = load_policy(own.home.policy, simulation=True).allow.contracts
    assert listed == (f"sha256:{own.scenario.contract.sha256()}",)


def test_a_listed_contract_without_an_agreement_is_refused(own: Any) -> None:
    own.policy(lambda p: p["allow"].update(contracts=[f"sha256:{own.scenario.contract.sha256()}"]))
    refused(own, "wanted a signed agreement, got none")


def test_the_agreement_to_another_contract_is_none(own: Any) -> None:
    agree(own.home)
    file = agreement(own.home)
    own.scenario = own.scenario.with_overrides(seed=99)
    sha256 = own.scenario.contract.sha256()
    own.policy(lambda p: p["allow"].update(contracts=[f"sha256:{sha256}"]))
    refused(own, "wanted a signed agreement, got none")
    file.rename(file.with_name(f"{sha256}.json"))
    refused(own, "another participant or to another contract")


def test_withdrawn_in_the_middle_of_a_run(own: Any) -> None:
    agree(own.home)
    kept = agreement(own.home).read_bytes()
    assert own.ask(1).header["status"] == "OK"
    result = call(own.home, "--withdraw")
    assert result.exit_code == 0
    assert "cannot be called back" in result.output
    assert own.ask(2).header["code"] == "CONTRACT_NOT_ALLOWED"
    with own.ledger() as ledger:
        assert len(ledger.entries()) == 1
        assert [line["what"] for line in history(ledger) if "agreement" in line["what"]] == [
            "agreement signed",
            "agreement withdrawn",
        ]
    (own.home.kept / "agreements" / f"{own.scenario.contract.sha256()}.json").write_bytes(kept)
    assert own.ask(2).header["code"] == "CONTRACT_NOT_ALLOWED"  # the list lacks it, too
    assert call(own.home, "--withdraw").exit_code == 0
    assert call(own.home, "--withdraw").exit_code == 2
    agree(own.home)
    assert own.ask(2).header["status"] == "OK"


def test_withdrawing_goes_on_where_the_ledger_could_not_be_written(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(own.home)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "note", lambda *_: (_ for _ in ()).throw(LedgerBusyError("ledger: busy")))
        assert call(own.home, "--withdraw").exit_code != 0
    refused(own)
    assert call(own.home, "--withdraw").exit_code == 0
    with own.ledger() as ledger:
        assert ledger.notes()[-1][1]["state"] == "withdrawn"


def test_an_agreement_that_is_over_is_none(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agree(own.home, "--until", "2999-01-01")

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.datetime(2999, 1, day, tzinfo=tz)

    monkeypatch.setattr("consortia.participant.agreement.datetime.datetime", Later)
    day = 2
    refused(own, "it ended with 2999-01-01")
    day = 1
    assert own.ask(1).header["status"] == "OK"


@pytest.mark.parametrize(
    "change",
    [
        {"epsilon": 99.0},
        {"delta": 0.5},
        {"participant": "line-b"},
        {"dataset": "other"},
        {"until": None},
        {"purpose": "sell it"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_agreement_is_forged_whoever_signs_it(own: Any, change: dict[str, Any]) -> None:
    agree(own.home)
    file = agreement(own.home)
    statement = stated(file)
    statement["predicate"] |= change
    envelope = json.loads(file.read_text())
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    file.write_text(json.dumps(envelope))
    refused(own, "no agreement that this participant signed")
    for key in (ec.generate_private_key(ec.SECP384R1()), None):
        file.write_text(json.dumps(signed(statement, key)))
        refused(own, "no agreement that this participant signed")


def test_a_signature_for_another_protocol_is_no_agreement(own: Any) -> None:
    agree(own.home)
    file = agreement(own.home)
    assert own.ask(1).header["status"] == "OK"
    with own.ledger() as ledger:
        part = make_part(own.home, ledger, "run-1")
    file.write_text(json.dumps(part))  # signed with the right key, about the same contract
    assert own.ask(2).header["code"] == "CONTRACT_NOT_ALLOWED"
    with own.ledger() as ledger:
        assert len(ledger.entries()) == 1


@pytest.mark.parametrize("broken", [b"", b"{", b"[]", b'{"payload": 1}', b"\xff"])
def test_a_damaged_file_is_refused(own: Any, broken: bytes) -> None:
    agree(own.home)
    agreement(own.home).write_bytes(broken)
    refused(own, "no agreement that this participant signed")


def test_a_run_that_may_take_more_than_was_agreed_is_refused(private: Any) -> None:
    def allow(epsilon: float, delta: float = 1e-5) -> None:
        private.policy(lambda p: p["budget"].update(run={"epsilon": epsilon, "delta": delta}))

    allow(0.5)
    agree(private.home)
    for more in ((0.75, 1e-5), (0.5, 2e-5)):
        allow(*more)
        if private.scenario.participant(private.name).delta >= more[1]:
            refused(private, "may take more than was agreed")
    allow(0.25)
    assert private.ask(1).header["status"] == "OK"


def test_an_open_run_goes_on_only_under_an_agreement_that_covers_it(private: Any) -> None:
    """Signed anew for less, what the run was opened with counts, whatever the next message proposes."""

    def allow(epsilon: float) -> None:
        private.policy(lambda p: p["budget"].update(run={"epsilon": epsilon, "delta": 1e-5}))

    allow(0.5)
    agree(private.home)
    assert private.ask(1).header["status"] == "OK"
    allow(0.25)
    agree(private.home)
    allow(0.5)
    line = private.scenario.participant(private.name)
    less = json.dumps({"dataset": line.dataset, "epsilon": 0.25, "delta": 1e-6})
    assert private.ask(2, proposal=less).header["code"] == "CONTRACT_NOT_ALLOWED"
    with private.ledger() as ledger:
        assert len(ledger.entries()) == 1
    agree(private.home)
    assert private.ask(2, proposal=less).header["status"] == "OK"


def test_a_lost_identity_is_a_refusal(own: Any) -> None:
    agree(own.home)
    (own.home.kept / "identity.pem").unlink()
    assert own.ask(1).header["status"] == "REFUSED"
    with own.ledger() as ledger:
        assert ledger.entries() == []


def test_a_home_of_before_goes_by_its_list_alone(own: Any) -> None:
    own.policy(lambda p: p["allow"].pop("signed"))
    refused(own)
    own.policy(lambda p: p["allow"].update(contracts=[f"sha256:{own.scenario.contract.sha256()}"]))
    assert own.ask(1).header["status"] == "OK"
    agree(own.home)  # from here on the home counts signed contracts only
    assert load_policy(own.home.policy, simulation=True).allow.signed


def test_the_passport_names_the_agreement(own: Any) -> None:
    agree(own.home, "--until", "2999-12-31")
    digest = call(own.home, "--purpose", "fit a line", "--yes").output.rsplit(" ", 1)[1].strip()
    assert own.ask(1).header["status"] == "OK"
    with own.ledger() as ledger:
        part = json.loads(base64.b64decode(make_part(own.home, ledger, "run-1")["payload"]))["predicate"]
    assert part["agreement"] == {"sha256": digest, "purpose": "fit a line", "until": None}
    agreement(own.home).unlink()
    with own.ledger() as ledger:
        part = json.loads(base64.b64decode(make_part(own.home, ledger, "run-1")["payload"]))["predicate"]
    assert part["agreement"]["sha256"] == digest  # what was in force then


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--yes",), "--purpose: wanted a sentence"),
        (("--yes", "--purpose", "x", "--until", "tomorrow"), "wanted a day such as"),
        (("--yes", "--purpose", "x", "--until", "2001-01-01"), "wanted today or a later day"),
        (("--yes", "--purpose", "a\nb"), "purpose"),
        (("--withdraw",), "wanted an agreement to withdraw"),
    ],
)
def test_bad_input_is_named_and_signs_nothing(own: Any, arguments: tuple[str, ...], words: str) -> None:
    before = own.home.policy.read_text()
    result = call(own.home, *arguments)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert not list((own.home.kept).glob("agreements/*"))
    assert load_policy(own.home.policy, simulation=True).allow.contracts == ()
    assert "contracts = []" in before


def test_a_demonstration_policy_agrees_by_itself_and_is_called_so(make_site: Callable[..., Any]) -> None:
    site = make_site("line-a", "linear", rounds=ROUNDS)
    result = call(site.home, "--purpose", "fit a line", "--yes")
    assert result.exit_code == 2
    assert "a demonstration policy, which agrees to every contract by itself, in simulations only" in result.output
    assert site.ask(1).header["status"] == "OK"


@pytest.mark.end_to_end
def test_on_flower_the_launcher_takes_a_run_only_with_its_own_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = tmp_path / "homes"
    own_homes("linear", homes, monkeypatch, rounds=ROUNDS)
    first, second = (Home(homes / name, name) for name in ("line-a", "line-b"))
    agree(first)
    agree(second)
    assert call(second, "--withdraw").exit_code == 0
    allow(["line-b", "linear"], rounds=ROUNDS)  # listed again, and not signed
    options = Options(scenario="linear", rounds=ROUNDS, engine="flower", out=tmp_path / "runs")
    done = execute(prepare(options), options)
    lines = done.result["participants"]
    assert lines["line-a"]["rounds_contributed"] == ROUNDS
    assert lines["line-b"]["rounds_contributed"] == 0
    assert {failure["code"] for failure in lines["line-b"]["failures"]} == {"CONTRACT_NOT_ALLOWED"}
    assert "wanted a signed agreement, got none" in second.log.read_text(encoding="utf-8")
    with Ledger.open(second.ledger, "line-b") as ledger:
        assert ledger.entries() == []
