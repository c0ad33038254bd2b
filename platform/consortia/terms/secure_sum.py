"""The terms of contract and policy for secure sums."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from consortia.common.strict import StrictModel

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
