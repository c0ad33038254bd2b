"""An industry as a file: read strictly, fixed by its hash, written from rows, held to the conformance suite."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from clients import registry
from clients.declared import load
from clients.errors import ClientLoadError, TableError, UnknownClientError
from clients.inferring import propose
from clients.sources import numpy_generator
from consortia.testing import check_client

FILE = """
schema = 1
name = "clinic"
unit = "patient"

[target]
name = "ill"
kind = "binary"
classes = ["no", "yes"]

[columns.patient]
dtype = "text"
identifier = "hash"
nullable = true
required = false

[columns.age]
dtype = "number"
measure = "years"
low = 18
high = 90
nullable = true
to_confirm = ["low", "high"]

[columns.kind]
dtype = "category"
categories = ["a", "b", "c"]

[columns."smokes now"]
dtype = "flag"

[derived.risk]
expression = "age / 10 + column('smokes now')"
low = 0
high = 10

[recipe]
learning_rate = 0.5
"""


@pytest.fixture
def clinic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "clients").mkdir()
    file = tmp_path / "clients" / "clinic.toml"
    file.write_text(FILE, encoding="utf-8-sig")  # as Windows Notepad saves it
    monkeypatch.chdir(tmp_path)
    return file


def test_a_file_in_any_folder_is_a_whole_client(clinic):
    assert "clinic" in registry.names()
    client = registry.get("clinic")
    assert client.unconfirmed == ("age (low, high)",)
    assert client.schema.feature_names[-1] == "risk"
    frame = client.synthesise(numpy_generator("x"), 30, "north")
    assert client.schema.check(frame)[1].rows_kept == 30
    checked = check_client(client, rows=60)
    assert "preprocessing_is_per_row" in checked
    json.dumps(client.schema.describe())
    clinic.unlink()
    with pytest.raises(UnknownClientError):
        registry.get("clinic")


def test_the_hash_is_of_what_all_must_have_alike(clinic):
    before = load(clinic)
    clinic.write_text(FILE.replace('to_confirm = ["low", "high"]\n', "").replace("0.5", "0.25"))
    assert load(clinic).digest == before.digest  # neither a confirmation nor a recipe changes the columns
    assert load(clinic).unconfirmed == ()
    for old, new in (("low = 18", "low = 19"), ('"a", "b", "c"', '"a", "c", "b"'), ("age / 10", "age / 9")):
        clinic.write_text(FILE.replace(old, new))
        assert load(clinic).digest != before.digest


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("low = 18", "lowest = 18", r"clinic\.toml: columns\.age\.lowest: unknown key"),
        ("low = 18", 'low = "SECRET"', r"clinic\.toml: columns\.age\.low: wanted a valid number"),
        ("low = 18", "low = 99", r"clinic\.toml: column 'age': wanted finite public bounds"),
        ("age / 10", "agee / 10", "derived 'risk': wanted feature columns of this file, got agee"),
        ("age / 10", "age.max()", "derived 'risk': wanted"),
        ('["low", "high"]', '["dtype"]', "to_confirm: wanted some of"),
        ("schema = 1", "schema = 2", "schema: wanted 1"),
        ('"a", "b", "c"', '"a", "NA"', "no spelling of a missing value, got 'NA'"),
        ('name = "clinic"', 'name = "other"', "name: wanted 'clinic'"),
        ("[target]", "[target", "syntax error"),
    ],
)
def test_a_mistake_is_one_sentence_with_file_and_key(clinic, old, new, said):
    clinic.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ClientLoadError, match=said) as caught:
        registry.get("clinic")
    assert "SECRET" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_python_has_is_refused(clinic):
    clinic.with_name("bank.toml").write_text(FILE.replace('"clinic"', '"bank"'))
    with pytest.raises(ClientLoadError, match="a client in Python; remove all but one"):
        registry.get("bank")


def rows(count: int = 60) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": [f"p{n}" for n in range(count)],
            "temp [degC]": [f"{x:.1f}" for x in draw.uniform(36, 40, count)],
            "dose": [str(x) for x in draw.integers(1, 90, count)],
            "kind": draw.choice(["new", "old"], count),
            "fever": draw.choice(["yes", "no"], count),
            "grade": draw.choice(["0", "1", "2"], count),
        }
    )


def test_a_file_from_rows_marks_what_it_read(tmp_path):
    frame = rows()
    frame.loc[:3, "dose"] = "999"
    made = propose([frame], "ward", "grade", identifiers=["id"])
    assert made.kind == "multiclass"
    file = tmp_path / "ward.toml"
    file.write_text(made.text)
    client = load(file)
    marked = {each.partition(" (")[0] for each in client.unconfirmed}
    assert marked == {"temp [degC]", "dose", "kind", "grade"}  # yes and no are no secret
    assert client.schema.column("dose").missing_values == ("999",)
    assert client.schema.column("dose").high is not None
    assert client.schema.column("dose").high < 999
    assert client.schema.column("temp [degC]").measure == "degC"
    assert client.schema.check(frame)[1].rows_kept == len(frame)
    with pytest.raises(TableError, match="target: wanted a column of the rows, got 'none'"):
        propose([frame], "ward", "none")
    assert propose([frame], "ward", "temp [degC]").kind == "regression"


def test_what_numbers_the_rows_is_no_feature():
    frame = rows()
    count = len(frame)
    frame["Block ID"] = [str(7 * n + 100) for n in np.random.default_rng(5).permutation(count)]
    frame["line"] = [str(n) for n in range(1000, 1000 + count)]
    frame["weight"] = [str(n) for n in np.random.default_rng(6).permutation(np.arange(40_000, 40_000 + 3 * count, 3))]
    made = propose([frame], "ward", "grade", identifiers=["id"])
    assert [note.split(":")[0] for note in made.notes if "different whole number" in note] == ["Block ID", "line"]
    assert made.text.count('identifier = "drop"') == 3
    assert '[columns.weight]\ndtype = "number"' in made.text


def test_a_file_with_other_names_makes_no_column_nullable(tmp_path):
    frame = rows()
    other = frame.rename(columns={"dose": "Dosis", "grade": "Stufe"}).assign(**{"temp [degC]": ""})
    file = tmp_path / "ward.toml"
    file.write_text(propose([frame, other], "ward", "grade", identifiers=["id"]).text)
    schema = load(file).schema
    assert not schema.column("dose").nullable
    assert schema.column("temp [degC]").nullable


def test_na_among_country_codes_is_noted():
    frame = rows()
    frame["country"] = ["NA" if number % 5 == 0 else "ZA" if number % 2 else "BW" for number in range(len(frame))]
    made = propose([frame], "ward", "grade", identifiers=["id"])
    assert [note for note in made.notes if note.startswith("country: NA is read as missing")]
    frame["country"] = frame["country"].replace("ZA", "unknown")
    assert not [note for note in propose([frame], "ward", "grade", identifiers=["id"]).notes if "NA is read" in note]
