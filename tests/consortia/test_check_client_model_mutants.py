"""Each promise of the seam about networks and imports, broken on purpose: the check of that name must say so."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from spoiled_clients import as_class, each, only, rejected
from torch import nn

from clients.hospital import CLIENT
from clients.industry import IndustryClient
from clients.schema import Schema
from consortia.testing import ClientCheckError, SlowNetworkWarning, check_client
from consortia.testing._clients import _CHECKS


def with_encoder(make: Callable[[int, int], nn.Module]) -> IndustryClient:
    return replace(CLIENT, encoder=lambda width, spec: make(width, spec.hidden[0]))


# scopes


def tied_across_scopes():
    shared = nn.Linear(8, 8, bias=False)

    class Head(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, width))
            self.again = shared

        def forward(self, x):
            return x @ self.weight.T

    client = with_encoder(lambda width, out: nn.Sequential(nn.Linear(width, 8), shared, nn.Linear(8, out)))
    return replace(client, head=lambda width, spec, target: Head(width))


class _Hidden(nn.Module):
    """A weight that is no parameter: it decides, and never travels."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, out)
        self.scale = [torch.rand(out)]

    def forward(self, x):
        return self.layer(x) * self.scale[0]


class _NotPersistent(nn.Linear):
    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.register_buffer("scale", torch.rand(out), persistent=False)

    def forward(self, x):
        return super().forward(x) * self.scale


def weight_outside_the_state():
    return with_encoder(_Hidden)


def buffer_outside_the_state():
    return with_encoder(_NotPersistent)


# training


class _AcrossRows(nn.Linear):
    def forward(self, x):
        y = super().forward(x)
        return y - y.mean(0)


class _NeedsTwoRows(nn.Linear):
    def forward(self, x):
        if len(x) < 2:
            raise ValueError("too few rows for my statistics")
        return super().forward(x)


def batch_norm():
    return with_encoder(lambda width, out: nn.Sequential(nn.Linear(width, out), nn.BatchNorm1d(out)))


def dropout():
    return with_encoder(lambda width, out: nn.Sequential(nn.Linear(width, out), nn.Dropout(0.1)))


def centred_over_the_batch():
    return with_encoder(_AcrossRows)


def needs_two_rows():
    return with_encoder(_NeedsTwoRows)


def frozen():
    def freeze(module: nn.Module) -> nn.Module:
        return module.requires_grad_(False)

    class Head(nn.Linear):
        def forward(self, x):
            return super().forward(x.detach())

    return replace(CLIENT, head=lambda width, spec, target: freeze(Head(width, 1)))


