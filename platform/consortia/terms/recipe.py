"""What a contract makes public about the learner `sums` in one industry."""

from __future__ import annotations

from functools import lru_cache

from clients import registry
from clients.industry import effective_schema
from consortia.common.errors import InputError
from consortia.learners.sums.model import Recipe, recipe_of
from consortia.terms.contract import Contract
from consortia.terms.sums import SumsTerms

__all__ = ["recipe"]


def recipe(contract: Contract, industry: str) -> Recipe:
    """Return columns, target and constants of an industry.

    Raises
    ------
    InputError
        Where its target has no bounds, or the contract's expectation of it does not fit.
    """
    if contract.sums is None:
        raise InputError('contract.learner: wanted "sums", got "gradient"')
    return _recipe(contract.sums.model_dump_json(), industry, contract.industries[industry].filter)


@lru_cache(maxsize=64)
def _recipe(terms_json: str, industry: str, filter_name: str) -> Recipe:
    terms = SumsTerms.model_validate_json(terms_json)
    schema = effective_schema(registry.get(industry), filter=filter_name)
    try:
        return recipe_of(
            schema,
            terms.shares,
            expected=terms.expected(industry),
            residual=terms.residual.get(industry),
            largest_radius=terms.largest_radius,
        )
    except ValueError as error:
        raise InputError(f"contract.sums, industry {industry}: wanted {error}") from None
