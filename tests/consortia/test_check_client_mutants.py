"""Each promise of the seam about rows, broken on purpose: the check of that name must say so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from spoiled_clients import as_class, each, rejected

from clients.hospital import CLIENT
from clients.industry import Filter, IndustryClient
from clients.schema import Column, Derived, Schema
from consortia.testing import check_client
from consortia.testing._clients import _CHECKS


def with_columns(*columns: Column) -> IndustryClient:
    replaced = {c.name: c for c in columns}
    kept = [replaced.pop(c.name, c) for c in CLIENT.schema.columns]
    return replace(CLIENT, schema=replace(CLIENT.schema, columns=(*kept, *replaced.values())))


def with_derived(function: Callable[[pd.DataFrame], pd.Series]) -> IndustryClient:
    derived = Derived(name="derived", low=-1, high=1, function=function)
    return replace(CLIENT, schema=replace(CLIENT.schema, derived=(derived,)))


def with_rows(change: Callable[[pd.DataFrame, np.random.Generator], pd.DataFrame]) -> IndustryClient:
    return replace(CLIENT, synthesise=lambda g, rows, site: change(CLIENT.synthesise(g, rows, site), g))


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
}


@each(MUTANTS)
def test_the_named_check_rejects_the_mutant(check, mutant, monkeypatch):
    rejected(monkeypatch, check, mutant)


@pytest.mark.end_to_end
def test_the_unbroken_client_passes_on_as_few_rows():
    assert set(check_client(CLIENT, rows=60)) == set(_CHECKS)


def test_every_check_of_rows_has_a_mutant():
    here = {name for name, check in _CHECKS.items() if check.__module__ == "consortia.testing._client_row_checks"}
    assert here == {*MUTANTS}
