"""Each promise of the seam, broken on purpose: the check of that name must say so."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from clients.hospital import CLIENT
from clients.industry import Filter, IndustryClient
from clients.schema import Column, Derived, Schema
from consortia.testing import ClientCheckError, check_client
from consortia.testing._clients import _CHECKS


def as_class(cls: type[Schema]) -> IndustryClient:
    """The hospital with a schema class of one's own: the only way round what the seam forbids by itself."""
    schema = CLIENT.schema
    fields = {name: getattr(schema, name) for name in schema.__dataclass_fields__}
    return replace(CLIENT, schema=cls(**fields))


def with_columns(*columns: Column) -> IndustryClient:
    replaced = {c.name: c for c in columns}
    kept = [replaced.pop(c.name, c) for c in CLIENT.schema.columns]
    return replace(CLIENT, schema=replace(CLIENT.schema, columns=(*kept, *replaced.values())))


def with_derived(function: Callable[[pd.DataFrame], pd.Series]) -> IndustryClient:
    derived = Derived(name="derived", low=-1, high=1, function=function)
    return replace(CLIENT, schema=replace(CLIENT.schema, derived=(derived,)))


def with_rows(change: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]) -> IndustryClient:
    return replace(CLIENT, synthesise=lambda g, rows, site: change(CLIENT.synthesise(g, rows, site), g))


def with_encoder(make: Callable[[int, int], nn.Module]) -> IndustryClient:
    return replace(CLIENT, encoder=lambda width, spec: make(width, spec.hidden[0]))


# schema


def out_of_range():
    return with_rows(lambda frame, _: frame.assign(age=500))


def undeclared_column():
    return with_rows(lambda frame, _: frame.assign(ward="A"))


def one_label():
    return with_rows(lambda frame, _: frame.assign(num=0))


def fewer_rows():
    return with_rows(lambda frame, _: frame.iloc[1:])


# generator


def global_numpy():
    return with_rows(lambda frame, _: frame.assign(age=np.random.uniform(30, 70, len(frame))))


def fresh_entropy():
    return with_rows(lambda frame, _: frame.assign(age=np.random.default_rng().uniform(30, 70, len(frame))))


def fixed_seed():
    return replace(CLIENT, synthesise=lambda g, rows, site: CLIENT.synthesise(np.random.default_rng(0), rows, site))


# identifiers


@dataclass(frozen=True, kw_only=True)
class _IdAsFeature(Schema):
    def features(self, frame):
        features = super().features(frame)
        features[:, 0] = [int(value[:4], 16) / 65536 for value in frame["patient_id"]]
        return features


@dataclass(frozen=True, kw_only=True)
class _IdAsLabel(Schema):
    def labels(self, frame):
        return np.array([int(value[:4], 16) % 2 for value in frame["patient_id"]], dtype=np.float32)


@dataclass(frozen=True, kw_only=True)
class _IdInReport(Schema):
    def check(self, frame, **options):
        good, report = super().check(frame, **options)
        return good, replace(report, reasons={f"seen {list(frame.get('patient_id', []))}": 0})


def id_as_feature():
    return as_class(_IdAsFeature)


def id_as_label():
    return as_class(_IdAsLabel)


def id_in_report():
    return as_class(_IdInReport)


def generalised_in_name_only():
    column = Column(
        name="patient_id",
        dtype="number",
        low=0,
        high=10**9,
        identifier="generalise",
        generalise=lambda v: v.removeprefix("synthetic-"),
    )
    return with_columns(column)


def _speaking(say: Callable[[str], object]) -> IndustryClient:
    """A rule that generalises well and talks about it."""

    def first(value: str) -> str:
        say(value)
        return value[:1]

    generalise = Column(name="badge", dtype="text", identifier="generalise", generalise=first, feature=False)
    client = with_columns(generalise)
    return replace(
        client,
        synthesise=lambda g, n, site: CLIENT.synthesise(g, n, site).assign(
            badge=[f"badge{i}" for i in g.integers(10**6, 10**7, n)]
        ),
    )


def logs_an_identifier():
    return _speaking(lambda value: logging.getLogger("quiet").debug("saw %s", value))


def prints_an_identifier():
    return _speaking(print)


# features


@dataclass(frozen=True, kw_only=True)
class _Standardised(Schema):
    def features(self, frame):
        features = super().features(frame)
        return (features - features.mean(0)) / 10


@dataclass(frozen=True, kw_only=True)
class _DropsDuplicates(Schema):
    def check(self, frame, **options):
        return super().check(frame.drop_duplicates(subset=["sex", "cp"]), **options)


@dataclass(frozen=True, kw_only=True)
class _Unscaled(Schema):
    def features(self, frame):
        features = super().features(frame)
        features[:, 0] = frame["age"]
        return features


@dataclass(frozen=True, kw_only=True)
class _NoImputation(Schema):
    def features(self, frame):
        features = super().features(frame)
        features[:, self.feature_names.index("chol")] = frame["chol"] / 1000
        return features


@dataclass(frozen=True, kw_only=True)
class _DoublePrecision(Schema):
    def features(self, frame):
        return super().features(frame).astype(np.float64)


def standardised_by_its_own_rows():
    return as_class(_Standardised)


def drops_duplicates():
    return as_class(_DropsDuplicates)


