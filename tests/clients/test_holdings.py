"""Holdings: the same persons everywhere, public bounds, one label owner, identifiers in one spelling."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from clients import holdings
from clients.errors import SchemaError, UnknownClientError
from clients.sources import parse_source


@pytest.mark.parametrize("name", holdings.CASES)
def test_a_case_has_one_label_owner_at_least_and_persons_in_common(name: str) -> None:
    case = holdings.get(name)
    assert any(holding.target for holding in case.holdings.values())
    sides = [
        holding.encode(case.frame(parse_source("synthetic:400"), key, 3)) for key, holding in case.holdings.items()
    ]
    common = set.intersection(*(set(side.ids) for side in sides))
    assert len(common) > 60
    for side in sides:
        assert side.synthetic
        assert side.features.dtype == np.float32
        assert np.abs(side.features).max() <= 1
        assert len(set(side.ids)) == len(side)
    # Identifiers and labels give no feature.
    for holding in case.holdings.values():
        named = {column.name for column in holding.columns}
        assert not named & {*holding.ids, holding.target.name if holding.target else ""}


def test_customers_know_only_some_of_each_other() -> None:
    case = holdings.get("customers")
    sides = {
        name: set(holding.encode(case.frame(parse_source("synthetic:2000"), name, 0)).ids)
        for name, holding in case.holdings.items()
    }
    for partner in ("hospital", "factory"):
        share = len(sides["bank"] & sides[partner]) / len(sides["bank"])
        assert 0.5 < share < 0.75
        assert sides[partner] - sides["bank"]


def test_identifiers_have_one_spelling() -> None:
    assert holdings.normalise("DE.0000012345 ") == holdings.normalise("de 00000-12345") == "DE0000012345"
    assert holdings.normalise(12.0) == holdings.normalise("12") == "12"
    assert holdings.normalise("a", "b") == "A|B" != holdings.normalise("ab", "")
    assert holdings.normalise(None) == holdings.normalise(float("nan")) == holdings.normalise(" - ") == ""
    # Missing as Parquet, a database or another program spells it: else all those persons would be one, named "NA".
    for missing in (pd.NA, pd.NaT, np.float32("nan"), "NaN", "<NA>", "NULL"):
        assert holdings.normalise(missing) == holdings.normalise("a", missing) == ""
    # The same number and day from a file and from a database.
    assert (
        holdings.normalise("12.0") == holdings.normalise(Decimal("12.00")) == holdings.normalise(np.int64(12)) == "12"
    )
    assert holdings.normalise(pd.Timestamp("1980-01-31")) == holdings.normalise("1980-01-31") == "19800131"


def test_what_breaks_the_schema_is_counted_with_its_reason() -> None:
    case = holdings.get("customers")
    rows = case.frame(parse_source("synthetic:30"), "bank", 0).head(4).assign(national_id=["A", "B", "C", "D"])
    rows = rows.assign(default=["1", "2", "", "0"], age=["20", "30", "40", "unknown"])
    encoded = case.holding("bank").encode(rows)
    assert (encoded.ids, encoded.labels.tolist()) == (("A", "B", "C"), [1, -1, -1])
    assert (encoded.quarantine.rows_read, encoded.quarantine.rows_kept) == (4, 2)
    assert sum(encoded.quarantine.reasons.values()) >= 2
    assert encoded.quarantine.reasons["default: not a class"] == 1
    with pytest.raises(SchemaError, match=r"no row .* 2 of 2 rows quarantined"):
        case.holding("bank").encode(rows.head(2).assign(balance=None))


@pytest.mark.parametrize("values", [["1", "0", ""], [1.0, 0.0, None], [True, False, None], ["1.0", "0.0", "?"]])
def test_labels_are_read_in_any_spelling(values: list[object]) -> None:
    case = holdings.get("customers")
    rows = case.frame(parse_source("synthetic:30"), "bank", 0).head(3)
    rows = rows.assign(national_id=["A", "B", "C"], default=pd.Series(values, dtype=object))
    assert case.holding("bank").encode(rows).labels.tolist() == [1, 0, -1]


def test_rows_that_cannot_be_matched_are_left_out_and_counted_at_home() -> None:
    bank = holdings.get("customers").holding("bank")
    frame = pd.DataFrame(
        {
            "national_id": ["a", "A ", "", "b"],
            "age": [30, 31, 32, 33],
            "balance": [0.0] * 4,
            "credit_used": [0.5, 0.5, 0.5, None],
            "months_here": [1] * 4,
            "default": ["1", "0", "0", "?"],
        }
    )
    encoded = bank.encode(frame)
    assert encoded.ids == ("A", "B")
    assert encoded.labels.tolist() == [1, -1]
    assert (encoded.quarantine.rows_read, encoded.rows_without_id, encoded.rows_twice) == (4, 1, 1)
    with pytest.raises(SchemaError, match="passport"):
        bank.encode(frame, ids=["passport"])
    with pytest.raises(SchemaError, match="no row"):
        bank.encode(frame.assign(national_id=""))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(UnknownClientError, match="customers"):
        holdings.get("customer")
    with pytest.raises(SchemaError, match="factory"):
        holdings.get("customers").holding("school")
