"""A metric that an owner asks for, built in or installed: it leads the owner's receipt, and nothing of it leaves."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packages import Packages

from consortia.preflight.home import check_home
from consortia.terms.contract import contract_from_json

F1 = """
import numpy as np
from clients.metrics import Metric

def f1(scores, target, weights):
    right = weights @ ((scores >= 0.5) & (target == 1))
    return 2 * right / (weights @ (scores >= 0.5) + weights @ (target == 1))

METRIC = Metric(name="f1", label="F1 score", better="higher", kinds=("binary",), weighted=f1)
"""


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    """A bank with a linear model: its receipt is quickly made."""
    return make_site("used-car", "banks-network", rounds=3)


@pytest.fixture
def f1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Packages:
    made = Packages(tmp_path / "site", monkeypatch)
    made.install("partner", "[consortia.metrics]\nf1 = partner_f1:METRIC\n", partner_f1=F1)
    return made


def _asks_for(site: Any, *names: str) -> None:
    dataset = site.scenario.participant(site.name).dataset
    site.policy(lambda p: p["dataset"][dataset].update(metrics=list(names)))


@pytest.mark.end_to_end
def test_an_installed_metric_leads_the_receipt_with_an_interval(site: Any, f1: Packages) -> None:
    _asks_for(site, "f1", "brier")
    site.ask(4, kind="evaluate")  # of a run that never trained here: the receipt is made all the same
    receipt = json.loads((site.home.run_folder("run-1") / "receipt.json").read_text())
    assert list(receipt["metrics"]) == ["f1", "brier", "auc", "auprc", "accuracy", "ece"]
    assert receipt["headline"] == "f1"
    found = receipt["metrics"]["f1"]
    assert 0 <= found["federated"] <= 1
    assert receipt["gain"]["value"] == pytest.approx(found["federated"] - found["local"])
    assert receipt["gain"]["low"] < receipt["gain"]["high"]


def test_nothing_of_it_leaves_even_where_metrics_leave_exactly(site: Any, f1: Packages) -> None:
    data = json.loads(site.scenario.contract.canonical())
    data["releases"], data["evaluation"] = ["update", "metrics"], data["evaluation"] | {"metrics": "exact"}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"], exact_metrics=True))
    _asks_for(site, "f1")
    site.ask(1)
    progress = json.loads((site.home.run_folder("run-1") / "progress.jsonl").read_text().splitlines()[0])
    assert progress["metric"] == "f1"
    reply = site.ask(4, kind="evaluate")
    assert set(reply.tensors) == {f"metrics.{name}" for name in ("auc", "auprc", "accuracy", "ece")}


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("f2", F1, "dataset.metrics: wanted one of auc, .*, f1, got 'f2'"),
        ("r2", F1, "dataset.metrics: wanted a metric of binary targets, such as auc, .*got 'r2'"),
        ("f1", "raise OSError('moved')", "metric 'f1' of partner cannot be loaded .*OSError: moved"),
        (
            "f1",
            F1.replace('name="f1"', 'name="f3"'),
            "metric 'f1' of partner: wanted a Metric of that name, got",
        ),
    ],
)
def test_a_metric_that_is_none_is_refused_before_anything_is_charged(
    site: Any, f1: Packages, name: str, code: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    (f1.folder / "partner_f1.py").write_text(code, encoding="utf-8")
    _asks_for(site, name)
    with caplog.at_level(logging.INFO):
        assert site.ask(1).header["code"] == "BAD_POLICY"
    assert [line for line in caplog.messages if re.search(told, line)]
    with site.ledger() as ledger:
        assert not ledger.runs()
    (data,) = (finding for finding in check_home(site.home, site.scenario) if finding.check == "data")
    assert data.status == "failed"
    _asks_for(site)
    assert site.ask(1).header["status"] == "OK"  # nobody asks for it any more
