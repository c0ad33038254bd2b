"""Cross-fitted assistance, the grid, the stack, the gate, the masked sum: laws and broken variants."""

from __future__ import annotations

import math
import os
import runpy
from pathlib import Path

import numpy as np
import pytest

from consortia.vertical import stacking
from consortia.vertical.assistance import MODELS, assist
from consortia.vertical.grid import MISSING, Grid
from consortia.vertical.masks import add_up, masked
from consortia.vertical.stacking import MARGIN, auc, decide, linear_features, simplest
from privacy.randomized_response import respond

DATA = Path(os.environ.get("CONSORTIA_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def test_the_grid_by_hand() -> None:
    grid = Grid.for_epsilon(2.0)
    assert (grid.bound, grid.step) == (2.5, 5 / 63)
    # -9 is clipped to code 0, 9 to 63; 0 is nearest to code 32: (0 + 2.5) / (5 / 63) = 31.5, rounded to even
    assert grid.encode(np.array([-9.0, 0.0, 9.0])).tolist() == [0, 32, 63]
    assert grid.decode(np.array([0, 63, MISSING], dtype=np.uint8)).tolist()[:2] == [-2.5, 2.5]
    assert math.isnan(grid.decode(np.array([MISSING], dtype=np.uint8))[0])
    assert Grid.for_epsilon(math.inf).bound == 6.0
    values = np.linspace(-2.5, 2.5, 999)
    assert np.abs(grid.decode(grid.encode(values)) - values).max() <= grid.step / 2 + 1e-12


def _made_up(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    own, theirs = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    labels = (rng.random(n) < 1 / (1 + np.exp(-own[:, 0] - 2 * theirs[:, 0]))).astype(int)
    return own, theirs, labels


def test_a_score_never_depends_on_its_own_label() -> None:
    # The guarantee of cross-fitting: turning one label over moves no score of its own row (and of its fold).
    _, x, labels = _made_up(200)
    before = assist(x, labels, ["logistic"]).logits
    turned = labels.copy()
    turned[7] = 1 - turned[7]
    after = assist(x, turned, ["logistic"]).logits
    fold = np.arange(200) % 5 == 7 % 5
    assert np.array_equal(before[fold], after[fold])
    assert not np.allclose(before[~fold], after[~fold], atol=1e-12)


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_kind_of_model_helps(name: str) -> None:
    _, x, labels = _made_up()
    sent = np.where(np.arange(600) < 450, labels, -1)
    made = assist(x, sent, [name])
    assert made.model == name
    assert auc(made.logits[450:], labels[450:]) > 0.75
    assert np.allclose(made.score(x[450:]), made.logits[450:], atol=1e-6)


def test_the_model_is_chosen_out_of_fold() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2))
    product = (x[:, 0] * x[:, 1] > 0).astype(int)  # no linear model can see it
    assert assist(x, product, ["logistic", "boosting"]).model == "boosting"
    line = (rng.random(300) < 1 / (1 + np.exp(-2 * x[:, 0]))).astype(int)
    assert assist(x, line, ["boosting", "logistic"]).model == "logistic"


def test_one_class_or_few_labels_are_handled() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    assert np.isfinite(assist(x, np.where(np.arange(30) < 12, 1, -1), ["logistic"]).logits).all()


def test_the_stack_joins_a_partner_that_helps_and_no_placebo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_STACKERS", {"logistic": stacking._STACKERS["logistic"]})  # the quick one
    own, theirs, labels = _made_up(500)
    scores = assist(theirs, respond(labels, 2, 2.0, entropy=os.urandom).astype(int), ["logistic"]).logits[:, None]
    decision = decide(own, scores, labels)
    assert decision.joins
    assert decision.gain > decision.standard_error + MARGIN
    placebo = decide(own, scores[np.random.default_rng(0).permutation(500)], labels)
    assert not placebo.joins


def test_the_simplest_model_within_one_standard_error_is_taken() -> None:
    line, trees = np.array([0.70, 0.74, 0.72]), np.array([0.73, 0.73, 0.76])
    # Short by .03, -.01, .04: mean .02, standard deviation sqrt(.0014 / 2) = .0265, over sqrt 3 = .0153.
    assert simplest({"line": line, "trees": trees})[0] == "trees"
    # Short by .02, -.02, .03: mean .01 within sqrt(.0014 / 2) / sqrt 3 = .0153.
    assert simplest({"line": line, "trees": trees - 0.01})[0] == "line"
    assert simplest({"line": trees, "trees": line})[0] == "line"


def test_missing_scores_have_columns_of_their_own() -> None:
    own = np.array([[1.0], [2.0]])
    gaps, none = np.array([True]), np.array([False])
    # score, indicator of missing, own x missing; a column that was never missing in the fit adds none
    assert linear_features(own, np.array([[5.0], [np.nan]]), gaps).tolist() == [[1, 5, 0, 0], [2, 0, 1, 2]]
    assert linear_features(own, np.array([[5.0], [6.0]]), gaps).tolist() == [[1, 5, 0, 0], [2, 6, 0, 0]]
    assert linear_features(own, np.array([[5.0], [6.0]]), none).tolist() == [[1, 5], [2, 6]]
    assert linear_features(own, np.array([[5.0], [np.nan]]), none).tolist() == [[1, 5], [2, 0]]


@pytest.mark.end_to_end
@pytest.mark.parametrize("lacking", [0, 40])
def test_rows_at_hand_may_lack_other_scores_than_those_of_the_fit(lacking: int) -> None:
    own, theirs, labels = _made_up(200)
    scores = theirs[:, :1].copy()
    scores[:lacking] = np.nan
    decision = decide(own, scores, labels)
    for rows in (np.full((3, 1), np.nan), np.zeros((3, 1))):
        assert np.isfinite(decision.assisted.predict(own[:3], rows)).all()


def test_a_partner_that_scores_nobody_is_no_feature() -> None:
    own, theirs, labels = _made_up(200)
    nobody = np.full(len(own), np.nan)
    for name in stacking._STACKERS:
        stack = stacking._fit(name, own, np.column_stack([theirs[:, 0], nobody]), labels)
        without = stacking._fit(name, own, theirs[:, :1], labels)
        later = np.column_stack([theirs[:, 0], np.zeros(len(own))])
        assert np.array_equal(stack.predict(own, later), without.predict(own, theirs[:, :1]))


def test_a_rare_class_stays_rare_for_who_is_known_to_nobody() -> None:
    """In the fit everybody had a score; 0 in its place, even odds, gave strangers .5 where 3 % are positive."""
    rng = np.random.default_rng(0)
    own, logits = rng.normal(size=(3000, 2)), rng.normal(-4.5, 1.5, 3000)
    labels = (rng.random(3000) < 1 / (1 + np.exp(-logits))).astype(int)
    for name in stacking._STACKERS:
        stack = stacking._fit(name, own, logits[:, None], labels)
        assert labels.mean() < 0.04
        assert stack.predict(own, np.full((3000, 1), np.nan)).mean() < 0.04


def test_a_masked_sum_is_the_sum_and_a_part_of_it_is_noise() -> None:
    rng = np.random.default_rng(0)
    names = ("a", "b", "c")
    codes = {name: rng.integers(0, 64, 4000).astype(np.uint8) for name in names}
    codes["b"][:1000] = MISSING
    keys = {frozenset((x, y)): rng.bytes(32) for x in names for y in names if x != y}
    parts = {
        me: masked(codes[me], me, {other: keys[frozenset((me, other))] for other in names if other != me})
        for me in names
    }
    total, known = add_up(parts)
    wanted = sum(np.where(c == MISSING, 0, c).astype(int) for c in codes.values())
    assert np.array_equal(total, wanted)
    assert known.tolist() == [2] * 1000 + [3] * 3000
    # Two of three words say nothing: every bit is a fair coin, and nothing correlates with the codes.
    part = (parts["a"].astype(np.uint64) + parts["b"]) % 2**32
    bits = np.unpackbits(part.astype("<u4").view(np.uint8)).mean()
    assert abs(bits - 0.5) < 4 * math.sqrt(0.25 / (32 * 4000))
    assert abs(np.corrcoef(part.astype(float), codes["a"].astype(float))[0, 1]) < 0.06
    with pytest.raises(ValueError, match="two or more"):
        masked(codes["a"], "a", {})


@pytest.mark.end_to_end
@pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not here")
def test_the_label_owner_rebuilds_little_of_a_partners_columns() -> None:
    """AI4I, 300 rows known to the attacker: R2 of the worst column at most .35 from each score, .15 from the sum."""
    benchmark = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "vertical.py"), run_name="benchmark")
    found = benchmark["attack_seed"](benchmark["load"]("ai4i", DATA), 0)
    assert found["R2 worst, each score"] <= 0.35
    assert found["R2 worst, sum eps=4"] <= 0.15
    # The attack works: with the exact scores it gets more than without.
    assert found["R2 worst, each score"] > found["R2 worst, floor"] + 0.05


@pytest.mark.end_to_end
def test_a_cross_organisation_product_is_out_of_reach() -> None:
    """The documented limit: where only own x theirs tells the class, one score a row cannot carry it."""
    rng = np.random.default_rng(0)
    # Six columns, so that the partner's model does not hit the right one by chance.
    own, theirs = rng.normal(size=(3000, 2)), rng.normal(size=(3000, 6))
    labels = (rng.random(3000) < 1 / (1 + np.exp(-3 * own[:, 0] * theirs[:, 0]))).astype(int)
    train = np.arange(3000) < 2000
    sent = np.where(train, labels, -1)
    scores = assist(theirs, sent, ["logistic", "boosting"]).logits[:, None]
    decision = decide(own[train], scores[train], labels[train])
    reached = auc(decision.assisted.predict(own[~train], scores[~train]), labels[~train])
    both = np.column_stack([own, theirs])
    none = np.empty((3000, 0))
    pooled = decide(both[train], none[train], labels[train]).alone
    assert reached <= 0.70
    assert auc(pooled.predict(both[~train], none[~train]), labels[~train]) > 0.78
