"""What a network starts from: a file with the agreed hash, parts that stay as they are, adapters beside them.

Formal guarantee
----------------
Frozen parameters are public constants: they follow from the contract (its seed, the hash of its file) and from nothing
else. They require no gradient, so they are in no clipped sum, get no noise, and no optimizer holds them
(`privacy.dp_sgd`). They are in no message (`scopes.travelling`). What trains is clipped jointly as ever, so one unit
moves the sum by the clip at most, whatever the frozen part is, and sigma is that of the contract without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from clients.errors import ModelError
from clients.networks.lora import adapt, freeze
from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.model import PretrainedFile
from consortia.terms.tensors import State, check_like, load_state

__all__ = ["PretrainedError", "prepare", "read", "read_for"]


class PretrainedError(InputError):
    """The file to start from is not there, is another one than agreed, or does not fit the network."""


def read(init: PretrainedFile, industry: str) -> State:
    """Read the file to start from: the contract's path, or the same name in the folder of homes.

    Raises
    ------
    PretrainedError
        It is not there, has another hash, or is no safetensors file.
    """
    key = f"contract.industries.{industry}.init"
    places = (Path(init.file), default_root() / Path(init.file).name)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise PretrainedError(
            f"{key}.file: wanted a safetensors file, got nothing at {places[0]}, nor at {places[1]}; put it at one of "
            "the two, at the coordinator and at every participant"
        )
    data = file.read_bytes()
    if (got := hashlib.sha256(data).hexdigest()) != init.sha256:
        raise PretrainedError(f"{key}.sha256: wanted {init.sha256}, got {got}; the file is not the agreed one")
    try:
        loaded: State = safetensors.torch.load(data)
    except SafetensorError:
        raise PretrainedError(f"{key}.file: wanted a safetensors file, got another; save with safetensors") from None
    return loaded


def read_for(init: PretrainedFile, wanted: Mapping[str, Tensor], industry: str) -> State:
    """Read the file for a network whose parameters are `wanted`; those that the file lacks keep their start."""
    loaded = read(init, industry)
    try:
        check_like({name: wanted[name] for name in loaded if name in wanted}, loaded)
    except ValueError as error:
        raise PretrainedError(f"contract.industries.{industry}.init.file: {error}") from None
    return loaded


def prepare(module: nn.Module, terms: IndustryTerms, industry: str, generator: torch.Generator) -> None:
    """Load the file, freeze and adapt, in place, where the contract asks for it.

    Names in the file and in `freeze` are those of the network without adapters.

    Raises
    ------
    InputError
        A name that the network does not have; nothing is left to train.
    """
    if terms.init is not None:
        load_state(module, read_for(terms.init, module.state_dict(), industry))
    try:
        freeze(module, terms.freeze)
        if terms.lora is not None:
            adapt(module, terms.lora.layers, rank=terms.lora.rank, scale=terms.lora.scale, generator=generator)
    except ModelError as error:
        raise InputError(f"contract.industries.{industry}.{error}") from None
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise InputError(f"contract.industries.{industry}.freeze: wanted something left to train, got all of it frozen")
