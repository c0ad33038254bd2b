"""DP metrics through a participant and a whole run: paid first, refused by default, nothing of a row decides."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch

from consortia.common.errors import InputError
from consortia.coordinator.received_metrics import read
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.metrics import score_bins
from consortia.participant import metrics_release
from consortia.participant.handle import handle
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import find_scenario
from privacy.accounting import epsilon
from privacy.egress import PUBLIC_CONSTANTS

Make = Callable[..., Any]
TERMS = {"run": {"epsilon": 3.0, "delta": 1e-5}, "lifetime": {"epsilon": 6.0, "delta": 2e-5}}


def _with_metrics(site: Any, every: int = 0, **evaluation: Any) -> None:
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"] |= {"metrics": "dp", "every": every, **evaluation}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"]))


def _with_budget(site: Any) -> None:
    site.policy(lambda p: p["budget"].update(evaluation=TERMS))


def test_metrics_are_refused_until_the_owner_gives_them_a_budget(site: Any) -> None:
    _with_metrics(site)
    assert site.ask(1).header["code"] == "RELEASE_NOT_ALLOWED"
    _with_budget(site)
    assert site.ask(1).header["status"] == "OK"


def test_metrics_that_were_paid_for_are_sent_again_when_the_bound_is_met(site: Any) -> None:
    _with_metrics(site)
    _with_budget(site)
    site.policy(lambda p: p.update(limits={"evaluations": 1}))
    assert site.ask(1).header["status"] == "OK"
    closing = site.message(6, kind="evaluate")
    first = handle(closing, site.home)
    assert decode(first).header["metrics_non_private"] == "false"
    message = decode(closing)
    other = encode(Envelope(message.header, {name: tensor + 1 for name, tensor in message.tensors.items()}))
    assert decode(handle(other, site.home)).header["code"] == "EVALUATIONS_EXHAUSTED"
    assert handle(closing, site.home) == first


def test_by_patient_they_need_a_bound_on_rows(make_site: Make) -> None:
    site = make_site("hospital-a", rounds=3)
    _with_metrics(site)
    _with_budget(site)
    site.policy(lambda p: p["dataset"]["heart"].update(unit="patient_id"))
    assert site.ask(1).header["code"] == "RELEASE_NOT_ALLOWED"
    site.policy(lambda p: p["dataset"]["heart"].update(max_rows_per_unit=4))
    assert site.ask(1).header["status"] == "OK"
    reply = site.ask(4, kind="evaluate")
    assert reply.header["metrics_rows_per_unit"] == "4"


def test_the_final_release_is_one_histogram_from_an_account_of_its_own(site: Any) -> None:
    _with_metrics(site)
    _with_budget(site)
    for number in range(1, 6):
        reply = site.ask(number)
        assert not [name for name in reply.tensors if name.startswith("metrics.")]
    message = site.message(6, kind="evaluate")
    data = handle(message, site.home)
    reply = decode(data)
    assert set(reply.tensors) == {score_bins.HISTOGRAM}
    assert reply.tensors[score_bins.HISTOGRAM].dtype == torch.int64
    assert set(reply.header) - {"wire"} <= PUBLIC_CONSTANTS
    assert handle(message, site.home) == data  # from the outbox, for free
    with site.ledger() as ledger:
        entries = ledger.entries(dataset="credit/evaluation")
        assert [entry.state for entry in entries] == ["committed"]
        (event,) = entries[0].events
        assert event.partition == "evaluation"
        assert epsilon([event], 1e-5) <= 3
        assert len(ledger.entries(dataset="credit")) == 5
    receipt = json.loads((site.home.folder / "runs" / "run-1" / "receipt.json").read_text())
    assert receipt["epsilon"]["metrics"]["run"] <= 3
    assert receipt["epsilon"]["metrics_non_private"] is False


def test_between_rounds_the_validation_rows_pay_and_come_with_the_next_update(site: Any) -> None:
    _with_metrics(site, every=2)
    _with_budget(site)
    got = {number: "metrics.histogram" in site.ask(number).tensors for number in range(1, 6)}
    assert got == {1: False, 2: False, 3: True, 4: False, 5: True}  # the models after rounds 2 and 4
    assert site.ask(6, kind="evaluate").header["metrics_partition"] == "evaluation"
    with site.ledger() as ledger:
        events = [event for entry in ledger.entries(dataset="credit/evaluation") for event in entry.events]
    assert sorted(event.partition for event in events) == ["evaluation", "validation", "validation"]
    assert epsilon(events, 1e-5) <= 3  # parallel: other units


@pytest.mark.parametrize("ample", ["epsilon", "delta"])
def test_a_spent_evaluation_budget_is_settled_before_the_first_round(site: Any, ample: str) -> None:
    _with_metrics(site)
    lifetime = {**TERMS["run"], ample: 2 * TERMS["run"][ample]}
    site.policy(lambda p: p["budget"].update(evaluation={"run": TERMS["run"], "lifetime": lifetime}))
    assert site.ask(1).header["status"] == "OK"
    assert site.ask(6, kind="evaluate").header["status"] == "EVALUATED"
    other = site.ask(1, run="run-2")
    assert other.header["code"] == "BUDGET_EXHAUSTED"
    with site.ledger() as ledger:
        assert not ledger.entries(run_id="run-2")  # training was not charged for a run without its metrics


def test_what_cannot_be_measured_leaves_as_an_empty_histogram(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_metrics(site)
    _with_budget(site)
    site.ask(1)

    def boom(*_: object, **__: object) -> None:
        raise RuntimeError("patient Zero")

    monkeypatch.setattr(metrics_release.score_bins, "cells", boom)
    reply = site.ask(6, kind="evaluate")
    assert reply.header["status"] == "EVALUATED"
    assert int(reply.tensors["metrics.histogram"].abs().max()) < 20  # noise of deviation one half
    assert "Zero" not in site.home.log.read_text() if site.home.log.exists() else True


def test_stopping_needs_released_metrics(site: Any) -> None:
    data = json.loads(site.scenario.contract.canonical())
    data["stopping"] = {"metric": "auc", "patience": 2, "min_delta": 0.0}
    with pytest.raises(InputError, match="stopping, which reads released metrics only"):
        contract_from_json(json.dumps(data))
    data["releases"], data["evaluation"] = ["update", "metrics"], {"metrics": "dp", "every": 0, "bins": 24}
    with pytest.raises(InputError, match="every >= 1"):
        contract_from_json(json.dumps(data))


def test_the_coordinator_takes_only_what_is_due(site: Any) -> None:
    _with_metrics(site)
    _with_budget(site)
    site.ask(1)
    reply = site.ask(6, kind="evaluate")
    contract = site.scenario.contract
    assert read(reply.header, reply.tensors, contract, "bank", "evaluation") is not None
    with pytest.raises(ValueError, match="releases none"):
        read(reply.header, reply.tensors, contract, "bank", None)
    for header, tensors in (
        ({}, {"metrics.histogram": torch.zeros(2, 25, dtype=torch.int64)}),
        ({}, {"metrics.histogram": torch.zeros(2, 24)}),
        ({}, {"metrics.histogram": torch.full((2, 24), 10**15)}),
        ({}, {}),
        ({"metrics_multiplier": "nan"}, None),
        ({"metrics_rows_per_unit": "0"}, None),
        ({"metrics_mechanism": "hope"}, None),
        ({"metrics_partition": "train"}, None),
        ({"metrics_non_private": "true"}, None),
    ):
        forged = Envelope({**reply.header, **header}, reply.tensors if tensors is None else tensors)
        with pytest.raises(ValueError, match="wanted"):
            read(forged.header, dict(forged.tensors), contract, "bank", "evaluation")


def _scenario(folder: Path, name: str, **contract: Any) -> Path:
    """Write a copy of a committed scenario whose policies pay for metrics."""
    source = find_scenario(name)
    data = tomllib.loads(source.read_text(encoding="utf-8"))
    data["contract"] |= {"releases": ["update", "metrics"], **contract}
    (folder / source.name).write_text(tomli_w.dumps(data), encoding="utf-8")
    target = folder / "policies" / source.stem
    shutil.copytree(source.parent / "policies" / source.stem, target)
    for file in target.glob("*.toml"):
        policy = tomllib.loads(file.read_text(encoding="utf-8"))
        # Generous, so that the noise of seven releases decides nothing here.
        policy["budget"]["evaluation"] = {key: {"epsilon": 50.0, "delta": 1e-5} for key in ("run", "lifetime")}
        policy["allow"]["releases"] = ["update", "metrics"]
        file.write_text(tomli_w.dumps(policy), encoding="utf-8")
    return folder / source.name


@pytest.mark.end_to_end
def test_a_run_stops_one_round_late_and_says_what_was_released(tmp_path: Path) -> None:
    file = _scenario(
        tmp_path,
        "banks-network",
        evaluation={"metrics": "dp", "every": 1},
        split={"train": 0.6, "validation": 0.2, "test": 0.2},
        # No model is better by .9 than the first: two releases after it are patience enough.
        stopping={"metric": "brier", "patience": 2, "min_delta": 0.9},
    )
    options = Options(scenario=str(file), rounds=8, seed=1, out=tmp_path / "runs")
    result = execute(prepare(options), options).result
    # The models after rounds 1, 2, 3 arrive with rounds 2, 3, 4; the third settles it, so round 4 is the last.
    assert result["status"] == "completed"
    assert [line["round"] for line in result["history"]] == [1, 2, 3, 4]
    assert ["watched" in line for line in result["history"]] == [False, True, True, True]
    for participant in result["participants"].values():
        line = participant["metrics"]["auc"]
        assert line["release"] == "dp"
        assert line["interval"][0] <= line["interval"][1]
        assert line["released_value"] is None  # about twenty positives among the test rows
        assert participant["epsilon"]["metrics"]["run"] <= 50
        assert participant["epsilon"]["metrics_non_private"] is False
