"""`learner = "auto"` in a written contract: where it stands, and the explicit contract that a choice makes of it.

The choice is made before there is a contract: what participants are asked to accept names the learner, and its hash is
that of the same contract written by hand. What was chosen, and why, stands beside it in the scenario (`Chosen`).
`consortia.terms.rule` chooses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from consortia.common.strict import StrictModel
from consortia.terms import few_steps
from consortia.terms.contract_fields import TrainingTerms

__all__ = ["AUTO", "Choice", "Chosen", "asks", "explicit", "network_terms", "rows_alone", "settled_terms"]

AUTO: Final = "auto"
#: Keys of training terms by which networks alone are trained.
_OF_NETWORKS: Final = frozenset(
    {"rounds", "max_participations", "strategy", "scopes", "stopping", "compression", "central"}
)
#: Terms of an industry that say which rows and columns there are, not how steps are taken.
_OF_ROWS: Final = frozenset({"filter", "split", "client"})
_TABLES: Final = ("sums", "additive")
_RELEASES: Final = frozenset({"update", "sums", "additive"})

Learner = Literal["sums", "additive", "gradient"]
#: A learner, or the recipe of a linear model by few gradients (`consortia.terms.few_steps`).
Kind = Literal["sums", "additive", "gradient", "few steps"]
Table = dict[str, Any]


class Choice(StrictModel):
    """What was chosen for one industry.

    Attributes
    ----------
    why : in words.
    units : declared training units of all its participants.
    rows_left : how many rows' worth noise leaves to histograms of the columns; None where that was not asked.
    few_steps : whether steps and model are those of `consortia.terms.few_steps`, whatever the contract says of a
        network.
    """

    learner: Learner
    why: str
    units: int
    rows_left: float | None = None
    few_steps: Annotated[bool, Field(exclude_if=lambda few: not few)] = False

    @property
    def kind(self) -> Kind:
        """Whose terms the contract gets."""
        return "few steps" if self.few_steps else self.learner


class Chosen(StrictModel):
    """What was chosen for each industry, and the contract as it was written, to choose anew under other budgets."""

    industries: dict[str, Choice]
    written: dict[str, Any] = Field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return what was chosen as records have it."""
        return {name: choice.model_dump() for name, choice in self.industries.items()}


def asks(contract: Mapping[str, Any]) -> bool:
    """Return whether a written contract leaves a learner to the rule."""
    own = contract.get("by_industry")
    tables = own.values() if isinstance(own, dict) else ()
    return any(isinstance(terms, Mapping) and terms.get("learner") == AUTO for terms in (contract, *tables))


def network_terms(contract: Mapping[str, Any], industry: str) -> bool:
    """Return whether a written contract says how a network of this industry takes steps."""
    terms = contract["industries"][industry]
    return isinstance(terms, Mapping) and {"local_steps", "sampling_rate", "clip", "learning_rate"} <= terms.keys()


def settled_terms(terms: Mapping[str, Any], learner: Kind) -> Table:
    """Return training terms for this learner or recipe: what speaks of others is left out."""
    out = {key: value for key, value in terms.items() if key not in _TABLES and key != "learner"}
    if "releases" in out and isinstance(out["releases"], list):
        kind = "update" if learner in ("gradient", "few steps") else learner
        out["releases"] = [kind, *(one for one in out["releases"] if one not in _RELEASES)]
    if learner == "gradient":
        return out
    out = {key: value for key, value in out.items() if key not in _OF_NETWORKS}
    if learner == "few steps":
        return few_steps.with_training(out)
    if isinstance(out.get("evaluation"), dict):
        out["evaluation"] = {key: value for key, value in out["evaluation"].items() if key != "every"}
    own, other = (terms.get(name, {}) for name in (learner, _TABLES[learner == "sums"]))
    if not isinstance(own, Mapping):
        return {**out, "learner": learner, learner: own}  # refused where it is read
    said = {"prevalence": other["prevalence"]} if isinstance(other, Mapping) and "prevalence" in other else {}
    return {**out, "learner": learner, learner: {**said, **own}}


def explicit(contract: Mapping[str, Any], choose: Callable[[str], Choice]) -> tuple[Table, dict[str, Choice]]:
    """Return the written contract with every "auto" replaced, and what was chosen by industry.

    Industries that are left to the contract's own terms and get different learners get tables of their own, but for
    those with the most frequent one.
    """
    own: dict[str, Any] = dict(contract.get("by_industry", {}))
    rest = [name for name in contract["industries"] if name not in own]
    left = rest if contract.get("learner") == AUTO else []
    left = [*left, *(name for name, terms in own.items() if terms.get("learner") == AUTO)]
    found = {name: choose(name) for name in sorted(left)}
    data = dict(contract)
    data["industries"] = {
        name: _industry_terms(terms, found[name].kind) if name in found else terms
        for name, terms in contract["industries"].items()
    }
    own |= {name: settled_terms(own[name], one.kind) for name, one in found.items() if name in own}
    if contract.get("learner") == AUTO:
        written = {key: value for key, value in contract.items() if key in TrainingTerms.model_fields}
        # Which is the most frequent does not depend on the order of a file.
        common = Counter(found[name].kind for name in sorted(rest)).most_common(1)[0][0]
        data = {key: value for key, value in data.items() if key not in TrainingTerms.model_fields}
        data |= settled_terms(written, common)
        own |= {name: settled_terms(written, found[name].kind) for name in rest if found[name].kind != common}
    return ({**data, "by_industry": own} if own else data), found


def _industry_terms(terms: Table, kind: Kind) -> Table:
    if kind == "gradient":
        return terms
    return {**rows_alone(terms), **few_steps.industry()} if kind == "few steps" else rows_alone(terms)


def rows_alone(terms: Mapping[str, Any]) -> Table:
    """Return an industry's terms without those by which a network takes steps."""
    return {key: value for key, value in terms.items() if key in _OF_ROWS}
