"""What an agreement says of released metrics and of a vertical partner, and which one a passport names."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from command_line import APP
from typer.testing import CliRunner, Result

from consortia.common.errors import RefusedError
from consortia.participant import receipt
from consortia.participant.agreement import check_signed
from consortia.participant.home import Home
from consortia.participant.passport import make_part
from consortia.terms.policy import Proposal, load_policy
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.ledger import Ledger

Edit = Callable[[dict[str, Any]], None]
TERMS = {"run": {"epsilon": 2.0, "delta": 1e-5}, "lifetime": {"epsilon": 9.0, "delta": 9e-5}}


@pytest.fixture(autouse=True)
def _no_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipt, "write", lambda *_: None)


@pytest.fixture
def measured(make_site: Callable[..., Any], tmp_path: Path) -> Any:
    """A bank with a policy of its own, whose contract releases metrics by age, and their own budget."""
    data = tomllib.loads(find_scenario("banks-network").read_text(encoding="utf-8"))
    data["contract"] |= {
        "rounds": 1,
        "releases": ["update", "metrics"],
        "evaluation": {"metrics": "dp", "groups": {"bank": {"column": "age", "cuts": [40.0]}}},
    }
    file = tmp_path / "measured.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    site = make_site("used-car", "banks-network")
    site.scenario = load_scenario(str(file))
    site.file = str(file)

    def edit(policy: dict[str, Any]) -> None:
        policy.update(demo=False)
        policy["allow"].update(contracts=[], signed=True, releases=["update", "metrics"])
        policy["budget"]["evaluation"] = TERMS

    site.policy(edit)
    return site


def agree(home: Home, scenario: str, *more: str) -> Result:
    words = ["agree", home.participant, scenario, "--home", str(home.folder.parent), *more]
    return CliRunner().invoke(APP, words, env={"COLUMNS": "300"})


def sign(site: Any, purpose: str = "credit") -> str:
    result = agree(site.home, site.file, "--purpose", purpose, "--yes")
    assert result.exit_code == 0, result.output
    return result.output


def of_metrics(site: Any, epsilon: float) -> None:
    site.policy(lambda p: p["budget"]["evaluation"].update(run={"epsilon": epsilon, "delta": 1e-5}))


def predicate(home: Home) -> dict[str, Any]:
    (file,) = (home.kept / "agreements").iterdir()
    found: dict[str, Any] = json.loads(base64.b64decode(json.loads(file.read_text())["payload"]))["predicate"]
    return found


def agreed_in_part(site: Any) -> dict[str, Any] | None:
    with site.ledger() as ledger:
        part = json.loads(base64.b64decode(make_part(site.home, ledger, "run-1")["payload"]))["predicate"]
    found: dict[str, Any] | None = part.get("agreement")
    return found


def test_what_metrics_may_cost_is_shown_and_signed(measured: Any) -> None:
    shown = sign(measured)
    assert "of metrics:   ε 2 at most, δ 1e-05, unit record of the evaluation rows, told apart by age" in shown
    assert "all metrics:  ε 9 at most, δ 9e-05, horizon: lifetime of these rows (policy)" in shown
    assert predicate(measured.home)["metrics"] == {"epsilon": 2.0, "delta": 1e-5, "by": "age"}
    assert measured.ask(1).header["status"] == "OK"
    assert measured.ask(2, kind="evaluate").header["status"] == "EVALUATED"


def test_metrics_that_may_cost_more_than_was_agreed_are_refused_and_charge_nothing(measured: Any) -> None:
    sign(measured)
    of_metrics(measured, 3.0)
    assert measured.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"
    with measured.ledger() as ledger:
        assert not ledger.entries()
    of_metrics(measured, 1.0)
    assert measured.ask(1).header["status"] == "OK"


def test_an_open_run_releases_no_metric_for_more_than_is_agreed_today(measured: Any) -> None:
    sign(measured)
    assert measured.ask(1).header["status"] == "OK"
    of_metrics(measured, 1.0)
    sign(measured)
    assert measured.ask(2, kind="evaluate").header["code"] == "BUDGET_EXHAUSTED"  # by the policy
    of_metrics(measured, 2.0)
    assert measured.ask(2, kind="evaluate").header["code"] == "CONTRACT_NOT_ALLOWED"  # by the agreement
    with measured.ledger() as ledger:
        assert not ledger.entries(dataset="credit/evaluation")


def test_an_agreement_of_before_says_nothing_of_metrics_and_covers_none(
    measured: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("consortia.participant.agreement.measured", lambda *_: None)
        sign(measured)
    assert "metrics" not in predicate(measured.home)
    assert measured.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"
    sign(measured)
    assert measured.ask(1).header["status"] == "OK"


def test_metrics_without_a_budget_cannot_be_agreed_to(measured: Any) -> None:
    measured.policy(lambda p: p["budget"].pop("evaluation"))
    result = agree(measured.home, measured.file, "--purpose", "credit", "--yes")
    assert result.exit_code == 2
    assert "budget.evaluation: wanted run and lifetime" in result.output


def test_a_passport_names_the_agreement_that_was_in_force_when_the_run_was_opened(measured: Any) -> None:
    first = sign(measured, "first").rsplit(" ", 1)[1].strip()
    assert measured.ask(1).header["status"] == "OK"
    then = {"sha256": first, "purpose": "first", "until": None}
    assert agreed_in_part(measured) == then
    sign(measured, "second")
    assert agreed_in_part(measured) == then
    assert agree(measured.home, measured.file, "--withdraw").exit_code == 0
    assert agreed_in_part(measured) == then
    kept = measured.home.kept / "agreed" / f"{first}.json"
    forged = json.loads(kept.read_text())
    forged["signatures"][0]["sig"] = forged["signatures"][0]["sig"][:-4] + "AAA="
    kept.write_text(json.dumps(forged))
    assert agreed_in_part(measured) == {"sha256": first, "purpose": None, "until": None}
    kept.unlink()
    assert agreed_in_part(measured) == {"sha256": first, "purpose": None, "until": None}


def test_what_was_signed_or_withdrawn_after_the_run_does_not_count(measured: Any) -> None:
    sha256 = measured.scenario.contract.sha256()
    measured.policy(lambda p: p["allow"].update(contracts=[f"sha256:{sha256}"], signed=False))
    assert measured.ask(1).header["status"] == "OK"
    sign(measured)
    assert agreed_in_part(measured) is None


@pytest.mark.parametrize("scores", [2.0, None])
def test_a_vertical_partner_signs_what_its_own_policy_allows(
    make_site: Callable[..., Any], tmp_path: Path, scores: float | None
) -> None:
    data = tomllib.loads(find_scenario("shared-heart").read_text(encoding="utf-8"))
    if scores is not None:
        data["contract"]["vertical"] |= {
            "score_epsilon": scores,
            "model_privacy": {"epsilon": 1.0, "delta": 1e-5, "steps": 5},
        }
    file = tmp_path / "shared.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    loaded = load_scenario(str(file))
    assert loaded.contract.vertical is not None
    name = loaded.contract.vertical.partners[0]
    site = make_site(name, "shared-heart")

    def edit(policy: dict[str, Any]) -> None:
        policy.update(demo=False)
        policy["allow"].update(contracts=[], signed=True)
        policy["budget"]["run"] = {"epsilon": 4.0, "delta": 2e-5}
        policy["budget"]["lifetime"] = {"epsilon": 8.0, "delta": 4e-5}

    site.policy(edit)
    result = agree(site.home, str(file), "--purpose", "heart disease", "--yes")
    assert result.exit_code == 0, result.output
    stated = predicate(site.home)
    policy, proposal = load_policy(site.home.policy, simulation=True), Proposal.to(loaded.participant(name))
    if scores is None:
        assert "∞: scores are disclosed as they are" in result.output
        assert stated["epsilon"] is None
        return
    assert "4 at most (policy); its scores cost " in result.output
    assert (stated["epsilon"], stated["delta"]) == (4.0, 2e-5)
    check_signed(site.home, policy, loaded.contract, proposal)
    less = stated["epsilon"]
    site.policy(lambda p: p["budget"].update(run={"epsilon": less / 4, "delta": 2e-5}))
    assert agree(site.home, str(file), "--purpose", "heart disease", "--yes").exit_code == 0
    with pytest.raises(RefusedError, match="may take more than was agreed"):
        check_signed(site.home, load_policy(site.home.policy, simulation=True), loaded.contract, proposal)


def test_what_was_signed_is_kept_under_its_hash(measured: Any) -> None:
    digest = sign(measured).rsplit(" ", 1)[1].strip()
    assert (measured.home.kept / "agreed" / f"{digest}.json").is_file()
    with Ledger.open(measured.home.ledger, "used-car") as ledger:
        assert ledger.notes()[-1][1]["sha256"] == digest


def test_no_agreement_is_in_force_that_the_ledger_does_not_say(measured: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Ledger.note

    def full(ledger: Ledger, told: dict[str, Any]) -> None:
        if told.get("what") == "agreement":
            raise OSError("no space left")
        note(ledger, told)

    monkeypatch.setattr(Ledger, "note", full)
    assert agree(measured.home, measured.file, "--purpose", "credit", "--yes").exit_code
    assert not list((measured.home.kept / "agreements").glob("*.json"))
    assert measured.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"
