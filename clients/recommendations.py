"""Ratings of films: how does a user judge the next one? Five providers, each with its own users (MovieLens 100k).

Public format: `u.data` of MovieLens 100k (Harper and Konstan 2015, *The MovieLens Datasets*; GroupLens), a line a
rating without a header: user, item, rating from 1 to 5, time, with tabs between. Its terms forbid passing it on, so the
project ships none of it. The 943 users are dealt to five providers by their number, unevenly.

A row is one rating beside what the same user rated just before: the last 16 items and their ratings. So a row says what
was known when the user judged, and a model serves users that nobody trained on. The unit of privacy is a user with all
of its rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from clients._pandas import pd
from clients.arrays import array_frame, item_columns
from clients.industry import IndustryClient
from clients.schema import Column, Schema, Target
from clients.shapes import Items

__all__ = ["CLIENT", "SCHEMA"]

SHAPE: Final = Items(vocabulary=1682, earlier=16)
LOW, HIGH = 1, 5
#: How many of the users a provider has.
PROVIDERS: Final = {"cinema": 283, "library": 236, "club": 189, "rental": 141, "festival": 94}

SCHEMA = Schema(
    name="recommendations",
    version=1,
    columns=(
        Column(name="user", dtype="text", identifier="hash", required=False),
        *item_columns(SHAPE, "film", low=LOW, high=HIGH, measure="stars"),
    ),
    target=Target(name="rating", kind="regression", low=LOW, high=HIGH, measure="stars"),
    unit="user",
    shape=SHAPE,
)


def _rows(users: NDArray[Any], films: NDArray[np.int64], ratings: NDArray[np.float64]) -> pd.DataFrame:
    """A row for each rating; users one after the other, each in the order of its time."""
    starts = np.r_[0, np.flatnonzero(users[1:] != users[:-1]) + 1]
    first = np.repeat(starts, np.diff(np.r_[starts, len(users)]))
    before = np.arange(len(users))[:, np.newaxis] - np.arange(1, SHAPE.earlier + 1)
    there = before >= first[:, np.newaxis]
    before = np.where(there, before, 0)
    earlier = np.where(there, films[before], 0)
    values = np.where(there, ratings[before], (LOW + HIGH) / 2)
    numbers = np.column_stack([films, earlier, values])
    return array_frame(SHAPE, "film", numbers, user=users.astype(str), rating=ratings)


def read(folder: Path, site: str) -> pd.DataFrame:
    """A provider's ratings."""
    names = ["user", "film", "rating", "time"]
    every = pd.read_csv(folder / "u.data", sep="\t", header=None, names=names, dtype=np.int64)
    first = 1 + sum(list(PROVIDERS.values())[: list(PROVIDERS).index(site)])
    own = every[every["user"].between(first, first + PROVIDERS[site] - 1)].sort_values(["user", "time", "film"])
    return _rows(own["user"].to_numpy(), own["film"].to_numpy(), own["rating"].to_numpy(np.float64))


def _films() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Made-up films, the same everywhere: how often each is seen, how good it is, and of what kind (n_films, 2)."""
    world = np.random.default_rng(1682)
    seen = 1 / (world.permutation(SHAPE.vocabulary) + 20)
    return seen / seen.sum(), world.normal(0, 0.5, SHAPE.vocabulary), world.normal(0, 1, (SHAPE.vocabulary, 2))


def synthesise(generator: np.random.Generator, rows: int, site: str) -> pd.DataFrame:
    """Users with a mood and a taste each rate some 12 films; every provider's users like other kinds a little more."""
    often, good, kinds = _films()
    turn = 2 * np.pi * list(PROVIDERS).index(site) / len(PROVIDERS)
    users, films, ratings = [], [], []
    while sum(map(len, films)) < rows:
        many = int(generator.integers(8, 17))
        taste = generator.normal(0, 0.45, 2) + 0.2 * np.array([np.cos(turn), np.sin(turn)])
        chosen = generator.choice(SHAPE.vocabulary, many, replace=False, p=often)
        liked = 3.5 + generator.normal(0, 0.4) + good[chosen] + kinds[chosen] @ taste
        users.append(np.repeat(f"{site} {generator.integers(10**9)}", many))
        films.append(chosen + 1)
        ratings.append(np.clip(np.round(liked + generator.normal(0, 0.7, many)), LOW, HIGH))
    return _rows(*map(np.concatenate, (users, films, ratings))).iloc[:rows]  # type: ignore[arg-type]


CLIENT = IndustryClient(
    name="recommendations",
    title="Recommendations",
    schema=SCHEMA,
    read=read,
    sites=tuple(PROVIDERS),
    dataset="media/movielens_100k",
    synthesise=synthesise,
    metrics=("rmse", "mae", "ndcg_at_10", "recall_at_10"),
    default_rows=600,
)
