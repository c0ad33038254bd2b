"""What a participant has alone: each candidate as data, folds that hold out, a choice from training rows alone."""

from __future__ import annotations

import dataclasses
import inspect
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from targets import lettered

from clients import registry
from clients.dataset import Table, prepare
from clients.industry import IndustryClient
from consortia.participant import baseline as searching
from consortia.participant import own_candidates
from consortia.participant.baseline import FOLDS, baseline, of_run
from consortia.participant.evaluation import row_losses
from consortia.participant.own_candidates import Candidate, boosting, forest, ridge
from consortia.participant.own_model import About, OwnModel, Scorer, constant, from_bytes, to_bytes
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.scenario import load_scenario

KINDS = ("binary", "multiclass", "one class of three missing", "multilabel", "regression")
CONTRACT = load_scenario("linear").contract


def client_of(kind: str) -> IndustryClient:
    """The industry `linear` with another target."""
    found = registry.get("linear")
    target = lettered(kind)
    some = {"regression": ("rmse",), "binary": ("auc", "accuracy"), "multilabel": ("label_auc", "label_accuracy")}
    metrics = some.get(kind, ("accuracy", "macro_auc"))
    return replace(found, schema=replace(found.schema, target=target), metrics=metrics)


def table_of(kind: str, n: int = 90, seed: int = 1) -> Table:
    """Rows whose label follows a sine of the one feature: nothing that a line fits well."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, n)
    wave = np.sin(5 * x) + rng.normal(0, 0.3, n)
    seen = {"binary": "ab", "one class of three missing": "ac"}.get(kind, "abc")
    y = np.array(list(seen))[np.digitize(wave, np.linspace(-0.8, 0.8, len(seen) + 1)[1:-1])]
    return prepare(client_of(kind), pd.DataFrame({"x": x, "y": 3 * wave + 2 if kind == "regression" else y}))


@pytest.fixture
def industry(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(kind: str) -> IndustryClient:
        client = client_of(kind)
        monkeypatch.setattr(registry, "get", lambda _: client)
        return client

    return use


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fit", [forest, boosting])
def test_trees_come_back_from_their_file_and_beat_a_line_on_a_sine(industry: Any, kind: str, fit: Any) -> None:
    client, train, test = industry(kind), table_of(kind), table_of(kind, 400, seed=2)
    fitted = fit(client, train, "line-a")
    about = About("line-a", "run-1", "linear", "local", "", CONTRACT)
    again, _ = from_bytes(to_bytes(fitted.model(), about), "here")
    assert np.allclose(again(test.inputs["features"]), fitted(test), atol=1e-6)
    line = ridge(client, train, "line-a")
    by_trees, by_a_line = (float(row_losses(client, model(test), test).mean()) for model in (fitted, line))
    assert by_trees < by_a_line


def test_boosting_as_data_says_what_scikit_learn_says() -> None:
    client, train = client_of("binary"), table_of("binary")
    x, y = np.asarray(train.inputs["features"]), np.asarray(train.target)
    seed = own_candidates._seed("boosting", "line-a")
    terms = {**own_candidates._BOOSTED, "subsample": 0.7, "max_features": 1, "random_state": seed}
    wanted = GradientBoostingClassifier(**terms).fit(x, y).predict_proba(x)[:, 1]
    assert np.allclose(boosting(client, train, "line-a")(train), wanted, atol=1e-6)


def test_a_share_of_zero_or_one_is_a_probability_of_zero_or_one() -> None:
    client, train = client_of("binary"), table_of("binary")
    separated = dataclasses.replace(train, target=(train.inputs["features"][:, 0] > 0).float())
    scores = forest(client, separated, "line-a")(separated)
    assert (scores.min(), scores.max()) == pytest.approx((0.0, 1.0), abs=1e-12)


def by_heart(client: IndustryClient) -> Candidate:
    """A candidate that knows the labels of the rows it was fitted to, and nothing else."""

    def fit(rows: Table) -> Scorer:
        known = {row: float(y) for row, y in zip(rows.row_ids, rows.target, strict=True)}
        scores = lambda table: np.array([known.get(row, 0.5) for row in table.row_ids])  # noqa: E731
        return Scorer(scores, lambda: constant(client.schema.target, 1, np.array([0.5])))

    return Candidate("by heart", "", fit)


def test_a_model_that_knows_its_rows_by_heart_is_not_chosen(industry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client, train = industry("binary"), table_of("binary")
    honest = own_candidates.candidates(CONTRACT, "linear", "line-a")
    monkeypatch.setattr(searching, "candidates", lambda *_: [by_heart(client), *honest])
    found = baseline(CONTRACT, "linear", train, "line-a")
    assert "by heart" not in {found.alone.kind, found.second.kind if found.second else ""}
    assert found.tried[0] == ("by heart", "", 0.5)


def test_folds_hold_out_whole_units_and_are_alike_in_their_labels(industry: Any) -> None:
    industry("binary")
    train = table_of("binary", 200)
    pairs = dataclasses.replace(
        train, unit_index=torch.arange(200) // 2, unit_ids=tuple(str(unit) for unit in range(100))
    )
    found = baseline(CONTRACT, "linear", pairs, "line-a")
    assert (found.fold[0::2] == found.fold[1::2]).all()
    single = baseline(CONTRACT, "linear", train, "line-a")
    hits = [int(train.target[torch.from_numpy(single.fold == number)].sum()) for number in range(FOLDS)]
    assert max(hits) - min(hits) <= 1


@pytest.mark.end_to_end
def test_the_best_family_is_found_and_the_second_is_of_another(industry: Any) -> None:
    client, test = industry("binary"), table_of("binary", 600, seed=3)
    wavy = baseline(CONTRACT, "linear", table_of("binary", 200), "line-a")
    assert wavy.alone.kind in {"forest", "boosting"}
    assert wavy.second is not None
    assert wavy.second.kind != wavy.alone.kind
    auc, line = (
        roc_auc_score(test.target, scorer(test))
        for scorer in (wavy.alone.scorer, ridge(client, table_of("binary", 200), "line-a"))
    )
    assert auc > line + 0.1
    rising = table_of("binary", 200)
    chance = torch.sigmoid(3 * rising.inputs["features"][:, 0])
    labels = (torch.rand(200, generator=torch.Generator().manual_seed(1)) < chance).float()
    assert baseline(CONTRACT, "linear", dataclasses.replace(rising, target=labels), "line-a").alone.kind == "ridge"


def test_another_setting_of_the_same_kind_is_no_second_opinion(industry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    industry("binary")
    ridges = [one for one in own_candidates.candidates(CONTRACT, "linear", "line-a") if one.kind == "ridge"]
    monkeypatch.setattr(searching, "candidates", lambda *_: [*ridges, _half()])
    found = baseline(CONTRACT, "linear", table_of("binary"), "line-a")
    assert found.alone.kind == "ridge"
    assert found.second is not None
    assert found.second.kind == "half"


def test_too_few_units_or_one_class_need_no_search(industry: Any) -> None:
    industry("binary")
    train = table_of("binary")
    few = baseline(CONTRACT, "linear", train.take(range(9)), "line-a")
    alike = baseline(CONTRACT, "linear", dataclasses.replace(train, target=torch.ones(90)), "line-a")
    none = baseline(CONTRACT, "linear", train.take([]), "line-a")
    for found in (few, alike, none):
        assert (found.second, found.tried, len(found.rows), len(found.alone.out_of_fold)) == (None, (), 0, 0)
    assert alike.alone.scorer(train).tolist() == [1.0] * 90


def test_the_search_sees_a_public_number_of_rows(industry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    industry("binary")
    monkeypatch.setattr(searching, "SEARCH_ROWS", 60)
    monkeypatch.setattr(searching, "candidates", lambda *_: [by_heart(client_of("binary")), _half()])
    found = baseline(CONTRACT, "linear", table_of("binary", 200), "line-a")
    assert len(found.rows) == len(found.fold) == len(found.alone.out_of_fold) == 60


def _half() -> Candidate:
    scorer = Scorer(lambda table: np.full(len(table), 0.5), lambda: OwnModel(client_of("binary").schema.target))
    return Candidate("half", "", lambda _: scorer)


def test_runs_search_once_and_other_rows_names_and_networks_again(
    industry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    industry("binary")
    seen: list[int] = []
    real = searching.baseline
    monkeypatch.setattr(searching, "candidates", lambda *_: [_half(), by_heart(client_of("binary"))])
    monkeypatch.setattr(searching, "baseline", lambda *rest: (seen.append(1), real(*rest))[1])
    train = table_of("binary")
    longer = _changed(rounds=CONTRACT.rounds + 1)
    for contract, rows, name, searches in (
        (CONTRACT, train, "line-a", 1),
        (CONTRACT, train, "line-a", 1),
        (longer, train, "line-a", 1),
        (CONTRACT, train, "line-b", 2),
        (CONTRACT, train.take(range(80)), "line-a", 3),
        (_changed(network=True), train, "line-a", 4),
        (_changed(network=True, rounds=CONTRACT.rounds + 1), train, "line-a", 5),
    ):
        of_run(contract, registry.get("linear"), rows, name)
        assert len(seen) == searches


def _changed(network: bool = False, **terms: Any) -> Contract:
    data = json.loads(CONTRACT.canonical()) | terms
    if network:
        data["industries"]["linear"]["model"] = {"kind": "mlp", "hidden": [4]}
    return contract_from_json(json.dumps(data))


def test_neither_validation_nor_test_rows_can_come_here() -> None:
    assert list(inspect.signature(baseline).parameters) == ["contract", "industry", "train", "participant", "client"]
