"""What newcomers bring: odd files, odd paths, options that do not fit. One clear error each, nothing lost."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command_line import APP
from typer.testing import CliRunner

from clients import registry
from clients.dataset import prepare
from clients.errors import QuarantineError, SchemaError, SourceError
from clients.schema import Target
from clients.sources import parse_source, read
from consortia.common.errors import InputError
from consortia.common.words import number, signed
from consortia.engines.options import Options
from consortia.engines.record import missed_expectations
from consortia.engines.runner import prepare as lay_out
from consortia.metrics.from_histograms import HISTOGRAM_METRICS, from_histogram
from consortia.participant.own_candidates import ridge
from consortia.planning.compatibility import cautions
from consortia.planning.plan import make_plans
from consortia.reports.watch import Watch
from consortia.studies.sweep import points
from consortia.terms.scenario import Scenario, find_scenario, load_scenario, scenario_from_json
from privacy.accounting import solve_noise_multiplier
from privacy.errors import PlanError

LINEAR = registry.get("linear")


def call(*arguments: object, code: int = 2) -> str:
    result = CliRunner().invoke(APP, [str(a) for a in arguments], env={"COLUMNS": "300"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs of odd input")
    call("run", "linear", "--rounds", "1", "--out", out, code=1)
    (run,) = out.iterdir()
    return run


def _frame(rows: list[tuple[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["x", "y"], dtype=str)


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path: Path, finished: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for command in (
        ("run", "linear", "--out", file),
        ("run", "linear", "--rounds", "1", "--out", tmp_path / "runs", "--dump", file),
        ("export", finished, "--participant", "line-a", "--to", file, "--no-onnx"),
        ("budget", "init", "--scenario", "linear", "--home", file),
        ("predict", finished, tmp_path, "--participant", "line-a"),
    ):
        said = call(*command)
        assert "error: " in said
        assert "check the path" in said, command
    assert not (tmp_path / "runs").exists()  # nothing ran whose predictions would have been lost


def test_a_run_that_goes_on_takes_no_other_options(finished: Path, tmp_path: Path) -> None:
    for option in (("--rounds", 5), ("--epsilon", 3), ("--data", tmp_path), ("--seed", 1), ("--ledger", tmp_path)):
        assert f"{option[0]}: wanted none with --resume" in call("run", "--resume", finished, *option)
    assert "contract sha256:" in call("run", "banks-network", "--resume", finished)
    broken = tmp_path / "run"
    shutil.copytree(finished, broken)
    (broken / "job.json").write_text('{"run_')
    assert "wanted JSON in job.json" in call("run", "--resume", broken)


def test_data_without_an_industry_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    out = tmp_path / "runs"
    assert "wanted hospital/heart, bank/german_credit, factory/ai4i2020 in it" in call(
        "run", "cross-industry-network", "--data", tmp_path, "--out", out
    )
    assert not out.exists()


def test_an_epsilon_names_somebody_or_nobody() -> None:
    said = call("run", "linear", "--epsilon", "=7")
    assert "--epsilon =7: wanted a participant of linear (line-a, line-b), got ''" in said


def test_a_regression_without_test_rows_has_a_ridge_model() -> None:
    table = prepare(LINEAR, _frame([("0", "1"), ("1", "3"), ("-1", "-1")]))
    scorer = ridge(LINEAR, table, "a")
    assert scorer(table.take([])).shape == (0,)
    assert scorer(table) == pytest.approx([1, 3, -1], abs=0.01)  # y = 2x + 1


def test_a_file_without_header_line_shows_no_row() -> None:
    rows = pd.DataFrame([["63.25", "1"]], columns=["51.125", "145.75"])
    with pytest.raises(SchemaError, match=r"got 2 column\(s\) of other names") as caught:
        prepare(LINEAR, rows)
    assert not any(value in str(caught.value) for value in ("51.125", "145.75", "63.25"))
    with pytest.raises(SchemaError, match=r"got 2 columns\. 'yy' is close"):  # only the slip is shown
        prepare(LINEAR, pd.DataFrame([["1", "2"]], columns=["x", "yy"]))


def test_a_row_longer_than_the_header_is_refused_not_shifted(tmp_path: Path, finished: Path) -> None:
    file = tmp_path / "comma.csv"
    file.write_text("x,y\n0,5,2,3\n0,1,2,9\n")  # decimal commas: x = 0.5, y = 2.3
    with pytest.raises(SourceError, match="wanted 2 cells in each line, as in the header, got 4 in line 2"):
        read(parse_source(f"csv:{file}"), LINEAR, "a")
    assert "got 4 in line 2" in call("predict", finished, file, "--participant", "line-a")
    file.write_text("x\n0.5,\n0.1,\n")
    assert "got 2 in line 2" in call("predict", finished, file, "--participant", "line-a")


def test_a_target_that_float32_cannot_hold_is_set_apart() -> None:
    table = prepare(LINEAR, _frame([("0.1", "1")] * 9 + [("0.2", "1e39")]))
    assert (len(table), dict(table.quarantine.reasons)) == (9, {"y: larger than a float32": 1})
    assert torch.isfinite(table.target).all()
    with pytest.raises(QuarantineError):
        prepare(LINEAR, _frame([("0.1", "-1e39")]))


def test_large_numbers_are_short() -> None:
    assert (number(1.5575e30), number(-2e7), number(9_999_999.0)) == ("1.557e+30", "-2.000e+07", "9999999.000")
    assert (signed(-2.5e12, 2), signed(0.25)) == ("-2.50e+12", "+0.250")


def test_progress_says_whose_epsilon_it_shows(tmp_path: Path) -> None:
    from rich.console import Console

    job = lay_out(Options(scenario="linear", epsilon=("line-a=1",), out=tmp_path))
    said = Watch(Console(), job, simulation=True)._epsilon(30)
    assert said == "∞ of 1 non-private, by proposals 1.00–1.00 (δ 1e-05, add/remove one unit)"


def _scenario(name: str, **contract: Any) -> Scenario:
    data = json.loads(load_scenario(name).to_json())
    data["contract"] |= contract
    return scenario_from_json(json.dumps(data))


def test_stopping_wants_a_metric_that_comes() -> None:
    dp: dict[str, Any] = {"releases": ["update", "metrics"], "evaluation": {"metrics": "dp", "every": 1}}
    make_plans(_scenario("banks-network", **dp, stopping={"metric": "brier"}))
    with pytest.raises(
        InputError, match=r"stopping.metric: .*\(accuracy, auc, auprc, balanced_accuracy, brier\), got 'rmse'"
    ):
        make_plans(_scenario("banks-network", **dp, stopping={"metric": "rmse"}))
    for metric in ("ece", "macro_f1", "concordance"):
        with pytest.raises(InputError, match=rf"got '{metric}', which no histogram gives; the run would never stop"):
            make_plans(_scenario("banks-network", **dp, stopping={"metric": metric}))
    (caution,) = cautions(_scenario("banks-network", **dp))
    assert caution.startswith("industry bank: ece cannot be had from a histogram and stays in the receipts; what ")
    split = {"train": 0.7, "validation": 0.0, "test": 0.3}
    with pytest.raises(InputError, match=r"split\.validation: wanted > 0 with stopping"):
        make_plans(_scenario("banks-network", **dp, stopping={"metric": "brier"}, split=split))
    with pytest.raises(InputError, match="no public bounds for a histogram, got 'dp'"):
        make_plans(_scenario("linear", **dp))


def test_the_metrics_of_a_histogram_are_as_listed() -> None:
    for kind, classes in (("binary", ("a", "b")), ("multiclass", ("a", "b", "c")), ("regression", ())):
        bounds = {"low": 0.0, "high": 1.0} if kind == "regression" else {}
        target = Target(name="y", kind=kind, classes=classes, **bounds)
        counts = np.full((1 if kind == "regression" else 2, 8), 50.0)
        assert tuple(from_histogram(target, counts, 1.0)) == HISTOGRAM_METRICS[kind]


@pytest.mark.end_to_end
def test_the_vectorized_engine_logs_at_home_why_somebody_failed(tmp_path: Path) -> None:
    policies = tmp_path / "policies" / "linear"
    policies.mkdir(parents=True)
    committed = find_scenario("linear")
    shutil.copy(committed, tmp_path)
    for name, source in (("line-a", "synthetic:200"), ("line-b", "csv:/nowhere.csv")):
        text = (committed.parent / "policies" / "linear" / f"{name}.toml").read_text()
        (policies / f"{name}.toml").write_text(text.replace("synthetic:200", source))
    run = ("run", tmp_path / "linear.toml", "--engine", "vectorized", "--rounds", "1", "--out")
    assert "line-b: wrote no receipt (PARTICIPANT_ERROR)" in call(*run, tmp_path / "runs", code=1)
    (log,) = tmp_path.glob("runs/*/participants/line-b/participant.log")
    assert "csv:/nowhere.csv: wanted a file that exists" in log.read_text()
    # Whatever its rows make of a client's code: its name and place, never its text.
    hospital = Path(
        shutil.copytree(
            committed.parent / "policies" / "hospitals-network", tmp_path / "policies" / "hospitals-network"
        )
    )
    shutil.copy(find_scenario("hospitals-network"), tmp_path)
    text = (hospital / "va.toml").read_text()
    (hospital / "va.toml").write_text(re.sub(r'source = ".*"', 'source = "synthetic:2"', text))
    run = ("run", tmp_path / "hospitals-network.toml", "--engine", "vectorized", "--rounds", "1", "--out")
    call(*run, tmp_path / "other", code=1)
    (log,) = tmp_path.glob("other/*/participants/va/participant.log")
    assert "ValueError at" in log.read_text()
    assert "class" not in log.read_text()


def test_a_delta_too_small_to_count_is_refused() -> None:
    with pytest.raises(PlanError, match="delta: no noise multiplier gives a finite epsilon at delta 1e-300"):
        solve_noise_multiplier(epsilon=1.0, delta=1e-300, sampling_rate=1.0, steps=2)


def test_an_expectation_that_nothing_can_meet_is_told_without_a_number(finished: Path) -> None:
    result = json.loads((finished / "result.json").read_text())
    expect = {"metric": "auc", "mean_at_least": 0.5, "parameters": {"head.wight": 1.0}}
    scenario = scenario_from_json(json.dumps(json.loads(load_scenario("linear").to_json()) | {"expect": expect}))
    assert missed_expectations(scenario, result, finished) == [
        "mean auc: wanted >= 0.5, got none: nobody has that metric",
        "head.wight: wanted 1.0 within 0.05, got no single number of that name in the shared model",
    ]


def test_one_mistake_in_an_array_of_one_is_one_error() -> None:
    data = json.loads(load_scenario("linear").to_json())
    data["roster"] = [data["roster"][0] | {"units": 0}]
    with pytest.raises(InputError) as caught:
        scenario_from_json(json.dumps(data))
    assert len(caught.value.problems) == 1
    with pytest.raises(InputError, match="roster: wanted"):
        scenario_from_json(json.dumps(data | {"roster": []}))


def test_words_of_a_scenario_are_shown_as_they_are_and_names_are_names(tmp_path: Path) -> None:
    text = find_scenario("linear").read_text()
    file = tmp_path / "linear.toml"
    file.write_text(text.replace("Two clients", "[/] [K] two"))
    assert "linear: [/] [K] two" in call("check", file, code=0)
    file.write_text(text.replace('dataset = "line"', 'dataset = "../line"'))  # no policy can offer it
    assert "roster.0.dataset: wanted String should match pattern" in call("check", file)
    file.write_text(text + "mean_at_least = nan\n")
    assert "expect.mean_at_least: wanted a finite number, got nan" in call("check", file)


@pytest.mark.parametrize("damaged", ["{", "[]", "{}"])
def test_a_damaged_record_is_named(finished: Path, tmp_path: Path, damaged: str) -> None:
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    home = run / "participants" / "line-a"
    receipt = home / "runs" / run.name / "receipt.json"
    whole = receipt.read_text()
    receipt.write_text(damaged)
    rows = tmp_path / "rows.csv"
    rows.write_text("x\n0.5\n")
    for command in (("report", run), ("predict", run, rows, "--participant", "line-a"), ("receipt", home)):
        assert "receipt.json: " in call(*command)
    receipt.write_text(whole)
    call("predict", run, rows, "--participant", "line-a", code=0)
    (run / "result.json").write_text(damaged)
    for command in (("report", run), ("export", run, "--industry", "linear", "--to", tmp_path / "models")):
        assert "result.json: " in call(*command)
    (run / "scenario.json").write_text(damaged)
    assert "error: scenario" in call("run", "--resume", run)


def _cell(metric: str, federated: float | None) -> dict[str, Any]:
    epsilon = {"run": 1.0, "delta": 1e-5, "unit": "record"}
    participant = {"metric": metric, "federated": federated, "local": federated, "epsilon": epsilon, "state": "ACTIVE"}
    return {"epsilon": 1.0, "participants": {"a": participant}}


def test_a_sweep_does_not_average_different_metrics() -> None:
    # One class in the test rows of the first seed: accuracy. AUC is what the others have: (.6 + .8) / 2 = .7.
    (point,) = points([_cell("accuracy", 1.0), _cell("auc", 0.6), _cell("auc", 0.8), _cell("auc", None)])
    assert (point.metric, point.seeds) == ("auc", 2)
    assert (point.mean, point.local) == pytest.approx((0.7, 0.7))


def test_a_sweep_without_a_number_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consortia.studies.sweep.run", lambda *_: [_cell("auc", None)])
    sweep = ("budget", "sweep", "linear", "--seeds", "1", "--epsilon", "1", "--out", tmp_path)
    assert "none of 1 runs gave anybody a metric on test rows" in call(*sweep, code=1)
