"""Writes `result.json`: the coordinator's record. In a simulation it also holds what each participant saw itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consortia.common import environment
from consortia.common.disk import write_json
from consortia.engines.base import Job
from consortia.engines.top_up import releases
from consortia.models.fairness import fairness_of_record
from consortia.participant.statistics_at_home import FILE as STATISTICS
from consortia.terms.costs import updates_event
from consortia.terms.forecast import FILE as FORECAST
from consortia.terms.scenario import Scenario
from privacy.accounting import epsilon
from privacy.events import PoissonGaussian

RESULT_SCHEMA = 1
#: The engine's description in the record of a vectorised run.
TOGETHER = (
    "simulation only: participants trained together in one process, no message was sent, accounts were kept in memory"
)
_ACCOUNT = (
    *("run", "lifetime", "budget", "delta", "lifetime_delta", "unit"),
    *("non_private", "metrics_non_private", "metrics"),
)
#: Comparisons of models at home. They belong to the participants (invariant 17), so a deployed coordinator's record has
#: null.
_COMPARED = ("majority", "local", "control", "joined")
#: Additional fields of a vertical receipt.
_VERTICAL = ("role", "label", "purpose", "matched", "hide_membership", "decision")
#: Fields that a simulation's record takes from the receipts.
_SIMULATED = (
    *("units", "classes", "headline", "keeps", "gain", "local_model", "personal_model", "synthetic"),
    *("net_gains", "verdict", "joining", "forecast"),
    *("differ", "quarantine", "drift", "diverged"),
    *_VERTICAL,
)


def build(job: Job, engine: str) -> dict[str, Any]:
    """Merge coordinator.json with the receipts of a simulation, and write `result.json`.

    A deployed coordinator has released values only; values that were not released are null. One operator runs a
    simulation and holds all rows, so its record may hold both. It says `observer: "simulation"`.
    """
    record = json.loads((job.folder / "coordinator.json").read_text(encoding="utf-8"))
    announced = job.folder / FORECAST
    forecasts = json.loads(announced.read_text(encoding="utf-8")) if announced.is_file() else {}
    simulation = engine != "flower"
    participants = {}
    for participant in job.scenario.roster:
        seen = record["participants"][participant.name]
        receipt = read_receipt(job, participant.name) if simulation else None
        told = {"forecast": forecasts[participant.name]} if participant.name in forecasts else {}
        participants[participant.name] = {**told, **_participant(seen, receipt, job, participant.name, simulation)}
    result = {
        "schema": RESULT_SCHEMA,
        "run_id": job.run_id,
        "scenario": job.scenario.name,
        "contract_sha256": record["contract_sha256"],
        "engine": engine,
        "observer": "simulation" if simulation else "coordinator",
        **({"together": TOGETHER} if engine == "vectorized" else {}),
        "charged": not simulation or any(home.ledger_folder for home in job.homes.values()),
        "synthetic": any_synthetic(job) if simulation else None,
        "noise": _noise(participants, record.get("central")),
        "status": record["status"],
        "reason": record["reason"],
        **({"refused": True} if record.get("refused") else {}),
        "rounds": record["rounds"],
        "seconds": record["seconds"],
        "participants": participants,
        "history": record["history"],
        "environment": environment.describe(),
        "files": environment.hashes(job.folder),
        **({"central": record["central"]} if "central" in record else {}),
        **({} if job.scenario.chosen is None else {"chosen": job.scenario.chosen.to_json()}),
        **_statistics(job),
        **({"releases": before} if (before := releases(job.folder)) else {}),
    }
    if by_group := fairness_of_record(result):
        result["fairness"] = [one.as_json() for one in by_group]
    write_json(job.folder / "result.json", result)
    return result


def _statistics(job: Job) -> dict[str, Any]:
    """Return what a run of statistics released; nothing for other runs."""
    file = job.folder / STATISTICS
    return {"statistics": json.loads(file.read_text(encoding="utf-8"))} if file.is_file() else {}


def _noise(participants: dict[str, dict[str, Any]], central: dict[str, Any] | None) -> str:
    """Return the source of the noise. The noise of a private participant has no seed."""
    if central is not None and central["noise_multiplier"]:
        return "operating system entropy, once a round at the coordinator"
    kinds = {participant["epsilon"]["non_private"] for participant in participants.values()} - {None}
    return "none (non-private)" if kinds == {True} else "operating system entropy"


def read_receipt(job: Job, name: str) -> dict[str, Any] | None:
    """Return a participant's receipt of this run, or its own statistics; None if it wrote neither."""
    folder = job.homes[name].folder / "runs" / job.run_id
    for file in ("receipt.json", STATISTICS):
        if (folder / file).is_file():
            found: dict[str, Any] = json.loads((folder / file).read_text(encoding="utf-8"))
            return {"metrics": {}, "evaluate_seconds": None, **found}
    return None


