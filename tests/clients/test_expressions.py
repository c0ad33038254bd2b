"""Expressions compute by row, and nothing else is reachable through them."""

from __future__ import annotations

import pandas as pd
import pytest

from clients.errors import SchemaError
from clients.expressions import Expression

ROWS = pd.DataFrame({"w": [70.0, 80.0, None], "h": [1.75, 0.0, 1.6], "s": ["M", "F", "M"]})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("w / 2 + h", [36.75, 40.0, None]),
        ("where((s == 'M') & (h > 1.7), 1, 0)", [1, 0, 0]),
        ("min(w, 75)", [70.0, 75.0, None]),
        ("where(missing(w), -1, w)", [70.0, 80.0, -1.0]),
        ('column("h") ** 2', [3.0625, 0.0, 2.5600000000000005]),
        ("round(h, 1)", [1.8, 0.0, 1.6]),
    ],
)
def test_each_row_by_itself(text, wanted):
    expression = Expression(text, "x")
    whole = expression(ROWS)
    assert [None if pd.isna(value) else value for value in whole] == wanted
    for row in range(len(ROWS)):
        alone = expression(ROWS.iloc[[row]])
        assert alone.equals(whole.iloc[[row]])


@pytest.mark.parametrize(
    "text",
    [
        *(
            "w.sum()",
            "sum(w)",
            "w[0]",
            "__import__('os')",
            "(lambda: 1)()",
            "[w for w in s]",
            "f'{w}'",
            "w if h else 2",
        ),
        *("w and h", "1 < w < 2", "column(w)", "abs(x=w)", "w @ h", "...", "w :=1", "a" * 1001, "("),
    ],
)
def test_nothing_else_is_an_expression(text):
    with pytest.raises(SchemaError, match=r"^x: .*wanted"):
        Expression(text, "x")


@pytest.mark.parametrize("text", ["'a' * 100000000", "s + 1", "max + 1"])
def test_what_cannot_be_computed_shows_no_value(text):
    with pytest.raises(SchemaError, match="x: wanted an expression that these columns can give, got TypeError"):
        Expression(text, "x")(ROWS)


def test_a_tower_of_powers_is_infinite_at_once():
    assert Expression("9 ** 9 ** 9 ** 9", "x")({}) == float("inf")
