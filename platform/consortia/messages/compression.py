"""Compresses updates with `trust = "local"`: quantised or top-k changes, then Zstandard.

The difference between the noised update and the received model is compressed, after the release gate. It is a function
of data that may leave anyway, so it costs no budget. Quantisation rounds at random (Alistarh et al. 2017, *QSGD*), so
the mean stays unbiased. Top-k keeps the omitted numbers for the next round (Stich et al. 2018, *Sparsified SGD with
Memory*). This memory is made of noised updates only, and stays at home. `benchmarks/compression.py` measures whether a
metric gets worse.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np
import torch
import zstandard
from numpy.typing import NDArray
from torch import Tensor

from consortia.terms.compression import CompressionTerms
from strategies.vectors import float_names

PACKED = "packed-update"
_MAGIC = b"CPU1"
_LEVEL = 3
#: A received blob may unpack to at most so many bytes for each number.
_MOST = 16
_LEVELS = {"int8": 127, "int4": 7}


State = Mapping[str, Tensor]


def _flat(state: State, like: State) -> NDArray[np.float32]:
    parts = [(state[n].double() - like[n].double()).flatten() for n in float_names(like)]
    return torch.cat(parts or [torch.zeros(0)]).float().numpy()


def compress(
    update: State,
    received: State,
    terms: CompressionTerms,
    generator: np.random.Generator,
    memory: NDArray[np.float32] | None = None,
) -> tuple[dict[str, Tensor], NDArray[np.float32] | None]:
    """Return the tensors to send instead of `update`, and top-k's next memory.

    Parameters
    ----------
    update, received : parameters by name. Integers, and names that only the update has, are sent unchanged.
    generator : for the rounding. It has no influence on privacy.
    memory : what top-k has left out so far.
    """
    change = _flat(update, received)
    rest = {name: tensor for name, tensor in update.items() if name not in float_names(received)}
    left = None
    if terms.kind == "top-k":
        wanted = change if memory is None else change + memory
        count = max(1, round(terms.fraction * len(wanted))) if len(wanted) else 0
        kept = np.sort(np.argpartition(np.abs(wanted), len(wanted) - count)[len(wanted) - count :]).astype(np.uint32)
        values = wanted[kept]
        left = wanted.copy()
        left[kept] = 0
        gaps = np.diff(kept, prepend=np.uint32(0)).astype("<u4")
        body = gaps.tobytes() + values.astype("<f4").tobytes()
        scale = 0.0
    else:
        levels = _LEVELS[terms.kind]
        scale = float(np.abs(change).max(initial=0.0)) / levels
        steps = np.floor(change / scale + generator.random(len(change))) if scale else np.zeros(len(change))
        codes = np.clip(steps, -levels, levels).astype(np.int8)
        body = _nibbles(codes) if terms.kind == "int4" else codes.tobytes()
    packed = zstandard.ZstdCompressor(level=_LEVEL).compress(body)
    blob = _MAGIC + struct.pack("<df", float(len(change)), scale) + packed
    return {**rest, PACKED: torch.frombuffer(bytearray(blob), dtype=torch.uint8)}, left


def expand(tensors: State, received: State, terms: CompressionTerms) -> dict[str, Tensor]:
    """Return the update that `compress` packed.

    Raises
    ------
    ValueError
        The bytes do not match the contract: wrong length, wrong size, or numbers that are not finite.
    """
    if PACKED not in tensors:
        raise ValueError(f"{PACKED}: wanted the compressed update that the contract asks for, got none")
    blob = tensors[PACKED].contiguous().numpy().tobytes() if tensors[PACKED].dtype == torch.uint8 else b""
    total = sum(received[name].numel() for name in float_names(received))
    head = len(_MAGIC) + 12
    if blob[: len(_MAGIC)] != _MAGIC or len(blob) < head:
        raise ValueError(f"{PACKED}: wanted the bytes of a compressed update")
    count, scale = struct.unpack("<df", blob[len(_MAGIC) : head])
    if count != total or not np.isfinite(scale) or scale < 0:
        raise ValueError(f"{PACKED}: wanted {total} numbers with a finite scale")
    try:
        body = zstandard.ZstdDecompressor().decompress(blob[head:], max_output_size=_MOST * total + 64)
    except zstandard.ZstdError:
        raise ValueError(f"{PACKED}: wanted Zstandard bytes of at most {_MOST} bytes a number") from None
    change = _read(body, total, scale, terms)
    if not np.isfinite(change).all():
        raise ValueError(f"{PACKED}: wanted finite numbers")
    out = {name: tensor for name, tensor in tensors.items() if name != PACKED}
    start = 0
    for name in float_names(received):
        tensor = received[name]
        part = torch.from_numpy(change[start : start + tensor.numel()].copy()).reshape(tensor.shape)
        out[name] = (tensor.double() + part.double()).to(tensor.dtype)
        start += tensor.numel()
    return out


def _read(body: bytes, total: int, scale: float, terms: CompressionTerms) -> NDArray[np.float32]:
    if terms.kind == "top-k":
        if len(body) % 8 or len(body) // 8 > total:
            raise ValueError(f"{PACKED}: wanted gaps and values of at most {total} numbers")
        count = len(body) // 8
        places = np.cumsum(np.frombuffer(body[: 4 * count], "<u4").astype(np.int64))
        if count and (places[-1] >= total or (np.diff(places) <= 0).any()):
            raise ValueError(f"{PACKED}: wanted places that rise within {total} numbers")
        change = np.zeros(total, dtype=np.float32)
        change[places] = np.frombuffer(body[4 * count :], "<f4")
        return change
    wanted = total if terms.kind == "int8" else (total + 1) // 2
    if len(body) != wanted:
        raise ValueError(f"{PACKED}: wanted {wanted} bytes, got {len(body)}")
    codes = np.frombuffer(body, np.int8) if terms.kind == "int8" else _from_nibbles(body, total)
    return codes.astype(np.float32) * np.float32(scale)


def _nibbles(codes: NDArray[np.int8]) -> bytes:
    padded = np.concatenate([codes, np.zeros(len(codes) % 2, np.int8)]).astype(np.uint8) & 15
    return bytes((padded[0::2] | (padded[1::2] << 4)).astype(np.uint8).tobytes())


def _from_nibbles(body: bytes, total: int) -> NDArray[np.int8]:
    pairs = np.frombuffer(body, np.uint8)
    codes = np.stack([pairs & 15, pairs >> 4], axis=1).flatten()[:total].astype(np.int8)
    return np.where(codes > 7, codes - 16, codes).astype(np.int8)