def any_synthetic(job: Job) -> bool:
    """Return whether any participant's rows are synthetic."""
    receipts = [read_receipt(job, participant.name) for participant in job.scenario.roster]
    return any(receipt["synthetic"] for receipt in receipts if receipt)


def _participant(
    seen: dict[str, Any], receipt: dict[str, Any] | None, job: Job, name: str, simulation: bool
) -> dict[str, Any]:
    released = seen["metrics"] or {}
    if receipt is not None:
        metrics = {kind: {**values, "released": kind in released} for kind, values in receipt["metrics"].items()}
        account = receipt["epsilon"]
        spent = {**{key: account[key] for key in _ACCOUNT}, "runs_left": account.get("runs_left")}
    else:
        # The coordinator's own view from public constants: the rounds that it received, at the declared noise.
        metrics = {
            kind: {**dict.fromkeys(_COMPARED), "federated": value, "released": True} for kind, value in released.items()
        }
        spent = {
            "run": _epsilon_seen(seen, job.scenario, name),
            "lifetime": None,
            "budget": seen["epsilon_budget"],
            "delta": seen["delta"],
            "lifetime_delta": None,
            "unit": seen["unit"],
            "non_private": seen["non_private"],
            "metrics_non_private": seen["metrics_non_private"],
            "metrics": _metrics_account(seen),
            "runs_left": None,
        }
    for kind, line in metrics.items():
        line.update(_as_released(seen, kind))
    extra = {}
    if simulation and receipt is not None:
        extra = {key: receipt[key] for key in _SIMULATED if key in receipt}
    return {
        "industry": seen["industry"],
        "rows": receipt["rows"] if receipt else None,
        "state": seen["state"],
        "metrics": metrics,
        "epsilon": spent,
        "noise_multiplier": seen["noise_multiplier"],
        "rounds_contributed": seen["rounds_contributed"],
        "bytes": seen["bytes"],
        "seconds": {
            "train": _train_seconds(job, name) if simulation else None,
            "evaluate": receipt["evaluate_seconds"] if receipt else None,
        },
        "failures": seen["failures"],
        "net_gain": receipt.get("net_gain") if receipt else None,
        **({"groups": groups} if (groups := (seen["released"] or {}).get("groups")) else {}),
        **extra,
    }


def _metrics_account(seen: dict[str, Any]) -> dict[str, Any] | None:
    """Return what the metrics of this run may cost the evaluation units, as declared by the participant."""
    released = seen["released"]
    if released is None or released["exact"]:
        return None
    account = released["account"]
    return {"run": None, "budget": account["epsilon"], "delta": account["delta"], "unit": seen["unit"]}


def _as_released(seen: dict[str, Any], kind: str) -> dict[str, Any]:
    """Return how a metric left (None, "exact" or "dp"), with the released value and its 95 % interval."""
    released = seen["released"]
    estimate = (released or {}).get("estimates", {}).get(kind)
    if released is None or estimate is None:
        return {"release": None}
    if released["exact"]:
        return {"release": "exact", "released_value": estimate["value"]}
    return {
        "release": "dp",
        "released_value": estimate["value"],
        "interval": [estimate["low"], estimate["high"]],
    }


