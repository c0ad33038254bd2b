"""The verdict before joining: numbers by hand, what more of everything does, when it is written, what stays at home."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command_line import APP
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

import consortia
from consortia import client_app
from consortia.coordinator.rounds import Coordinator
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.learners.blocks.noise import mu_of
from consortia.learners.sums.columns import Columns
from consortia.learners.sums.forecast import (
    REACH,
    Gain,
    Others,
    effective_columns,
    effective_rows,
    expected_gain,
    own_effective_columns,
    word_of,
)
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.messages.request import Request
from consortia.participant import forecast as kept
from consortia.participant import forecast_at_home
from consortia.participant.forecast_at_home import OWN, OwnNumbers
from consortia.participant.home import Home
from consortia.reports.forecasts import told_and_measured
from consortia.terms.forecast import Forecast, forecasts, others_of
from consortia.terms.scenario import Scenario, find_scenario, load_scenario, scenario_from_toml

#: z = 1 / mu at epsilon = 1, delta = 1e-5 is 3.7306; the others' noise of one member has variance .49 z^2 / .63.
ONE = 0.7**2 / (0.63 * mu_of(1.0, 1e-5) ** 2)


def test_further_rows_by_hand() -> None:
    # Without noise the others' rows count whole; with noise that weighs as much as they do, half.
    assert effective_rows(Others((200.0, 200.0), (1.0, 1.0), 0.0), 0.01) == 400
    assert effective_rows(Others((200.0, 200.0), (1.0, 1.0), 4.0), 0.01) == 200  # 400^2 / (400 + 4 / .01)
    assert effective_rows(Others((100.0, 100.0), (1.0, 0.5), 0.0), 0.01) == pytest.approx(180)  # 150^2 / 125
    assert effective_rows(Others((), (), 0.0), 0.01) == 0


@pytest.mark.parametrize(("members", "rows"), [(1, 181), (4, 60)])
def test_german_credit_as_it_was_measured(members: int, rows: int) -> None:
    # 560 rows at four others, 22.8 columns, a share of .3: shared noise once, local noise of each.
    others = Others((140.0,) * 4, (1.0,) * 4, members * ONE)
    assert effective_rows(others, 0.3 * 0.7 / 22.8) == pytest.approx(rows, abs=1)


def test_columns_by_hand() -> None:
    # One number (1/3, .25/5, .1225/7) and two 0/1 columns of which one is 1 (.25 each): .90083^2 / .23892
    assert effective_columns(Columns((0,), (False, True, True), 1)) == pytest.approx(3.3966, abs=1e-3)
    # Two numbers have one product, of variance .1225 / 9.
    variances = [1 / 3, 0.05, 0.0175] * 2 + [0.1225 / 9]
    by_hand = sum(variances) ** 2 / sum(v * v for v in variances)
    assert effective_columns(Columns((0, 1), (False, False), 0)) == pytest.approx(by_hand)
    assert effective_columns(Columns((), (True,), 0)) == 1.0  # nothing varies


def test_columns_of_rows_at_hand() -> None:
    columns = Columns((), (True, True), 2)
    same = torch.tensor([[0.0, 0.0], [1.0, 1.0]] * 5)
    assert own_effective_columns(columns, same) == pytest.approx(1.0)
    apart = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert own_effective_columns(columns, apart) == pytest.approx(2.0)


def test_the_gain_by_hand() -> None:
    # Shortfall of 100 rows of equal classes: .36 / sqrt(100) = .036; of 400 half of it.
    gain = expected_gain(100, 300, 0.25)
    assert gain.value == pytest.approx(0.018)
    assert (gain.low, gain.high) == pytest.approx((0.018 - REACH * 0.036, 0.018 + REACH * 0.036))
    assert expected_gain(100, 0, 0.25).value == 0
    # A model of AUC .99 alone has .01 to gain.
    assert expected_gain(100, 300, 0.25, most=0.01).value == pytest.approx(0.005)
    # Rare classes tell less a row: a variance of a quarter of .25 halves what 100 rows are worth.
    assert expected_gain(100, 300, 0.0625).value == pytest.approx(0.036)


@pytest.mark.parametrize(
    ("further", "value", "word"),
    [(49, 0.02, "not worth it"), (50, 0.02, "little"), (100, 0.004, "little"), (100, 0.005, "worth it")],
)
def test_the_words(further: float, value: float, word: str) -> None:
    assert word_of(100, further, Gain(value, 0.0, 0.1)) == word


def test_without_a_known_gain_the_rows_decide() -> None:
    assert [word_of(100, further, None) for further in (49, 99, 100)] == ["not worth it", "little", "worth it"]


SIZES = st.lists(st.floats(10, 5000), min_size=1, max_size=8)


@given(SIZES, st.floats(0, 1e4), st.floats(1.0, 10.0), st.floats(1e-3, 0.25))
def test_less_noise_and_more_rows_never_lower_what_others_are_worth(
    units: list[float], noise: float, factor: float, scatter: float
) -> None:
    ones = (1.0,) * len(units)
    base = effective_rows(Others(tuple(units), ones, noise), scatter)
    assert 0 < base <= sum(units) * (1 + 1e-9)
    assert effective_rows(Others(tuple(units), ones, noise / factor), scatter) >= base * (1 - 1e-9)
    assert effective_rows(Others(tuple(n * factor for n in units), ones, noise), scatter) >= base * (1 - 1e-9)
    # One more that is like the average of the others, and brings as much noise as they do.
    more = (*units, sum(units) / len(units))
    louder = noise * len(more) / len(units)
    assert effective_rows(Others(more, (1.0,) * len(more), louder), scatter) >= base * (1 - 1e-9)


@given(st.floats(10, 1e5), st.floats(0, 1e6), st.floats(1.0, 10.0), st.floats(0.01, 0.25))
def test_a_gain_grows_with_further_rows_and_lies_within_its_interval(
    own: float, further: float, factor: float, variance: float
) -> None:
    gain, more = expected_gain(own, further, variance), expected_gain(own, further * factor, variance)
    assert gain.low <= gain.value <= gain.high
    assert 0 <= gain.value <= more.value + 1e-12


def _banks(count: int, epsilon: float, name: str) -> Scenario:
    """Return a scenario of noisy sums with so many banks of 200 units."""
    head, participant, *_ = find_scenario(name).read_text(encoding="utf-8").split("[[roster]]")
    participants = [participant.replace('name = "new-car"', f'name = "bank-{number}"') for number in range(count)]
    text = "[[roster]]".join([head, *participants]).replace("units = 234", "units = 200")
    loaded = scenario_from_toml(text)
    return loaded.with_overrides(epsilon=(f"{epsilon}",))


@pytest.mark.parametrize("name", ["banks", "secure-banks"])
def test_larger_budgets_and_more_participants_never_lower_n_eff(name: str) -> None:
    def of(count: int, epsilon: float) -> float:
        return forecasts(_banks(count, epsilon, name))["bank-0"].effective_rows

    by_budget = [of(5, epsilon) for epsilon in (0.5, 1.0, 2.0, 8.0)]
    by_count = [of(count, 1.0) for count in (3, 4, 6, 10)]
    assert by_budget == sorted(by_budget)
    assert by_count == sorted(by_count)
    assert by_budget[0] < by_budget[-1] < 4 * 120  # never more than the others' training rows


@pytest.mark.parametrize("name", ["banks", "secure-banks"])
def test_one_participants_larger_budget_helps_the_others(name: str) -> None:
    scenario = _banks(5, 1.0, name)
    before = forecasts(scenario)["bank-0"].effective_rows
    after = forecasts(scenario.with_overrides(epsilon=("bank-1=4",)))["bank-0"].effective_rows
    assert after > before


def test_local_noise_of_the_others_counts_once_each_and_shared_noise_once() -> None:
    local, shared = (others_of(_banks(5, 1.0, name), "bank-0") for name in ("banks", "secure-banks"))
    assert local.weights == pytest.approx((1.0,) * 4)
    assert local.noise == pytest.approx(4 * ONE, rel=5e-3)  # the ledger's count and the grid ask for a little more
    # t = 1: what the four others add is what all five have to have, but for the slack of the fixed point.
    per_row = shared.noise / shared.weights[0] ** 2
    assert per_row == pytest.approx(ONE, rel=3e-2)


def test_without_noise_the_others_count_whole() -> None:
    assert forecasts(_banks(3, math.inf, "banks"))["bank-0"].effective_rows == pytest.approx(240)


def test_other_learners_have_no_verdict() -> None:
    assert forecasts(load_scenario("banks-network")) == {}


def test_a_regression_has_a_verdict_without_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consortia.terms.forecast.predicts_gain", lambda industry: False)
    told = forecasts(_banks(5, 3.0, "banks"))["bank-0"]
    assert (told.gain, told.verdict) == (None, "worth it")
    assert Forecast.from_json(told.to_json()) == told


GOOD = Forecast(100, 50.0, Gain(0.01, -0.01, 0.03), "little")


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "join!"},
        {"basis": OWN},
        {"metric": "rmse"},
        {"effective_rows": math.inf},
        {"units": -1},
        {"gain": {"value": math.nan, "low": 0, "high": 1}},
        {"gain": {"value": 0.1}},
        {"gain": 3},
    ],
)
def test_what_is_no_forecast_of_public_numbers_is_no_message(change: Mapping[str, Any]) -> None:
    assert Forecast.from_json(GOOD.to_json()) == GOOD
    with pytest.raises((ValueError, KeyError, TypeError)):
        Forecast.from_json({**GOOD.to_json(), **change})


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Play both messages of a run with three banks; the second message says something else."""
    out = tmp_path_factory.mktemp("forecast")
    job = prepare(Options(scenario="secure-banks", out=out))
    seen: list[dict[str, Any]] = []

    def exchange(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        written = job.folder / "forecast.json"
        seen.append({"kind": kind, "written": written.read_text(encoding="utf-8") if written.is_file() else None})
        seen[-1]["requests"] = {who: Request.parse(data) for who, data in envelopes.items()}
        if kind == "evaluate":
            return [Answer(who, None, "NO_REPLY") for who in envelopes]
        answers = []
        for who, data in envelopes.items():
            envelope = decode(data)
            if envelope.header["round"] == "2":
                envelope.header["forecast"] = json.dumps(GOOD.to_json())
            changed = encode(Envelope(envelope.header, envelope.tensors))
            answers.append(Answer(who, client_app.answer(changed, job.homes[who], None), ""))
        return answers

    record = Coordinator(job.scenario, job.run_id, job.folder, exchange).run()
    return {"job": job, "seen": seen, "record": record}


def test_the_forecast_is_written_before_the_first_message(played: dict[str, Any]) -> None:
    job, seen = played["job"], played["seen"]
    first = seen[0]
    assert first["written"] is not None
    told = {name: Forecast.from_json(one) for name, one in json.loads(first["written"]).items()}
    assert told == forecasts(job.scenario)
    for message in seen:
        assert message["written"] == first["written"]
        assert all(request.forecast == told[who] for who, request in message["requests"].items())


def test_a_participant_keeps_the_first_forecast_that_it_was_told(played: dict[str, Any]) -> None:
    job = played["job"]
    assert {participant["rounds_contributed"] for participant in played["record"]["participants"].values()} == {2}
    for name, told in forecasts(job.scenario).items():
        file = job.homes[name].run_folder(job.run_id) / "forecast.json"
        assert Forecast.from_json(json.loads(file.read_text(encoding="utf-8"))) == told


def test_a_run_that_goes_on_keeps_what_was_expected_first(played: dict[str, Any]) -> None:
    job = played["job"]
    changed = job.scenario.with_overrides(epsilon=("8.0",))
    again = Coordinator(changed, job.run_id, job.folder, lambda *_: [])
    assert again.desk._forecasts == json.loads((job.folder / "forecast.json").read_text(encoding="utf-8"))


def test_the_receipt_says_whether_the_truth_was_inside(tmp_path: Path) -> None:
    home = Home(tmp_path / "bank", "bank", simulation=True)
    assert kept.beside(home, "run-1", {}) == {}
    kept.keep(home, "run-1", GOOD)
    kept.keep(home, "run-1", Forecast(1, 1.0, None, "worth it"))  # later: changes nothing

    def held(net_gains: dict[str, Any]) -> bool | None:
        found: bool | None = kept.beside(home, "run-1", net_gains)["forecast"]["held"]
        return found

    assert held({"auc": {"value": 0.03, "low": 0.0, "high": 0.1}}) is True
    assert held({"auc": {"value": 0.031, "low": 0.0, "high": 0.1}}) is False
    assert held({"auc": None}) is held({"accuracy": {"value": 0.0}}) is None
    measured = {"auc": {"value": 0.031, "low": 0.0, "high": 0.1}}
    text = told_and_measured({**kept.beside(home, "run-1", measured), "net_gains": measured})
    assert "little: expected net gain +0.010 [-0.010, +0.030] AUC" in text
    assert text.endswith("measured +0.031, outside the interval.")
    assert told_and_measured({"net_gains": measured}) == ""


def test_only_who_prints_for_the_owner_reads_own_rows_for_it() -> None:
    package = Path(consortia.__file__).parent
    word = "consortia.participant.forecast_at_home"
    found = {str(f.relative_to(package)) for f in package.rglob("*.py") if word in f.read_text(encoding="utf-8")}
    assert found == {"api/planning.py", "cli/budget_tune.py"}


def test_own_numbers_sharpen_it_by_hand() -> None:
    others = Others((200.0, 200.0), (1.0, 1.0), 4.0)
    told = forecast_at_home.forecast(OwnNumbers(100, 25.0, 0.25, None), others, gain=True)
    assert told.effective_rows == pytest.approx(200)  # scatter .25 / 25 = .01
    assert told.gain is not None
    assert told.gain.value == pytest.approx(0.036 * (1 - math.sqrt(100 / 300)))
    nearly_perfect = forecast_at_home.forecast(OwnNumbers(100, 25.0, 0.25, 0.995), others, gain=True)
    assert nearly_perfect.gain is not None
    assert nearly_perfect.gain.value < 0.005
    assert nearly_perfect.verdict == "little"
    assert told.basis == OWN


def _stand_in(contract: Any, industry: str, train: Any, name: str) -> Any:
    class Base:
        tried = (("ridge", "", 0.7), ("forest", "", 0.8), ("boosting", "", math.nan))
        rows = train

    return Base()


def test_own_rows_are_read_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, played: dict[str, Any]
) -> None:
    monkeypatch.setattr(forecast_at_home, "baseline", _stand_in)
    call("budget", "init", "--scenario", "banks", "--home", str(tmp_path))
    folder = tmp_path / "used-car"
    before = {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir()}
    table = consortia.plan("banks", home=folder)
    assert {file.name: hashlib.sha256(file.read_bytes()).digest() for file in folder.iterdir()} == before
    assert table.loc["used-car", "basis"] == OWN
    assert set(table["basis"].drop("used-car")) == {"public numbers"}
    assert table.loc["used-car", "n_eff"] != consortia.plan("banks").loc["used-car", "n_eff"]
    # What was made of own rows has no form that a message takes.
    own = forecast_at_home.at_home(Home(folder, "used-car"), load_scenario("banks"))
    assert own.gain is not None
    with pytest.raises(ValueError, match="public numbers"):
        Forecast.from_json(own.to_json())


