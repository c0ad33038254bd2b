"""The vertical terms of a contract: who has the label, who helps, and the public limits."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import Field, model_validator

from clients.errors import ClientError
from consortia.common.strict import StrictModel, listed

__all__ = ["RELEASES", "PeerName", "VerticalTerms", "check_mode", "check_participants"]

PeerName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,40}$")]
#: What leaves in this mode: blinded identifiers, labels under randomised response, coarse scores.
RELEASES = ("intersection", "labels", "scores")


class ModelPrivacy(StrictModel):
    """DP training of a partner's model: (epsilon, delta) for replacing one row."""

    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    delta: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    steps: Annotated[int, Field(ge=1, le=10_000)] = 60


class VerticalTerms(StrictModel):
    """`[contract.vertical]`.

    `case` names the population and who holds which columns (`clients.holdings`); `label` and `purpose` are what a
    partner's policy must allow by name. `largest_set` caps every list of the intersection, `minimum_rows` is the fewest
    matched labelled rows that a partner may fit on. `batches` is how many batches of new persons may be scored, with
    the run or later. With `hide_membership` a partner scores rows that it does not know, too, by drawing.
    """

    case: str
    label: str
    purpose: Annotated[str, Field(min_length=3, max_length=200)]
    label_owner: PeerName
    partners: Annotated[tuple[PeerName, ...], Field(min_length=1)]
    largest_set: Annotated[int, Field(ge=1, le=10_000_000)]
    minimum_rows: Annotated[int, Field(ge=10)] = 50
    secure_sum: bool = False
    hide_membership: bool = False
    keyed_ids: bool = False
    score_epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    model_privacy: ModelPrivacy | None = None
    batches: Annotated[int, Field(ge=0, le=100)] = 0

    @model_validator(mode="after")
    def _roles_fit(self) -> VerticalTerms:
        if self.label_owner in self.partners or len(set(self.partners)) != len(self.partners):
            raise ValueError("partners: every name once, without the label owner")
        if self.hide_membership and self.batches:
            # A person asked about twice would have one score if matched and two draws if not.
            raise ValueError("hide_membership: batches = 0; who asks twice for a person would see who is matched")
        if self.secure_sum and len(self.partners) < 2:
            raise ValueError("secure_sum: two or more partners; the sum of one partner's scores is its scores")
        return self

    @property
    def scores_epsilon(self) -> float | None:
        """What a partner's scores cost, noise for each batch and the model once; None where they are disclosed."""
        if self.score_epsilon is None or self.model_privacy is None:
            return None
        return self.score_epsilon * (self.batches + 1) + self.model_privacy.epsilon

    def releases_of(self, name: str) -> tuple[str, str]:
        """Return what leaves a member of the contract: a partner sends no labels, the label owner no scores."""
        return ("intersection", "labels" if name == self.label_owner else "scores")


def check_mode(
    mode: str, terms: VerticalTerms | None, rounds: int, industries: Collection[str], releases: Collection[str]
) -> bool:
    """Return whether a contract is vertical; ValueError when its mode and its other terms do not fit."""
    if (mode == "vertical") != (terms is not None):
        raise ValueError("contract.vertical exactly when mode = 'vertical'")
    if terms is not None:
        if rounds != 1 or industries or set(releases) != set(RELEASES):
            raise ValueError(f"rounds = 1, no industries and releases = {list(RELEASES)} for mode 'vertical'")
        return True
    if not industries:
        raise ValueError("terms of at least one industry at contract.industries")
    if strange := sorted(set(releases) & set(RELEASES)):
        raise ValueError(f"no {', '.join(map(repr, strange))} in releases for mode 'horizontal'")
    return False


def check_participants(terms: VerticalTerms, roster: Mapping[str, str]) -> None:
    """Raise ValueError unless exactly the contract's members sit at the table, each with a holding of the case.

    Parameters
    ----------
    roster : mapping
        Names to the holdings that they have.
    """
    from clients import holdings

    members = {terms.label_owner, *terms.partners}
    if set(roster) != members:
        raise ValueError(f"the contract's members {listed(sorted(members))}, got {listed(sorted(roster))}")
    try:
        case = holdings.get(terms.case)
        target = case.holding(roster[terms.label_owner]).target
        for holding in roster.values():
            case.holding(holding)
    except ClientError as error:
        raise ValueError(str(error)) from None
    if target is None or target.name != terms.label:
        owner = roster[terms.label_owner]
        raise ValueError(f"label {terms.label!r} to be the label of {owner!r} in case {case.name!r}")
    if target.kind != "binary":
        why = (
            "one score a row holds two classes, and a score a class would disclose as many times as much of a person"
            if target.outputs > 1
            else "randomised response covers a label of few values, a number needs another mechanism"
        )
        raise ValueError(f"a label of two classes in vertical mode, got {target.kind}: {why}")
