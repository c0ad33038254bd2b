"""Chooses the units of one release of a growing run, at home: those of the training partition that no release has used.

Guarantees
----------
* A unit is used by one release. It is recognised by a keyed hash of its identifier, all 32 bytes of it, whichever rows
  of it lie in the source today. The ledger writes these marks in the transaction that charges (`privacy.claims`); an
  attempt that was charged and never answered has used its units.
* Whether a unit is used, and in which release, goes by its own identifier and by when it arrived. So one unit more
  moves its own release and no other, and pays for that one alone (parallel composition).
* That fails for a record as the unit, whose mark is its content: an equal record of an earlier month would keep another
  one out. So it is refused. It fails, too, where a model that saw rows without noise picks who arrives or labels them.
  Code cannot see that: the owner states it (`arrivals_by_themselves`), and without the statement the run is refused.
* The contract is that of the first release, but for what it builds on; so split, columns and expectation are, too.
* A refusal here depends on contract, policy and ledger alone, never on rows. How many units are new stays at home:
  a release of none is noise, and is charged.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import replace
from typing import Protocol

import numpy as np

from clients.dataset import RECORD
from consortia.common.errors import RefusedError
from consortia.learners.sums.model import frozen
from consortia.messages.request import Request
from consortia.participant.home import Home
from consortia.participant.partitions import Partitions
from consortia.terms.growing import StepsBuiltOn, start_of
from consortia.terms.policy import DatasetTerms
from privacy import claims
from privacy.claims import Claims
from privacy.ledger import Ledger

__all__ = ["check", "check_message", "chosen", "mark_of"]


class Asked(Protocol):
    """What is read of the work on a message (`consortia.participant.context.Work`)."""

    request: Request
    home: Home
    terms: DatasetTerms
    dataset: str


def check(work: Asked, ledger: Ledger) -> None:
    """Refuse a growing run that this data set cannot take part in; no row is read.

    Raises
    ------
    RefusedError
    """
    if not work.request.contract.grows:
        return
    where = f"dataset.{work.dataset}"
    if work.terms.unit == RECORD:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"{where}.unit: wanted a column that says whose a row is, got {RECORD!r}; a record is recognised by its "
            "content, so an equal one of an earlier month would keep another unit out, and both would pay twice",
        )
    if not work.terms.arrivals_by_themselves:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"{where}.arrivals_by_themselves: wanted true, which states that no model that saw these rows without "
            "noise (joined, or your own) decides who is in the source, when, or with which label; without it old "
            "units would have to pay for every release",
        )
    if (schema := claims.schema(ledger)) < claims.SCHEMA:
        raise RefusedError(
            "NO_LEDGER",
            f"{ledger.path}: wanted schema {claims.SCHEMA}, got {schema}; run `consortia budget migrate`, once",
        )
    _check_first(work, ledger)
    known, ours = claims.begun(ledger, work.dataset), _claims(work, frozenset()).note(work.dataset)
    if known is not None and known["key"] != ours["key"]:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"{work.home.kept}: wanted the split.key with which the first release of {work.dataset} marked its units, "
            "got another, which would recognise none of them; put that key back",
        )
    if known is not None and known["first"] != ours["first"]:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"{where}: wanted a release on top of run {known['first']}, whose units are claimed, got one of run "
            f"{ours['first']}; a data set grows one run",
        )
    if work.request.contract.steps is not None and work.request.kind == "train":
        check_message(work)


def _check_first(work: Asked, ledger: Ledger) -> None:
    """Refuse a further release whose contract differs from the first one's in more than what it builds on.

    Sums under another public expectation, split or set of columns cannot be added to those of before, and with another
    split old units would be new.
    """
    contract = work.request.contract
    built_on = contract.built_on
    if built_on is None:
        return
    table = "sums" if contract.steps is None else "steps"
    data = json.loads(contract.canonical())
    del data[table]["builds_on"]
    first = hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    stored = ledger.plan(built_on.run)
    if first != built_on.contract or (stored is not None and stored.contract_sha256 != first):
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"contract.{table}.builds_on: wanted the contract of run {built_on.run} and nothing changed but what it "
            "builds on, got another; use `consortia run --top-up`",
        )
    if isinstance(built_on, StepsBuiltOn):
        new, declared = built_on.units.get(work.home.participant), work.terms.declared_units
        if new is None or new > declared:
            raise RefusedError(
                "CONTRACT_NOT_ALLOWED",
                f"contract.steps.builds_on.units: wanted 1 to {declared} new units here, which is "
                f"dataset.{work.dataset}.declared_units, got {'none' if new is None else new}; delta is checked "
                "against the policy's number, so correct that one, or the release's",
            )


def check_message(work: Asked) -> None:
    """Refuse a message that a further release does not have, or one made under another centre, radius or model."""
    request = work.request
    built_on = request.contract.built_on
    if isinstance(built_on, StepsBuiltOn):
        if request.round == 1 and start_of(request.model) != built_on.model.get(request.industry):
            raise RefusedError("BAD_MESSAGE", "model of round 1: wanted the one that the contract names, got another")
        return
    if built_on is None:
        return
    if request.round != 2:
        raise RefusedError("BAD_MESSAGE", f"message: wanted 2, all that a further release has, got {request.round}")
    if frozen(request.model) != built_on.frozen.get(request.industry):
        raise RefusedError("BAD_MESSAGE", "centre and radius: wanted those that the contract names, got others")


def chosen(work: Asked, ledger: Ledger, parts: Partitions) -> tuple[Partitions, Claims | None]:
    """Return the rows that this release uses, and what its reservation claims; all rows and None where nothing grows.

    A run's first message fixes its units. Later messages use those of them that are still in the source.
    """
    if not work.request.contract.grows:
        return parts, None
    table, key = parts.train, _key(work)
    marks = [mark_of(key, unit) for unit in table.unit_ids]
    mine = claims.cohort(ledger, work.request.run_id)
    if mine is None:
        mine = frozenset(marks) - claims.claimed(ledger, work.dataset, marks)
    used = np.array([mark in mine for mark in marks], dtype=bool)
    rows = used[np.asarray(table.unit_index)] if marks else np.zeros(len(table), dtype=bool)
    return replace(parts, train=table.take(rows)), _claims(work, mine & frozenset(marks))


def mark_of(key: bytes, unit: str) -> bytes:
    """Return the mark of a unit (32 bytes)."""
    return hmac.digest(key, b"unit\n" + unit.encode(), "sha256")


def _key(work: Asked) -> bytes:
    return hmac.digest(work.home.split_key(), b"claims\n" + work.dataset.encode(), "sha256")


def _claims(work: Asked, marks: frozenset[bytes]) -> Claims:
    built_on = work.request.contract.built_on
    first = work.request.run_id if built_on is None else built_on.run
    return Claims(hashlib.sha256(b"claims key\n" + _key(work)).hexdigest(), first, marks)