def _epsilon_seen(seen: dict[str, Any], scenario: Scenario, name: str) -> float | None:
    """Return epsilon of the rounds that the coordinator received. The participant's ledger may hold more."""
    if seen["non_private"] is not False or not seen["rounds_contributed"]:
        return None
    if scenario.contract.vertical is not None:
        return float(seen["epsilon_budget"])  # pure, and released once
    return epsilon([event_seen(scenario, name, seen, seen["rounds_contributed"])], seen["delta"])


def event_seen(
    scenario: Scenario, name: str, declared: Mapping[str, Any], rounds: int, messages: Sequence[int] = ()
) -> PoissonGaussian:
    """Return what `rounds` updates of a participant cost, at its declared noise and unit.

    `messages` are the numbers of these rounds, if they are known.
    """
    industry = scenario.participant(name).industry
    contract = scenario.contract.of(industry)
    rules = contract.industries[industry]
    return updates_event(contract, rules, declared["noise_multiplier"], rounds, declared["unit"], messages)


def _train_seconds(job: Job, name: str) -> float:
    file = job.homes[name].folder / "runs" / job.run_id / "training.jsonl"
    if not file.is_file():
        return 0.0
    return float(sum(json.loads(line)["seconds"] for line in file.read_text().splitlines()))


def missed_expectations(scenario: Scenario, result: dict[str, Any], folder: Path) -> list[str]:
    """Return one sentence for each expectation that the run missed; empty if it met all."""
    missed = []
    if result["status"] != "completed":
        missed.append(f"the run ended {result['status']}: {result['reason']}")
    for name, participant in result["participants"].items():
        if result["observer"] == "simulation" and result["status"] == "completed" and participant["rows"] is None:
            code = participant["failures"][-1]["code"] if participant["failures"] else "NO_RECEIPT"
            if not code.endswith(("_ALLOWED", "_OFFERED")):  # a participant may always refuse
                missed.append(f"{name}: wrote no receipt ({code}); its own log says why")
        account = participant["epsilon"]
        if None not in (account["run"], account["budget"]) and account["run"] > account["budget"] + 1e-6:
            missed.append(
                f"{name}: run epsilon {account['run']:.3f} (δ {account['delta']:g}, unit {account['unit']}) exceeds "
                f"its budget {account['budget']:.3f}"
            )
    classes = [p["classes"] for p in result["participants"].values() if p.get("classes") is not None]
    if classes and max(classes) < 2:
        missed.append(
            "no participant has a second class among its training rows: there is nothing to tell apart; check the "
            "target column of the sources"
        )
    expect = scenario.expect
    if expect.mean_at_least is not None and result["observer"] == "simulation":
        values = [p["metrics"].get(expect.metric, {}).get("federated") for p in result["participants"].values()]
        known = [value for value in values if value is not None]
        mean = sum(known) / len(known) if known else None
        if mean is None or not mean >= expect.mean_at_least:
            got = "none: nobody has that metric" if mean is None else f"{mean:.3f}"
            missed.append(f"mean {expect.metric}: wanted >= {expect.mean_at_least}, got {got}")
    if expect.parameters and result["status"] == "completed":
        missed += _missed_parameters(scenario, folder)
    return missed


def _missed_parameters(scenario: Scenario, folder: Path) -> list[str]:
    import safetensors.torch

    missed = []
    model: dict[str, Any] = {}
    for file in (folder / "model").glob("*.safetensors"):
        model |= safetensors.torch.load(file.read_bytes())
    for name, wanted in scenario.expect.parameters.items():
        got = float(model[name].item()) if name in model and model[name].numel() == 1 else None
        if got is None or not abs(got - wanted) <= scenario.expect.tolerance:
            found = "no single number of that name in the shared model" if got is None else f"{got:.4f}"
            missed.append(f"{name}: wanted {wanted} within {scenario.expect.tolerance}, got {found}")
    return missed
