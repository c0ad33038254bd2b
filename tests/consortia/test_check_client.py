"""The conformance suite accepts what it should: the shipped industries, and ones of other kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from torch import nn

import consortia.testing
from clients import registry
from clients.industry import IndustryClient, ModelSpec
from clients.schema import Column, Schema, Target
from consortia.testing import check_client

CHECKS = {
    "schema_holds",
    "same_seed_same_rows",
    "identifiers_never_reach_a_feature",
    "identifiers_never_reach_a_metric",
    "identifiers_never_reach_a_log",
    "preprocessing_is_per_row",
    "features_within_bounds",
    "names_a_missing_column",
    "only_declared_scopes",
    "model_does_not_mix_rows",
    "one_epoch_lowers_the_loss",
    "works_with_one_row",
    "works_with_one_class",
    "survives_the_round_trip",
    "imports_nothing_forbidden",
}


@pytest.mark.parametrize(
    "name",
    [name if name == "factory" else pytest.param(name, marks=pytest.mark.end_to_end) for name in registry.names()],
)
def test_every_built_in_industry_passes_every_check(name):
    assert set(check_client(registry.get(name), rows=120)) == CHECKS


@pytest.mark.end_to_end
def test_recommendations_pass_with_the_network_of_the_scenario():
    towers = ModelSpec(kind="two-tower", hidden=(4,))
    assert set(check_client(registry.get("recommendations"), spec=towers, rows=120)) == CHECKS


def _iris_like(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    kind = generator.integers(0, 3, rows)
    return pd.DataFrame(
        {
            "plant": [f"plant-{i:06d}" for i in generator.integers(0, 10**6, rows)],
            "postcode": [f"{i:05d}" for i in generator.integers(10000, 30000, rows)],
            "length": generator.normal(4 + kind, 0.5),
            "kind": np.array(["setosa", "versicolor", "virginica"])[kind],
        }
    )


def _counting_encoder(width: int, spec: ModelSpec) -> nn.Module:
    """Somebody's own torch module, with dropout; `spec` still says how wide it is."""
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, spec.hidden[0]), nn.GELU())


GARDEN = IndustryClient(
    name="garden",
    title="Garden",
    schema=Schema(
        name="garden",
        version=1,
        columns=(
            Column(name="plant", dtype="text", identifier="hash"),
            Column(
                name="postcode",
                dtype="category",
                categories=("1", "2"),
                identifier="generalise",
                generalise=lambda code: code[:1],
            ),
            Column(name="length", dtype="number", measure="cm", low=0, high=10),
        ),
        target=Target(name="kind", kind="multiclass", classes=("setosa", "versicolor", "virginica")),
        unit="plant",
    ),
    read=lambda folder, site: pd.read_csv(folder / f"{site}.csv", dtype=str),
    sites=("north", "south"),
    dataset="plants",
    synthesise=_iris_like,
    encoder=_counting_encoder,
    metrics=("accuracy", "macro_auc", "log_loss"),
)


def test_a_multiclass_client_with_an_encoder_and_units_of_its_own_passes():
    assert set(check_client(GARDEN, spec=ModelSpec(kind="mlp", hidden=(12, 6)))) == CHECKS


def test_the_module_shows_what_it_promises():
    assert consortia.testing.__all__ == sorted(consortia.testing.__all__)
    assert set(consortia.testing.__all__) >= {"ClientCheckError", "check_client"}


def test_the_log_check_does_not_take_a_hash_for_a_short_identifier():
    from consortia.testing._client_row_checks import _holds

    assert not _holds("3f12345ab9", {"12345"})
    assert _holds("saw 12345, and more", {"12345"})
    assert _holds("xcanary-7000000000x", {"canary-7000000000"})


def test_each_check_is_told_as_it_begins() -> None:
    from consortia.testing._suite import SuiteError, run_checks

    told: list[str] = []
    checks = {"first": lambda case: told.append("ran"), "second": lambda case: None}
    run_checks(checks, None, SuiteError, "anything", told.append)
    assert told == ["1 of 2: first", "ran", "2 of 2: second"]
