"""The release gate compares what leaves with what was reserved, not with what the release says of itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from consortia.participant import _Round
from consortia.request import Request
from privacy.egress import Release
from privacy.errors import ReleaseRefusedError
from privacy.events import GaussianRelease, PoissonGaussian


def _event(steps: int = 2) -> PoissonGaussian:
    return PoissonGaussian(noise_multiplier=1.0, sampling_rate=1.0, steps=steps, partition="train", unit="record")


def test_nothing_passes_the_gate_before_a_reservation(site: Any) -> None:
    round_ = _Round(Request.parse(site.message(1)), site.home, None)
    update = Release("update", {"head.bias": torch.zeros(1)}, _event())
    with pytest.raises(ReleaseRefusedError, match="reserve it first"):
        round_._sealed({}, [update])
    round_.charged = [_event()]
    assert round_._sealed({}, [update])


def test_only_what_was_reserved_passes(site: Any) -> None:
    round_ = _Round(Request.parse(site.message(1)), site.home, None)
    round_.charged = [_event()]
    other = GaussianRelease(noise_multiplier=9.0, partition="train", unit="record")
    for event in (_event(steps=3), other, None):
        with pytest.raises(ReleaseRefusedError, match="reserve it first"):
            round_._sealed({}, [Release("update", {"head.bias": torch.zeros(1)}, event)])
