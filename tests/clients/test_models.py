"""encoder, trunk, head: names, determinism, losses and predictions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from clients.errors import ModelError
from clients.hospital import CLIENT
from clients.industry import ModelSpec
from clients.models import build, loss_for, predict
from clients.schema import Target

MLP = ModelSpec(kind="mlp", hidden=(8, 4, 3))
BINARY = CLIENT.schema.target
THREE = Target(name="y", kind="multiclass", classes=("a", "b", "c"))
VALUE = Target(name="y", kind="regression", low=100.0, high=300.0)


def make(client=CLIENT, spec=MLP, width=5, seed=0):
    return build(client, spec, width, torch.Generator().manual_seed(seed))


def of(target):
    return replace(CLIENT, schema=replace(CLIENT.schema, target=target), metrics=METRICS[target.kind])


METRICS = {"binary": ("auc",), "multiclass": ("accuracy",), "regression": ("rmse",)}


def test_names_say_the_scope():
    names = [name for name, _ in make().named_parameters()]
    assert names == [
        "encoder.0.weight", "encoder.0.bias", "trunk.0.weight", "trunk.0.bias", "trunk.2.weight", "trunk.2.bias",
        "head.weight", "head.bias",
    ]  # fmt: skip


def test_a_linear_model_is_its_head():
    module = make(spec=ModelSpec())
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {"head.weight": (1, 5), "head.bias": (1,)}
    x = torch.randn(4, 5)
    assert torch.equal(module({"features": x}), functional.linear(x, module.head.weight, module.head.bias))


def test_trunks_of_different_industries_have_the_same_shapes():
    one, other = make(width=5), make(width=50)
    assert {n: p.shape for n, p in one.trunk.named_parameters()} == {
        n: p.shape for n, p in other.trunk.named_parameters()
    }


def test_the_generator_decides_and_the_global_one_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = make(seed=1), make(seed=1), make(seed=2)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.encoder[0].weight, other.encoder[0].weight)
    generator = torch.Generator().manual_seed(1)
    one, next_one = build(CLIENT, MLP, 5, generator), build(CLIENT, MLP, 5, generator)
    assert not torch.equal(one.encoder[0].weight, next_one.encoder[0].weight)


@pytest.mark.parametrize("spec", [MLP, ModelSpec()], ids=lambda s: s.kind)
@pytest.mark.parametrize(("kind", "wanted"), [("binary", 0.5), ("multiclass", 1 / 3), ("regression", 200.0)])
def test_an_untrained_head_predicts_the_same_for_every_row(spec, kind, wanted):
    target = {"binary": BINARY, "multiclass": THREE, "regression": VALUE}[kind]
    module = make(of(target), spec)
    assert not any(tensor.any() for tensor in module.head.parameters())
    scores = predict(module, {"features": torch.randn(6, 5)})
    assert torch.allclose(scores, torch.full_like(scores, wanted))


def test_the_global_generator_is_restored_when_an_encoder_fails():
    def broken(width, spec):
        torch.rand(3)
        raise ValueError("no")

    before = torch.random.get_rng_state()
    with pytest.raises(ValueError, match="no"):
        make(replace(CLIENT, encoder=broken))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_ones_own_torch_module_is_an_encoder():
    client = replace(CLIENT, encoder=lambda width, spec: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 8)))
    module = make(client)
    assert "encoder.0.weight" in module.state_dict()
    assert module({"features": torch.zeros(3, 5)}).shape == (3, 1)


def test_a_wrong_width_is_named():
    with pytest.raises(ModelError, match=r"encoder: wanted 8 outputs a row, got shape \(2, 7\)"):
        make(replace(CLIENT, encoder=lambda width, spec: nn.Linear(width, 7)))
    with pytest.raises(ModelError, match=r"head: wanted 1 outputs a row, got shape \(2, 2\)"):
        make(replace(CLIENT, head=lambda width, spec, target: nn.Linear(width, 2)))


@pytest.mark.parametrize("wrong", [{"kind": "cnn"}, {"kind": "mlp"}, {"hidden": (3,)}, {"kind": "mlp", "hidden": (0,)}])
def test_an_impossible_specification_is_refused(wrong):
    with pytest.raises(ModelError, match=r"model: (kind|hidden): wanted"):
        ModelSpec(**wrong)


@pytest.mark.parametrize("target", [BINARY, THREE, VALUE], ids=lambda t: t.kind)
def test_losses_are_per_row(target):
    module = make(of(target))
    x = torch.randn(6, 5)
    y = {"binary": torch.ones(6), "multiclass": torch.tensor([0, 1, 2, 0, 1, 2]), "regression": torch.full((6,), 250.0)}
    loss = loss_for(target)(module({"features": x}), y[target.kind])
    assert loss.shape == (6,)
    alone = loss_for(target)(module({"features": x[2:3]}), y[target.kind][2:3])
    assert loss[2].item() == pytest.approx(alone.item(), rel=1e-5)


def test_losses_are_what_they_are_called():
    assert loss_for(BINARY)(torch.zeros(1, 1), torch.ones(1)).item() == pytest.approx(0.6931, abs=1e-4)
    assert loss_for(THREE)(torch.zeros(1, 3), torch.tensor([2])).item() == pytest.approx(1.0986, abs=1e-4)
    # 250 is half-way from the middle to the top of [100, 300]
    assert loss_for(VALUE)(torch.zeros(1, 1), torch.tensor([250.0])).item() == pytest.approx(0.25)
    assert loss_for(replace(VALUE, low=None, high=None))(torch.zeros(1, 1), torch.tensor([3.0])).item() == 9


def test_predictions_are_probabilities_or_values_in_their_own_unit():
    x = {"features": torch.randn(6, 5)}
    assert predict(make(of(BINARY)), x).shape == (6,)
    three = predict(make(of(THREE)), x)
    assert three.shape == (6, 3)
    assert torch.allclose(three.sum(1), torch.ones(6))
    module = make(of(VALUE), spec=ModelSpec())
    with torch.no_grad():
        module.head.weight.zero_()
        module.head.bias.fill_(0.5)
    assert predict(module, x).tolist() == [250.0] * 6


def test_predict_leaves_the_mode_and_the_dropout_alone():
    client = replace(CLIENT, encoder=lambda width, spec: nn.Sequential(nn.Linear(width, 8), nn.Dropout(0.5)))
    module = make(client).train()
    x = {"features": torch.randn(6, 5)}
    assert torch.equal(predict(module, x), predict(module, x))
    assert module.training
    assert not predict(module, x).requires_grad
