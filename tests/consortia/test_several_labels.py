"""Rows of several labels: from a scenario to receipts, predictions and files; what is refused; the neighbour game."""

from __future__ import annotations

import dataclasses
import json
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import targets
import tomli_w
import torch
from labelled import CLIENT, TARGET

from clients import registry
from clients._labels import bits
from clients.dataset import prepare as table_of
from clients.errors import ClientError
from clients.metrics import get
from clients.schema import Target
from consortia.audit.games import Board, Game
from consortia.audit.neighbours import deal, paths
from consortia.audit.settings import Audit
from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.metrics import score_bins
from consortia.metrics.from_histograms import HISTOGRAM_METRICS, from_histogram
from consortia.models.onnx_file import largest_difference, to_onnx
from consortia.models.rows import predict
from consortia.participant.own_candidates import boosting, forest, majority, ridge
from consortia.participant.own_model import from_bytes
from consortia.planning import metrics as planned
from consortia.planning.networks import check_targets
from consortia.terms.scenario import load_scenario
from consortia.testing import check_client
from privacy import bookkeeping

LABELS = 3


@pytest.fixture(autouse=True)
def findings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_held", {CLIENT.name: CLIENT})


def _written(folder: Path, epsilon: float = 8.0, **terms: Any) -> str:
    """Write a scenario of two hospitals and their policies; return its path."""
    industry = {"model": {"kind": "mlp", "hidden": [4]}, "local_steps": 2, "sampling_rate": 1.0, "clip": 1.0}
    contract: dict[str, Any] = {
        "schema": 1,
        "wire": 1,
        "mode": "horizontal",
        "rounds": 6,
        "releases": ["update", "metrics"],
        "evaluation": {"metrics": "dp", "bins": 8},
        "industries": {CLIENT.name: {**industry, "learning_rate": 6.0}},
    }
    contract |= terms
    roster, allowance = [], {"epsilon": epsilon, "delta": 1e-3}
    (folder / "policies" / "findings").mkdir(parents=True)
    for site in CLIENT.sites:
        one = {"name": site, "industry": CLIENT.name, "dataset": "reports", "site": site, "units": 300}
        roster.append({**one, **allowance})
        own = {"industry": CLIENT.name, "source": "synthetic:300", "site": site, "unit": "record"}
        lifetime = {"run": allowance, "lifetime": {"epsilon": 4 * epsilon, "delta": 3e-3}}
        policy = {
            "schema": 1,
            "participant": site,
            "demo": True,
            "dataset": {"reports": {**own, "declared_units": 300}},
            "budget": {**lifetime, "evaluation": lifetime},
            "allow": {"releases": contract["releases"], "contracts": "any"},
        }
        (folder / "policies" / "findings" / f"{site}.toml").write_text(tomli_w.dumps(policy), encoding="utf-8")
    path = folder / "findings.toml"
    data = {"schema": 1, "name": "findings", "title": "Findings", "contract": contract, "roster": roster}
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    return str(path)


def test_a_client_of_several_labels_passes_the_suite() -> None:
    check_client(CLIENT)


@pytest.mark.end_to_end
def test_two_hospitals_learn_three_labels_within_their_budget(tmp_path: Path) -> None:
    options = Options(scenario=_written(tmp_path), out=tmp_path / "runs", seed=1)
    outcome = execute(prepare(options), options)
    assert outcome.result["status"] == "completed"
    for name, line in outcome.result["participants"].items():
        assert line["epsilon"]["run"] <= 8, name
        assert set(line["metrics"]) == set(CLIENT.metrics)
        assert line["metrics"]["label_auc"]["majority"] == 0.5
        assert line["metrics"]["label_auc"]["federated"] > 0.6, name
        assert line["metrics"]["label_auc"]["joined"] > 0.65, name
        assert line["net_gain"]["low"] <= line["net_gain"]["value"] <= line["net_gain"]["high"]
    folder = next(tmp_path.rglob("north/**/receipt.json")).parent
    receipt = json.loads((folder / "receipt.json").read_text(encoding="utf-8"))
    assert receipt["classes"] is None
    assert {one["kind"] for one in receipt["joining"]["tried"]} == {"ridge", "forest", "boosting", "same network"}
    told = (outcome.job.folder / "result.json").read_text(encoding="utf-8")
    assert "label_brier" in told
    frame = CLIENT.synthesise(np.random.default_rng(0), 40, "north")
    for name in ("federated", "joined", "kept"):
        model, about = from_bytes((folder / "models" / f"{name}.safetensors").read_bytes(), name)
        scores, _ = predict(model, about, frame.drop(columns="findings"), "rows")
        assert list(scores.columns) == ["p(effusion)", "p(nodule)", "p(mass)"]
        assert scores.to_numpy().min() >= 0
        assert scores.to_numpy().max() <= 1
        assert largest_difference(to_onnx(model, about), model, about, frame) < 1e-5


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"learner": "sums"}, "whose rows have several labels, got 'sums', which learns one"),
        ({"learner": "additive"}, "whose rows have several labels, got 'additive', which learns one"),
        ({"evaluation": {"metrics": "dp", "groups": {CLIENT.name: {"column": "age"}}}}, "a target of two classes"),
        (
            {
                "stopping": {"metric": "label_auc", "patience": 2},
                "evaluation": {"metrics": "dp", "bins": 8, "every": 1},
            },
            r"release as 'dp' \(label_brier\), got 'label_auc', which no histogram gives",
        ),
    ],
    ids=["sums", "additive", "groups", "stopping"],
)
def test_what_does_not_go_with_several_labels_is_refused_by_name(
    terms: dict[str, Any], words: str, tmp_path: Path
) -> None:
    if "learner" in terms:
        learner = {"releases": [terms["learner"]], "rounds": 2 if terms["learner"] == "sums" else 21}
        terms = {**terms, **learner, "industries": {CLIENT.name: {}}, "evaluation": {"metrics": "none"}}
    options = Options(scenario=_written(tmp_path, **terms), out=tmp_path / "runs", seed=1)
    with pytest.raises((InputError, ClientError), match=words):
        prepare(options)


