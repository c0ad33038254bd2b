"""Handwritten digits as 8 × 8 images: the data that scikit-learn brings (UCI Optical Recognition, CC BY 4.0).

Public format: `digits.csv.gz` without a header, a row an image: 64 numbers from 0 to 16, line by line, then the digit.
The source `public:installed` reads the file of the installed scikit-learn, so real images need no download. The 1,797
images are dealt to five offices in their order, unevenly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.arrays import array_columns, array_frame
from clients.industry import IndustryClient
from clients.schema import Schema, Target
from clients.shapes import Image

__all__ = ["CLIENT", "SCHEMA"]

SHAPE: Final = Image(channels=1, height=8, width=8)
DIGITS: Final = tuple(str(digit) for digit in range(10))
#: Where each office's images begin in the file.
OFFICES: Final = {"north": 0, "east": 600, "south": 1050, "west": 1400, "centre": 1650}
ROWS: Final = 1797

SCHEMA = Schema(
    name="digits",
    version=1,
    columns=array_columns(SHAPE, "pixel", low=0, high=16, measure="ink"),
    target=Target(name="digit", kind="multiclass", classes=DIGITS),
    shape=SHAPE,
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """An office's images as text."""
    names = [*SHAPE.names("pixel"), SCHEMA.target.name]
    first = OFFICES[site]
    last = min((place for place in OFFICES.values() if place > first), default=ROWS)
    frame = pd.read_csv(folder / "digits.csv.gz", names=names, dtype=str, skiprows=first, nrows=last - first)
    frame[SCHEMA.target.name] = frame[SCHEMA.target.name].str.removesuffix(".0")
    return frame


#: Strokes of each digit on 5 × 4 dots, a line a group.
_STROKES: Final = (
    "0110 1001 1001 1001 0110",
    "0010 0110 0010 0010 0111",
    "0110 1001 0010 0100 1111",
    "1110 0001 0110 0001 1110",
    "0010 0110 1010 1111 0010",
    "1111 1000 1110 0001 1110",
    "0110 1000 1110 1001 0110",
    "1111 0001 0010 0100 0100",
    "0110 1001 0110 1001 0110",
    "0110 1001 0111 0001 0110",
)


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Digits of printed strokes, moved, blurred and smudged; each office's pens are of another width."""
    pen = 0.55 + 0.1 * list(OFFICES).index(site)
    glyphs = np.array([[[int(dot) for dot in line] for line in each.split()] for each in _STROKES], dtype=np.float64)
    digit = generator.integers(10, size=rows)
    page = np.zeros((rows, 8, 8))
    across, down = generator.integers(1, 4, rows), generator.integers(1, 3, rows)
    for row in range(rows):
        page[row, down[row] : down[row] + 5, across[row] : across[row] + 4] = glyphs[digit[row]]
    ink = 16 * (page + pen * 0.25 * _around(page)) + generator.normal(0, 1.5, page.shape)
    values = np.clip(ink, 0, 16).round().astype(int)[:, np.newaxis]
    return array_frame(SHAPE, "pixel", values, digit=np.array(DIGITS)[digit])


def _around(page: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ink of the four neighbours of each pixel, (n_rows, 8, 8)."""
    wide = np.pad(page, ((0, 0), (1, 1), (1, 1)))
    total: NDArray[np.float64] = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    return total


CLIENT = IndustryClient(
    name="digits",
    title="Handwriting",
    schema=SCHEMA,
    read=read,
    sites=tuple(OFFICES),
    dataset="digits",
    installed="sklearn.datasets.data",
    synthesise=synthesise,
    metrics=("accuracy", "macro_auc", "log_loss"),
    default_rows=300,
)
