"""What contract and policy say about secure sums: strict values, and what they exclude."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from consortia.common.errors import InputError
from consortia.common.strict import StrictModel
from strategies.base import Controlled, LocalHalf, Strategy

if TYPE_CHECKING:
    from consortia.terms.scenario import Contract, IndustryTerms

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SecureTerms(StrictModel):
    """`[contract.secure]`: one noisy clipped sum a round, of which nobody sees a part.

    `mode` one opens a sum whole or not at all; two also where up to `drops` of its members dropped out, for which every
    share of noise is larger. `colluders` t members may work with the coordinator; the noise counts on the others.
    `cohorts` splits every group
    into that many sums, so that one out of range can be left out. `spare` attempts of the whole run are paid for
    besides one a round. The last four follow from the roster when left out (`secure.settle`): `noise` S with
    C_i = S / sigma_i, bounds of every C_i, and how many units one sum holds.
    """

    mode: Literal["one", "two"] = "one"
    drops: Annotated[int, Field(ge=0, le=61)] = 0
    colluders: Annotated[int, Field(ge=0, le=62)] = 1
    min_cohort: Annotated[int, Field(ge=3)] = 3
    cohorts: Annotated[int, Field(ge=1, le=100)] = 1
    attempts: Annotated[int, Field(ge=1, le=3)] = 3
    spare: Annotated[int, Field(ge=0, le=1000)] = 2
    noise: _Positive | None = None
    largest_clip: _Positive | None = None
    smallest_clip: _Positive | None = None
    rows: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _drops_fit(self) -> SecureTerms:
        if (self.mode == "two") != (self.drops > 0):
            raise ValueError('drops >= 1 with mode = "two", and none with mode = "one", which recovers no drop-out')
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Older contracts keep their hash."""
        data: dict[str, Any] = dump(self)
        return data if self.drops else {key: value for key, value in data.items() if key != "drops"}

    @property
    def least(self) -> int:
        """The smallest cohort that is asked for a sum."""
        return self.least_open + self.drops

    @property
    def least_open(self) -> int:
        """The fewest members whose sum may open: two shares of noise beside the colluders'."""
        return max(self.min_cohort, self.colluders + 2)


class SecurePolicy(StrictModel):
    """`[secure]` of a policy: with whom the owner sums. `peers` are their public identity keys, hex of DER.

    `colluders` is the least t that a contract's noise must count on.
    """

    min_cohort: Annotated[int, Field(ge=3)] = 3
    colluders: Annotated[int, Field(ge=0)] = 1
    max_attempts: Annotated[int, Field(ge=1, le=3)] = 3
    peers: dict[str, str] = Field(default_factory=dict)

    @field_validator("peers")
    @classmethod
    def _are_hex(cls, peers: dict[str, str]) -> dict[str, str]:
        for name, key in peers.items():
            try:
                bytes.fromhex(key)
            except ValueError:
                raise ValueError(f"the line that `consortia secure key {name}` prints there") from None
        return peers

    def keys(self) -> dict[str, bytes]:
        """Return the pinned keys."""
        return {name: bytes.fromhex(key) for name, key in self.peers.items()}


def check_terms(contract: Contract, strategy: Strategy) -> None:
    """Raise ValueError, naming what was wanted, where a contract's trust and the rest of it exclude each other."""
    if contract.trust != "aggregate":
        if contract.secure is not None:
            raise ValueError(f'no [contract.secure] with trust = "{contract.trust}"; set trust = "aggregate"')
        return
    if contract.compression is not None:
        raise ValueError('no [contract.compression] with trust = "aggregate": a masked word cannot be shortened')
    name = contract.strategy.name
    if not strategy.fit.sum_only:
        raise ValueError(
            f"a strategy that needs the sum of the updates only (fedsgd, fedavg, fedadam, ...): {name} compares single "
            'updates, and nobody sees one with trust = "aggregate". Where members are not trusted to be honest, keep '
            f'{name} and take trust = "local" with local noise'
        )
    if isinstance(strategy, LocalHalf | Controlled):
        raise ValueError(
            f"a strategy without a local term: {name} changes local steps, and a secure sum has none, since shared "
            "noise inside local steps has no proof"
        )
    if contract.evaluation.every or contract.stopping is not None:
        raise ValueError("evaluation.every = 0 and no [contract.stopping]: a masked reply carries no metric")
    if contract.strategy.weighting != "declared":
        raise ValueError('weighting = "declared": in one sum every unit counts alike, whoever holds it')
    for industry, terms in contract.industries.items():
        if (terms.local_steps, terms.momentum, terms.weight_decay) != (1, 0.0, 0.0):
            raise ValueError(
                f"local_steps = 1, momentum = 0 and weight_decay = 0 in industries.{industry}, since one noised sum a "
                'round is all that is released with trust = "aggregate" (take server_momentum)'
            )
    rates = {terms.learning_rate for terms in contract.industries.values()}
    shared = "consortium" in contract.scopes.named
    if shared and len(rates) > 1 and not strategy.fit.gradient:
        raise ValueError("one learning_rate in all industries that share parameters, since one sum makes one step")


def planned_rounds(contract: Contract) -> int:
    """Return how often a participant trains at most: noise is solved for that many, with secure sums for spares too."""
    return contract.participations + (contract.secure_terms.spare if contract.trust == "aggregate" else 0)


def clip_of(contract: Contract, rules: IndustryTerms, noise_multiplier: float) -> float:
    """Return the norm bound of one unit: the industry's, or C_i = S / sigma_i where noise is shared.

    Raises
    ------
    InputError
        When noise and clips of a contract are not settled, or the bound is outside what the grid was made for.
    """
    if contract.trust != "aggregate":
        return rules.clip
    terms = contract.secure_terms
    if terms.noise is None or terms.smallest_clip is None or terms.largest_clip is None or terms.rows is None:
        raise InputError(
            "contract.secure: wanted noise, largest_clip, smallest_clip and rows, got a scenario as written"
        )
    if noise_multiplier <= 0:
        raise InputError("epsilon: wanted a finite one with trust = 'aggregate', got a non-private proposal")
    clip = terms.noise / noise_multiplier
    if clip < terms.smallest_clip:
        raise InputError(
            f"contract.secure.smallest_clip: wanted at most {clip:.4g}, which this budget needs, got "
            f"{terms.smallest_clip:g}; propose a smaller epsilon to this participant"
        )
    return min(clip, terms.largest_clip)
