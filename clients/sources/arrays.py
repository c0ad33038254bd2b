"""Reads images and sequences: arrays of an npz file, and folders of PNG files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from clients.shapes import Image, Sequence
from clients.sources.table import FileSource, WrongRowsError

__all__ = ["Npz", "Png"]


@dataclass(frozen=True, kw_only=True)
class Npz(FileSource):
    """An npz file: the array `values` gives the columns of a shape, every other one of as many rows a column, or
    columns `NAME.0`, `NAME.1` … where it has two dimensions (several labels of a row).

    Images are (n_rows, height, width) or (n_rows, height, width, channels), sequences (n_rows, length) or, with
    `steps`, (n_rows, length, channels).
    """

    form = "npz:PATH?values=images&prefix=pixel"
    wanted = "an npz file of arrays without pickled objects"
    values: str
    prefix: str = "pixel"
    steps: bool = False

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        with np.load(self.path(), allow_pickle=False) as file:
            if self.values not in file.files:
                raise WrongRowsError("option values: wanted the name of an array in the file, got another")
            rows = file[self.values]
            beside = {name: file[name] for name in file.files if name != self.values}
        frame = _frame(rows, self.prefix, self.steps)
        alike = {name: array for name, array in beside.items() if array.ndim and len(array) == len(rows)}
        columns = {name: array.reshape(-1) for name, array in alike.items() if array.size == len(rows)}
        for name, array in alike.items():
            if array.ndim == 2 and array.shape[1] > 1:
                columns |= {f"{name}.{place}": one for place, one in enumerate(array.T)}
        return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


@dataclass(frozen=True, kw_only=True)
class Png(FileSource):
    """PNG files of one size below a folder, in the order of their names.

    Columns beside the pixels are `folder`, the name of the folder that a file lies in (its class, often), and `file`.
    Grey images have one channel, all others three: red, green and blue.
    """

    form = "png:FOLDER?prefix=pixel"
    wanted = "a folder of PNG files of one size"
    prefix: str = "pixel"

    def files(self) -> tuple[Path, ...]:
        """See `TableSource.files`."""
        return tuple(sorted(each for each in Path(self.location).expanduser().rglob("*.png") if each.is_file()))

    def read(self) -> pd.DataFrame:
        """See `TableSource.read`."""
        if not (found := self.files()):
            raise FileNotFoundError(self.location)
        images = [_pixels(path) for path in found]
        shapes = Counter(image.shape for image in images)
        if len(shapes) > 1:
            raise WrongRowsError(f"wanted images of one size and one number of channels, got {len(shapes)} kinds")
        names = {"folder": [path.parent.name for path in found], "file": [path.name for path in found]}
        return _frame(np.stack(images), self.prefix, steps=False).assign(**names)


def _pixels(path: Path) -> NDArray[Any]:
    """Return (height, width) of a grey image, (height, width, 3) of another."""
    from PIL import Image as Pillow

    with Pillow.open(path, formats=("PNG",)) as image:
        grey = image.mode in {"1", "L", "LA", "I", "I;16"}
        return np.asarray(image.convert("L" if image.mode in {"1", "LA"} else image.mode if grey else "RGB"))


def _frame(rows: NDArray[Any], prefix: str, steps: bool) -> pd.DataFrame:
    """Return rows with the names of `clients.arrays.array_columns`; channels come first in these."""
    if rows.dtype.kind not in "biuf":
        raise WrongRowsError("option values: wanted an array of numbers, got another")
    if rows.ndim == 2 or (steps and rows.ndim == 3):
        named: Image | Sequence = Sequence(length=rows.shape[1], channels=1 if rows.ndim == 2 else rows.shape[2])
    elif rows.ndim in {3, 4} and not steps:
        named = Image(channels=1 if rows.ndim == 3 else rows.shape[3], height=rows.shape[1], width=rows.shape[2])
    else:
        raise WrongRowsError(f"option values: wanted an array of images or sequences, got {rows.ndim} dimensions")
    several = rows.ndim == (3 if isinstance(named, Sequence) else 4)
    first = np.moveaxis(rows, -1, 1) if several else rows
    return pd.DataFrame(first.reshape(len(rows), -1), columns=list(named.names(prefix)))
