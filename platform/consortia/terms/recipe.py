"""What a contract makes public about noisy sums in one industry."""

from __future__ import annotations

import json
from functools import lru_cache

from clients import registry
from clients.errors import ModelError
from clients.industry import effective_schema
from consortia.common.errors import InputError
from consortia.learners.additive import model as additive
from consortia.learners.blocks.recipe import BlockRecipe, LearnedRecipe
from consortia.learners.statistics.layout import Layout, layout_of
from consortia.learners.sums.encoder import Encoder, encoder_of
from consortia.learners.sums.model import Recipe, recipe_of
from consortia.terms.additive import AdditiveTerms
from consortia.terms.contract import Contract
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.learners import own_terms
from consortia.terms.pretrained import network_of, with_file
from consortia.terms.sums import SumsTerms
from privacy.errors import PlanError

__all__ = ["additive_recipe", "blocks_of", "layout", "learned", "recipe"]


def blocks_of(contract: Contract, industry: str) -> BlockRecipe:
    """Return what the contract's learner of noisy sums says about its messages; see `recipe` for the errors."""
    contract = contract.of(industry)
    if contract.statistics is not None:
        return layout(contract, industry)
    return recipe(contract, industry) if contract.sums is not None else learned(contract, industry)


def learned(contract: Contract, industry: str) -> LearnedRecipe:
    """Return the recipe of a learner whose model follows from released sums alone; see `recipe` for the errors."""
    contract = contract.of(industry)
    if contract.own is None:
        return additive_recipe(contract, industry)
    options = json.dumps(contract.options, sort_keys=True)
    return _own(contract.learner, options, industry, contract.industries[industry].filter)


@lru_cache(maxsize=64)
def _own(learner: str, options: str, industry: str, filter_name: str) -> LearnedRecipe:
    schema = effective_schema(registry.get(industry), filter=filter_name)
    try:
        return own_terms(learner, json.loads(options)).recipe(schema)
    except ValueError as error:
        raise InputError(f"contract.learner {learner!r}, industry {industry}: {error}; take another learner") from None


def layout(contract: Contract, industry: str) -> Layout:
    """Return the cells of an industry's statistics.

    Raises
    ------
    InputError
        Where the contract has none, or the industry has no column with public cells.
    """
    if contract.statistics is None:
        raise InputError(f'contract.learner: wanted "statistics", got "{contract.learner}"')
    return _layout(contract.statistics.bins, industry, contract.industries[industry].filter)


@lru_cache(maxsize=64)
def _layout(bins: int, industry: str, filter_name: str) -> Layout:
    try:
        return layout_of(effective_schema(registry.get(industry), filter=filter_name), bins)
    except PlanError as error:
        raise InputError(f"contract.statistics, industry {industry}: {error}") from None


def additive_recipe(contract: Contract, industry: str) -> additive.Recipe:
    """Return cells, target and constants of the learner `additive`; see `recipe` for the errors."""
    contract = contract.of(industry)
    if contract.additive is None:
        raise InputError(f'contract.learner: wanted "additive", got "{contract.learner}"')
    return _additive(contract.additive.model_dump_json(), industry, contract.industries[industry].filter)


def recipe(contract: Contract, industry: str) -> Recipe:
    """Return columns, target and constants of an industry.

    Raises
    ------
    InputError
        Where its target has no bounds, or the contract's expectation of it does not fit; where the file of a network
        below the sums is missing, altered or does not fit.
    """
    contract = contract.of(industry)
    if contract.sums is None:
        raise InputError(f'contract.learner: wanted "sums", got "{contract.learner}"')
    terms = contract.industries[industry]
    network = "" if terms.init is None else terms.model_dump_json()
    return _recipe(contract.sums.model_dump_json(), industry, terms.filter, network, contract.seed if network else 0)


@lru_cache(maxsize=64)
def _additive(terms_json: str, industry: str, filter_name: str) -> additive.Recipe:
    terms = AdditiveTerms.model_validate_json(terms_json)
    schema = effective_schema(registry.get(industry), filter=filter_name)
    try:
        return additive.recipe_of(
            schema,
            terms.shares,
            expected=terms.expected(industry),
            bins=terms.bins,
            pair_bins=terms.pair_bins,
            clip=terms.gradient_clip,
            monotone=terms.monotone.get(industry, {}),
            pairs=terms.pairs.get(industry, ()),
        )
    except ValueError as error:
        raise InputError(f"contract.additive, industry {industry}: wanted {error}") from None


@lru_cache(maxsize=64)
def _recipe(terms_json: str, industry: str, filter_name: str, network: str, seed: int) -> Recipe:
    terms = SumsTerms.model_validate_json(terms_json)
    schema = effective_schema(registry.get(industry), filter=filter_name)
    try:
        return recipe_of(
            schema,
            terms.shares,
            expected=terms.expected(industry),
            residual=terms.residual.get(industry),
            largest_radius=terms.largest_radius,
            encoder=_encoder(IndustryTerms.model_validate_json(network), industry, seed) if network else None,
        )
    except ValueError as error:
        raise InputError(f"contract.sums, industry {industry}: wanted {error}") from None


def _encoder(terms: IndustryTerms, industry: str, seed: int) -> Encoder:
    try:
        network = network_of(terms, industry, seed)
    except ModelError as error:
        raise InputError(f"contract.industries.{industry}.{error}") from None
    return encoder_of(with_file(network, terms, industry), terms.model.hidden[-1])
