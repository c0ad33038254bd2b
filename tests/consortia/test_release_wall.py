"""The release gate compares what leaves with what was reserved, not with what the release says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from audited_scenario import SCENARIO

from consortia.audit.probe import altered, random_model
from consortia.audit.settings import Audit
from consortia.messages.request import Request
from consortia.participant.context import Work
from consortia.terms.scenario import load_scenario
from privacy.egress import Release
from privacy.errors import ReleaseRefusedError
from privacy.events import GaussianRelease, PoissonGaussian


def _event(steps: int = 2) -> PoissonGaussian:
    return PoissonGaussian(noise_multiplier=1.0, sampling_rate=1.0, steps=steps, partition="train", unit="record")


def test_nothing_passes_the_gate_before_a_reservation(site: Any) -> None:
    work = Work(Request.parse(site.message(1)), site.home, None)
    update = Release("update", {"head.bias": torch.zeros(1)}, _event())
    with pytest.raises(ReleaseRefusedError, match="reserve it first"):
        work.sealed({}, [update])
    work.charged = [_event()]
    assert work.sealed({}, [update])


def test_only_what_was_reserved_passes(site: Any) -> None:
    work = Work(Request.parse(site.message(1)), site.home, None)
    work.charged = [_event()]
    other = GaussianRelease(noise_multiplier=9.0, partition="train", unit="record")
    for event in (_event(steps=3), other, None):
        with pytest.raises(ReleaseRefusedError, match="reserve it first"):
            work.sealed({}, [Release("update", {"head.bias": torch.zeros(1)}, event)])


def test_an_update_that_is_not_finite_is_charged_and_does_not_leave_with_rows_or_without(tmp_path: Path) -> None:
    (tmp_path / "audited.toml").write_text(SCENARIO, encoding="utf-8")
    audit = Audit(load_scenario(str(tmp_path / "audited.toml")), tmp_path / "bench")
    participant = audit.scenario.roster[0]
    pool = audit.pool(participant)
    contract = altered(audit.contract, participant.industry, learning_rate=3e38, clip=1e4)
    model = random_model(contract, participant.industry, audit.random, 1.0)
    for part in ("train", "test"):
        bench = audit.bench(participant)
        source = pool.write(pool.frame.iloc[pool.of(part)[:20]])
        header = bench.ask(bench.message(contract, "overflow", 1, model), source).header
        assert (header["status"], header["code"]) == ("FAILED", "PARTICIPANT_ERROR")
        (entry,) = bench.export()["entries"]
        assert (entry["state"], len(entry["events"])) == ("reserved", 1)