class _Uphill(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class _WrongSign(nn.Linear):
    def forward(self, x):
        return _Uphill.apply(super().forward(x))


def gradient_of_the_wrong_sign():
    return replace(CLIENT, head=lambda width, spec, target: _WrongSign(width, 1))


@dataclass(frozen=True, kw_only=True)
class _NeedsTwoClasses(Schema):
    def labels(self, frame):
        labels = super().labels(frame)
        if len(labels) > 1 and len(set(labels.tolist())) < 2:
            raise ValueError("only one class")
        return labels


@dataclass(frozen=True, kw_only=True)
class _Balanced(Schema):
    """Labels scaled by the share of their own class: 0 / 0 where there is one class."""

    def labels(self, frame):
        labels = super().labels(frame)
        negatives = np.float32(len(labels) - labels.sum())
        with np.errstate(all="ignore"):
            return (labels * (negatives / negatives)).astype(np.float32)


def needs_two_classes():
    return as_class(_NeedsTwoClasses)


def weighted_by_the_other_class():
    return as_class(_Balanced)


# the way over the wire


class _ExtraState(nn.Linear):
    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        del state


class _FloatCounter(nn.Linear):
    """Its counter goes out as an integer and comes back as something else."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(width, out)
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        if self.training:
            self.steps += 1
        return super().forward(x)

    def _load_from_state_dict(self, state, prefix, *rest):
        self.steps = torch.tensor(0.0)
        super()._load_from_state_dict(state, prefix, *rest)


class _Renamed(nn.Linear):
    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}seen"] = torch.tensor(len(destination))

    def _load_from_state_dict(self, state, prefix, meta, strict, missing, unexpected, errors):
        state.pop(f"{prefix}seen", None)
        super()._load_from_state_dict(state, prefix, meta, strict, missing, unexpected, errors)
        self.bias.data.zero_()


def state_that_is_no_tensor():
    return with_encoder(_ExtraState)


def integer_buffer_turned_float():
    return with_encoder(_FloatCounter)


def loading_changes_a_value():
    return with_encoder(_Renamed)


MUTANTS: dict[str, list[Callable[[], IndustryClient]]] = {
    "only_declared_scopes": [tied_across_scopes, weight_outside_the_state, buffer_outside_the_state],
    "model_does_not_mix_rows": [batch_norm, dropout, centred_over_the_batch],
    "one_epoch_lowers_the_loss": [frozen, gradient_of_the_wrong_sign],
    "works_with_one_row": [needs_two_rows, batch_norm],
    "works_with_one_class": [needs_two_classes, weighted_by_the_other_class],
    "survives_the_round_trip": [state_that_is_no_tensor, integer_buffer_turned_float, loading_changes_a_value],
}


@each(MUTANTS)
def test_the_named_check_rejects_the_mutant(check, mutant, monkeypatch):
    rejected(monkeypatch, check, mutant)


def test_a_network_that_trains_row_by_row_passes_with_a_warning(monkeypatch):
    class Own(nn.Linear):
        def forward(self, x):
            return torch.as_tensor(super().forward(x) * (1 if x.shape else 2))

    only(monkeypatch, "model_does_not_mix_rows")
    with pytest.warns(SlowNetworkWarning, match="trains row by row, which is slower"):
        check_client(with_encoder(Own), rows=60)


def test_every_check_of_networks_has_a_mutant():
    here = {name for name, check in _CHECKS.items() if check.__module__ == "consortia.testing._client_model_checks"}
    assert here == {*MUTANTS, "imports_nothing_forbidden"}


@pytest.mark.parametrize(
    "statement",
    [
        "import flwr",
        "from privacy.ledger import Ledger",
        "def later():\n    import privacy.egress as e",
        "import importlib\nstolen = lambda: importlib.import_module('privacy.ledger')",
        "stolen = lambda: __import__('flwr.client')",
        "from consortia.terms import policy",
    ],
)
def test_a_module_that_imports_what_it_must_not_is_rejected(statement, tmp_path, monkeypatch):
    name = f"greedy_{abs(hash(statement))}"
    body = (
        "from clients.hospital import CLIENT as REAL\nfrom dataclasses import replace\n"
        "def synthesise(generator, rows, site):\n    return REAL.synthesise(generator, rows, site)\n"
        "CLIENT = replace(REAL, synthesise=synthesise)\n"
    )
    (tmp_path / f"{name}.py").write_text(body)
    (tmp_path / f"{name}x.py").write_text(f"{statement}\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    only(monkeypatch, "imports_nothing_forbidden")
    check_client(importlib.import_module(name).CLIENT)
    with pytest.raises(ClientCheckError, match=f"module '{name}x' imports"):
        check_client(importlib.import_module(f"{name}x").CLIENT)
    for module in (name, f"{name}x"):
        sys.modules.pop(module, None)


@pytest.mark.end_to_end
def test_all_failed_checks_are_listed_together():
    client = replace(needs_two_classes(), encoder=batch_norm().encoder)
    with pytest.raises(ClientCheckError) as caught:
        check_client(client, rows=60)
    assert {"works_with_one_class", "model_does_not_mix_rows", "works_with_one_row"} <= set(caught.value.failures)
    for name in caught.value.failures:
        assert f"\n  {name}: " in str(caught.value)
