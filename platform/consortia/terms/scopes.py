"""Sorts parameters by scope (who shares them), and makes the start of every shared parameter."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from clients import registry
from clients.industry import effective_schema
from clients.models import FederatedModule, build, check_norm_names, is_norm
from clients.schema import Target
from consortia.common.errors import InputError
from consortia.learners.sums import model as sums
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.model import PretrainedFile, Scope
from consortia.terms.recipe import learned, recipe
from privacy.randomness import seeded_generator

PARTS = ("encoder", "trunk", "head")
#: No honest parameter is larger; a larger one overflows in float32 and would stop everybody who gets it.
LARGEST = 1e6
State = dict[str, Tensor]
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

    The numbers come from the contract's seed and the industry's name alone, so that private parameters
    start at home exactly as the shared ones start at the coordinator.
    """
    pristine = _pristine(contract.canonical(), industry)
    return copy.deepcopy(pristine, {id(pristine.target): pristine.target})  # frozen: shared, not copied


@lru_cache(maxsize=64)
def _pristine(contract_json: str, industry: str) -> FederatedModule:
    """Build once for each contract and industry: a copy costs a tenth."""
    contract = contract_from_json(contract_json).of(industry)
    client = registry.get(industry)
    terms = contract.industries[industry]
    if contract.sums is not None:
        return sums.build(recipe(contract, industry), client.schema.target)
    if contract.noisy_sums is not None:
        return _learned(contract, industry, client.schema.target)
    width = effective_schema(client, filter=terms.filter).width
    module = build(client, terms.model.spec(), width, generator=seeded_generator("init", contract.seed, industry))
    if contract.scopes.norm is not None:
        check_norm_names(module, industry)
    return module


def _learned(contract: Contract, industry: str, target: Target) -> FederatedModule:
    try:
        module = learned(contract, industry).build(target)
        check_like(module.state_dict(), module.state_dict())
    except ValueError as error:
        raise InputError(f"contract.learner {contract.learner!r}, industry {industry}: wanted {error}") from None
    return module


def state_of(module: nn.Module) -> State:
    """Return a detached copy of parameters and buffers by name."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def load_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy `state` into the module; names, shapes and dtypes must fit exactly.

    Raises
    ------
    ValueError
        Naming the parameter, the wanted and the got shape or dtype.
    """
    own = module.state_dict()
    check_like({name: own[name] for name in state if name in own}, state)
    with torch.no_grad():
        for name, tensor in state.items():
            own[name].copy_(tensor)


def check_like(wanted: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless `got` has the names, shapes and dtypes of `wanted`, and finite numbers."""
    if missing := sorted(set(wanted) - set(got)):
        raise ValueError(f"parameters missing: {', '.join(missing)}")
    if extra := sorted(set(got) - set(wanted)):
        raise ValueError(f"parameters nobody asked for: {', '.join(extra)}")
    for name, tensor in wanted.items():
        other = got[name]
        if other.shape != tensor.shape:
            raise ValueError(f"{name}: wanted shape {tuple(tensor.shape)}, got {tuple(other.shape)}")
        if other.dtype != tensor.dtype:
            raise ValueError(f"{name}: wanted dtype {tensor.dtype}, got {other.dtype}")
        if other.is_floating_point() and not bool(torch.isfinite(other).all()):
            raise ValueError(f"{name}: wanted finite numbers, got NaN or infinity")
        if other.is_floating_point() and other.numel() and float(other.abs().max()) > LARGEST:
            raise ValueError(
                f"{name}: wanted numbers up to {LARGEST:g} in size, got a larger one (diverged? lower learning_rate)"
            )


def initial_groups(contract: Contract, industries: Iterable[str]) -> dict[str, State]:
    """Return the first shared parameters by group (see `group_of`).

    A consortium-wide parameter starts from the first industry in alphabetical order; every industry must
    give it the same shape.

    Raises
    ------
    InputError
        When industries disagree about the shape of a consortium-wide parameter, or a pretrained file is
        missing, altered or does not fit.
    """
    if contract.by_industry:
        return {name: initial_groups(contract.of(name), [name])[name] for name in sorted(set(industries))}
    if contract.statistics is not None:  # nothing is trained
        return {industry: {} for industry in sorted(set(industries))}
    groups: dict[str, State] = {}
    for industry in sorted(set(industries)):
        state = state_of(build_module(contract, industry))
        init = contract.industries[industry].init
        if init is not None:
            state |= read_pretrained(init, state, industry)
        for name in shared_names(state, contract):
            group = groups.setdefault(group_of(name, industry, contract), {})
            if name in group and group[name].shape != state[name].shape:
                raise InputError(
                    f"contract.scopes: {name} is consortium-wide, so every industry needs one shape; got "
                    f"{tuple(group[name].shape)} and {tuple(state[name].shape)} ({industry}); "
                    "give the industries the same hidden widths"
                )
            group.setdefault(name, state[name])
    return groups


def read_pretrained(init: PretrainedFile, wanted: Mapping[str, Tensor], industry: str) -> State:
    """Read a pretrained file after checking its hash; parameters that it lacks keep their start."""
    key = f"contract.industries.{industry}.init"
    try:
        data = Path(init.file).read_bytes()
    except OSError:
        raise InputError(f"{key}.file: wanted a safetensors file, got nothing at {init.file}") from None
    if (got := hashlib.sha256(data).hexdigest()) != init.sha256:
        raise InputError(f"{key}.sha256: wanted {init.sha256}, got {got}; the file is not the agreed one")
    loaded: State = safetensors.torch.load(data)
    try:
        check_like({name: wanted[name] for name in loaded if name in wanted}, loaded)
    except ValueError as error:
        raise InputError(f"{key}.file: {error}") from None
    return loaded


def for_participant(groups: Mapping[str, State], industry: str) -> State:
    """Return the shared parameters that a participant of `industry` receives."""
    return {**groups.get("*", {}), **groups.get(industry, {})}
