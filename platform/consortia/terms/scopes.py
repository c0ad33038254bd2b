"""Sorts parameters by scope (who shares them), and makes the start of every shared parameter."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from functools import lru_cache

import torch
from torch import nn

from clients import registry
from clients.models import FederatedModule, check_norm_names, is_norm
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.learners.sums import model as sums
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.model import Scope
from consortia.terms.pretrained import network_of, prepare, with_file
from consortia.terms.recipe import learned, recipe
from consortia.terms.tensors import LARGEST, State, check_like, frozen_names, load_state, state_of
from privacy.randomness import seeded_generator

__all__ = [
    "CONTROL",
    "LARGEST",
    "LOSS",
    "PARTS",
    "State",
    "build_module",
    "check_like",
    "for_participant",
    "group_of",
    "initial_groups",
    "load_state",
    "needed_at_home",
    "scope_of",
    "shared_names",
    "starting_module",
    "state_of",
    "travelling",
]

PARTS = ("encoder", "trunk", "head")
#: Tensors of a message beside the model (`strategies.base.Controlled`); no parameter's name starts so.
CONTROL = "control/"
#: The training loss of the received model, in the reply to a strategy whose fit says `loss`.
LOSS = "loss/train"


def scope_of(name: str, contract: Contract) -> Scope:
    """Return the scope of a parameter or buffer: its norm's where the contract gives norms one, else its part's."""
    part = name.partition(".")[0]
    if part not in PARTS:
        raise ValueError(f"parameter {name!r}: wanted one below {', '.join(PARTS)}")
    if contract.scopes.norm is not None and is_norm(name):
        return contract.scopes.norm
    scope: Scope = getattr(contract.scopes, part)
    return scope


def shared_names(names: Iterable[str], contract: Contract) -> list[str]:
    """Return the names whose scope is not private, sorted."""
    return sorted(name for name in names if scope_of(name, contract) != "private")


def group_of(name: str, industry: str, contract: Contract) -> str:
    """Return whom a shared parameter is averaged with: an industry's name, or '*' for the whole consortium."""
    return "*" if scope_of(name, contract) == "consortium" else industry


def build_module(contract: Contract, industry: str) -> FederatedModule:
    """Build the industry's module with the contract's initialisation: the same on every side.

    The numbers come from the contract's seed, its file and the industry's name alone, so that private and frozen
    parameters are at home exactly what they are at the coordinator.

    Raises
    ------
    InputError
        The file to start from is missing, altered or does not fit; a name in `freeze` or `lora` fits nothing.
    """
    pristine = _pristine(contract.canonical(), industry)
    return copy.deepcopy(pristine, {id(pristine.target): pristine.target})  # frozen: shared, not copied


@lru_cache(maxsize=64)
def _pristine(contract_json: str, industry: str) -> FederatedModule:
    """Build once for each contract and industry: a copy costs a tenth."""
    contract = contract_from_json(contract_json).of(industry)
    target = registry.get(industry).schema.target
    terms = contract.industries[industry]
    if contract.sums is not None:
        return sums.build(recipe(contract, industry), target)
    if contract.noisy_sums is not None:
        return _learned(contract, industry, target)
    module = network_of(terms, industry, contract.seed)
    if needed_at_home(contract, industry) or (terms.init and frozen_names(module)):
        prepare(module, terms, industry, seeded_generator("adapters", contract.seed, industry))
        if not shared_names({name for name, _ in module.named_parameters()} - frozen_names(module), contract):
            raise InputError(
                f"contract.industries.{industry}.freeze: wanted something left to train that is shared, got all of it "
                "frozen or private; a round would cost budget and send nothing"
            )
    if contract.scopes.norm is not None:
        check_norm_names(module, industry)
    return module


def starting_module(contract: Contract, industry: str) -> FederatedModule:
    """Return the network that training starts from: `build_module` with the numbers of the contract's file.

    The coordinator's first message holds it, and a participant that trains the network alone starts from it, so no gain
    is that of a better start. With a network below the learner `sums` it is that network with its head, which only a
    participant alone trains.

    Raises
    ------
    InputError
        As `build_module`.
    """
    contract = contract.of(industry)
    terms = contract.industries[industry]
    if contract.sums is not None:
        return with_file(network_of(terms, industry, contract.seed), terms, industry)
    module = build_module(contract, industry)
    if needed_at_home(contract, industry):
        return module  # it has them; names in the file are those of the network without adapters
    return with_file(module, terms, industry)