def test_the_page_shows_the_table_of_targets_that_learners_are_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    page = Path(__file__).resolve().parents[2] / "docs" / "how_to" / "industry.md"
    marks = re.search(r"<!-- targets -->\n(.*?)\n<!-- end -->", page.read_text(encoding="utf-8"), re.S)
    assert marks is not None, "wanted the marks <!-- targets --> and <!-- end -->"
    assert marks.group(1) == targets.table(), f"write this between the marks of {page.name}:\n{targets.table()}"
    two = {"anomaly": Target(name="y", kind="anomaly", classes=("a", "b"))}
    for kind, (_, summed) in targets.SAID.items():
        schema = dataclasses.replace(CLIENT.schema, target={**targets.TARGETS, **two}[kind])
        held = dataclasses.replace(CLIENT, schema=schema, metrics=HISTOGRAM_METRICS[kind])
        monkeypatch.setattr(registry, "_held", {CLIENT.name: held})
        contract: Any = SimpleNamespace(noisy_sums=True, industries=[CLIENT.name], learner="sums")
        with nullcontext() if summed else pytest.raises(InputError, match="wanted 'gradient' with industry"):
            check_targets(SimpleNamespace(contract=contract))  # type: ignore[arg-type]


def test_a_page_says_which_metrics_of_labels_stay_at_home(tmp_path: Path) -> None:
    (line,) = planned.kept_home(load_scenario(_written(tmp_path)))
    assert "label_auc, label_auprc, label_accuracy cannot be had from a histogram" in line


def test_a_row_has_one_cell_whatever_its_labels_are() -> None:
    generator = np.random.default_rng(3)
    codes = generator.integers(0, 8, 5000)
    scores = np.clip(generator.normal(0.4 + 0.2 * bits(codes, LABELS), 0.2), 0, 1)
    cells = score_bins.cells(TARGET, scores, codes, 24)
    assert cells.shape == (5000,)
    assert cells.max() < 24
    counts = np.bincount(cells, minlength=24)[None]
    found = from_histogram(TARGET, counts, 0.0)["label_brier"]
    exact = get("label_brier").value(scores, codes)
    assert exact == pytest.approx(found.value, abs=0.01)
    assert found.low < exact < found.high
    with pytest.raises(ValueError, match="reshape"):
        score_bins.cells(TARGET, scores[:, :2], codes, 24)


@pytest.mark.parametrize("fit", [ridge, forest, boosting])
def test_own_models_of_several_labels_rank_them_and_are_data(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = (table_of(CLIENT, CLIENT.synthesise(np.random.default_rng(seed), 400, "north")) for seed in (0, 1))
    fitted = fit(CLIENT, train, "north")
    assert fitted(test).shape == (400, LABELS)
    assert get("label_auc").value(fitted(test), test.target) > 0.68
    shares = bits(train.target.numpy(), LABELS).mean(0)
    assert np.abs(fitted(train).mean(0) - shares).max() < 0.06  # probabilities, not their order alone
    assert torch.allclose(fitted.model()(test.inputs["features"]).double(), torch.from_numpy(fitted(test)), atol=1e-6)
    # A label that no training row has is constant; the others are learned all the same.
    without = train.take((train.target & 2) == 0)
    some = fit(CLIENT, without, "north")(test)
    assert some[:, 1].std() < 1e-6
    assert some[:, 1].max() < 1e-6
    assert some[:, 0].std() > 0.05
    assert majority(CLIENT, train)(test)[0].tolist() == pytest.approx(bits(train.target.numpy(), LABELS).mean(0))


def _lost(folder: Path, *kinds: str, **terms: Any) -> list[Game]:
    """Play at a participant, from message to sum, with and without one of its units; return the games lost."""
    audit = Audit(load_scenario(_written(folder, **terms)), folder, quick=True, random=np.random.default_rng(5))
    players, skipped = paths(audit)
    assert any(line.startswith("findings, groups") for line in skipped)
    mine = {name: player for name, player in players.items() if name.endswith(kinds)}
    assert len(mine) == len(kinds)
    board = Board()
    for played in deal(mine, 11, 24, lambda _: None):
        board.add(played)
    return board.lost


@pytest.mark.end_to_end
def test_no_unit_moves_a_step_or_a_histogram_by_more_than_was_charged(tmp_path: Path) -> None:
    assert _lost(tmp_path / "messages", "embedded", "private head", "metrics") == []
    unmeasured = {"evaluation": {"metrics": "none"}, "releases": ["update"]}
    assert _lost(tmp_path / "engine", "vectorised", **unmeasured) == []


@pytest.mark.end_to_end
def test_a_clip_of_twice_its_size_and_a_histogram_that_mixes_rows_lose_games(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = score_bins.cells

    def by_others(target: Any, scores: Any, labels: Any, bins: int) -> Any:
        """Go by how many rows there are."""
        return (cells(target, scores, labels, bins) + len(labels)) % bins

    with monkeypatch.context() as broken:
        broken.setattr(score_bins, "cells", by_others)
        assert _lost(tmp_path / "histogram", "metrics")
    with monkeypatch.context() as broken:
        broken.setattr(bookkeeping, "SHORTER", 2.0)
        assert _lost(tmp_path / "step", "embedded")
