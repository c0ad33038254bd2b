"""Reads a data set as its owner's policy says: first the source, then the mapping to the schema."""

from __future__ import annotations

import pandas as pd

from clients.dataset import Table, prepare
from clients.industry import IndustryClient
from clients.mapping import apply
from clients.sources import parse_source, read
from consortia.terms.contract import Contract
from consortia.terms.policy import DatasetTerms

__all__ = ["checked", "read_rows"]


def read_rows(terms: DatasetTerms, client: IndustryClient, seed: int = 0, *, key: str = "dataset") -> pd.DataFrame:
    """Return the rows (n_rows, any columns), with the schema's names for mapped columns.

    Public and synthetic rows already have the schema's columns, so they are not mapped.

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


def checked(
    frame: pd.DataFrame, terms: DatasetTerms, client: IndustryClient, contract: Contract, *, key: bytes, where: str
) -> Table:
    """Check the rows of `read_rows` and apply the policy and the contract's filter. A participant trains on the result.

    Parameters
    ----------
    key : bytes
        The home's split key.
    where : str
        Name of the rows, for errors.

    Raises
    ------
    QuarantineError, SchemaError
        As `clients.dataset.prepare`.
    """
    return prepare(
        client,
        frame,
        unit=terms.unit,
        max_rows_per_unit=terms.max_rows_per_unit,
        filter=contract.industries[terms.industry].filter or None,
        grouping=contract.of(terms.industry).evaluation.grouping(terms.industry),
        key=key,
        quarantine_threshold=terms.quarantine_threshold,
        where=where,
    )
