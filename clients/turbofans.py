"""Turbofan engines: does one fail within 30 cycles (`CLIENT`), and how many are left (`LIFE`, `clients.turbofan_life`)?

Public format: C-MAPSS FD001 (Saxena et al. 2008; NASA, public domain). `train_FD001.txt` and `test_FD001.txt` have a
line a cycle without a header: engine, cycle, 3 settings, 21 sensors, with spaces between. A training engine runs to
its failure. A test engine stops before, and its line of `RUL_FD001.txt` says how many cycles it had left. Settings and
the sensors 1, 5, 10, 16, 18 and 19 are constant there (sensor 6 nearly so) and are not read. Engines of both files are
dealt to five factories, unevenly.

A row is the 30 cycles before one moment of an engine, as 10 steps of 3 cycles: of each sensor the mean of a step.
Steps before an engine's first cycle are masked. There is a row each 10 cycles, counted back from an engine's last one.
The unit of privacy is an engine with all of its rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.arrays import array_columns, array_frame
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target
from clients.shapes import Sequence

__all__ = ["CLIENT", "LIFE", "SCHEMA"]

#: From the number of a sensor to its bounds: those of the published file, rounded outwards; and its name there, unit.
SENSORS: Final[Mapping[int, tuple[float, float, str]]] = {
    2: (641, 645, "T24, °R"),
    3: (1568, 1618, "T30, °R"),
    4: (1380, 1442, "T50, °R"),
    7: (549, 557, "P30, psia"),
    8: (2387.8, 2388.6, "Nf, rpm"),
    9: (9020, 9250, "Nc, rpm"),
    11: (46.5, 48.6, "Ps30, psia"),
    12: (518, 524, "phi, pps/psi"),
    13: (2387.8, 2388.6, "NRf, rpm"),
    14: (8095, 8300, "NRc, rpm"),
    15: (8.3, 8.6, "BPR"),
    17: (387, 401, "htBleed"),
    20: (38.1, 39.5, "W31, lbm/s"),
    21: (22.85, 23.7, "W32, lbm/s"),
}
STEPS, CYCLES, EVERY = 10, 3, 10
SOON, CAP = 30, 125
ENGINES: Final = 100
SHAPE: Final = Sequence(length=STEPS, channels=len(SENSORS) + 1, mask=True)
#: How many engines of each file a factory has.
FACTORIES: Final = {"lisbon": 30, "graz": 25, "turku": 20, "brno": 15, "cork": 10}

SCHEMA = Schema(
    name="turbofans",
    version=1,
    columns=(
        Column(name="engine", dtype="text", identifier="hash", required=False),
        *array_columns(
            SHAPE,
            "sensor",
            low=[low for low, _, _ in SENSORS.values()],
            high=[high for _, high, _ in SENSORS.values()],
            measure=[measure for _, _, measure in SENSORS.values()],
        ),
    ),
    target=Target(name="fails", kind="binary", classes=("later", "soon"), prior=(0.87, 0.13)),
    unit="engine",
    shape=SHAPE,
)

REMAINING: Final = Target(name="remaining", kind="regression", low=0, high=CAP, measure="cycles")


def _rows(readings: NDArray[np.float64], left: int, engine: str) -> pd.DataFrame:
    """One engine's rows; readings (n_cycles, n_sensors), and how many cycles it had left after the last one."""
    ends = np.arange(len(readings), 0, -EVERY)[::-1]
    values = np.zeros((len(ends), *SHAPE.sizes))
    values[:, :-1] = np.array([[(low + high) / 2] for low, high, _ in SENSORS.values()])
    for row, end in enumerate(ends):
        for step in range(STEPS):
            last = end - CYCLES * (STEPS - 1 - step)
            if last > 0:
                values[row, :-1, step] = readings[max(last - CYCLES, 0) : last].mean(axis=0)
                values[row, -1, step] = 1
    remaining = left + len(readings) - ends
    return _frame(values, remaining, np.repeat(engine, len(ends)))


