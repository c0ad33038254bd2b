"""Fairness by group: one charge for all, noisy counts alone decide, intervals hold, what cannot be is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from command_line import APP
from finished_run import write_result, write_run
from typer.testing import CliRunner

from clients import registry
from clients._groups import Grouping
from clients.schema import Column, Schema, Target
from consortia.audit import mechanism_games
from consortia.common.errors import InputError
from consortia.coordinator.received_metrics import read
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.metrics import groups, score_bins
from consortia.metrics.fairness import MEASURES, fairness, shown
from consortia.metrics.from_histograms import from_histogram
from consortia.models.fairness import fairness_of_record, fairness_of_run
from consortia.participant import metrics_release, receipt
from consortia.planning.metrics import check_metrics
from consortia.reports.evidence.facts import collect
from consortia.reports.evidence.render import write
from consortia.reports.fairness import fairness_sections
from consortia.reports.page.facts import gather
from consortia.reports.page.render import as_html
from consortia.reports.page.render import write as write_report
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.histogram import noisy_histogram

BINARY = Target(name="y", kind="binary", classes=("no", "yes"))
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "fairness_coverage.py"
TERMS = {"run": {"epsilon": 3.0, "delta": 1e-5}, "lifetime": {"epsilon": 6.0, "delta": 2e-5}}


@pytest.fixture(autouse=True)
def _no_receipts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written at home takes seconds, and no reply depends on it."""
    if "end_to_end" not in request.keywords:
        monkeypatch.setattr(receipt, "write", lambda *_: None)


def _contract(site: Any, told: dict[str, Any], **more: Any) -> Any:
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"] |= {"metrics": "dp", "groups": told}
    return contract_from_json(json.dumps(data | more))


def _by_group(site: Any, told: dict[str, Any]) -> None:
    site.scenario = site.scenario.model_copy(update={"contract": _contract(site, told)})
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"]))
    site.policy(lambda p: p["budget"].update(evaluation=TERMS))


def test_all_groups_together_are_one_histogram_and_one_charge(site: Any) -> None:
    _by_group(site, {"bank": {"column": "age", "cuts": [30.0, 50.0]}})
    site.ask(1)
    reply = site.ask(6, kind="evaluate")
    assert set(reply.tensors) == {score_bins.HISTOGRAM}
    assert reply.tensors[score_bins.HISTOGRAM].shape == (3, 2, 24)
    with site.ledger() as ledger:
        (entry,) = ledger.entries(dataset="credit/evaluation")
    assert [(event.kind, event.count, event.partition) for event in entry.events] == [("laplace", 1, "evaluation")]
    received = read(reply.header, reply.tensors, site.scenario.contract, "bank", "evaluation")
    assert received is not None
    assert received.groups is not None
    assert received.groups["names"] == ["age < 30", "30 <= age < 50", "age >= 50"]
    # The metrics of everybody are those of the sum, with the noise of three cells in each.
    assert received.deviation == pytest.approx(received.groups["deviation"] * 3**0.5)
    assert received.histogram is not None
    assert np.array_equal(received.histogram, np.sum(received.groups["counts"], axis=0))
    with pytest.raises(ValueError, match=r"wanted int64 \(3, 2, 24\)"):
        read(
            reply.header,
            {score_bins.HISTOGRAM: torch.zeros(2, 24).long()},
            site.scenario.contract,
            "bank",
            "evaluation",
        )


