"""Reads a data set as its owner's policy says: the source, then the mapping onto the schema."""

from __future__ import annotations

import pandas as pd

from clients.industry import IndustryClient
from clients.mapping import apply
from clients.sources import parse_source, read
from consortia.terms.policy import DatasetTerms

__all__ = ["read_rows"]


def read_rows(terms: DatasetTerms, client: IndustryClient, seed: int = 0, *, key: str = "dataset") -> pd.DataFrame:
    """Return the rows (n_rows, any columns) with the schema's names where the policy maps them.

    Public and synthetic rows have the schema's columns already, so no mapping touches them.

    Parameters
    ----------
    key : str
        The policy's key for errors, such as "dataset.heart".

    Raises
    ------
    SourceError, SchemaError
        The source cannot be read; the mapping does not fit it.
    """
    source = parse_source(terms.source, key=f"{key}.source")
    frame = read(source, client, terms.site, seed, key=f"{key}.source")
    if source.table is None or not terms.mapping:
        return frame
    return apply(terms.mapping, frame, client.schema, f"{key}.mapping")
