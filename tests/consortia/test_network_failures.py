"""A partner's network that fails on one row: the reply is the one without that row; neither text nor failure leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from packages import Packages
from torch import Tensor

from clients import networks
from consortia.common.errors import describe
from consortia.messages.envelope import decode
from consortia.participant import receipt
from consortia.participant.guard import guarded
from consortia.terms.contract import contract_from_json
from privacy._engines import RowEngine
from privacy._rows import Draw, Loss

PLANTED = "4711.4711"
#: It quotes the row on which it fails: one whose first value is in `BAD`.
FAILING = """
from dataclasses import dataclass
import torch
from torch import nn
from clients.networks import NetworkKind
from clients.shapes import Sequence
from consortia.common.errors import RefusedError
from privacy.errors import PlanError

BAD, FAILED = set(), []
RAISED = ValueError

@dataclass(frozen=True)
class Options:
    pass

class Failing(nn.Module):
    def __init__(self, shape, width, options):
        super().__init__()
        self.last = nn.Linear(shape.channels * shape.length, width)

    def forward(self, x):
        for row in x.detach():
            first = float(row.flatten()[0])
            if first in BAD:
                FAILED.append(first)
                text = f"4711.4711 {row.tolist()}"
                raise RAISED(text, "") if RAISED is RefusedError else RAISED(text)
        return torch.tanh(self.last(torch.flatten(x, 1)))

NETWORK = NetworkKind(options=Options, build=Failing, shapes=(Sequence,))
"""


@pytest.fixture
def failing(tmp_path: Path, make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A participant that trains the network, and the network's module."""
    packages = Packages(tmp_path / "packages", monkeypatch)
    packages.install("own", f"[{networks.GROUP}]\nfailing = failing_network:NETWORK\n", failing_network=FAILING)
    site = make_site("ambulance", "heartbeats", rounds=2)
    data = json.loads(site.scenario.contract.canonical())
    data["industries"]["heartbeats"] |= {"model": {"kind": "torch:failing", "hidden": [4]}, "local_steps": 1}
    data |= {"releases": ["update", "metrics"], "evaluation": {"metrics": "dp"}}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    evaluation = {key: {"epsilon": 3.0, "delta": 1e-5} for key in ("run", "lifetime")}
    site.policy(lambda p: p["budget"].update(evaluation=evaluation))
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"]))
    monkeypatch.setattr(receipt, "write", lambda *_: None)  # it takes seconds, and no reply depends on it
    networks.get("torch:failing")
    return site, sys.modules["failing_network"]


@pytest.mark.end_to_end
def test_one_row_on_which_a_network_fails_neither_stops_the_round_nor_shows(
    failing: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, network = failing
    met: list[float] = []

    def add(self: RowEngine, draw: Draw, loss: Loss, clip: float) -> Tensor:
        if draw.units > 3:  # no check by made-up rows
            met.extend(next(iter(draw.inputs.values()))[:, 0].tolist())
        return added(self, draw, loss, clip)

    added = RowEngine.add
    monkeypatch.setattr(RowEngine, "add", add)
    assert site.ask(1, run="run-0").header["status"] == "OK"
    network.BAD.add(met[0])
    for kind, number, status in (("train", 1, "OK"), ("evaluate", 3, "EVALUATED")):
        reply = site.ask(number, kind=kind)
        assert reply.header["status"] == status, reply.header
        assert PLANTED not in json.dumps(dict(reply.header))
        assert network.FAILED
    assert PLANTED not in caplog.text
    for file in site.home.folder.rglob("*"):
        assert not file.is_file() or PLANTED.encode() not in file.read_bytes(), file


def test_an_error_of_foreign_code_crosses_as_an_incident_and_is_logged_without_its_text(
    failing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _, network = failing
    network.BAD.add(1.0)
    for kind in (ValueError, SystemExit, network.PlanError, network.RefusedError):
        network.RAISED = kind
        module = network.NETWORK.build(type("Shape", (), {"channels": 1, "length": 3}), 2, None)
        header = decode(guarded("a", lambda module=module: module(torch.ones(1, 1, 3)))).header
        assert {key: header[key] for key in ("status", "code")} == {"status": "FAILED", "code": "PARTICIPANT_ERROR"}
        assert PLANTED not in json.dumps(dict(header))
    assert PLANTED not in caplog.text
    assert describe(network.PlanError(PLANTED)).startswith(f"PlanError: {PLANTED}")  # nobody raised it: ours
