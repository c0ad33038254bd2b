"""Where a plot puts its words: beside what is drawn, and inside the picture."""

from __future__ import annotations

import math
import re

import pytest

from consortia.reports.charts import Level, dot_chart

_LETTER = 7  # pixels, no letter of a plot is wider on the average


@pytest.mark.parametrize("count", [1, 3, 6, 20])
def test_names_touch_neither_dots_nor_each_other_nor_the_edge(count: int) -> None:
    dots = [(f"hospital-{number:02d}", 0.1, -0.1, 0.3) for number in range(count)]
    drawn = str(dot_chart("Gain", "gain", dots, [Level("no gain", 0.0)]))
    centres = [float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', drawn)]
    level = re.search(r'class="level-name" x="(\d+)"', drawn)
    box = re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn)
    assert level is not None
    assert box is not None
    assert int(level[1]) + _LETTER * len("no gain") <= centres[0] - 5  # the radius of a dot
    width, height, wide = int(box[1]), int(box[2]), _LETTER * len("hospital-00")
    names = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"([^>]*)>hospital', drawn)
    assert len(names) == count
    for (x, y, anchor, turned), centre in zip(names, centres, strict=True):
        assert float(x) == pytest.approx(centre, abs=0.1)
        if anchor == "middle":  # side by side
            assert not turned
            assert count == 1 or centres[1] - centres[0] >= wide
            assert float(x) + wide / 2 <= width
        else:
            angle = math.radians(int(re.findall(r"rotate\(-(\d+) ", turned)[0]))
            assert float(y) + wide * math.sin(angle) <= height
            assert float(x) - wide * math.cos(angle) >= 0


def test_without_a_level_no_room_is_left_for_its_name() -> None:
    drawn = str(dot_chart("Gain", "gain", [("a", 0.1, None, None), ("b", 0.2, None, None)]))
    first, second = (float(x) for x in re.findall(r'<circle[^>]* cx="([\d.]+)"', drawn))
    assert first == pytest.approx(52 + (second - first) / 2, abs=0.1)  # the axis, half a place
