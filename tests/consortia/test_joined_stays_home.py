"""What saw own rows without DP never leaves (invariant 17): each leak is planted once, and each is caught."""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from captured_bank import captured_bank, unaccounted_in
from command_line import APP
from public_values import planted_in
from typer.testing import CliRunner

from consortia.engines import record
from consortia.messages.envelope import decode
from consortia.participant import context, metrics_release
from consortia.participant.evaluation import module_scorer, score_metrics
from consortia.participant.handle import handle
from consortia.participant.own_model import About, OwnModel, keep
from consortia.participant.receipt import RECEIPT_SCHEMA
from consortia.reports.live_runs import Run
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import load_scenario
from privacy.egress import KINDS, PUBLIC_CONSTANTS, Release
from privacy.errors import ReleaseRefusedError
from privacy.events import LaplaceRelease, NonPrivate

Make = Callable[..., Any]
SECRETS = ("joined", "control", "alone", "local", "net_gain", "net_gains", "verdict", "joining")
PACKAGE = Path(record.__file__).parents[1]
TEST = {"partition": "evaluation", "unit": "record"}
#: The only ones that see what a participant has alone and what it has joined; none of them makes a reply.
AT_HOME = {
    "participant/baseline.py",
    "participant/forecast_at_home.py",
    "participant/joined.py",
    "participant/personal.py",
    "participant/receipt.py",
    "engines/vectorized/receipts.py",
}


# The gate


@pytest.mark.parametrize("name", SECRETS)
def test_the_gate_has_no_name_for_it(site: Any, name: str) -> None:
    from consortia.messages.request import Request

    assert name not in PUBLIC_CONSTANTS
    assert name not in KINDS
    work = context.Work(Request.parse(site.message(1)), site.home, None)
    work.policy = work.policy.model_copy(
        update={"allow": work.policy.allow.model_copy(update={"releases": ("update", "metrics")})}
    )
    with pytest.raises(ReleaseRefusedError, match="without an event"):
        work.sealed({name: "0.81"}, [])
    for event in (LaplaceRelease(noise_multiplier=1.0, **TEST), NonPrivate(what="exact metrics", **TEST)):
        work.charged = [event]
        for tensor in (f"metrics.{name}", f"metrics.auc.{name}"):
            with pytest.raises(ReleaseRefusedError, match="schema and contract have no"):
                work.sealed({}, [Release("metrics", {tensor: torch.tensor(0.81)}, event)])
    assert work.sealed({}, [Release("metrics", {"metrics.auc": torch.tensor(0.81)}, event)])  # what may leave, does


@pytest.mark.end_to_end
def test_only_receipts_see_it() -> None:
    found = set()
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            start = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            seen = {f"{start}{name}" for name in names} | {start.removesuffix(".")}
            if seen & {"consortia.participant.baseline", "consortia.participant.joined"}:
                found.add(str(file.relative_to(PACKAGE)))
    assert found == AT_HOME - {"participant/baseline.py"}


# The bytes that a participant sends


def test_a_header_that_tells_a_joined_metric_under_a_public_name_is_found(
    make_site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = captured_bank(make_site, tmp_path, 60, planted=False)
    honest = context.Work.header
    monkeypatch.setattr(context.Work, "header", lambda self, *a: honest(self, *a) | {"incident": "0.8125"})
    found = unaccounted_in(site, [handle(site.message(1), site.home)])
    assert found == ["header incident"]


def test_a_joined_metric_beside_the_histogram_never_leaves(
    make_site: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = captured_bank(make_site, tmp_path, 60, planted=False)
    honest = metrics_release.measure

    def leaking(*arguments: Any) -> dict[str, torch.Tensor]:
        return honest(*arguments) | {"metrics.joined": torch.tensor(0.8125)}

    handle(site.message(1), site.home)
    monkeypatch.setattr(metrics_release, "measure", leaking)
    data = handle(site.message(2), site.home)
    assert decode(data).header["status"] == "FAILED"
    assert planted_in(data, (0.8125,)) == []


def _exact(make_site: Make) -> Any:
    site = make_site("bank-a", rounds=1)
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"] |= {"metrics": "exact"}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"], exact_metrics=True))
    return site


def _exact_metrics_are_the_models_own(site: Any) -> None:
    """The exact metrics of a reply are those of the model that came in, to the last bit."""
    from consortia.messages.request import Request
    from consortia.terms.scopes import build_module, load_state

    handle(site.message(1), site.home)
    message = site.message(2, kind="evaluate")
    reply = decode(handle(message, site.home))
    assert reply.header["status"] == "EVALUATED"
    request = Request.parse(message)
    module = build_module(request.contract, request.industry)
    load_state(module, request.model)
    work = context.Work(request, site.home, None)
    with site.ledger() as ledger:
        test = work.partitions(ledger).test
    wanted = score_metrics(work.client, module_scorer(module)(test), test)
    assert {name: float(t) for name, t in reply.tensors.items()} == {
        f"metrics.{name}": value for name, value in wanted.items() if value is not None
    }


@pytest.mark.parametrize("leak", [False, True])
def test_exact_metrics_of_another_model_than_the_one_that_came_in_are_found(
    make_site: Make, monkeypatch: pytest.MonkeyPatch, leak: bool
) -> None:
    monkeypatch.setattr(context.receipt, "write", lambda *_: None)
    if leak:  # the stack of own and federated scores in the place of the model
        both = SimpleNamespace(scorer=lambda module: lambda table: 0.5 * module_scorer(module)(table) + _own(table))
        monkeypatch.setattr(metrics_release, "module_scorer", both.scorer)
    site = _exact(make_site)
    if leak:
        with pytest.raises(AssertionError):
            _exact_metrics_are_the_models_own(site)
    else:
        _exact_metrics_are_the_models_own(site)