def _frame(values: NDArray[np.float64], remaining: NDArray[Any], engines: NDArray[Any]) -> pd.DataFrame:
    """Rows with both targets."""
    fails = np.where(remaining <= SOON, "soon", "later")
    columns = {"engine": engines, "fails": fails, "remaining": np.minimum(remaining, CAP)}
    return array_frame(SHAPE, "sensor", values, **columns)


def read(folder: Path, site: str, target: str = SCHEMA.target.name) -> pd.DataFrame:
    """A factory's engines, those of the training file first, with that target."""
    first = sum(list(FACTORIES.values())[: list(FACTORIES).index(site)])
    left = np.loadtxt(folder / "RUL_FD001.txt", dtype=int, ndmin=1)
    found = []
    for part in ("train", "test"):
        lines = np.loadtxt(folder / f"{part}_FD001.txt", ndmin=2)
        for engine in range(first + 1, first + FACTORIES[site] + 1):
            readings = lines[lines[:, 0] == engine][:, [4 + sensor for sensor in SENSORS]]
            found.append(_rows(readings, int(left[engine - 1]) if part == "test" else 0, f"{part} {engine}"))
    return _with(target, pd.concat(found, ignore_index=True))


def _with(target: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `_frame` with one of the two targets."""
    return frame.drop(columns=[name for name in (SCHEMA.target.name, REMAINING.name) if name != target])


#: A sensor's value in a new engine, how far wear takes it until the engine fails, and the noise of one cycle.
_WEAR: Final[Mapping[int, tuple[float, float, float]]] = {
    2: (642.4, 1.35, 0.33),
    3: (1587, 16, 4.9),
    4: (1403, 28, 4.3),
    7: (553.9, -2.6, 0.44),
    8: (2388.06, 0.19, 0.037),
    9: (9056, 43, 10),
    11: (47.35, 0.83, 0.12),
    12: (521.9, -2.2, 0.36),
    13: (2388.06, 0.2, 0.037),
    14: (8137, 31, 9),
    15: (8.418, 0.106, 0.02),
    17: (392.3, 4.3, 0.92),
    20: (38.93, -0.53, 0.1),
    21: (23.36, -0.31, 0.065),
}


def synthesise(generator: np.random.Generator, rows: int, site: str, target: str = SCHEMA.target.name) -> pd.DataFrame:
    """Engines that wear out exponentially, each in its own time; half of them are seen to the end.

    Every factory's engines are a little better or worse when new.
    """
    new, worn, noise = (np.array(column) for column in zip(*_WEAR.values(), strict=True))
    habit = 0.03 * (list(FACTORIES).index(site) - 2)
    found: list[pd.DataFrame] = []
    while sum(map(len, found)) < rows:
        life = int(np.clip(generator.lognormal(5.3, 0.22), 128, 360))
        seen = life if len(found) % 2 == 0 else int(life * generator.uniform(0.25, 0.95))
        wear = generator.uniform(0.02, 0.12) + habit + np.exp((np.arange(1, seen + 1) - life) / (0.2 * life))
        way = worn * generator.normal(1, 0.08, len(worn))
        readings = new + wear[:, np.newaxis] * way + generator.normal(0, 1, (seen, len(new))) * noise
        found.append(_rows(readings, life - seen, f"{site} {generator.integers(10**9)}"))
    return _with(target, pd.concat(found, ignore_index=True).iloc[:rows])


CLIENT = IndustryClient(
    name="turbofans",
    title="Turbofans",
    schema=SCHEMA,
    read=read,
    sites=tuple(FACTORIES),
    dataset="factory/cmapss",
    synthesise=synthesise,
    metrics=("auc", "auprc", "accuracy"),
    default_rows=400,
)
LIFE = dataclasses.replace(
    CLIENT,
    name="turbofan_life",
    title="Turbofans' remaining life",
    schema=dataclasses.replace(SCHEMA, name="turbofan_life", target=REMAINING),
    read=partial(read, target=REMAINING.name),
    synthesise=partial(synthesise, target=REMAINING.name),
    metrics=("rmse", "mae", "r2"),
)
