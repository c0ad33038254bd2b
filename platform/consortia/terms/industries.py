"""What a contract takes from an industry's own file: its recipe, and the hash of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from clients import registry
from clients.errors import ClientError
from consortia.common.errors import InputError, RefusedError
from consortia.terms.choice import AUTO
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.learners import GRADIENT

if TYPE_CHECKING:
    from clients.industry import IndustryClient

__all__ = ["check_agreed", "check_confirmed", "unconfirmed", "with_recipes"]

#: Of a recipe: they stand in the contract itself, not below an industry.
OF_CONTRACT = ("rounds",)


def with_recipes(contract: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the contract with the recipe and the hash of every industry that is a file; others are left alone.

    A recipe is how a network is trained: with another learner (statistics, sums, …) only the hash is filled in.

    Raises
    ------
    InputError
        The file cannot be used, or the contract names another version of it.
    """
    industries = contract.get("industries")
    if not isinstance(industries, dict):
        return contract
    filled = dict(contract)
    filled["industries"] = dict(industries)
    for name, terms in industries.items():
        if not isinstance(terms, dict):
            continue
        try:
            client = None if registry.file_of(name) is None else registry.get(name)
        except ClientError as error:
            raise InputError(str(error)) from None
        if client is None:
            continue
        trained = _trained(contract, name)
        recipe = {key: value for key, value in client.recipe.items() if trained and key not in OF_CONTRACT}
        filled["industries"][name] = {**recipe, **terms, "client": terms.get("client", client.digest)}
        if terms.get("client", client.digest) != client.digest:
            raise InputError(
                f"{where}: contract.industries.{name}.client: wanted sha256 {client.digest}, that of "
                f"{registry.file_of(name)}, got another; take the file that was agreed, or leave the key out"
            )
        if trained:
            filled.setdefault("rounds", client.recipe.get("rounds", 10))
    return filled


def _trained(contract: dict[str, Any], industry: str) -> bool:
    """Whether an industry's learner may take steps: its own terms below `by_industry` come before the contract's."""
    tables = contract.get("by_industry")
    own = tables.get(industry) if isinstance(tables, dict) else None
    terms = own if isinstance(own, dict) else contract
    return terms.get("learner", GRADIENT) in (GRADIENT, AUTO)  # "auto" takes away what its choice does not need


def check_agreed(client: IndustryClient, terms: IndustryTerms) -> None:
    """Refuse a client that is not the one of the contract (RefusedError)."""
    if client.digest != terms.client:
        raise RefusedError(
            "CONTRACT_NOT_ALLOWED",
            f"client {client.name}: wanted the file with sha256 {terms.client or '(none: a client in Python)'}, as the "
            f"contract says, got {client.digest or 'a client in Python'}; `consortia client diff` shows what differs",
        )


def check_confirmed(client: IndustryClient) -> None:
    """Refuse, in a deployed run, what was read from somebody's rows and is not confirmed as public (RefusedError)."""
    if client.unconfirmed:
        raise RefusedError("CONTRACT_NOT_ALLOWED", unconfirmed(client))


def unconfirmed(client: IndustryClient) -> str:
    """Return the sentence about bounds and categories that were read from rows."""
    return (
        f"client {client.name}: wanted bounds and categories that are public knowledge, got some read from rows: "
        f"{'; '.join(client.unconfirmed)}. Correct them in its file, then `consortia client confirm {client.name}`"
    )
