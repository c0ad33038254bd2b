"""Heartbeats as electrocardiograms of 140 samples: normal or not (ECG5000 of the UCR archive).

Public format: `ECG5000_TRAIN.txt` without a header, a line a heartbeat: its class from 1 to 5, then 140 numbers, with
spaces between them. Class 1 is normal, the others are kinds of beats that are not. A beat has mean 0 and deviation 1.
The beats are from one patient's long recording (BIDMC Congestive Heart Failure Database, record chf07; Goldberger et
al. 2000; prepared by Chen et al. 2015). So the unit of privacy is a heartbeat, and no number here says anything about
patients. Five clinics get uneven shares of each class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from clients._dealing import dealt
from clients._pandas import pd
from clients.arrays import array_columns, array_frame
from clients.industry import IndustryClient
from clients.schema import Schema, Target
from clients.shapes import Sequence

__all__ = ["CLIENT", "SCHEMA"]

SHAPE: Final = Sequence(length=140, channels=1)
#: Each clinic's share of the normal beats, then of each kind of the others.
CLINICS: Final = {
    "cardiology": (0.34, 0.34),
    "emergency": (0.20, 0.34),
    "ward": (0.24, 0.14),
    "practice": (0.14, 0.10),
    "ambulance": (0.08, 0.08),
}

SCHEMA = Schema(
    name="heartbeats",
    version=1,
    # Deviations of the beat's own mean; the few samples beyond four of them are clamped.
    columns=array_columns(SHAPE, "sample", low=-4, high=4, measure="standard deviations", sensitive=True),
    target=Target(
        name="beat",
        kind="binary",
        classes=("normal", "other"),
        mapping={"1": "normal", "2": "other", "3": "other", "4": "other", "5": "other"},
        prior=(0.584, 0.416),
    ),
    shape=SHAPE,
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """A clinic's heartbeats."""
    names = [SCHEMA.target.name, *SHAPE.names("sample")]
    frame = pd.read_csv(folder / "ECG5000_TRAIN.txt", sep=r"\s+", header=None, names=names, dtype=np.float64)
    kind = frame[SCHEMA.target.name].to_numpy().astype(int)
    rows = dealt(kind - 1, CLINICS, site)
    chosen = frame.iloc[rows].reset_index(drop=True)
    return chosen.assign(**{SCHEMA.target.name: kind[rows].astype(str)})


#: The middle, width and height of each wave of a beat, in samples and in the recording's unit: class 1, then 2.
_WAVES: Final = {
    "1": ((8, 4, -3.0), (100, 8, 1.2), (105, 20, 0.6), (137, 6, 1.0), (60, 30, 0.3)),
    "2": ((9, 5, -3.2), (100, 30, 0.9), (128, 5, -0.6), (138, 5, -2.6), (45, 25, 0.2)),
}


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Sums of waves, each moved, stretched and scaled a little; every clinic's leads lie a little differently."""
    normal, other = CLINICS[site]
    ill = generator.random(rows) < 0.416 * other / (0.416 * other + 0.584 * normal)
    lead = 0.9 + 0.05 * list(CLINICS).index(site)
    beats = np.zeros((rows, SHAPE.length))
    for kind, waves in _WAVES.items():
        chosen = ill == (kind == "2")
        beats[chosen] = _beats(generator, int(chosen.sum()), waves, lead)
    beats += generator.normal(0, 0.25, beats.shape).cumsum(axis=1) * 0.15 + generator.normal(0, 0.1, beats.shape)
    beats = (beats - beats.mean(1, keepdims=True)) / beats.std(1, keepdims=True)
    return array_frame(SHAPE, "sample", beats[:, np.newaxis].round(6), beat=np.where(ill, "2", "1"))


def _beats(
    generator: np.random.Generator, rows: int, waves: tuple[tuple[int, int, float], ...], lead: float
) -> NDArray[np.float64]:
    time = np.arange(SHAPE.length)
    total = np.zeros((rows, SHAPE.length))
    for middle, width, height in waves:
        at = middle + generator.normal(0, 4, (rows, 1))
        wide = width * generator.lognormal(0, 0.15, (rows, 1))
        total += lead * height * generator.lognormal(0, 0.3, (rows, 1)) * np.exp(-(((time - at) / wide) ** 2) / 2)
    return total


CLIENT = IndustryClient(
    name="heartbeats",
    title="Heartbeats",
    schema=SCHEMA,
    read=read,
    sites=tuple(CLINICS),
    dataset="hospital/ecg5000",
    synthesise=synthesise,
    metrics=("auc", "auprc", "accuracy"),
    default_rows=100,
)
