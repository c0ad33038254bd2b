"""The contract: what every participant agrees to. It is checked, hashed (SHA-256 of canonical JSON) and sent whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from functools import cached_property, lru_cache
from typing import NamedTuple

from pydantic import PrivateAttr, ValidationError, model_validator

from consortia.common.errors import InputError
from consortia.common.strict import check_schema, parse
from consortia.terms.contract_checks import (
    check_by_industry,
    check_groups,
    check_growing_steps,
    check_kept_updates,
    check_optimizers,
    check_participations,
    check_secure_sum,
    check_sums,
    check_trusted_coordinator,
)
from consortia.terms.contract_fields import WIRE_VERSION, ContractFields, IndustryTerms, TrainingTerms
from consortia.terms.model import check_private_steps
from consortia.terms.vertical import check_mode
from strategies.base import Asynchronous, LocalHalf


class Contract(ContractFields):
    """What every participant agrees to: fields that fit together. Hashed; sent whole; trained from.

    Where industries have training terms of their own (`by_industry`), nothing is read of the whole but what all share;
    `of` gives the contract of one industry.

    Raises
    ------
    ValueError
        Naming what was wanted, where two fields exclude each other.
    """

    _whole: Contract | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _terms_fit(self) -> Contract:
        if self.wire != WIRE_VERSION:
            raise ValueError(f"wire = {WIRE_VERSION} (what this version speaks)")
        check_kept_updates(self)
        check_growing_steps(self)
        if check_mode(self.mode, self.vertical, self.rounds, self.industries, self.releases):
            if self.evaluation.groups:
                raise ValueError("no evaluation.groups for mode 'vertical': no released model is measured")
            return self
        if self.by_industry:
            check_by_industry(self)
            self.group_contracts()
            return self
        check_groups(self)
        check_sums(self)
        if self.learner == "gradient" and "update" not in self.releases:
            raise ValueError("releases that include 'update'")
        if self.stopping is not None and not self.evaluation.every:
            raise ValueError(
                "evaluation.metrics 'dp' or 'exact' and evaluation.every >= 1 with stopping, which reads released "
                "metrics only"
            )
        strategy = self.strategy.strategy()
        if strategy.fit.gradient and any(t.local_steps != 1 for t in self.industries.values()):
            raise ValueError("local_steps = 1 in every industry, since FedSGD sends one gradient a round")
        if strategy.fit.loss and "metrics" not in self.releases:
            raise ValueError(f"releases that include 'metrics', since {self.strategy.name} needs a training loss")
        if ("metrics" in self.releases) != (strategy.fit.loss or self.evaluation.metrics != "none"):
            raise ValueError(
                "'metrics' in releases exactly where evaluation.metrics is 'dp' or 'exact' or the strategy needs a loss"
            )
        if ("size" in self.releases) != (self.strategy.weighting == "noised"):
            raise ValueError("'size' in releases exactly where strategy.weighting is 'noised'")
        if isinstance(strategy, LocalHalf):
            for terms in self.industries.values():
                strategy.fits_learning_rate(terms.learning_rate)
        check_secure_sum(self, strategy)
        check_trusted_coordinator(self, strategy)
        check_private_steps(self.scopes, {n: (t.local_steps, t.private_steps) for n, t in self.industries.items()})
        check_participations(self, strategy)
        check_optimizers(self, strategy)
        return self

    def of(self, industry: str) -> Contract:
        """Return the contract of one industry, with its own training terms in place.

        That is this contract, where no industry has any. Otherwise it has this industry alone, but text and hash are
        those of the whole, which is what participants accept.

        Raises
        ------
        InputError
            When the contract has no such industry.
        """
        return _of(self.canonical(), industry) if self.by_industry else self

    def alone(self, industry: str) -> Contract:
        """Return a contract of that industry only, with a hash of its own: nobody agreed to it."""
        return self._group(self.by_industry.get(industry, self), [industry])

    def groups(self) -> list[tuple[TrainingTerms, list[str]]]:
        """Return which training terms hold for which industries: the contract's, then those of single industries."""
        rest = sorted(self.industries.keys() - self.by_industry.keys())
        return [(self, rest), *((terms, [name]) for name, terms in sorted(self.by_industry.items()))]

    def group_contracts(self) -> list[Contract]:
        """Return a contract of its own for each of `groups`, with its own hash."""
        return [self._group(*group) for group in self.groups()] if self.by_industry else [self]

    def _group(self, terms: TrainingTerms, industries: Collection[str]) -> Contract:
        data = self.model_dump(mode="python", by_alias=True, exclude={"by_industry"})
        data |= {name: getattr(terms, name) for name in TrainingTerms.model_fields}
        for learner in ("sums", "additive"):
            if data[learner] is not None:
                data[learner] = data[learner].only(industries)
        data["evaluation"] = data["evaluation"].only(industries)
        data["industries"] = {name: data["industries"][name] for name in industries}
        try:
            return Contract.model_validate(data)
        except ValidationError as error:
            wanted = "; ".join(one["msg"].removeprefix("Value error, ") for one in error.errors())
            raise ValueError(f"{wanted} (industry {', '.join(industries)})") from None

    @cached_property
    def _texts(self) -> tuple[str, str]:
        # Asked for several times a message; a contract is frozen, so once is enough.
        if self._whole is not None:
            return self._whole._texts
        later = self.unsaid | (set() if self.vertical else {"vertical"})
        data = self.model_dump(mode="json", by_alias=True, exclude=later | {"by_industry"})
        if self.by_industry:
            data["by_industry"] = {
                name: terms.model_dump(mode="json", by_alias=True, exclude=terms.unsaid)
                for name, terms in self.by_industry.items()
            }
        text = json.dumps(data, sort_keys=True, separators=(",", ":"))
        return text, hashlib.sha256(text.encode()).hexdigest()

    def canonical(self) -> str:
        """Return the canonical JSON that is hashed and sent: the whole contract's."""
        return self._texts[0]

    def sha256(self) -> str:
        """Return the hex SHA-256 of the canonical JSON."""
        return self._texts[1]


