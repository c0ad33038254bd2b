"""Envelopes: exact, versioned, and nothing else is accepted."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import consortia
from consortia.common.errors import WireError
from consortia.messages.envelope import REFUSALS, Envelope, decode, encode, message_key

TENSORS = {
    "head.weight": torch.tensor([[1.5, -2.0]]),
    "half": torch.tensor([1.0], dtype=torch.float16),
    "brain": torch.tensor([1.0, 2.0], dtype=torch.bfloat16),
    "head.count": torch.tensor(3, dtype=torch.int64),
    "mask": torch.tensor([True, False]),
    "empty": torch.zeros(0, 4),
}


def test_names_dtypes_and_integer_buffers_survive() -> None:
    back = decode(encode(Envelope({"run": "r-1"}, TENSORS)))
    assert back.header["run"] == "r-1"
    assert set(back.tensors) == set(TENSORS)
    for name, tensor in TENSORS.items():
        assert back.tensors[name].dtype == tensor.dtype
        assert torch.equal(back.tensors[name], tensor)


@pytest.mark.end_to_end
def test_the_same_envelope_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import torch, hashlib; from consortia.messages.envelope import Envelope, encode\n"
        "t = {'b': torch.ones(2), 'a': torch.zeros(1), 'c': torch.tensor(3)}\n"
        "h = {k: k for k in 'zyxwvutsrq'}\n"
        "print(hashlib.sha256(encode(Envelope(h, t))).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("data", [b"", b"x" * 7, b"\0" * 8, b"\xff" * 64, encode(Envelope({}))[:-3]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


def test_another_wire_version_is_refused_naming_both() -> None:
    data = encode(Envelope({"run": "r"})).replace(b'\\"wire\\":\\"1\\"', b'\\"wire\\":\\"9\\"')
    with pytest.raises(WireError, match="wanted version 1, got '9'"):
        decode(data)


def test_the_key_depends_on_everything_that_came_in() -> None:
    model = {"w": torch.ones(2)}
    key = message_key(model, "run", "1", "{}")
    assert key == message_key({"w": torch.ones(2)}, "run", "1", "{}")
    assert key != message_key({"w": torch.ones(2) + 1e-6}, "run", "1", "{}")
    assert key != message_key({"v": torch.ones(2)}, "run", "1", "{}")
    assert key != message_key(model, "run", "1", "{ }")
    assert key != message_key(model, "run1", "", "{}")
    assert key != message_key(model, "run", "2", "{}")


def test_every_code_that_a_participant_refuses_with_is_on_the_list() -> None:
    files = Path(str(consortia.__file__)).parent.rglob("*.py")
    codes = {
        code for file in files for code in re.findall(r'RefusedError\(\s*"(\w+)"', file.read_text(encoding="utf-8"))
    }
    assert len(codes) > 30
    assert codes <= set(REFUSALS)
