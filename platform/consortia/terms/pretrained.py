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
import os
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from clients import registry
from clients.errors import ModelError
from clients.industry import effective_schema
from clients.models import FederatedModule, build
from clients.networks.lora import adapt, freeze
from consortia.common.environment import default_root
from consortia.common.errors import InputError
from consortia.terms.contract_fields import IndustryTerms
from consortia.terms.model import PretrainedFile
from consortia.terms.tensors import State, check_like, load_state
from privacy.randomness import seeded_generator

__all__ = ["PretrainedError", "network_of", "prepare", "read_for", "with_file"]

#: Bytes of a file beside its numbers: names, shapes, metadata.
_HEADER = 2**24


class PretrainedError(InputError):
    """The file to start from is not there, is another one than agreed, or does not fit the network."""


def network_of(terms: IndustryTerms, industry: str, seed: int) -> FederatedModule:
    """Return the network that an industry's terms name, at the random start of the contract's seed."""
    client = registry.get(industry)
    width = effective_schema(client, filter=terms.filter).width
    return build(client, terms.model.spec(), width, generator=seeded_generator("init", seed, industry))


def with_file(module: FederatedModule, terms: IndustryTerms, industry: str) -> FederatedModule:
    """Return the network with the numbers of its file, where the contract names one; in place. See `read_for`."""
    if terms.init is not None:
        load_state(module, read_for(terms.init, module.state_dict(), industry))
    return module


def read_for(init: PretrainedFile, wanted: Mapping[str, Tensor], industry: str) -> State:
    """Read the file for a network whose parameters are `wanted`; those that the file lacks keep their start.

    It lies at the contract's path, or under the same name in the folder of homes. The coordinator wrote the path: a
    file that cannot be the agreed one is not read, and no error says what is in another one, not even its hash.

    Raises
    ------
    PretrainedError
        It is not there, cannot be read, has another hash, is no safetensors file, or does not fit.
    """
    key = f"contract.industries.{industry}.init"
    most = _HEADER + sum(tensor.numel() * tensor.element_size() for tensor in wanted.values())
    try:
        data = _bytes(init, key, most)
    except (OSError, ValueError) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "no path"
        raise PretrainedError(f"{key}.file: wanted a file that can be read, got another ({why})") from None
    if hashlib.sha256(data).hexdigest() != init.sha256:
        raise PretrainedError(
            f"{key}.sha256: wanted {init.sha256}, got another; the file is not the agreed one (sha256sum shows its own)"
        )
    try:
        loaded: State = safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError):  # a KeyError: a type of numbers that torch lacks
        raise PretrainedError(f"{key}.file: wanted a safetensors file, got another; save with safetensors") from None
    try:
        check_like({name: wanted[name] for name in loaded if name in wanted}, loaded)
    except ValueError as error:
        raise PretrainedError(f"{key}.file: {error}") from None
    return loaded


def _bytes(init: PretrainedFile, key: str, most: int) -> bytes:
    places = (Path(init.file), default_root() / Path(init.file).name)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise PretrainedError(
            f"{key}.file: wanted a safetensors file, got nothing at {places[0]}, nor at {places[1]}; put it at one of "
            "the two, at the coordinator and at every participant"
        )
    # Files of the system that block or never end say that they are empty.
    if not 0 < file.stat().st_size <= most:
        raise PretrainedError(
            f"{key}.file: wanted a file of 1 to {most} bytes, which is what the network's parameters take, got another "
            "size; leave out what the network does not have"
        )
    with file.open("rb") as opened:
        return opened.read(most)


def prepare(module: FederatedModule, terms: IndustryTerms, industry: str, generator: torch.Generator) -> None:
    """Load the file, freeze and adapt, in place, where the contract asks for it.

    Names in the file and in `freeze` are those of the network without adapters.

    Raises
    ------
    InputError
        A name that the network does not have.
    """
    with_file(module, terms, industry)
    try:
        freeze(module, terms.freeze)
        if terms.lora is not None:
            adapt(module, terms.lora.layers, rank=terms.lora.rank, scale=terms.lora.scale, generator=generator)
    except ModelError as error:
        raise InputError(f"contract.industries.{industry}.{error}") from None
