"""Chest X-rays of children with and without pneumonia (PneumoniaMNIST of MedMNIST v2, Yang et al. 2023; CC BY 4.0).

Public format: `pneumoniamnist.npz` with `train_images`, `val_images` and `test_images`, uint8 (n_images, 28, 28), and
`train_labels` and so on, (n_images, 1): 1 is pneumonia. The three parts are read in this order and put together, since
every hospital splits its own images. An image is halved to 14 × 14: each number is the mean of 2 × 2 pixels, a
function of that image alone. There are no sites in the file. Four hospitals get uneven shares of each class, so that
they differ in size and in how many of their images show pneumonia. The original (Kermany et al. 2018) has several
images of some children, which the file does not tell. So the unit of privacy is an image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients._dealing import dealt
from clients._pandas import pd
from clients.arrays import array_columns, array_frame
from clients.industry import IndustryClient
from clients.schema import Schema, Target
from clients.shapes import Image

__all__ = ["CLIENT", "SCHEMA"]

SIDE: Final = 28
SHAPE: Final = Image(channels=1, height=SIDE // 2, width=SIDE // 2)
CLASSES: Final = ("normal", "pneumonia")
#: Each hospital's share of the normal images, and of those with pneumonia.
HOSPITALS: Final = {
    "university": (0.28, 0.47),
    "city": (0.40, 0.17),
    "children": (0.13, 0.29),
    "rural": (0.19, 0.07),
}

SCHEMA = Schema(
    name="imaging",
    version=1,
    columns=array_columns(SHAPE, "pixel", low=0, high=255, measure="grey", sensitive=True),
    target=Target(
        name="finding", kind="binary", classes=CLASSES, mapping={"0": "normal", "1": "pneumonia"}, prior=(0.5, 0.5)
    ),
    shape=SHAPE,
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """A hospital's images."""
    with np.load(folder / "pneumoniamnist.npz", allow_pickle=False) as file:
        images = np.concatenate([file[f"{part}_images"] for part in ("train", "val", "test")])
        labels = np.concatenate([file[f"{part}_labels"] for part in ("train", "val", "test")]).reshape(-1)
    rows = dealt(labels, HOSPITALS, site)
    return _frame(images[rows], labels[rows])


def _frame(images: NDArray[Any], labels: NDArray[Any]) -> pd.DataFrame:
    """Images (n_rows, 28, 28) and their classes (n_rows,) as rows of the schema."""
    halves = images.reshape(len(images), SHAPE.height, 2, SHAPE.width, 2).mean(axis=(2, 4))
    return array_frame(SHAPE, "pixel", halves[:, np.newaxis], finding=labels.astype(int).astype(str))


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """A chest of two dark lungs, bright ribs and a heart; pneumonia clouds one of the lungs.

    Each hospital's exposure differs a little.
    """
    normal, ill = HOSPITALS[site]
    labels = (generator.random(rows) < ill / (ill + normal)).astype(int)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    images = np.full((rows, SIDE, SIDE), 150.0) + 6 * list(HOSPITALS).index(site)
    shift = generator.normal(0, 1, (4, rows, 1, 1))
    for side in (8, 20):
        images -= 75 * _spot(y - 13 - shift[0], x - side - shift[1], 7.0, 4.0)
    images += 60 * _spot(y - 17 - shift[0], x - 15 - shift[1], 5.0, 3.5)
    images += 10 * np.sin((y + 2 * shift[2]) * 1.4)
    down, across = generator.uniform(9, 20, (rows, 1, 1)), generator.choice([8.0, 20.0], (rows, 1, 1))
    cloud = generator.gamma(4.0, 14.0, (rows, 1, 1)) * labels[:, np.newaxis, np.newaxis]
    images += cloud * _spot(y - down, x - across, 3.5, 3.0)
    # Vessels and scars look a little like it, with and without pneumonia.
    down, across = generator.uniform(9, 20, (rows, 1, 1)), generator.choice([8.0, 20.0], (rows, 1, 1))
    images += generator.gamma(2.0, 8.0, (rows, 1, 1)) * _spot(y - down, x - across, 3.0, 2.5)
    images = images * (1 + 0.08 * shift[3]) + generator.normal(0, 12, images.shape)
    return _frame(images.clip(0, 255).round(), labels)


def _spot(y: NDArray[Any], x: NDArray[Any], high: float, wide: float) -> NDArray[np.float64]:
    spot: NDArray[np.float64] = np.exp(-((y / high) ** 2 + (x / wide) ** 2) / 2)
    return spot


CLIENT = IndustryClient(
    name="imaging",
    title="Chest X-rays",
    schema=SCHEMA,
    read=read,
    sites=tuple(HOSPITALS),
    dataset="hospital/pneumonia",
    synthesise=synthesise,
    metrics=("auc", "auprc", "accuracy"),
    default_rows=400,
)
