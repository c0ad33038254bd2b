"""The stack, the control, the net gain and the verdict: by hand, for every kind of target."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from clients import registry
from clients._labels import bits
from clients.bank import CLIENT as BANK
from clients.dataset import Table, prepare
from clients.schema import Target
from clients.sources import parse_source, read
from consortia.common.words import verdict
from consortia.participant import joined, receipt, stack
from consortia.participant.baseline import Baseline, Own
from consortia.participant.evaluation import Scores
from consortia.participant.own_candidates import majority, ridge
from consortia.participant.own_model import About, JoinedModel, Scorer, constant, from_bytes, to_bytes
from consortia.reports.receipt_table import columns, interval, metric_name, receipt_row
from consortia.terms.scenario import load_scenario

BINARY = Target(name="y", kind="binary", classes=("a", "b"))
LABELS = Target(name="y", kind="multilabel", classes=("a", "b"))
THREE = Target(name="y", kind="multiclass", classes=("a", "b", "c"))
NUMBER = Target(name="y", kind="regression", low=-10, high=30)


def sigmoid(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def scored(n: int, seed: int, own: float, others: float) -> tuple[Scores, Scores, Scores]:
    """Labels, and two scores that know the truth up to noise of the given size."""
    rng = np.random.default_rng(seed)
    truth = 2 * rng.normal(size=n)
    labels = (rng.random(n) < sigmoid(truth)).astype(float)
    return labels, sigmoid(truth + own * rng.normal(size=n)), sigmoid(truth + others * rng.normal(size=n))


# The stack


def test_few_rows_weigh_alike_and_many_show_who_knows_more() -> None:
    shares = {n: stack.fit(BINARY, *scored(n, 1, 3.0, 0.1)).share for n in (12, 5000)}
    assert 0.4 < shares[12] < 0.75
    assert shares[5000] > 0.9


def test_no_rows_give_equal_weights() -> None:
    none = np.zeros(0)
    fitted = stack.fit(BINARY, none, none, none)
    assert fitted.share == 0.5
    low, high = (float(fitted(*(torch.tensor([p]) for p in pair))) for pair in ((0.2, 0.3), (0.6, 0.7)))
    assert low < 0.5 < high


def test_a_score_that_is_upside_down_gets_no_weight_and_is_never_turned() -> None:
    labels, own, others = scored(2000, 2, 0.5, 0.5)
    fitted = stack.fit(BINARY, labels, own, 1 - others)
    assert float(fitted.slopes[1]) == 0.0
    both = stack.fit(BINARY, labels, 1 - own, 1 - others)
    assert float(both.slopes.min()) >= 0


def test_a_stack_of_two_noisy_values_is_their_mean() -> None:
    rng = np.random.default_rng(3)
    truth = rng.uniform(-5, 25, 3000)
    first, second = (truth + rng.normal(size=3000) for _ in range(2))
    fitted = stack.fit(NUMBER, truth, first, second)
    found = fitted(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    error = np.sqrt(np.mean((found - truth) ** 2))
    assert error == pytest.approx(np.sqrt(0.5), abs=0.03)  # two errors of 1, averaged
    assert fitted.share == pytest.approx(0.5, abs=0.03)


def test_a_regression_means_the_same_in_another_unit() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=40)
    first, second = truth + rng.normal(size=40), truth + 0.5 * rng.normal(size=40)
    plain = Target(name="y", kind="regression")
    small = stack.fit(plain, truth, first, second)
    large = stack.fit(plain, 1e4 * truth, 1e4 * first, 1e4 * second)
    assert large.share == pytest.approx(small.share, abs=1e-3)


def test_a_stack_of_several_classes_is_better_than_each() -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 4000)
    logits = 2 * np.eye(3)[labels]

    def noisy() -> Scores:
        z = logits + 1.5 * rng.normal(size=(4000, 3))
        return np.exp(z) / np.exp(z).sum(1, keepdims=True)

    first, second = noisy(), noisy()
    fitted = stack.fit(THREE, labels[:2000].astype(float), first[:2000], second[:2000])
    found = fitted(torch.from_numpy(first[2000:]), torch.from_numpy(second[2000:])).numpy()
    assert np.allclose(found.sum(1), 1)
    hits = [float((s.argmax(1) == labels[2000:]).mean()) for s in (found, first[2000:], second[2000:])]
    assert hits[0] > max(hits[1:]) + 0.02


# Joined and control


def bank(n: int, seed: int, chance: Scores | None = None) -> Table:
    table = prepare(BANK, read(parse_source(f"synthetic:{n}?seed={seed}"), BANK, BANK.sites[0]))
    rng = np.random.default_rng(seed)
    labels = rng.random(len(table)) < (0.5 if chance is None else chance)
    return dataclasses.replace(table, target=torch.tensor(labels).float())


def of(scores: Any) -> Scorer:
    return Scorer(scores, lambda: constant(BANK.schema.target, 1, np.array([0.5])))


def base(rows: Table, own: Scorer, out_of_fold: Scores, second: Own | None = None) -> Baseline:
    alone = Own("ridge", "", own, lambda _: own, out_of_fold)
    return Baseline(majority(BANK, rows), alone, second, np.arange(len(rows)), rows, np.arange(len(rows)) % 5, ())


def test_the_stack_is_fitted_on_validation_rows_where_there_are_enough() -> None:
    """Own scores of training rows are in sample and perfect here: with enough validation rows they are not asked."""
    train, many, few = bank(60, 1), bank(400, 2), bank(40, 3)
    memory = {row: float(y) for row, y in zip(train.row_ids, train.target, strict=True)}
    own = of(lambda table: np.array([memory.get(row, 0.5) for row in table.row_ids]))
    federated = of(lambda table: np.full(len(table), 0.4))
    assert joined.joined(BANK, base(train, own, own(train)), federated, many).rows == "validation"
    both = joined.joined(BANK, base(train, own, np.full(60, 0.5)), federated, few)
    assert both.rows == "validation and training"


def test_a_learner_that_uses_own_rows_at_home_is_stacked_by_its_held_out_scores() -> None:
    """It knows its own training rows by heart, which its held-out scores do not show, and nothing else."""
    train, few = bank(60, 1), bank(20, 3)
    memory = {row: float(y) for row, y in zip(train.row_ids, train.target, strict=True)}
    by_heart = of(lambda table: np.array([memory.get(row, 0.5) for row in table.row_ids]))
    guess = of(lambda table: np.random.default_rng(1).random(len(table)))
    knows = np.asarray(0.01 + 0.98 * train.target.numpy(), dtype=np.float64)
    mine = base(train, guess, knows)
    honest = dataclasses.replace(by_heart, held_out=np.random.default_rng(3).random(60))
    assert joined.joined(BANK, mine, by_heart, few).stack.share > 0.4
    assert joined.joined(BANK, mine, honest, few).stack.share < 0.3


def test_held_out_scores_are_those_of_the_rows_that_the_search_saw() -> None:
    train = bank(60, 1)
    places = np.arange(59, 19, -1)
    rows = train.take(places)
    guess = np.random.default_rng(2).random(40)
    mine = dataclasses.replace(base(rows, of(lambda table: np.full(len(table), 0.5)), guess), places=places)
    knows = np.asarray(0.01 + 0.98 * train.target.numpy(), dtype=np.float64)
    federated = dataclasses.replace(of(lambda table: np.full(len(table), 0.5)), held_out=knows)
    assert joined.joined(BANK, mine, federated, train.take([])).stack.share > 0.65


def test_the_control_without_a_second_model_is_the_model_alone() -> None:
    train, few, test = bank(60, 1), bank(20, 3), bank(200, 4)
    score = of(lambda table: sigmoid(np.asarray(table.inputs["features"])[:, 0].astype(float)))
    mine = base(train, score, score(train))
    found = joined.control(BANK, mine, few).scorer(test)
    assert (np.argsort(found, kind="stable") == np.argsort(score(test), kind="stable")).all()


def test_the_joined_model_comes_back_from_its_file() -> None:
    train, few, test = bank(60, 1), bank(40, 3), bank(50, 4)
    own, federated = ridge(BANK, train, "bank-a"), ridge(BANK, bank(80, 5), "bank-a", 0.01)
    mine = base(train, own, own(train))
    found = joined.joined(BANK, mine, federated, few).scorer
    about = About("bank-a", "run-1", "bank", "joined", "ridge", load_scenario("banks-network").contract)
    again, same = from_bytes(to_bytes(found.model(), about), "here")
    assert isinstance(again, JoinedModel)
    assert same.kind == "joined"
    assert np.allclose(again(test.inputs["features"]).numpy(), found(test), atol=1e-6)


# The receipt's comparison


def kinds() -> dict[str, tuple[Any, Any, Any]]:
    """(client, labels, a function from noise to scores) for each kind of target, 300 rows."""
    rng = np.random.default_rng(6)
    line = registry.get("linear")
    found: dict[str, tuple[Any, Any, Any]] = {}
    for kind, target, metrics in (
        ("binary", BINARY, ("auc", "accuracy")),
        ("multiclass", THREE, ("accuracy", "macro_auc")),
        ("multilabel", LABELS, ("label_auc", "label_accuracy")),
        ("regression", NUMBER, ("rmse", "mae")),
    ):
        client = dataclasses.replace(line, schema=dataclasses.replace(line.schema, target=target), metrics=metrics)
        labels = (
            rng.normal(size=300)
            if kind == "regression"
            else rng.integers(0, 4 if kind == "multilabel" else len(target.classes), 300)
        )
        if kind == "multiclass":
            scores = lambda noise, y=labels: _shares(np.eye(3)[y] + noise * rng.random((300, 3)))  # noqa: E731
        elif kind == "multilabel":
            scores = lambda noise, y=labels: np.clip(0.5 * bits(y, 2) + noise * rng.random((300, 2)), 0, 1)  # noqa: E731
        elif kind == "binary":
            scores = lambda noise, y=labels: np.clip(0.5 * y + noise * rng.random(300), 0, 1)  # noqa: E731
        else:
            scores = lambda noise, y=labels: y + noise * rng.normal(size=300)  # noqa: E731
        found[kind] = (client, labels, scores)
    return found


def _shares(raw: Scores) -> Scores:
    return np.asarray(raw / raw.sum(1, keepdims=True))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression"])
def test_the_net_gain_is_positive_where_joining_paid_and_has_an_interval(kind: str) -> None:
    client, labels, scores = kinds()[kind]
    table: Any = SimpleNamespace(target=torch.tensor(labels), measured=labels, unit_index=np.arange(300), n_units=300)
    noise = {"majority": 5.0, "local": 2.0, "federated": 1.5, "control": 1.8, "joined": 0.4}
    made = {name: scores(size) for name, size in noise.items()}
    models = {name: of(lambda _, name=name: made[name]) for name in noise}
    found = receipt.compared(client, models, table, "one")
    lead, net = found["headline"], found["net_gain"]
    value = found["metrics"][lead]
    turned = -1 if lead == "rmse" else 1
    gross = {name: turned * (value[name] - value["local"]) for name in ("joined", "control")}
    assert net["value"] == pytest.approx(gross["joined"] - gross["control"], abs=1e-9)
    assert 0 < net["low"] < net["value"] < net["high"]
    assert found["verdict"] == "clearly"
    assert found["gain"]["value"] == pytest.approx(turned * (value["federated"] - value["local"]), abs=1e-9)
    of_kind = {"binary": {"auc"}, "multiclass": {"accuracy", "macro_auc"}, "multilabel": {"label_auc"}}
    wanted = of_kind.get(kind, {"rmse"})
    assert set(found["net_gains"]) == wanted
    assert all(gain["low"] > 0 for gain in found["net_gains"].values())
    models["joined"], models["control"] = models["control"], models["joined"]
    assert receipt.compared(client, models, table, "one")["net_gain"]["value"] < 0


@pytest.mark.end_to_end
@pytest.mark.parametrize(("name", "scenario"), [("bank-a", "cross-industry-network"), ("line-a", "linear")])
def test_a_receipt_has_the_old_keys_and_the_new_ones(make_site: Any, name: str, scenario: str) -> None:
    site = make_site(name, scenario, rounds=1)
    assert site.ask(1).header["status"] == "OK"
    site.ask(2, kind="evaluate")
    folder = site.home.folder / "runs" / "run-1"
    found = json.loads((folder / "receipt.json").read_text())
    old = {"majority", "local", "federated", "personal", "kept"}
    assert all(set(line) == old | {"control", "joined"} for line in found["metrics"].values())
    assert {"gain", "keeps", "local_model", "personal_model", "net_gain", "net_gains", "verdict", "joining"} <= set(
        found
    )
    assert set(found["models"]) == {"kept", "federated", "joined"}
    assert (folder / "predictions.csv").read_text().splitlines()[0].endswith("score_control,score_joined")
    if name == "bank-a":  # 4 runs of this size fit into the demonstration policy's lifetime
        assert found["epsilon"]["runs_left"] == 3


# What a person reads


def participant(
    value: float, low: float, high: float, epsilon: float | None = 1.0, left: int | None = 3
) -> dict[str, Any]:
    account = {"budget": epsilon, "non_private": epsilon is None, "runs_left": left}
    values = {"majority": 0.5, "local": 0.7, "control": 0.71, "federated": 0.6, "joined": 0.71 + value}
    return {
        "headline": "auc",
        "metrics": {"auc": values},
        "net_gain": {"value": value, "low": low, "high": high},
        "units": {"test": 30},
        "epsilon": account,
    }


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        ((0.02, 0.0001, 0.04), "clearly"),
        ((0.02, 0.0, 0.04), "perhaps"),
        ((0.02, -0.0001, 0.04), "perhaps"),
        ((0.0, 0.0, 0.0), "not"),
        ((-0.01, -0.02, 0.01), "not"),
    ],
)
def test_a_verdict_is_its_interval(gain: tuple[float, float, float], word: str) -> None:
    assert verdict(dict(zip(("value", "low", "high"), gain, strict=True))) == word
    assert verdict(None) == "unknown"


def test_three_decimals_and_a_sign_show_whether_zero_is_inside() -> None:
    assert interval({"value": 0.02, "low": 0.0004, "high": 0.04}) == "+0.020 [+0.000, +0.040]"
    assert interval({"value": 0.02, "low": -0.0004, "high": 0.04}) == "+0.020 [-0.000, +0.040]"
    assert interval(None) == "–"


def test_a_loss_says_that_lower_is_better() -> None:
    assert metric_name("rmse") == "RMSE, lower is better"
    assert metric_name("auc") == "AUC"
    headings = columns([participant(0.02, 0.01, 0.03)])
    assert headings[2:] == ("alone", "control", "federated", "joined", "net gain [95 %]", "verdict")
    row = receipt_row(participant(0.02, 0.01, 0.03), headings)
    assert row == ("AUC", "0.700", "0.710", "0.600", "0.730", "+0.020 [+0.010, +0.030]", "clearly")


def test_receipts_of_vertical_and_older_runs_keep_their_table() -> None:
    old = {"headline": "auc", "metrics": {"auc": {"majority": 0.5, "local": 0.7, "federated": 0.8}}, "keeps": "local"}
    old |= {"gain": {"value": 0.1, "low": 0.05, "high": 0.15}, "units": {"test": 30}}
    headings = columns([old])
    assert headings[2:] == ("alone", "federated", "gain [95 %]", "verdict")
    assert receipt_row(old, headings) == ("AUC", "0.700", "0.800", "+0.100 [+0.050, +0.150]", "clearly")


def test_the_printed_receipts_begin_with_the_paragraph(capsys: pytest.CaptureFixture[str]) -> None:
    from consortia.reports.receipt_table import print_receipts

    one = {**participant(0.02, 0.01, 0.03), "participant": "a", "run_id": "run-1", "synthetic": True}
    one["epsilon"] |= {"run": 1.0, "lifetime": 1.0, "lifetime_delta": 4e-5, "delta": 1e-5}
    one["epsilon"] |= {"unit": "record", "relation": "add_or_remove_one"}
    print_receipts(Console(width=200), [one])
    lines = capsys.readouterr().out.splitlines()
    assert "Joining paid clearly: net gain +0.020" in lines[0]
    assert any("clearly" in line and "+0.020 [+0.010, +0.030]" in line for line in lines[1:])
