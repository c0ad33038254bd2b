"""Deals a public data set that has no sites to some, by fixed shares of each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["dealt"]


def dealt(labels: NDArray[Any], shares: Mapping[str, Sequence[float]], site: str) -> NDArray[np.int64]:
    """The positions of a site's rows, in their order: of each class a run of its rows in the file's order.

    Parameters
    ----------
    labels : ndarray of int (n_rows,)
        The number of each row's class, from 0 on; those above the last share go by the last one.
    shares : mapping
        From each site to its share of each class. The shares of a class add up to 1 over the sites.

    Returns
    -------
    ndarray of int64 (n_rows_of_the_site,)
    """
    place = list(shares).index(site)
    edges = np.cumsum(np.array([[0.0] * len(shares[site]), *shares.values()]), axis=0)
    found = []
    for number in np.unique(labels):
        rows = np.flatnonzero(labels == number)
        first, last = np.round(edges[place : place + 2, min(int(number), edges.shape[1] - 1)] * len(rows)).astype(int)
        found.append(rows[first:last])
    return np.sort(np.concatenate(found)).astype(np.int64)