def test_a_group_that_cannot_be_found_leaves_an_empty_histogram(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _by_group(site, {"bank": {"column": "foreign_worker"}})
    site.ask(1)
    monkeypatch.setattr(metrics_release, "_groups", lambda _: 1 / 0)
    reply = site.ask(6, kind="evaluate")
    assert reply.header["status"] == "EVALUATED"
    assert int(reply.tensors["metrics.histogram"].abs().max()) < 20  # noise of deviation one half


def test_a_participant_refuses_groups_that_its_schema_does_not_have(site: Any) -> None:
    for told in ({"column": "purse"}, {"column": "age"}, {"column": "sex_status", "cuts": [1.0]}):
        _by_group(site, {"bank": told})
        assert site.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_what_cannot_be_measured_by_group_is_refused_by_name(site: Any) -> None:
    told = {"bank": {"column": "foreign_worker"}}
    for change, words in (
        ({"evaluation": {"metrics": "exact", "groups": told}}, "groups with metrics = 'dp' only"),
        (
            {"evaluation": {"metrics": "none", "groups": told}, "releases": ["update"]},
            "groups with metrics = 'dp' only",
        ),
        ({"evaluation": {"metrics": "dp", "groups": {"shop": told["bank"]}}}, "not of shop"),
        ({"scopes": {"encoder": "industry", "trunk": "industry", "head": "private"}}, "no private scope"),
    ):
        with pytest.raises(InputError, match=words):
            _contract(site, told, **change)
    for told, words in (
        ({"bank": {"column": "purse"}}, "no column 'purse'"),
        ({"bank": {"column": "age"}}, "cuts: wanted public borders"),
        ({"bank": {"column": "foreign_worker", "cuts": [0.5]}}, "wanted none"),
    ):
        scenario = site.scenario.model_copy(update={"contract": _contract(site, told)})
        with pytest.raises(InputError, match=rf"evaluation.groups.bank \({told['bank']['column']}\).*{words}"):
            check_metrics(scenario)


def test_a_vertical_contract_has_no_groups() -> None:
    data = json.loads(load_scenario("shared-heart").contract.canonical())
    data["evaluation"] = {"metrics": "dp", "groups": {"heart": {"column": "sex"}}}
    with pytest.raises(InputError, match="vertical"):
        contract_from_json(json.dumps(data))


@pytest.mark.parametrize("kind", ["regression", "multiclass", "anomaly"])
def test_groups_need_a_target_of_two_classes(kind: Any) -> None:
    classes = {"regression": (), "multiclass": ("a", "b", "c"), "anomaly": ("no", "yes")}[kind]
    column = Column(name="sex", dtype="flag")
    schema = Schema(name="s", version=1, columns=(column,), target=Target(name="y", kind=kind, classes=classes))
    assert "wanted a target of two classes" in str(groups.problem(schema, Grouping("sex")))


def test_a_contract_without_groups_keeps_its_hash(site: Any) -> None:
    assert "groups" not in site.scenario.contract.canonical()


def test_the_cell_of_a_row_is_its_groups() -> None:
    assert groups.by_group(np.array([3, -1, 0]), np.array([1, 1, 2]), 48).tolist() == [51, -1, 96]


def _won(seeds: range) -> list[Any]:
    return [game for seed in seeds for game in mechanism_games.grouped(seed) if game.lost]


def test_no_unit_moves_the_histograms_of_all_groups_by_more_than_its_rows() -> None:
    assert not _won(range(3))


@pytest.mark.parametrize("mistake", ["a limit of rows in each group", "small groups left out by true counts"])
def test_a_planted_mistake_loses_the_game(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def each_group(cells: Any, n_cells: int, units: Any, **more: Any) -> Any:
        return noisy_histogram(cells, n_cells, units * 100 + np.maximum(cells, 0) // 16, **more)

    def without_small(cells: Any, codes: Any, n_cells: int) -> Any:
        many = np.bincount(codes, minlength=12) >= 3
        return np.where(many[codes], codes * n_cells + cells, -1)

    if mistake.startswith("a limit"):
        monkeypatch.setattr(metrics_release, "noisy_histogram", each_group)
    else:
        monkeypatch.setattr(groups, "by_group", without_small)
    assert _won(range(3))


def _counts(*groups_: tuple[float, float, float, float]) -> np.ndarray:
    """Counts of (negatives below, negatives above, positives below, positives above) a half."""
    counts = np.zeros((len(groups_), 2, 24))
    for own, (a, b, c, d) in zip(counts, groups_, strict=True):
        own[0, 4], own[0, 18], own[1, 4], own[1, 18] = a, b, c, d
    return counts


def test_measures_by_hand() -> None:
    found = fairness(BINARY, ("a", "b"), _counts((60, 40, 20, 80), (90, 10, 50, 50)), 0.0)
    assert found.threshold == 0.5
    first, second = (group.measures for group in found.groups)
    assert first["positive_rate"].value == pytest.approx(120 / 200)
    assert first["true_positive_rate"].value == pytest.approx(0.8)
    assert first["false_positive_rate"].value == pytest.approx(0.4)
    assert second["true_positive_rate"].value == pytest.approx(0.5)
    middle = score_bins.centres(BINARY, 24)
    assert first["calibration_gap"].value == pytest.approx(0.5 - (80 * middle[4] + 120 * middle[18]) / 200)
    assert first["auc"].value == from_histogram(BINARY, _counts((60, 40, 20, 80))[0], 0.0)["auc"].value
    assert [(one.group, one.measure) for one in found.differences] == [("a", measure) for measure in MEASURES]
    told = {one.measure: one for one in found.differences}
    assert told["true_positive_rate"].value == pytest.approx(0.3)
    assert told["true_positive_rate"].verdict == "differs"
    assert told["positive_rate"].low < 0.3 < told["positive_rate"].high


def test_another_threshold_is_the_nearest_edge() -> None:
    counts = _counts((60, 40, 20, 80), (90, 10, 50, 50))
    found = fairness(BINARY, ("a", "b"), counts, 0.0, threshold=0.9)
    edges = score_bins.edges(BINARY, 24)
    assert found.threshold == edges[np.argmin(np.abs(edges - 0.9))]
    assert fairness(BINARY, ("a", "b"), counts, 0.0, threshold=0.999).groups[0].measures["positive_rate"].value == 0


def test_a_group_is_left_out_by_its_noisy_rows() -> None:
    few, many = _counts((10, 5, 5, 9))[0], _counts((10, 5, 5, 10))[0]
    assert not shown(few, 0.5)
    assert shown(many, 0.5)
    assert not shown(many, 5.0)  # 3 deviations of 48 cells are 104 rows
    found = fairness(BINARY, ("a", "b", "c"), _counts((60, 40, 20, 80), (1, 1, 1, 1), (90, 10, 50, 50)), 0.5)
    assert [bool(group.measures) for group in found.groups] == [True, False, True]
    assert {one.group for one in found.differences} == {"a"}


def _record(*counts: np.ndarray, **more: Any) -> dict[str, Any]:
    told = {"column": "age", "names": ["young", "old"], "deviation": 3.0, "rows_per_unit": 1}
    lines = {
        f"bank-{place}": {"industry": "bank", "groups": {**told, "counts": one.tolist()}}
        for place, one in enumerate(counts)
    }
    return {"participants": lines, **more}


def test_counts_of_participants_are_added_with_their_noise() -> None:
    counts = _counts((60, 40, 20, 80), (90, 10, 50, 50))
    (found,) = fairness_of_record(_record(counts, counts))
    assert found.participants == ("bank-0", "bank-1")
    target = registry.get("bank").schema.target
    assert found.found == fairness(target, ("young", "old"), 2 * counts, 3.0 * 2**0.5)
    (section,) = fairness_sections(_record(counts))
    assert "bank by age" in section.title
    assert [table.caption for table in section.tables] == ["Each group", "Differences"]


def test_counts_of_a_withdrawn_model_say_nothing() -> None:
    counts = _counts((60, 40, 20, 80), (90, 10, 50, 50))
    assert not fairness_of_record(_record(counts, left={"bank-1": {"industry": "bank"}}))


def _measured_run(root: Path) -> Path:
    """Write a finished run in which used-car released counts by group."""
    folder = write_run(root)
    write_result(folder)
    result = json.loads((folder / "result.json").read_text())
    told = _record(_counts((60, 40, 20, 80), (90, 10, 50, 50), (1, 0, 1, 0)))["participants"]["bank-0"]["groups"]
    result["participants"]["used-car"]["groups"] = {**told, "names": ["young", "old", "missing"], "deviation": 0.5}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_the_evidence_pack_says_it_in_place_of_the_open_question(tmp_path: Path) -> None:
    folder = _measured_run(tmp_path)
    write(collect(folder), tmp_path / "pack")
    card = (tmp_path / "pack" / "model_card-bank.md").read_text(encoding="utf-8")
    law = (tmp_path / "pack" / "ai_act.md").read_text(encoding="utf-8")
    assert "young: of positives, called so 0.800, 95 % interval" in card
    assert "missing: not shown, since its noisy rows are too few" in card
    assert "young differs from all other groups together in of positives, called so by 0.300" in card
    assert "bank: the released model was measured by age" in law
    assert "No group was measured in this run" not in card + law
    (folder / "result.json").write_text(
        json.dumps(
            {**json.loads((folder / "result.json").read_text()), "left": {"other": {"industry": "bank", "made": "x"}}}
        )
    )
    assert collect(folder)["industries"]["bank"]["fairness"] is None


def test_the_command_reads_the_record_and_says_why_there_is_nothing(tmp_path: Path) -> None:
    def call(*more: str) -> Any:
        return CliRunner().invoke(APP, ["fairness", str(folder), *more], env={"COLUMNS": "200"})

    folder = _measured_run(tmp_path)
    found = json.loads(call("--json", "--threshold", "0.9").stdout)
    assert found[0]["participants"] == ["used-car"]
    assert found[0]["threshold"] > 0.5
    assert "too few: not shown" in call().stdout
    for more, words in (
        (("--participant", "nobody"), "--participant nobody: wanted one of"),
        (("--participant", "other"), "contract.evaluation.groups before a run"),
        (("--industry", "shop"), "--industry shop: wanted one of bank"),
        (("--threshold", "1"), "--threshold: wanted a number between 0 and 1"),
    ):
        result = call(*more)
        assert result.exit_code == 2
        assert words in " ".join(result.output.split())


def test_the_report_shows_groups_and_names_passport_and_evidence(tmp_path: Path) -> None:
    folder = _measured_run(tmp_path)
    facts = gather(folder)
    assert "<h2" in as_html(facts)
    assert "Proof" not in as_html(facts)
    (folder / "passport.json").write_text("{}")
    write(collect(folder), folder / "evidence")
    for file in write_report(facts, folder):
        text = file.read_text(encoding="utf-8")
        assert "Fairness: bank by age" in text
        assert "Proof" in text
        linked = file.suffix == ".html"
        assert ('<a href="passport.json">passport.json</a>' in text) == linked
        assert ('<a href="evidence/README.md">' in text) == linked
    (elsewhere, _) = write_report(facts, tmp_path / "other")
    assert "passport.json of the run&#39;s folder" in elsewhere.read_text(encoding="utf-8")
    facts_file = folder / "evidence" / "facts.json"
    facts_file.write_text(facts_file.read_text().replace(folder.name, "another-run"))
    assert "evidence/README.md" not in as_html(facts)


def _benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARK.parent))
    spec = importlib.util.spec_from_file_location("fairness_coverage", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    sys.modules.pop("dp_metrics", None)
    return made


@pytest.mark.end_to_end
def test_intervals_hold_and_equal_groups_are_seldom_called_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small version of the benchmark: with 200 repetitions 90 % is three deviations below 95 %."""
    benchmark = _benchmark(monkeypatch)
    equal = benchmark.measure(benchmark.CASES[0][1], 3.0, 200, truth_rows=200_000)
    assert min(*equal["coverage"].values(), equal["together"]) >= 0.9
    assert equal["alarms"] <= 0.1
    other = benchmark.measure(benchmark.CASES[2][1], 3.0, 100, truth_rows=200_000)
    assert min(*other["coverage"].values(), other["together"]) >= 0.88
    assert other["found"] > 0.9


@pytest.mark.end_to_end
def test_a_run_measures_its_final_model_by_group_and_pays_once(tmp_path: Path) -> None:
    source = find_scenario("secure-banks")
    data = tomllib.loads(source.read_text(encoding="utf-8"))
    data["contract"] |= {
        "releases": ["sums", "metrics"],
        "evaluation": {"metrics": "dp", "groups": {"bank": {"column": "age", "cuts": [35.0]}}},
    }
    (tmp_path / source.name).write_text(tomli_w.dumps(data), encoding="utf-8")
    target = tmp_path / "policies" / source.stem
    shutil.copytree(source.parent / "policies" / source.stem, target)
    for file in target.glob("*.toml"):
        policy = tomllib.loads(file.read_text(encoding="utf-8"))
        policy["budget"]["evaluation"] = {key: {"epsilon": 3.0, "delta": 1e-5} for key in ("run", "lifetime")}
        policy["allow"]["releases"] = ["sums", "metrics"]
        policy["allow"]["contracts"] = "any"
        file.write_text(tomli_w.dumps(policy), encoding="utf-8")
    options = Options(scenario=str(tmp_path / source.name), seed=1, out=tmp_path / "runs")
    done = execute(prepare(options), options)
    (told,) = done.result["fairness"]
    assert told["column"] == "age"
    assert [group["name"] for group in told["groups"]] == ["age < 35", "age >= 35"]
    for line in done.result["participants"].values():
        assert np.shape(line["groups"]["counts"]) == (2, 2, 24)
        assert 0 < line["epsilon"]["metrics"]["run"] <= 3
        assert line["metrics"]["auc"]["release"] == "dp"
    (found,) = fairness_of_run(tmp_path / "runs" / done.result["run_id"])
    assert json.loads(json.dumps(found.as_json())) == json.loads(json.dumps(told))