def median_of_its_own_rows():
    return with_derived(lambda frame: (frame["age"] > frame["age"].median()).astype(float))


def filter_by_a_quantile():
    rows = Filter(rows=lambda frame: pd.to_numeric(frame["age"]) > pd.to_numeric(frame["age"]).quantile(0.1))
    return replace(CLIENT, filters={"young": rows})


def unscaled():
    return as_class(_Unscaled)


def not_imputed():
    return as_class(_NoImputation)


def double_precision():
    return as_class(_DoublePrecision)


# missing columns


@dataclass(frozen=True, kw_only=True)
class _FillsIn(Schema):
    def check(self, frame, **options):
        names = [c.name for c in self.columns] + [self.target.name]
        return super().check(frame.reindex(columns=list(dict.fromkeys([*frame, *names])), fill_value="1"), **options)


@dataclass(frozen=True, kw_only=True)
class _KeyError(Schema):
    def check(self, frame, **options):
        for name in [c.name for c in self.columns if c.required]:
            frame[name]
        return super().check(frame, **options)


def fills_a_missing_column_in():
    return as_class(_FillsIn)


def bare_key_error():
    return as_class(_KeyError)


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
    "schema_holds": [out_of_range, undeclared_column, one_label, fewer_rows],
    "same_seed_same_rows": [global_numpy, fresh_entropy, fixed_seed],
    "identifiers_never_reach_a_feature": [id_as_feature, generalised_in_name_only],
    "identifiers_never_reach_a_metric": [id_as_label],
    "identifiers_never_reach_a_log": [logs_an_identifier, prints_an_identifier, id_in_report],
    "preprocessing_is_per_row": [
        standardised_by_its_own_rows,
        median_of_its_own_rows,
        filter_by_a_quantile,
        drops_duplicates,
    ],
    "features_within_bounds": [unscaled, not_imputed, double_precision],
    "names_a_missing_column": [fills_a_missing_column_in, bare_key_error],
    "only_declared_scopes": [tied_across_scopes, weight_outside_the_state, buffer_outside_the_state],
    "model_does_not_mix_rows": [batch_norm, centred_over_the_batch],
    "one_epoch_lowers_the_loss": [frozen, gradient_of_the_wrong_sign],
    "works_with_one_row": [needs_two_rows, batch_norm],
    "works_with_one_class": [needs_two_classes, weighted_by_the_other_class],
    "survives_the_round_trip": [state_that_is_no_tensor, integer_buffer_turned_float, loading_changes_a_value],
}


@pytest.fixture
def only(monkeypatch):
    """Run one check of the suite, so that a mutant costs what its own check costs."""

    def choose(name: str) -> None:
        monkeypatch.setattr("consortia.testing._clients._CHECKS", {name: _CHECKS[name]})

    return choose


@pytest.mark.parametrize(
    ("check", "mutant"),
    [(check, mutant) for check, mutants in MUTANTS.items() for mutant in mutants],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_the_named_check_rejects_the_mutant(check, mutant, only):
    only(check)
    with pytest.raises(ClientCheckError) as caught:
        check_client(mutant(), rows=60)
    assert set(caught.value.failures) == {check}
    assert f"  {check}: " in str(caught.value)


def test_the_unbroken_client_passes_on_as_few_rows():
    assert set(check_client(CLIENT, rows=60)) == set(_CHECKS)


def test_every_check_has_a_mutant():
    assert {*MUTANTS, "imports_nothing_forbidden"} == set(_CHECKS)


@pytest.mark.parametrize(
    "statement",
    [
        "import flwr",
        "from privacy.ledger import Ledger",
        "def later():\n    import privacy.egress as e",
        "import importlib\nstolen = lambda: importlib.import_module('privacy.ledger')",
        "stolen = lambda: __import__('flwr.client')",
        "from consortia import policy",
    ],
)
def test_a_module_that_imports_what_it_must_not_is_rejected(statement, tmp_path, monkeypatch, only):
    name = f"greedy_{abs(hash(statement))}"
    body = (
        "from clients.hospital import CLIENT as REAL\nfrom dataclasses import replace\n"
        "def synthesise(generator, rows, site):\n    return REAL.synthesise(generator, rows, site)\n"
        "CLIENT = replace(REAL, synthesise=synthesise)\n"
    )
    (tmp_path / f"{name}.py").write_text(body)
    (tmp_path / f"{name}x.py").write_text(f"{statement}\n{body}")
    monkeypatch.syspath_prepend(tmp_path)
    only("imports_nothing_forbidden")
    check_client(importlib.import_module(name).CLIENT)
    with pytest.raises(ClientCheckError, match=f"module '{name}x' imports"):
        check_client(importlib.import_module(f"{name}x").CLIENT)
    for module in (name, f"{name}x"):
        sys.modules.pop(module, None)


def test_all_failed_checks_are_listed_together():
    client = replace(id_as_feature(), encoder=batch_norm().encoder)
    with pytest.raises(ClientCheckError) as caught:
        check_client(client, rows=60)
    assert {"identifiers_never_reach_a_feature", "model_does_not_mix_rows", "works_with_one_row"} <= set(
        caught.value.failures
    )
    for name in caught.value.failures:
        assert f"\n  {name}: " in str(caught.value)
