"""What a contract makes public about noisy sums in one industry."""

from __future__ import annotations

from functools import lru_cache

from clients import registry
from clients.industry import effective_schema
from consortia.common.errors import InputError
from consortia.learners.shares import Blocks
from consortia.learners.statistics.layout import Layout, layout_of
from consortia.learners.sums.model import Recipe, recipe_of
from consortia.terms.contract import Contract
from consortia.terms.sums import SumsTerms
from privacy.errors import PlanError

__all__ = ["blocks_of", "layout", "recipe"]


def blocks_of(contract: Contract, industry: str) -> Blocks:
    """Return what an industry's participants release as noisy blocks, whatever is made of them."""
    return recipe(contract, industry) if contract.statistics is None else layout(contract, industry)


def layout(contract: Contract, industry: str) -> Layout:
    """Return the cells of an industry's statistics.

    Raises
    ------
    InputError
        Where the contract has none, or the industry has no column with public cells.
    """
    if contract.statistics is None:
        raise InputError(f'contract.learner: wanted "statistics", got {contract.learner!r}')
    return _layout(contract.statistics.bins, industry, contract.industries[industry].filter)


@lru_cache(maxsize=64)
def _layout(bins: int, industry: str, filter_name: str) -> Layout:
    try:
        return layout_of(effective_schema(registry.get(industry), filter=filter_name), bins)
    except PlanError as error:
        raise InputError(f"contract.statistics, industry {industry}: {error}") from None


def recipe(contract: Contract, industry: str) -> Recipe:
    """Return columns, target and constants of an industry.

    Raises
    ------
    InputError
        Where its target has no bounds, or the contract's expectation of it does not fit.
    """
    if contract.sums is None:
        raise InputError('contract.learner: wanted "sums", got another')
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
