"""Occupancy of a home, from sensors (UCI Occupancy Detection, Candanedo & Feldheim 2016; CC BY 4.0).

Public format: `datatest.txt`, `datatraining.txt` and `datatest2.txt`, comma separated, a row a minute, each file one
recording period of one room. A period is dealt to many homes (site `PERIOD/NUMBER`) in cycles of 144 minutes to train
on, 12 left out, 72 to report on, and 12 left out: each of a cycle's twelve homes gets 12 consecutive minutes of the
former and 6 of the latter. So no home's evaluation minutes are within 12 minutes of any home's training minutes; rows
drawn at random would be next to near copies of themselves. The split `time` says which are which.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target

__all__ = ["CLIENT", "SCHEMA"]

TRAIN, REPORT, GAP, HOMES = 12, 6, 12, 12
CYCLE = HOMES * (TRAIN + REPORT) + 2 * GAP

SCHEMA = Schema(
    name="occupancy",
    version=1,
    columns=(
        Column(name="sno", dtype="text", identifier="drop", required=False),
        Column(name="date", dtype="text", identifier="drop", required=False),
        Column(name="Temperature", dtype="number", measure="°C", low=15, high=30, valid_low=-40, valid_high=60),
        Column(name="Humidity", dtype="number", measure="%", low=10, high=50, valid_low=0, valid_high=100),
        Column(name="Light", dtype="number", measure="lx", low=0, high=800, valid_low=0, valid_high=200_000),
        Column(name="CO2", dtype="number", measure="ppm", low=400, high=1600, valid_low=0, valid_high=50_000),
        Column(name="HumidityRatio", dtype="number", measure="kg/kg", low=0.002, high=0.007, valid_low=0, valid_high=1),
    ),
    target=Target(
        name="Occupancy",
        kind="binary",
        classes=("empty", "occupied"),
        mapping={"0": "empty", "1": "occupied"},
        prior=(0.77, 0.23),
    ),
)


def read(folder: Path, site: str) -> pd.DataFrame:
    """A period's rows as text, or one home's: its minutes to train on first, then those to report on."""
    period, _, number = site.partition("/")
    file = folder / f"{period}.txt"
    frame = _read(str(file), file.stat().st_mtime_ns)
    if not number:
        return frame.copy()
    cycle, place = divmod(int(number) - 1, HOMES)
    train = cycle * CYCLE + place * TRAIN
    report = cycle * CYCLE + HOMES * TRAIN + GAP + place * REPORT
    if report + REPORT > len(frame):
        return frame.iloc[:0]
    return frame.iloc[[*range(train, train + TRAIN), *range(report, report + REPORT)]].reset_index(drop=True)


@lru_cache(maxsize=8)
def _read(file: str, _changed: int) -> pd.DataFrame:
    return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def by_time(labels: NDArray[Any], site: str) -> NDArray[np.str_]:
    """The first two thirds of a home's rows train, the others report; both are blocks of time."""
    del site
    order = np.arange(len(labels))
    return np.where(order * (TRAIN + REPORT) < len(labels) * TRAIN, "train", "test")


#: How warm the synthetic rooms of a period are.
WARMTH = {"datatest": 21.4, "datatraining": 20.6, "datatest2": 21.0}


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Minutes of one room: somebody comes or goes now and then, lamps are mostly on and the air is worse with them."""
    period = site.partition("/")[0]
    there = generator.random() < 0.23
    changes = generator.random(rows) < 0.01
    occupied = (np.cumsum(changes) + there) % 2 == 1
    daylight = generator.random() < 0.4
    dark = generator.random(rows) < 0.04
    light = np.where(occupied & ~dark, generator.normal(450, 80, rows), generator.normal(120 * daylight, 40, rows))
    warmth = WARMTH[period] + generator.normal(0, 0.8) + 0.8 * occupied + generator.normal(0, 0.1, rows)
    humidity = np.clip(generator.normal(27, 4) + generator.normal(0, 0.3, rows), 15, 45)
    co2 = generator.normal(550, 80) + 350 * occupied + generator.normal(0, 60, rows)
    # Magnus' formula and the definition of the ratio at 1013 hPa.
    vapour = humidity / 100 * 6.112 * np.exp(17.62 * warmth / (243.12 + warmth))
    return pd.DataFrame(
        {
            "Temperature": warmth.round(2),
            "Humidity": humidity.round(2),
            "Light": np.clip(light, 0, None).round(1),
            "CO2": np.clip(co2, 400, None).round(1),
            "HumidityRatio": (0.622 * vapour / (1013 - vapour)).round(6),
            "Occupancy": occupied.astype(int),
        }
    )


CLIENT = IndustryClient(
    name="smart_home",
    title="Smart home",
    schema=SCHEMA,
    read=read,
    sites=tuple(WARMTH),
    dataset="occupancy",
    synthesise=synthesise,
    metrics=("auc", "accuracy", "brier"),
    splits={"time": by_time},
    default_rows=400,
    homes={"datatest": 132, "datatraining": 396, "datatest2": 480},
)
