"""The vertical terms of a policy: pinned keys, and lifetime limits of a data set."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from clients.masking import SourceText
from consortia.common.strict import StrictModel
from consortia.terms.vertical import PeerName

__all__ = ["VerticalPolicy"]

ModelName = Literal["logistic", "boosting", "stumps", "network"]


class VerticalPolicy(StrictModel):
    """`[vertical]`.

    A label owner who crafts labels can turn a partner's model into a detector of an attribute; no gate on the labels
    stops that. So the partner says which label for which purpose, how many label messages in the data set's life,
    and on
    how many rows at least.
    """

    peers: dict[PeerName, Annotated[str, Field(pattern=r"^ed25519:[0-9a-f]{64}$")]] = Field(default_factory=dict)
    label: str
    purpose: str
    set_size_cap: Annotated[int, Field(ge=1)]
    intersections: Annotated[int, Field(ge=0)] = 1
    label_messages: Annotated[int, Field(ge=0)] = 1
    minimum_rows: Annotated[int, Field(ge=10)] = 50
    exact_scores: bool = False
    models: Annotated[tuple[ModelName, ...], Field(min_length=1)] = ("logistic", "boosting", "stumps")
    ids: tuple[str, ...] = ()
    new_persons: Annotated[str, AfterValidator(SourceText)] = ""
