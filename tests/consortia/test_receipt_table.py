"""Whose rows were synthetic is said by name where others had real ones."""

from typing import Any

import pytest

from consortia.reports.receipt_table import synthetic_for


@pytest.mark.parametrize(
    ("participants", "wanted"),
    [
        ({"a": True, "b": False}, "1 of 2 participants (a)"),
        ({"a": True, "b": True}, ""),
        ({"a": False, "b": False}, ""),
        ({"a": True, "b": False, "c": None}, ""),  # c left no receipt, so nobody can say that its rows were real
        ({**{f"p{n}": True for n in range(7)}, "b": False}, "7 of 8 participants (p0, p1, p2, p3, p4, …)"),
    ],
)
def test_synthetic_rows_are_said_by_name_where_others_are_real(participants: dict[str, Any], wanted: str) -> None:
    result = {"participants": {name: {"synthetic": value} for name, value in participants.items()}}
    assert synthetic_for(result) == wanted
