"""Reads, checks, encodes and splits a participant's rows. Nothing here sends anything."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clients import registry
from clients._apart import set_apart
from clients.dataset import Table, assign
from clients.industry import IndustryClient
from clients.sources import Source, parse_source
from consortia.common.errors import RefusedError
from consortia.common.latest import Latest
from consortia.participant import kept_rows
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions
from consortia.participant.placebo_labels import with_placebo_labels
from consortia.participant.rows import checked, read_rows
from consortia.terms.contract import Contract
from consortia.terms.policy import DatasetTerms

_CACHED_TABLES = 64
#: Environment variable with the folder of a participant's own files, which a container's compose file mounts.
OWN_FILES = "CONSORTIA_OWN_FILES"
log = logging.getLogger("consortia.participant")


#: Tables of the last runs, so that the embedded engine reads each file once.
_cache: Latest[Partitions] = Latest(_CACHED_TABLES)


def load_partitions(home: Home, terms: DatasetTerms, dataset: str, contract: Contract, run_id: str) -> Partitions:
    """Read, check, encode and split the participant's rows.

    Raises
    ------
    QuarantineError
        A larger share of the rows breaks the schema than the policy allows.
    SourceError
        The source cannot be read. The message names the policy's key.
    """
    key = (str(home.folder), run_id, contract.sha256(), terms.model_dump_json())
    cached = _cache.get(key)
    if cached is not None:
        return cached
    client = registry.get(terms.industry)
    rules = contract.industries[terms.industry]
    shares = contract.split
    if rules.split != "hash" and terms.unit != "record":
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED", f"split {rules.split} knows rows only and would cut through a {terms.unit}"
        )
    home.pin_split(dataset, json.dumps({"rule": rules.split, **shares.model_dump()}, sort_keys=True))
    split_key = home.split_key()
    source = parse_source(terms.source)
    if source.placebo is not None and not home.simulation:
        raise RefusedError("BAD_POLICY", "a placebo source is for simulations")
    if source.synthetic and OWN_FILES in os.environ and (problem := idle_files(home.policy, dataset, own_files())):
        raise RefusedError("BAD_POLICY", problem)
    kept_key = kept_rows.key_of(home, terms, dataset, contract, run_id, split_key)
    kept = kept_rows.find(kept_key)
    loaded = kept or _read(home, terms, dataset, contract, client, source, split_key)
    home.pin_rows(dataset, synthetic=loaded.synthetic)
    if kept is None:
        kept_rows.keep(kept_key, loaded)
    _cache.put(key, loaded)
    return loaded


def _read(
    home: Home,
    terms: DatasetTerms,
    dataset: str,
    contract: Contract,
    client: IndustryClient,
    source: Source,
    split_key: bytes,
) -> Partitions:
    rules = contract.industries[terms.industry]
    frame = read_rows(terms, client, contract.seed, key=f"dataset.{dataset}")
    where_from = f"dataset of {terms.industry} at {home.participant}"
    table = checked(frame, terms, client, contract, key=split_key, where=where_from)
    bias: tuple[str, ...] = ()
    if table.quarantine.rows_kept < table.quarantine.rows_read:
        log.warning("%s: %s", home.participant, table.quarantine)  # counts by column and rule, never a value
        bias = tuple(set_apart(client.schema, frame, table.quarantine).bias)
        for sentence in bias:
            log.warning("%s: rows set apart: %s", home.participant, sentence)
    masks = split_masks(table, client, terms.site, contract, split_key)
    if source.placebo is not None:  # after the split, which may use labels
        table = with_placebo_labels(table, client.schema.target, home.participant, source.placebo)
    if client.schema.target.kind == "anomaly":  # each row by its own label: what is not ordinary is never trained on
        masks["train"] = masks["train"] & (table.target.numpy() == 0)
    parts = {part: table.take(mask) for part, mask in masks.items()}
    return Partitions(
        parts["train"],
        parts["validation"],
        parts["test"],
        table.quarantine,
        table.synthetic or terms.synthetic,
        conditional_on_split=rules.split != "hash",
        bias=bias,
    )


def split_masks(
    table: Table, client: IndustryClient, site: str, contract: Contract, split_key: bytes
) -> dict[str, NDArray[np.bool_]]:
    """Return a mask (n_rows,) for each partition. It is a function of each row, the key and the contract."""
    shares, rule = contract.split, contract.industries[client.name].split
    if rule == "hash":
        where = assign(
            table.split_keys,
            split_key,
            {"train": shares.train, "validation": shares.validation, "test": shares.test},
        )
        return {part: where == part for part in ("train", "validation", "test")}
    # A published split fixes the test rows. Validation rows are taken from its training part.
    in_train = client.splits[rule](table.target.numpy(), site) == "train"
    inner = shares.validation / (shares.train + shares.validation)
    where = assign(table.split_keys, split_key, {"train": 1 - inner, "validation": inner})
    return {
        "train": in_train & (where == "train"),
        "validation": in_train & (where == "validation"),
        "test": ~in_train,
    }


def own_files() -> Path:
    """Return the folder that `$CONSORTIA_OWN_FILES` names."""
    return Path(os.environ.get(OWN_FILES, ""))


def idle_files(policy: Path, dataset: str, folder: Path) -> str | None:
    """Return a problem if the folder of the owner's rows holds files, but the policy uses synthetic rows."""
    if not folder.is_dir() or not (found := [each for each in sorted(folder.iterdir()) if each.name[0] != "."]):
        return None
    return (
        f"{policy}: dataset.{dataset}.source: wanted the rows in {folder} ({len(found)} file(s) lie there), got "
        f"synthetic ones; change the line to source = 'csv:{folder}/{found[0].name}' (and declared_units), or "
        "move the files away"
    )
