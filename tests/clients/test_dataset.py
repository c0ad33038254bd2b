"""Units, row ids and splits: a row's own affair, and no raw identifier in any of them."""

from __future__ import annotations

import hashlib
import hmac
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clients import _values
from clients.dataset import _canonical, assign, prepare
from clients.errors import QuarantineError, SchemaError
from clients.hospital import CLIENT
from clients.schema import Column, Schema, Target
from clients.sources import parse_source, read

PARTS = {"train": 0.6, "validation": 0.2, "test": 0.2}


def rows(count: int = 60, site: str = "cleveland") -> pd.DataFrame:
    return read(parse_source(f"synthetic:{count}?seed=3"), CLIENT, site)


def test_tensors_have_the_promised_shapes_and_types():
    table = prepare(CLIENT, rows())
    assert table.inputs["features"].shape == (60, CLIENT.schema.width)
    assert table.inputs["features"].dtype == table.target.dtype == torch.float32
    assert table.unit_index.dtype == torch.int64
    assert table.n_units == len(set(table.unit_ids)) == len(table) == table.n_rows == 60
    assert table.unit_index.tolist() == list(range(60))
    assert table.synthetic
    assert not prepare(CLIENT, pd.DataFrame(rows().to_dict("list"))).synthetic


def test_a_record_is_known_by_its_content_never_by_its_place():
    frame = rows()
    table, reverse = prepare(CLIENT, frame), prepare(CLIENT, frame.iloc[::-1])
    assert reverse.row_ids[::-1] == table.row_ids
    assert reverse.unit_ids[::-1] == table.unit_ids
    assert reverse.split_keys[::-1] == table.split_keys
    assert torch.equal(reverse.inputs["features"].flip(0), table.inputs["features"])


def test_one_row_more_changes_no_other_row():
    frame = rows()
    whole, fewer = prepare(CLIENT, frame), prepare(CLIENT, frame.drop(index=17))
    without = [i for i in range(60) if i != 17]
    assert tuple(whole.row_ids[i] for i in without) == fewer.row_ids
    part = assign(whole.split_keys, b"k", PARTS)[without]
    assert (part == assign(fewer.split_keys, b"k", PARTS)).all()


def test_equal_rows_are_units_of_their_own_on_one_side_of_the_split():
    frame = rows(3)
    table = prepare(CLIENT, pd.concat([frame, frame.iloc[[1]], frame.iloc[[1]]]))
    assert table.n_units == 5
    assert len(set(table.row_ids)) == 5
    assert table.split_keys[1] == table.split_keys[3] == table.split_keys[4]
    assert set(prepare(CLIENT, frame).unit_ids) < set(table.unit_ids)


def test_the_key_decides_the_ids():
    assert set(prepare(CLIENT, rows(), key=b"a").row_ids).isdisjoint(prepare(CLIENT, rows(), key=b"b").row_ids)


def test_the_split_does_not_depend_on_the_contracts_columns():
    whole, narrow = prepare(CLIENT, rows()), prepare(CLIENT, rows(), columns=("age", "sex"))
    assert whole.split_keys == narrow.split_keys
    assert narrow.feature_names == ("age", "sex")
    assert narrow.inputs["features"].shape == (60, 2)


def by_patient(count: int = 30) -> pd.DataFrame:
    frame = rows(count)
    frame["patient_id"] = [f"patient-{i // 3}" for i in range(count)]
    return frame