def needed_at_home(contract: Contract, industry: str) -> bool:
    """Return whether `build_module` reads the file: something of the network reaches participants in no message."""
    contract = contract.of(industry)
    terms = contract.industries[industry]
    return bool(terms.freeze or terms.lora or (terms.init and "private" in contract.scopes.named))


def _learned(contract: Contract, industry: str, target: Target) -> FederatedModule:
    try:
        module = learned(contract, industry).build(target)
        check_like(module.state_dict(), module.state_dict())
    except ValueError as error:
        raise InputError(f"contract.learner {contract.learner!r}, industry {industry}: wanted {error}") from None
    return module


def travelling(module: nn.Module, contract: Contract) -> State:
    """Return a copy of what crosses in a message: neither private parameters nor those that do not train."""
    state = state_of(module)
    return {name: state[name] for name in shared_names(state.keys() - frozen_names(module), contract)}


def initial_groups(contract: Contract, industries: Iterable[str]) -> dict[str, State]:
    """Return the first shared parameters by group (see `group_of`).

    A consortium-wide parameter starts from the first industry in alphabetical order; every industry must
    give it the same shape.

    Raises
    ------
    InputError
        When industries disagree about a consortium-wide parameter (its shape, whether it trains, what it is where it
        does not), or a pretrained file is missing, altered or does not fit.
    """
    if contract.by_industry:
        return {name: initial_groups(contract.of(name), [name])[name] for name in sorted(set(industries))}
    if contract.statistics is not None:  # nothing is trained
        return {industry: {} for industry in sorted(set(industries))}
    groups: dict[str, State] = {}
    everywhere: list[tuple[str, set[str], State]] = []
    for industry in sorted(set(industries)):
        module = (starting_module if contract.noisy_sums is None else build_module)(contract, industry)
        state = travelling(module, contract)
        fixed = {name: module.state_dict()[name] for name in frozen_names(module)}
        wide = {name: tensor for name, tensor in fixed.items() if scope_of(name, contract) == "consortium"}
        for name in state:
            group = groups.setdefault(group_of(name, industry, contract), {})
            if name in group and group[name].shape != state[name].shape:
                raise InputError(
                    f"contract.scopes: {name} is consortium-wide, so every industry needs one shape; got "
                    f"{tuple(group[name].shape)} and {tuple(state[name].shape)} ({industry}); "
                    "give the industries the same hidden widths"
                )
            group.setdefault(name, state[name])
        everywhere.append((industry, {name for name in state if group_of(name, industry, contract) == "*"}, wide))
    _check_wide(everywhere)
    return groups


def _check_wide(everywhere: list[tuple[str, set[str], State]]) -> None:
    """Refuse industries that do not train the same consortium-wide parts, or not on top of the same fixed numbers.

    Parameters
    ----------
    everywhere : list
        (industry, names that train, parameters that do not), all of them consortium-wide.
    """
    for industry, names, fixed in everywhere[1:]:
        first, theirs, same = everywhere[0]
        if strange := sorted(names ^ theirs):
            raise InputError(
                f"contract.scopes: wanted the same consortium-wide parameters in every industry, got {strange[0]} in "
                f"one of {first} and {industry} alone; give them the same hidden widths, freeze and lora"
            )
        if strange := sorted(name for name in fixed.keys() & same.keys() if not torch.equal(fixed[name], same[name])):
            raise InputError(
                f"contract.scopes: {strange[0]} is consortium-wide and stays as it is, so every industry needs the "
                f"same numbers, got others in {first} and {industry}; start both from one file (init)"
            )


def for_participant(groups: Mapping[str, State], industry: str) -> State:
    """Return the shared parameters that a participant of `industry` receives."""
    return {**groups.get("*", {}), **groups.get(industry, {})}
