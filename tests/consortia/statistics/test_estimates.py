"""Statistics of released numbers: exact without noise, intervals that hold with it, and verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clients import registry
from clients.dataset import Table, prepare
from consortia.learners.statistics.differ import sites_differ
from consortia.learners.statistics.estimates import Line, Released, ratio, statistics_of
from consortia.learners.statistics.layout import Layout, layout_of
from consortia.learners.sums.statistics import Rows


@pytest.fixture(scope="module")
def table() -> Table:
    client = registry.get("hospital")
    return prepare(client, client.synthesise(np.random.default_rng(1), 900, client.sites[0]))


@pytest.fixture(scope="module")
def layout() -> Layout:
    return layout_of(registry.get("hospital").schema, 8)


def _vector(layout: Layout, table: Table, chosen: slice | torch.Tensor) -> np.ndarray:
    features, target = table.inputs["features"][chosen], table.target[chosen]
    return layout.vector(Rows(features, target, torch.arange(len(target))))


def test_without_noise_every_number_is_the_rows_own(layout: Layout, table: Table) -> None:
    found = statistics_of(Released(layout, _vector(layout, table, slice(None)), 0.0))
    age = next(column for column in layout.columns if column.name == "age")
    years = (table.inputs["features"][:, age.places[0]].double() + 1) / 2 * (age.high - age.low) + age.low
    assert found["units"]["value"] == pytest.approx(len(table))
    assert found["columns"]["age"]["mean"]["value"] == pytest.approx(float(years.mean()), abs=1e-4)
    assert found["columns"]["age"]["spread"]["value"] == pytest.approx(float(years.std(correction=0)), abs=1e-3)
    sex = found["columns"]["sex"]["cells"]
    place = next(column for column in layout.columns if column.name == "sex").places[0]
    ones = table.inputs["features"][:, place] > 0.5
    assert sex[1]["count"]["value"] == pytest.approx(int(ones.sum()))
    (rate,) = sex[1]["target"].values()
    assert rate["value"] == pytest.approx(float(table.target[ones].mean()), abs=1e-6)
    assert rate["low"] == pytest.approx(rate["high"])


def test_intervals_hold_as_often_as_they_say(layout: Layout, table: Table) -> None:
    exact, random = _vector(layout, table, slice(None)), np.random.default_rng(5)
    age = next(column for column in layout.columns if column.name == "age")
    cell = Released(layout, exact, 0.0).cell(age, 2)
    truth = ratio(Released(layout, exact, 0.0), cell, Released(layout, exact, 0.0).units, low=0, high=1).value
    assert truth is not None
    times, inside = 2000, 0
    for _ in range(times):
        noisy = Released(layout, exact + random.normal(0, 60.0, len(exact)), 60.0)  # the denominator is noisy, too
        found = ratio(noisy, cell, noisy.units, low=0, high=1)
        inside += found.low <= truth <= found.high
    assert inside / times > 0.95 - 4 * math.sqrt(0.05 * 0.95 / times)


def test_a_denominator_within_its_noise_says_nothing(layout: Layout) -> None:
    found = Released(layout, np.zeros(layout.length), 5.0)
    assert ratio(found, Line.of(slice(0, 1)), found.units, low=0.0, high=1.0).to_json() == {
        "value": None,
        "low": 0.0,
        "high": 1.0,
    }


def test_ones_own_part_goes_and_the_others_noise_stays(layout: Layout) -> None:
    both = Released(layout, np.full(layout.length, 3.0), 5.0)
    rest = both.less(Released(layout, np.full(layout.length, 1.0), 3.0))
    assert rest.deviation == pytest.approx(4.0)
    assert rest.vector[0] == 2.0


def test_equal_sites_do_not_differ_and_a_shifted_column_does(layout: Layout, table: Table) -> None:
    random, noise = np.random.default_rng(9), 6.0

    def site(age: float) -> Released:
        chosen = torch.from_numpy(random.integers(0, len(table), 700))
        features = table.inputs["features"][chosen].clone()
        features[:, 0] = (features[:, 0] + age).clamp(-1, 1)
        vector = layout.vector(Rows(features, table.target[chosen], torch.arange(700)))
        return Released(layout, vector + random.normal(0, noise, layout.length), noise)

    assert layout.columns[0].name == "age"
    said = [sites_differ(layout, {"a": (site(0), site(0))}) for _ in range(20)]
    assert sum(any(verdict.differ for verdict in one.values()) for one in said) <= 4
    (moved,) = [sites_differ(layout, {"a": (site(0.3), site(0))})]
    assert moved["age"].differ
    assert moved["age"].low > 0 or moved["age"].high < 0


def test_too_much_noise_leaves_no_verdict(layout: Layout) -> None:
    random = np.random.default_rng(1)
    sides = [Released(layout, random.normal(0, 500.0, layout.length), 500.0) for _ in range(2)]
    assert {verdict.differ for verdict in sites_differ(layout, {"a": (sides[0], sides[1])}).values()} == {None}