@lru_cache(maxsize=64)
def contract_from_json(text: str) -> Contract:
    """Parse a contract that came over the wire; cached, since the same one comes every round."""
    data = json.loads(text)
    check_schema(data, "contract")
    return parse(Contract, data, "contract")


@lru_cache(maxsize=256)
def _of(text: str, industry: str) -> Contract:
    whole = contract_from_json(text)
    if industry not in whole.industries:
        raise InputError(f"industry: wanted one of {', '.join(sorted(whole.industries))}, got {industry!r}")
    part = whole.alone(industry)
    part._whole = whole
    return part


def planned_rounds(contract: Contract) -> int:
    """Return how often a participant trains at most: noise is solved for that many, with secure sums for spares too.

    All messages of a learner of noisy sums are one training.
    """
    return (1 if contract.noisy_sums is not None else contract.participations) + spare(contract)


def spare(contract: Contract) -> int:
    """Return how many attempts are paid for beyond one for each message."""
    return contract.secure_terms.spare if contract.trust == "aggregate" else 0


class Settled(NamedTuple):
    """The numbers of a secure sum once noise and clips are settled; see `SecureTerms`."""

    noise: float
    largest_clip: float
    smallest_clip: float
    rows: int


def settled(contract: Contract) -> Settled:
    """Return the settled numbers of a contract with secure sums; InputError where they are open still."""
    terms = contract.secure_terms
    if terms.noise is None or terms.smallest_clip is None or terms.largest_clip is None or terms.rows is None:
        raise InputError(
            "contract.secure: wanted noise, largest_clip, smallest_clip and rows, got a scenario as written"
        )
    return Settled(terms.noise, terms.largest_clip, terms.smallest_clip, terms.rows)


def clip_of(contract: Contract, rules: IndustryTerms, noise_multiplier: float) -> float:
    """Return the norm bound of one unit: the industry's, or C_i = S / sigma_i where noise is shared.

    Raises
    ------
    InputError
        When noise and clips of a contract are not settled, or the bound is outside what the grid was made for.
    """
    if contract.trust != "aggregate":
        return rules.clip
    terms = settled(contract)
    if noise_multiplier <= 0:
        raise InputError("epsilon: wanted a finite one with trust = 'aggregate', got a non-private proposal")
    clip = terms.noise / noise_multiplier
    smallest = clip * (1.0 if contract.noisy_sums is None else contract.noisy_sums.shares.least_part)
    if smallest < terms.smallest_clip:
        raise InputError(
            f"contract.secure.smallest_clip: wanted at most {smallest:.4g}, which this budget needs, got "
            f"{terms.smallest_clip:g}; propose a smaller epsilon to this participant"
        )
    return min(clip, terms.largest_clip)


def last_number(contract: Contract) -> int:
    """Return the largest number of a train message: a round, or a participant's own count where there are none."""
    return contract.participations if isinstance(contract.strategy.strategy(), Asynchronous) else contract.rounds
