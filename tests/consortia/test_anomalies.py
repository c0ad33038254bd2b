"""Anomalies: only ordinary rows train, errors are scores, two models are one by the mean of standardised scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from clipped_sums import check_network

from clients import registry
from clients.dataset import Table, prepare
from clients.errors import MetricError, ModelError, SchemaError
from clients.models import Autoencoder, build, loss_for, predict
from clients.schema import Target
from clients.sources import numpy_generator
from clients.spec import ModelSpec
from consortia.audit import step_games
from consortia.audit.networks import FEATURES, HUGE, NETWORKS
from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.vectorized.network import dense_layers
from consortia.metrics import score_bins
from consortia.metrics.from_histograms import from_histogram
from consortia.participant import stack
from consortia.participant.data import load_partitions
from consortia.participant.own_candidates import isolation
from consortia.planning.plan import make_plans
from consortia.studies.controls import check_controls
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario, scenario_from_json
from privacy.bookkeeping import BookKeeping
from privacy.dp_sgd import check_module
from privacy.errors import PlanError
from privacy.randomness import numpy_generator as seeded

CLIENT = registry.get("traffic")
TARGET = CLIENT.schema.target
SPEC = ModelSpec(kind="autoencoder", hidden=(6, 3))


def _module() -> Autoencoder:
    module = build(CLIENT, SPEC, CLIENT.schema.width, torch.Generator().manual_seed(1))
    assert isinstance(module, Autoencoder)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():  # a head of zeros would hide what is below it
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return module


def _rows(rows: int = 40) -> Table:
    return prepare(CLIENT, CLIENT.synthesise(numpy_generator("anomalies"), rows, "remote"))


def test_a_row_s_output_is_how_far_its_features_are_from_what_comes_back() -> None:
    module, table = _module(), _rows(7)
    x = table.inputs["features"]
    restored = module.head(module.trunk(module.encoder(x)))
    error = ((restored - x) ** 2).mean(1)
    assert restored.shape == x.shape
    assert torch.allclose(module(table.inputs).squeeze(-1), error, atol=1e-6)
    assert torch.allclose(loss_for(TARGET)(module(table.inputs), table.target), error, atol=1e-6)
    assert torch.allclose(predict(module, table.inputs), error / (error + 0.04), atol=1e-6)


def test_clipped_sums_are_those_of_brute_force() -> None:
    check_network(_module(), _rows(), loss_for(TARGET), BookKeeping, atol=1e-5)


def test_a_first_model_restores_the_middle_of_the_bounds_whatever_the_seed() -> None:
    table = _rows(5)
    for seed in (1, 2):
        module = build(CLIENT, SPEC, CLIENT.schema.width, torch.Generator().manual_seed(seed))
        assert torch.allclose(module(table.inputs)[:, 0], (table.inputs["features"] ** 2).mean(1), atol=1e-6)


def test_two_models_are_one_by_the_mean_of_their_standardised_scores() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.uniform(0.01, 0.5, 60), rng.uniform(0.2, 0.9, 60)
    fitted = stack.fit(TARGET, np.zeros(60), first, second)
    logits = [np.log(s / (1 - s)) for s in (first, second)]
    wanted = np.mean([(one - one.mean()) / one.std() for one in logits], axis=0)
    got = np.asarray(fitted(torch.from_numpy(first), torch.from_numpy(second)))
    assert np.log(got / (1 - got)) == pytest.approx(wanted, abs=1e-6)
    assert fitted.share == 0.5
    # Labels are not looked at.
    again = stack.fit(TARGET, np.ones(60), first, second)
    assert all(torch.equal(a, b) for a, b in zip(fitted.buffers(), again.buffers(), strict=True))


def test_an_isolation_forest_as_data_orders_rows_as_scikit_learns_does() -> None:
    from sklearn.ensemble import IsolationForest

    table = _rows(90)
    ours = isolation(CLIENT, table, "remote")
    scores = ours(table)
    x = np.asarray(table.inputs["features"])
    seed = int(seeded("isolation", "remote").integers(2**31))
    theirs = IsolationForest(n_estimators=60, random_state=seed).fit(x).score_samples(x)
    paths = -np.log2(-theirs)  # in units of an ordinary row's
    assert -np.log(scores / (1 - scores)) == pytest.approx(paths, abs=1e-6)
    with torch.no_grad():
        assert np.allclose(scores, np.asarray(ours.model()(table.inputs["features"])))


def test_a_histogram_gives_the_order_of_anomalies_and_no_probability() -> None:
    scores, labels = np.r_[np.full(100, 0.1), np.full(100, 0.8)], np.r_[np.zeros(90), np.ones(110)]
    counts = np.bincount(score_bins.cells(TARGET, scores, labels, 24), minlength=48).reshape(2, 24).astype(float)
    found = from_histogram(TARGET, counts, 0.0)
    assert set(found) == {"auc", "auprc"}
    assert found["auc"].value == pytest.approx((90 * 100 + 0.5 * 90 * 10) / (90 * 110))


def test_what_does_not_go_without_labels_is_refused_by_name() -> None:
    with pytest.raises(SchemaError, match="wanted 2 classes for binary and anomaly"):
        Target(name="y", kind="anomaly", classes=("a", "b", "c"))
    with pytest.raises(ModelError, match="wanted autoencoder for a target of kind anomaly, got mlp"):
        build(CLIENT, ModelSpec(kind="mlp", hidden=(4,)), 54, torch.Generator())
    with pytest.raises(ModelError, match="wanted another kind than autoencoder for a target of kind binary"):
        build(registry.get("telecom"), SPEC, 54, torch.Generator())
    with pytest.raises(InputError, match=r"--engine vectorized: industry traffic: .*got Autoencoder"):
        dense_layers(_module(), "traffic")
    with pytest.raises(MetricError, match="wanted a metric of anomaly targets, such as auc, auprc, got 'brier'"):
        CLIENT.measuring(("brier",))
    data = json.loads(load_scenario("intrusions-unlabelled").to_json())
    data["contract"]["scopes"]["trunk"] = "consortium"
    with pytest.raises(InputError, match="--placebo: wanted industries that learn labels, got traffic"):
        check_controls(scenario_from_json(json.dumps(data)), Options(scenario="intrusions-unlabelled", placebo=True))
    for name, industry, learner in (("banks", "bank", "sums"), ("factories", "factory", "additive")):
        data = json.loads(load_scenario(name).to_json().replace(f'"{industry}"', '"traffic"')) | {"expect": {}}
        data["roster"] = [one | {"site": "core/1"} for one in data["roster"]]
        with pytest.raises(InputError, match=f"wanted 'gradient' with industry traffic.*got '{learner}'"):
            make_plans(scenario_from_json(json.dumps(data)))


def test_a_network_that_compares_rows_is_refused() -> None:
    class Mixed(Autoencoder):
        def forward(self, inputs: Any) -> torch.Tensor:
            error = super().forward(inputs)
            return error - error.mean(0, keepdim=True)

    module, table = _module(), _rows(5)
    mixed = Mixed(module.encoder, module.trunk, module.head, TARGET)
    with pytest.raises(PlanError, match="wanted rows that do not influence each other"):
        check_module(mixed, table.inputs, table.target, loss_for(TARGET))


@pytest.mark.parametrize("seed", [0, 3])
def test_a_unit_moves_a_step_of_an_autoencoder_by_its_clip(seed: int) -> None:
    random = np.random.default_rng(seed)
    network = NETWORKS["kind autoencoder"]
    x = torch.from_numpy(random.normal(size=(6, FEATURES))).float()
    x[1] *= HUGE
    rows = (x, torch.zeros(6), torch.tensor([0, 0, 1, 2, 2, 3]))
    played = step_games.trained(random, "autoencoder", network.inputs, network.make(), rows, 0.3)
    assert played
    assert not [(game.ratio, game.recipe) for game in played if game.lost]


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    made = make_site("remote", "intrusions-unlabelled", rounds=1)

    def change(policy: dict[str, Any]) -> None:
        policy["dataset"]["connections"]["source"] = "synthetic:60?seed=3"

    made.policy(change)
    return made


def test_only_ordinary_rows_are_trained_on(site: Any) -> None:
    terms = load_policy(site.home.policy, simulation=True).dataset["connections"]
    parts = load_partitions(site.home, terms, "connections", site.scenario.contract, "run-1")
    assert len(parts.train) > 0
    assert not parts.train.target.any()
    for part in (parts.validation, parts.test):
        assert set(part.target.tolist()) == {0.0, 1.0}
