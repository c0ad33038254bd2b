"""What a participant keeps: never silently worse than its own model, and better where others know more."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from clients.bank import CLIENT as BANK
from clients.dataset import Table, prepare
from clients.models import FederatedModule, loss_for
from clients.schema import Target
from clients.sources import parse_source, read
from consortia.participant import personal
from consortia.participant.baseline import Own
from consortia.participant.evaluation import module_scorer, row_losses
from consortia.participant.own_candidates import Candidate, majority, ridge
from consortia.participant.own_model import Scorer
from consortia.participant.personal import _centred, _fine_tuned, _loss_and_slope, _pays, candidates, keep
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module

CONTRACT = load_scenario("banks-network").contract


def world(n: int, seed: int, slope: torch.Tensor, shift: float = 0.0) -> Table:
    """Rows of a bank whose label follows `slope` on the real features."""
    table = prepare(BANK, read(parse_source(f"synthetic:{n}?seed={seed}"), BANK, BANK.sites[0]))
    generator = torch.Generator().manual_seed(seed)
    logits = table.inputs["features"] @ slope + shift
    target = (torch.rand(len(table), generator=generator) < torch.sigmoid(logits)).float()
    return dataclasses.replace(table, target=target)


def slope_of(seed: int) -> torch.Tensor:
    width = world(4, 1, torch.zeros(len(BANK_FEATURES))).inputs["features"].shape[1]
    return 2.0 * torch.randn(width, generator=torch.Generator().manual_seed(seed))


BANK_FEATURES = prepare(BANK, read(parse_source("synthetic:2?seed=1"), BANK, BANK.sites[0])).feature_names


def linear(slope: torch.Tensor) -> FederatedModule:
    module = build_module(CONTRACT, "bank")
    with torch.no_grad():
        for parameter in module.head.parameters():
            parameter.copy_(slope.reshape(1, -1) if parameter.dim() == 2 else torch.zeros_like(parameter))
    return module


def local(train: Table) -> Own:
    def fit(rows: Table) -> Scorer:
        return ridge(BANK, rows, "bank")

    return Own("ridge", "", fit(train), fit, np.zeros(0))


def auc(scorer: Scorer, table: Table) -> float:
    return float(roc_auc_score(np.asarray(table.target), scorer(table)))


def chosen(
    module: FederatedModule, truth: torch.Tensor, n: int, seed: int
) -> tuple[personal.Kept, float, float, float]:
    train, validation, test = (world(m, seed + i, truth) for i, m in enumerate((n, max(20, n // 8), 1500)))
    base = local(train)
    kept = keep(candidates(module, "bank", base, "bank"), BANK, train, validation, "bank")
    return kept, auc(base.scorer, test), auc(module_scorer(module), test), auc(kept.scorer, test)


@pytest.mark.parametrize("seed", [10, *(pytest.param(seed, marks=pytest.mark.end_to_end) for seed in (20, 30))])
def test_a_participant_that_the_others_contradict_is_not_made_worse(seed: int) -> None:
    truth = slope_of(seed)
    kept, own, federated, result = chosen(linear(-truth), truth, 240, seed)
    assert federated < 0.3
    assert kept.kind != "federated"
    assert result >= own - 0.01


@pytest.mark.end_to_end
def test_a_participant_with_few_rows_gains_from_a_model_that_fits() -> None:
    found = []
    for seed in (10, 20, 30):
        truth = slope_of(seed)
        kept, own, _, result = chosen(linear(truth), truth, 60, seed)
        found.append((kept.kind, result - own))
    assert sum(kind != "local" for kind, _ in found) >= 2  # sixty rows leave room for doubt, and doubt stays at home
    assert min(gain for _, gain in found) > -0.01
    assert sum(gain for _, gain in found) / 3 > 0.02


def test_a_federated_model_that_shows_its_training_rows_is_judged_on_others_alone() -> None:
    truth = slope_of(1)
    train, validation = world(60, 1, truth), world(60, 2, truth)
    memory = {row: float(label) for row, label in zip(train.row_ids, train.target, strict=True)}

    def by_heart(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([memory.get(row, 0.5) for row in table.row_ids])

    base, most = local(train), majority(BANK, train)
    offered = [
        Candidate("local", "ridge", base.fit, base.scorer),
        Candidate("federated", "", lambda _: by_heart, by_heart),
        Candidate("centred", "none", lambda _: most, most),
    ]
    assert keep(offered, BANK, train, validation, "bank").kind == "local"


@pytest.mark.parametrize(("rows", "kept"), [(29, "local"), (40, "federated")])
def test_few_rows_decide_nothing(rows: int, kept: str) -> None:
    """Better on each of 29 rows is no reason yet; a model that shows its training rows is judged on no others."""
    truth = slope_of(1)
    train, validation = world(60, 1, truth), world(rows, 2, truth)
    labels = {row: 0.98 * float(y) + 0.01 for row, y in zip(train.row_ids, train.target, strict=True)}
    labels |= {row: 0.8 * float(y) + 0.1 for row, y in zip(validation.row_ids, validation.target, strict=True)}

    def right(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([labels.get(row, 0.5) for row in table.row_ids])

    most = majority(BANK, train)
    offered = [
        Candidate("local", "majority", lambda _: most, most),
        Candidate("federated", "", lambda _: right, right),
        Candidate("centred", "none", lambda _: most, most),
    ]
    assert keep(offered, BANK, train, validation, "bank").kind == kept


def test_a_better_scale_with_a_worse_order_is_not_kept() -> None:
    """Local says .99 to ones and .98 to zeros: log loss 2, where one half for all has .69, but AUC 1 against .5."""
    truth = slope_of(1)
    train, validation = world(300, 1, truth), world(300, 2, truth)

    def local(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray(0.98 + 0.01 * table.target.numpy(), dtype=np.float64)

    def half(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.full(len(table.target), 0.5)

    def mended(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.asarray(0.1 + 0.8 * table.target.numpy(), dtype=np.float64)

    def chosen(scorer: Any) -> str:
        offered = [Candidate("local", "", lambda _: local, local), Candidate("centred", "", lambda _: scorer, scorer)]
        return keep(offered, BANK, train, validation, "bank").kind

    assert chosen(half) == "local"
    assert chosen(mended) == "centred"


def test_the_centred_model_runs_from_the_local_one_to_the_federated_one() -> None:
    truth = slope_of(3)
    module, train, test = linear(slope_of(4)), world(300, 5, truth), world(400, 6, truth)
    held = _centred(BANK, module, 1e9)(train)(test)
    assert np.allclose(held, module_scorer(module)(test), atol=1e-4)
    free = _centred(BANK, module, 1e-6)(train)(test)
    other = _centred(BANK, linear(-slope_of(4)), 1e-6)(train)(test)
    assert np.allclose(free, other, atol=0.02)  # without strength the centre does not matter


def test_fine_tuning_stays_near_the_federated_model_as_lambda_grows() -> None:
    truth = slope_of(3)
    module, train, test = linear(0 * truth), world(300, 5, truth), world(400, 6, truth)
    start = module_scorer(module)(test)
    free, held = (
        float(np.abs(_fine_tuned(BANK, module, lam, "bank")(train)(test) - start).mean()) for lam in (0.0, 100.0)
    )
    assert 0 < held < 0.2 * free
    assert np.array_equal(module_scorer(module)(test), start)  # the federated model itself is untouched


def test_losses_and_the_standard_error_by_hand() -> None:
    # -log .8 = .2231 for a hit at .8; -log .4 = .9163 for a miss at .6; certainty is bounded at -log .005 = 5.298.
    table = world(4, 1, slope_of(1)).take([0, 1, 2])
    table = dataclasses.replace(table, target=torch.tensor([1.0, 0.0, 1.0]))
    assert row_losses(BANK, np.array([0.8, 0.6, 0.0]), table) == pytest.approx([0.2231, 0.9163, 5.2983], abs=1e-4)
    # Gains 1, 1, 1, -2 by row: mean .25, deviations .75 .75 .75 -2.25. One unit each: error sqrt(6.75) / 4 = .65.
    gain = np.array([1.0, 1.0, 1.0, -2.0])
    assert not _pays(gain, np.arange(4))
    # Gains 1, 1, 0, 0: mean .5, deviations +-.5; error .25 by row, sqrt(1 + 1) / 4 = .354 with two units of two.
    assert _pays(np.array([1.0, 1.0, 0.0, 0.0]), np.arange(4))
    # Gains 3, 0, 0, 0, 0, 0: mean .5; error sqrt(6.25 + 5 x .25) / 6 = .456 by row: pays. The same row four times as
    # one unit's rows is no more evidence: (3, 3, 3, 3, 0, 0), mean 2, error sqrt(4^2 + 2^2 + 2^2) / 6 = .82.
    assert _pays(np.array([3.0, 0, 0, 0, 0, 0]), np.arange(6))
    # Two units of equal size and opposite sums never pay: mean 0.
    assert not _pays(np.array([1.0, 1.0, -1.0, -1.0]), np.array([0, 0, 1, 1]))


def test_test_rows_cannot_reach_the_choice() -> None:
    assert list(inspect.signature(keep).parameters) == ["offered", "client", "train", "validation", "participant"]


@pytest.mark.parametrize(
    "target",
    [
        Target(name="t", kind="binary", classes=("a", "b")),
        Target(name="t", kind="multiclass", classes=("a", "b", "c")),
        Target(name="t", kind="multilabel", classes=("a", "b", "c")),
        Target(name="t", kind="regression", low=-2.0, high=6.0),
    ],
    ids=lambda target: target.kind,
)
def test_the_derivatives_of_the_centred_models_loss_are_those_of_the_loss(target: Target) -> None:
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(9, target.outputs, generator=generator, dtype=torch.float64).requires_grad_()
    y = torch.arange(9) % {"multiclass": 3, "multilabel": 8}.get(target.kind, 2)
    total = loss_for(target)(logits, y).sum()
    (slopes,) = torch.autograd.grad(total, logits)
    value, found = _loss_and_slope(target, logits.detach().numpy(), y.numpy())
    assert value == pytest.approx(float(total.detach()))
    np.testing.assert_allclose(found, slopes.numpy(), atol=1e-12)