def _own(table: Any) -> Any:
    return 0.25 * (1 + np.tanh(np.asarray(table.inputs["features"])[:, 0]))


# The coordinator's record


def _job(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A finished run of one bank whose home, for once, lies where the coordinator could read it."""
    scenario = load_scenario("banks-network")
    scenario = scenario.model_copy(update={"roster": scenario.roster[:1]})
    name = scenario.roster[0].name
    home = SimpleNamespace(folder=folder / "homes" / name, ledger_folder=None)
    values = {"majority": 0.5, "local": 0.8125, "federated": 0.7, "control": 0.8125, "joined": 0.8125}
    gain = {"value": 0.8125, "low": 0.8125, "high": 0.8125}
    account = dict.fromkeys((*record._ACCOUNT, "runs_left")) | {"non_private": False, "delta": 1e-5}
    data = {
        "schema": RECEIPT_SCHEMA, "rows": 200, "headline": "auc", "metrics": {"auc": values}, "net_gain": gain,
        "net_gains": {"auc": gain}, "verdict": "clearly", "joining": {"alone": "ridge"}, "epsilon": account,
        "synthetic": False, "evaluate_seconds": 1.0,
    }  # fmt: skip
    file = home.folder / "runs" / "run-1" / "receipt.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(data))
    seen = {
        "industry": "bank", "state": "ACTIVE", "metrics": {"auc": 0.7}, "released": None, "non_private": False,
        "rounds_contributed": 0, "epsilon_budget": 3.0, "delta": 1e-5, "unit": "record", "metrics_non_private": False,
        "noise_multiplier": 1.0, "bytes": {"sent": 0, "received": 0}, "failures": [],
    }  # fmt: skip
    about = {"contract_sha256": "", "status": "completed", "reason": None, "rounds": 1, "seconds": 1.0, "history": []}
    (folder / "coordinator.json").write_text(json.dumps(about | {"participants": {name: seen}}))
    monkeypatch.setattr(record.environment, "describe", dict)
    monkeypatch.setattr(record.environment, "hashes", lambda _: {})
    return SimpleNamespace(scenario=scenario, run_id="run-1", folder=folder, homes={name: home})


@pytest.mark.parametrize("leak", [False, True])
def test_a_deployed_coordinators_record_shows_null(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, leak: bool) -> None:
    job = _job(tmp_path, monkeypatch)
    if leak:  # a record that reads receipts when it is deployed, too
        honest = record._participant
        monkeypatch.setattr(
            record, "_participant", lambda s, _, j, name, __: honest(s, record.read_receipt(j, name), j, name, True)
        )
    (participant,) = record.build(job, "flower")["participants"].values()
    found = [participant["net_gain"], *(participant["metrics"]["auc"][kind] for kind in ("local", "control", "joined"))]
    assert (found == [None] * 4) is not leak
    assert ("0.8125" in (tmp_path / "result.json").read_text()) is leak
    assert participant["metrics"]["auc"]["federated"] == 0.7


def test_a_simulations_record_has_it() -> None:
    simulated = {"net_gain", "net_gains", "verdict", "joining"}
    assert simulated - {"net_gain"} <= set(record._SIMULATED)
    assert set(record._COMPARED) >= {"local", "control", "joined"}


def test_trackers_and_the_coordinators_pages_read_no_receipt() -> None:
    """They read `live_runs`, which has no way to a home."""
    assert not [name for name in Run.__init__.__annotations__ if "home" in name.lower()]
    source = (PACKAGE / "reports" / "live_runs.py").read_text(encoding="utf-8")
    assert "receipt" not in source.replace("receipts", "").lower() or "receipt.json" not in source


# Export


@pytest.mark.parametrize("kind", ["joined", "local", "centred", "fine-tuned"])
def test_a_model_that_saw_own_rows_is_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    contract = load_scenario("linear").contract
    about = About("line-a", "run-1", "linear", kind, "", contract)
    target = __import__("clients.registry", fromlist=["get"]).get("linear").schema.target
    model = OwnModel(target, None, torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    folder = tmp_path / "homes" / "line-a" / "runs" / "run-1"
    shared = dataclasses.replace(about, kind="federated")
    files = {"kept": (model, about), "joined": (model, dataclasses.replace(about, kind="joined"))}
    hashes = keep(folder / "models", files | {"federated": (model, shared)})
    account = {"run": 0.5, "delta": 1e-5, "unit": "record", "non_private": False}
    (folder / "receipt.json").write_text(json.dumps({"schema": 1, "models": hashes, "epsilon": account}))
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    (tmp_path / "rows.csv").write_text("x\n0.5\n")

    def call(*arguments: object) -> Any:
        return CliRunner().invoke(APP, [str(a) for a in arguments], env={"COLUMNS": "300"})

    to = tmp_path / "models"
    for choice in ("kept", "joined"):
        refused = call("export", "run-1", "--participant", "line-a", "--model", choice, "--to", to, "--no-onnx")
        assert refused.exit_code == 2, refused.output
        assert "never leaves" in refused.output
        assert not to.exists()
        predicted = call("predict", "run-1", tmp_path / "rows.csv", "--participant", "line-a", "--model", choice)
        assert predicted.exit_code == 0, predicted.output  # at home it is for use
    assert call("export", "run-1", "--participant", "line-a", "--to", to, "--no-onnx").exit_code == 0
    assert [file.name for file in to.iterdir()] == ["line-a"]
