"""Draws the shape functions of the learner `additive`, with bands of what the noise of the release can have done."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from markupsafe import Markup

from consortia.models.shapes import Shape, shapes_of
from consortia.reports.charts import Level, Line, dot_chart, line_chart
from consortia.terms.contract import Contract

__all__ = ["BANDS", "shape_charts"]

#: A sentence for the reader.
BANDS = (
    "What each column adds to the score (log-odds; of a regression, its value on the public scale). Bands are two "
    "standard deviations of the noise that protects the rows, at most: a bend within its band may be noise."
)


def shape_charts(contract: Contract, folder: Path) -> list[tuple[str, Markup]]:
    """Return caption and plot of each shape of a finished run; none for other learners."""
    found = []
    for industry in sorted(contract.industries):
        if contract.of(industry).additive is None:
            continue
        file = folder / "model" / f"{industry}.safetensors"
        if file.is_file():
            state = safetensors.torch.load(file.read_bytes())
            shapes = shapes_of(contract, industry, state)
            found += [(f"{industry}: {_title(shape)}", _drawn(industry, shape)) for shape in shapes]
    return found


def _title(shape: Shape) -> str:
    return f"{shape.column}, {shape.output}" if shape.output else shape.column


def _drawn(industry: str, shape: Shape) -> Markup:
    title = f"{industry}: {_title(shape)}"
    spots = [(v, v - 2 * s, v + 2 * s) for v, s in zip(shape.values, shape.deviations, strict=True)]
    points = [(x, *spot) for x, spot in zip(shape.middles, spots, strict=True) if x is not None]
    if points:
        rest = [Level("missing", v) for x, v in zip(shape.middles, shape.values, strict=True) if x is None]
        return line_chart(title, shape.column, "added to the score", [Line("shape", points)], rest)
    return dot_chart(title, "added to the score", [(n, *spot) for n, spot in zip(shape.cells, spots, strict=True)])