def call(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(APP, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_prints_the_verdict_at_every_budget() -> None:
    asked = ("budget", "plan", "secure-banks", "--seeds", "0", "--participant", "used-car")
    data = json.loads(call(*asked, "--epsilon", "1,8", "--json"))
    participant = data["participants"]["used-car"]
    assert Forecast.from_json(participant["forecast"]) == forecasts(load_scenario("secure-banks"))["used-car"]
    first, last = (Forecast.from_json(price["forecast"]) for price in participant["prices"])
    assert first.effective_rows < last.effective_rows
    text = call(*asked, "--epsilon", "1")
    assert f"used-car, as proposed: {participant['forecast']['verdict']}: expected net gain" in text
    assert "from public numbers" in text
    assert "at home" not in text


def test_what_the_command_cannot_say() -> None:
    text = call("budget", "plan", "banks-network", "--seeds", "0", "--epsilon", "1", "--participant", "used-car")
    assert 'its rule was measured for learner = "sums" alone' in text
    refused = call("budget", "plan", "banks", "--seeds", "0", "--own-rows", code=2)
    assert "--own-rows: wanted --participant NAME and --home DIR" in refused
    with pytest.raises(consortia.ArgumentError, match='wanted "sums"'):
        consortia.plan("banks-network", home="nowhere/used-car")
    with pytest.raises(consortia.ArgumentError, match="wanted one of the roster"):
        consortia.plan("banks", home="nowhere/nobody")


def test_a_plan_from_python_is_a_table() -> None:
    table = consortia.plan("banks", epsilon={"used-car": 1.0})
    assert isinstance(table, pd.DataFrame)
    assert table.loc["used-car", ["epsilon", "delta", "metric"]].tolist() == [1.0, 1e-5, "auc"]
    assert table.loc["other", "epsilon"] == 3.0
    assert (table["net_gain_low"] <= table["net_gain"]).all()
    assert consortia.plan("banks-network")["n_eff"].isna().all()
