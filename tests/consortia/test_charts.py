"""Where a plot puts its words: beside what is drawn, none over another, and as wide as the page."""

from __future__ import annotations

import itertools
import re

import pytest

from consortia.reports.charts import HEIGHT, LETTERING, Level, Line, apart, dot_chart, line_chart
from consortia.reports.round_times import without_setup


@pytest.mark.parametrize("count", [1, 3, 6, 20])
def test_every_dot_carries_its_name_and_its_numbers(count: int) -> None:
    dots = [(f"hospital-{number:02d}", number / 8, number / 8 - 0.1, number / 8 + 0.1) for number in range(count)]
    drawn = str(dot_chart("Gain", "gain", dots, [Level("no gain", 0.0)], kinds=["perhaps"] * count))
    rows = re.findall(r'class="name">([^<]+)<.*?<circle[^>]* cx="([\d.]+)%".*?class="value">([\d.]+)', drawn)
    assert [name for name, *_ in rows] == [dot[0] for dot in dots]
    assert [float(value) for *_, value in rows] == pytest.approx([dot[1] for dot in dots], abs=0.01)
    assert all(0 <= float(place) <= 100 for _, place, _ in rows)
    assert "no gain" in drawn
    assert "perhaps</b>" in drawn


def test_what_did_not_pay_has_another_shape_not_only_another_colour() -> None:
    drawn = str(dot_chart("Gain", "gain", [("a", -0.1, None, None)], kinds=["not"]))
    assert "<circle" not in drawn
    assert 'class="dot not"' in drawn


@pytest.mark.parametrize("places", [[0.0], [5.0, 5.0, 5.0], [0.0, 100.0, 101.0, 99.0], [3.0, 1.0, 2.0, 200.0]])
def test_names_at_the_ends_of_lines_are_apart_and_in_their_order(places: list[float]) -> None:
    found = apart(places)
    pairs = sorted(zip(places, found, strict=True))
    assert all(after[1] - before[1] >= LETTERING - 1e-9 for before, after in itertools.pairwise(pairs))
    assert min(found) >= 0
    assert max(found) <= HEIGHT


def test_several_lines_and_levels_are_named_at_their_ends_and_one_line_is_not() -> None:
    points = [(1.0, 0.5, None, None), (2.0, 0.6, None, None)]
    one = str(line_chart("t", "round", "AUC", [Line("alone", points)]))
    assert "alone" not in one
    assert "narrow-only" not in one
    two = str(line_chart("t", "round", "AUC", [Line("a", points), Line("b", points)], [Level("budget", 0.6)]))
    for name in ("a", "b", "budget"):
        assert two.count(f">{name}</text>") == 1
        assert f"</svg>{name}</li>" in two
    many = str(line_chart("t", "round", "AUC", [Line(f"bank-{n}", points) for n in range(30)]))
    assert "end-name" not in many
    assert many.count("<li>") == 30


def test_a_plot_is_as_wide_as_its_page() -> None:
    drawn = str(line_chart("t", "round", "AUC", [Line("a", [(1.0, 0.5, None, None), (2.0, 0.6, None, None)])]))
    assert 'class="chart" width="100%"' in drawn
    assert "style=" not in drawn


@pytest.mark.parametrize(("first", "apart_from"), [(9.0, True), (1.5, False)])
def test_the_set_up_of_round_1_flattens_nothing(first: float, apart_from: bool) -> None:
    points, says = without_setup([(1, first), (2, 1.0), (3, 1.0)])
    assert (len(points), bool(says)) == ((2, True) if apart_from else (3, False))
    assert ("took 9.0 s" in says) == apart_from
