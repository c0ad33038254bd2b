"""The real public files, where they are at hand: ../shared/data or $CONSORTIA_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from clients import registry
from clients.dataset import prepare
from clients.sources import parse_source, read

DATA = Path(os.environ.get("CONSORTIA_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public data sets are not here")

ROWS = {
    "hospital": {"cleveland": (303, 139), "hungarian": (294, 106), "switzerland": (123, 115), "va": (200, 149)},
    "bank": {
        "new-car": (234, 89),
        "used-car": (103, 17),
        "furniture": (181, 58),
        "radio-tv": (280, 62),
        "other": (202, 74),
    },
    "factory": {"L": (6000, 235), "M": (2997, 83), "H": (1003, 21)},
}
FLAMBY = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}


def load(name: str, site: str, **options):
    client = registry.get(name)
    return prepare(client, read(parse_source(f"public:{DATA}"), client, site), **options)


@pytest.mark.parametrize(("name", "site"), [(name, site) for name in ROWS for site in ROWS[name]])
def test_every_row_is_read_and_none_is_quarantined(name, site):
    table = load(name, site, quarantine_threshold=0)
    assert (len(table), int(table.target.sum())) == ROWS[name][site]
    assert not table.synthetic


@pytest.mark.parametrize("site", FLAMBY)
def test_flambys_filter_and_split_leave_its_counts(site):
    table = load("hospital", site, filter="flamby")
    parts = registry.get("hospital").splits["flamby"](table.target.numpy(), site)
    assert ((parts == "train").sum(), (parts == "test").sum()) == FLAMBY[site]
    assert len(table) == sum(FLAMBY[site])
    # The data's README, word for word, on labels read without our code.
    lines = [line.split(",") for line in (DATA / f"hospital/heart/processed.{site}.data").read_text().split()]
    labels = [int(float(row[13]) > 0) for row in lines if "?" not in row[:10]]
    assert table.target.tolist() == labels
    train, test = train_test_split(
        np.arange(len(labels)),
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        shuffle=True,
        stratify=None if site == "switzerland" else labels,
    )
    assert set(np.flatnonzero(parts == "train")) == set(train)
    assert set(np.flatnonzero(parts == "test")) == set(test)
    assert table.inputs["features"].shape[1] == 13
    if site == "switzerland":
        assert set(table.target[np.flatnonzero(parts == "train")].tolist()) == {1.0}
        assert len(load("hospital", site, filter="flamby", columns=("age", "cp")).feature_names) == 4