def test_rows_of_one_patient_are_one_unit():
    table = prepare(CLIENT, by_patient(), unit="patient_id")
    assert table.n_units == 10
    assert table.unit_index.tolist() == [i // 3 for i in range(30)]
    assert len(set(table.split_keys)) == 10
    assert not any("patient" in text for text in (*table.unit_ids, *table.row_ids, *table.split_keys))


def test_a_unit_keeps_a_bounded_number_of_rows_whatever_the_others_do():
    frame = by_patient()
    table = prepare(CLIENT, frame, unit="patient_id", max_rows_per_unit=2)
    assert torch.bincount(table.unit_index).tolist() == [2] * 10
    assert table.rows_capped == 10
    alone = prepare(CLIENT, frame.iloc[:3], unit="patient_id", max_rows_per_unit=2)
    assert alone.row_ids == table.row_ids[:2]
    turned = prepare(CLIENT, frame.iloc[::-1], unit="patient_id", max_rows_per_unit=2)
    assert set(turned.row_ids) == set(table.row_ids)
    with pytest.raises(ValueError, match="max_rows_per_unit: wanted >= 1, got 0"):
        prepare(CLIENT, frame, max_rows_per_unit=0)


def test_a_row_that_does_not_say_whose_it_is_is_quarantined():
    frame = by_patient()
    frame.loc[4, "patient_id"] = None
    table = prepare(CLIENT, frame, unit="patient_id")
    assert len(table) == 29
    assert dict(table.quarantine.reasons) == {"patient_id: missing": 1}


@pytest.mark.parametrize(
    ("unit", "says"), [("age", "hashed identifier"), ("nobody", "no column 'nobody'"), ("patient_id", "privacy unit")]
)
def test_a_wrong_unit_is_named(unit, says):
    with pytest.raises(SchemaError, match=says):
        prepare(CLIENT, rows().drop(columns="patient_id"), unit=unit)


def test_too_many_broken_rows_are_refused_with_counts_only():
    frame = rows(10).astype(object)
    frame.loc[:2, "age"] = "SECRET"
    with pytest.raises(
        QuarantineError, match=r"mine: 3 of 10 rows quarantined: age: not a number \(3\).*at most 20%"
    ) as e:
        prepare(CLIENT, frame, where="mine")
    assert "SECRET" not in str(e.value)
    assert len(prepare(CLIENT, frame, quarantine_threshold=0.3)) == 7


def test_no_row_left_is_refused():
    with pytest.raises(QuarantineError, match="no row is left of 0"):
        prepare(CLIENT, rows().iloc[:0])


def test_unknown_filter_and_column_are_named():
    with pytest.raises(SchemaError, match="filter: wanted one of flamby; got 'flambe'"):
        prepare(CLIENT, rows(), filter="flambe")
    with pytest.raises(SchemaError, match=r"'chool'.*did you mean 'chol'"):
        prepare(CLIENT, rows(), columns=("chool",))


def test_a_filter_leaves_rows_out_and_quarantines_none():
    frame = rows(80, "va")
    table = prepare(CLIENT, frame, filter="flamby")
    assert 0 < len(table) < 80
    assert table.quarantine.rows_kept == 80
    assert len(table.feature_names) == 13
    assert set(table.row_ids) < set(prepare(CLIENT, frame).row_ids)


def test_take_numbers_units_anew():
    table = prepare(CLIENT, by_patient(), unit="patient_id")
    mask = np.zeros(30, dtype=bool)
    mask[[4, 5, 20]] = True
    part = table.take(mask)
    assert part.n_units == 2
    assert part.unit_index.tolist() == [0, 0, 1]
    assert part.unit_ids == (table.unit_ids[1], table.unit_ids[6])
    assert torch.equal(part.inputs["features"], table.inputs["features"][[4, 5, 20]])
    assert part.row_ids == table.take([4, 5, 20]).row_ids == table.take(torch.tensor([4, 5, 20])).row_ids
    assert len(table.take(np.zeros(30, dtype=bool))) == 0
    with pytest.raises(ValueError, match=r"shape \(30,\), got \(3,\)"):
        table.take(np.array([True, False, True]))


def test_a_table_prints_no_row():
    assert repr(prepare(CLIENT, rows())) == f"Table(60 rows, 60 units, {CLIENT.schema.width} features)"


def test_assign_is_hmac_sha256_of_the_key():
    digest = hmac.new(b"k", b"unit", hashlib.sha256).digest()
    point = int.from_bytes(digest[:8], "big") / 2**64
    assert assign(["unit"], b"k", {"below": point + 1e-9, "above": 1 - point - 1e-9}) == ["below"]
    assert assign(["unit"], b"k", {"below": point - 1e-9, "above": 1 - point + 1e-9}) == ["above"]


def test_assign_gives_each_part_its_share():
    parts = assign([str(i) for i in range(20000)], b"k", PARTS)
    for name, share in PARTS.items():
        # five standard deviations of a binomial share
        assert abs((parts == name).mean() - share) < 5 * np.sqrt(share * (1 - share) / 20000)


@given(st.lists(st.text(min_size=1), min_size=1, max_size=30, unique=True), st.integers(0, 29))
@settings(max_examples=50)
def test_assign_looks_at_each_key_alone(keys, out):
    parts = dict(zip(keys, assign(keys, b"k", PARTS), strict=True))
    fewer = [key for i, key in enumerate(keys) if i != out % len(keys)]
    assert all(parts[key] == part for key, part in zip(fewer, assign(fewer, b"k", PARTS), strict=True))


@pytest.mark.parametrize("fractions", [{}, {"train": 0.5}, {"train": 1.5, "test": -0.5}])
def test_assign_refuses_shares_that_are_none(fractions):
    with pytest.raises(ValueError, match="fractions: wanted"):
        assign(["a"], b"k", fractions)


def test_assign_wants_a_key():
    with pytest.raises(ValueError, match="key: wanted"):
        assign(["a"], b"", PARTS)


def test_a_part_of_share_zero_stays_empty():
    assert set(assign([str(i) for i in range(500)], b"k", {"a": 0, "b": 1, "c": 0})) == {"b"}


def test_texts_and_hashes_are_those_of_single_values_however_many_rows_have_them():
    """Each value is read once: split keys and marks of data sets that exist must stay what they are, to the bit."""
    odd = ["7", " 7 ", "7.0", "-0.0", "1e16", "1_0", "", "NA", "é", "true", None, "7"]
    kinds = [
        pd.Series(odd, dtype=object),
        pd.Series(odd, dtype="str"),
        pd.Series([0.0, -0.0, np.nan, 1e16, 1.0, 0.1, 0.0]),
        pd.Series([1, 0, -1, 10**16, 1]),
        pd.Series([True, False, True]),
        pd.Series([1, 1.0, True, Decimal("1.0"), 10**16, 1e16, None, np.nan], dtype=object),
    ]
    for values in kinds:
        assert _values.texts(values, ("7",)).tolist() == [_values.text(value, ("7",)) for value in values]
    columns = [pd.Series([0.0, -0.0, np.nan, 1 / 3, 1 / 3]), pd.Series(["a", None, "é", "a", "a"], dtype=object)]
    spelled = [["-" if v is None or v != v else f"={v + 0.0!r}" for v in columns[0]], ["=a", "-", "=é", "=a", "=a"]]
    wanted = [_values.pseudonym(b"k", "row", "x", "y", *row) for row in zip(*spelled, strict=True)]
    assert [each.hex()[:32] for each in _values.digests(b"k", ("row", "x", "y"), columns, _canonical)] == wanted
    message = b"".join(len(p.encode()).to_bytes(8, "big") + p.encode() for p in ("row", "x", "y", "=0.0", "=a"))
    assert wanted[0] == hmac.digest(b"k", message, "sha256").hex()[:32]


def test_a_value_is_read_once_however_many_rows_have_it(monkeypatch):
    read: list[str] = []
    real = _values.number
    monkeypatch.setattr(_values, "number", lambda text: (read.append(text), real(text))[1])
    frame = pd.DataFrame({"age": ["41", "42", "17.5"] * 400, "late": ["0", "1", "1"] * 400})
    age, late = (
        Column(name="age", dtype="number", low=0, high=99),
        Target(name="late", kind="binary", classes=("0", "1")),
    )
    schema = Schema(name="few", version=1, columns=(age,), target=late)
    good, report = schema.check(frame)
    assert (len(good), good["age"].iloc[2]) == (1200, 17.5)
    assert len(read) == 3
    assert report.rows_kept == 1200
