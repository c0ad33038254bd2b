"""The shipped industries: their public formats on tiny files, and synthetic rows that are like the real ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clients import registry
from clients.dataset import prepare
from clients.errors import MetricError, SchemaError
from clients.industry import effective_schema
from clients.metrics import compute
from clients.models import ModelSpec, build, loss_for, predict
from clients.sources import parse_source, read

HEART = """63.0,1.0,1.0,145.0,233.0,1.0,2.0,150.0,0.0,2.3,3.0,0.0,6.0,0
67,1,4,160,286,0,2,108,1,1.5,2,3,3,2
32,1,1,95,0,?,0,127,0,.7,1,?,?,1
50,1,4,0,0,0,0,127,0,.7,?,?,?,4
"""
GERMAN = """A11 6 A34 A43 1169 A65 A75 4 A93 A101 4 A121 67 A143 A152 2 A173 1 A192 A201 1
A12 48 A32 A43 5951 A61 A73 2 A92 A101 2 A121 22 A143 A152 1 A173 1 A191 A201 2 \n\
A14 12 A34 A46 2096 A61 A74 2 A93 A101 3 A121 49 A143 A152 1 A172 2 A191 A201 1
A11 42 A32 A42 7882 A61 A74 2 A93 A103 4 A122 45 A143 A153 1 A173 2 A191 A201 1
A14 9 A32 A410 4882 A61 A74 2 A93 A103 4 A122 45 A143 A153 1 A173 2 A191 A201 2
"""
AI4I = """\ufeffUDI,Product ID,Type,Air temperature [K],Process temperature [K],Rotational speed [rpm],\
Torque [Nm],Tool wear [min],Machine failure,TWF,HDF,PWF,OSF,RNF
1,M14860,M,298.1,308.6,1551,42.8,0,0,0,0,0,0,0
2,L47181,L,298.2,308.7,1408,46.3,3,1,0,0,1,0,0
3,L47182,L,298.1,308.5,1498,49.4,5,0,0,0,0,0,0
"""


@pytest.fixture
def public(tmp_path):
    for file, text in (
        ("hospital/heart/processed.va.data", HEART),
        ("bank/german_credit/german.data", GERMAN),
        ("factory/ai4i2020/ai4i2020.csv", AI4I),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(text, encoding="utf-8")

    def load(name: str, site: str, **options):
        client = registry.get(name)
        return prepare(client, read(parse_source(f"public:{tmp_path}"), client, site), **options)

    return load


def feature(table, name: str) -> list[float]:
    return table.inputs["features"][:, table.feature_names.index(name)].tolist()


def test_hospital_reads_the_centres_files(public):
    table = public("hospital", "va")
    assert table.quarantine.rows_kept == 4
    assert table.target.tolist() == [0, 1, 1, 1]
    assert feature(table, "chol is missing") == [0, 0, 1, 1]
    assert feature(table, "trestbps is missing") == [0, 0, 0, 1]
    assert feature(table, "fbs is missing") == [0, 0, 1, 0]
    assert feature(table, "ca is missing") == [0, 0, 1, 1]
    assert feature(table, "cp=4") == [0, 1, 0, 1]
    assert feature(table, "thal=6") == [1, 0, 0, 0]


def test_flambys_filter_keeps_complete_rows_and_thirteen_inputs(public):
    table = public("hospital", "va", filter="flamby")
    # The third row has no fbs. A cholesterol of 0 is a measured one to FLamby.
    assert table.target.tolist() == [0, 1, 1]
    assert set(table.feature_names) == {
        "age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak",
        "cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2",
    }  # fmt: skip
    assert effective_schema(registry.get("hospital"), filter="flamby").width == 13
    # 286 and 0 of [100, 400]: a cholesterol of 0 is the middle.
    assert feature(table, "chol")[1:] == pytest.approx([(286 - 250) / 150, 0])


def test_bank_splits_sites_by_purpose_and_a_bad_credit_is_positive(public):
    assert public("bank", "radio-tv").target.tolist() == [0, 1]
    assert public("bank", "furniture").target.tolist() == [0]
    other = public("bank", "other")
    assert other.target.tolist() == [0, 1]
    assert feature(other, "duration") == pytest.approx([(12 - 38) / 34, (9 - 38) / 34])


def test_bank_orders_its_codes_and_does_not_show_the_personal_ones(public):
    table = public("bank", "radio-tv")
    assert feature(table, "account") == pytest.approx([-1, -1 / 3])
    assert feature(table, "history") == [1, 0]
    assert feature(table, "savings") == [0.5, -1]
    assert feature(table, "employment") == [1, 0]
    assert feature(table, "other_plans") == [0, 0]
    assert feature(table, "housing") == [1, 1]
    assert feature(table, "younger than 26") == [0, 1]
    assert feature(table, "unusual amount") == pytest.approx([np.log(2500 / 1169) - 1, np.log(5951 / 2500) - 1])
    assert feature(public("bank", "furniture"), "guarantors") == [1]
    assert feature(public("bank", "furniture"), "co-applicant") == [0]
    schema = registry.get("bank").schema
    unseen = {c.name for c in schema.columns} - set(schema.feature_columns) - {"customer_id"}
    assert unseen == {
        "purpose", "status", "foreign_worker", "telephone", "job", "residence", "credits", "dependants",
    }  # fmt: skip
    used = set(schema.feature_names) - {"employment is missing", "property is missing"}
    assert len(used) == 15


def test_factory_reads_past_the_byte_order_mark_and_never_the_kinds_of_failure(public):
    table = public("factory", "L")
    assert table.target.tolist() == [1, 0]
    assert not {"TWF", "HDF", "PWF", "OSF", "RNF", "UDI", "Product ID"} & set(table.feature_names)
    power = np.array([1408 * 46.3, 1498 * 49.4]) * 2 * np.pi / 60
    assert feature(table, "power") == pytest.approx(power / 6000 - 1)
    assert feature(table, "temperature difference") == pytest.approx([(10.5 - 10) / 5, (10.4 - 10) / 5], abs=1e-6)
    assert feature(table, "power deviation") == pytest.approx(np.abs(power - 6250) / 2500 - 1)
    assert not [name for name in table.feature_names if name.startswith("Type")]
    assert feature(table, "overstrain") == pytest.approx(np.array([3 * 46.3, 5 * 49.4]) / 8000 - 1)
    assert public("factory", "L", unit="Product ID").n_units == 2


# Share of positives at each site of the public data set.
PREVALENCE = {
    "hospital": {"cleveland": 0.459, "hungarian": 0.361, "switzerland": 0.935, "va": 0.745},
    "bank": {"new-car": 0.380, "used-car": 0.165, "furniture": 0.320, "radio-tv": 0.221, "other": 0.366},
    "factory": {"L": 0.039, "M": 0.028, "H": 0.021},
}
TOLERANCE = {"hospital": 0.06, "bank": 0.06, "factory": 0.02}


@pytest.mark.parametrize("name", PREVALENCE)
def test_synthetic_rates_are_like_the_public_ones(name):
    client = registry.get(name)
    assert tuple(PREVALENCE[name]) == client.sites
    for site, expected in PREVALENCE[name].items():
        frame = read(parse_source("synthetic:2000?seed=11"), client, site)
        table = prepare(client, frame)
        assert table.synthetic
        assert table.quarantine.rows_kept == 2000
        assert table.target.mean().item() == pytest.approx(expected, abs=TOLERANCE[name]), site
        missing = [n for n in table.feature_names if n.endswith(" is missing")]
        assert any(sum(feature(table, n)) > 0 for n in missing), site


@pytest.mark.parametrize("name", ["hospital", "bank"])
def test_synthetic_sites_differ(name):
    client = registry.get(name)
    tables = [
        prepare(client, read(parse_source("synthetic:1500?seed=2"), client, site)).inputs["features"]
        for site in client.sites
    ]
    for i, one in enumerate(tables):
        for other in tables[:i]:
            # Six standard errors of a difference of means, in at least one feature: more than chance.
            error = ((one.var(0) + other.var(0)) / 1500).sqrt().clamp(min=1e-6)
            assert ((one.mean(0) - other.mean(0)).abs() / error).max() > 6


def test_synthetic_factories_differ_in_what_a_strain_does():
    client = registry.get("factory")
    fails = {}
    for site in ("L", "H"):
        frame = read(parse_source("synthetic:6000?seed=2"), client, site)
        strain = frame["Tool wear [min]"] * frame["Torque [Nm]"]
        fails[site] = frame.loc[(strain > 11000) & (strain <= 12000), "Machine failure"].mean()
    # The limit is 11000 min N m for products of type L and 13000 for H.
    assert fails["L"] == 1
    assert fails["H"] < 0.5


@pytest.mark.parametrize(
    ("name", "low", "high"), [("hospital", 0.75, 0.92), ("bank", 0.70, 0.90), ("factory", 0.75, 0.99)]
)
def test_synthetic_labels_can_be_learned_and_not_perfectly(name, low, high):
    torch.set_num_threads(1)
    client = registry.get(name)
    site = client.sites[0]
    train = prepare(client, read(parse_source("synthetic:3000?seed=1"), client, site))
    test = prepare(client, read(parse_source("synthetic:3000?seed=2"), client, site))
    spec = ModelSpec(kind="mlp", hidden=(16,))
    module = build(client, spec, client.schema.width, torch.Generator().manual_seed(0))
    optimizer, loss = torch.optim.Adam(module.parameters(), lr=0.02), loss_for(client.schema.target)
    for _ in range(150):
        optimizer.zero_grad()
        loss(module(train.inputs), train.target).mean().backward()
        optimizer.step()
    auc = compute(["auc"], "binary", predict(module, test.inputs), test.target)["auc"]
    assert low < auc < high


def test_linear_rows_lie_on_the_line():
    client = registry.get("linear")
    for site in client.sites:
        table = prepare(client, read(parse_source("synthetic:4000?seed=1"), client, site))
        x, y = table.inputs["features"][:, 0].numpy(), table.target.numpy()
        slope, intercept = np.polyfit(x, y, 1)
        # standard errors are about .004 and .002
        assert slope == pytest.approx(3, abs=0.02)
        assert intercept == pytest.approx(2, abs=0.01)
        assert np.std(y - 3 * x - 2) == pytest.approx(0.1, abs=0.01)


def test_a_split_that_is_none_and_a_metric_that_is_none_are_refused():
    from dataclasses import replace

    client = registry.get("linear")
    with pytest.raises(
        MetricError,
        match="metrics: wanted a metric of regression targets, such as rmse, mae, r2, concordance, recall_at_10, ndcg_at_10, got",
    ):
        replace(client, metrics=("auc",))
    with pytest.raises(SchemaError, match="distinct sites"):
        replace(client, sites=("a", "a"))
    with pytest.raises(SchemaError, match="default_rows"):
        replace(client, default_rows=0)
