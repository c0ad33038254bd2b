"""Whole runs in one process: the same ServerApp and ClientApp as deployed."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from consortia.cli.budget import allow, init
from consortia.common.errors import InputError, RunRefusedError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.reports.page.board import board
from consortia.reports.page.facts import gather
from consortia.reports.page.render import as_markdown

ROOT = Path(__file__).resolve().parents[2]


def _run(tmp_path: Path, **options: object) -> tuple[dict, Path]:  # type: ignore[type-arg]
    chosen = Options(out=tmp_path / "runs", **options)  # type: ignore[arg-type]
    outcome = execute(prepare(chosen), chosen)
    return outcome.result, outcome.job.folder


@pytest.mark.end_to_end
@pytest.mark.parametrize("name", ["linear", "linear-fedsgd"])
def test_a_line_is_recovered(tmp_path: Path, name: str) -> None:
    result, folder = _run(tmp_path, scenario=name)
    assert result["status"] == "completed"
    model = safetensors.torch.load((folder / "model" / "linear.safetensors").read_bytes())
    assert model["head.weight"].item() == pytest.approx(3.0, abs=0.05)
    assert model["head.bias"].item() == pytest.approx(2.0, abs=0.05)


@pytest.mark.end_to_end
def test_a_non_private_run_repeats_and_a_private_one_does_not(tmp_path: Path) -> None:
    def model(epsilon: str) -> torch.Tensor:
        _, folder = _run(tmp_path, scenario="banks-network", rounds=2, seed=3, epsilon=(epsilon,))
        return safetensors.torch.load((folder / "model" / "bank.safetensors").read_bytes())["head.weight"]

    assert torch.equal(model("inf"), model("inf"))
    assert not torch.equal(model("2"), model("2"))


@pytest.mark.end_to_end
def test_the_record_is_complete_and_honest(tmp_path: Path) -> None:
    result, folder = _run(tmp_path, scenario="cross-industry-network", rounds=2, dump=tmp_path / "dump")
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["observer"] == "simulation"
    assert result["synthetic"] is True
    assert result["charged"] is False
    assert len(result["participants"]) == 6
    for name, participant in result["participants"].items():
        account = participant["epsilon"]
        assert 0 < account["run"] <= account["budget"]
        assert account["unit"] == "record"
        assert participant["metrics"]["auc"]["released"] is False
        assert 0 <= participant["metrics"]["auc"]["federated"] <= 1
        assert participant["bytes"]["sent"] > 0
        assert (tmp_path / "dump" / name / "predictions.csv").is_file()
        assert (tmp_path / "dump" / name / "events.json").is_file()
    # The coordinator's own record holds released and public values only.
    record = json.loads((folder / "coordinator.json").read_text())
    assert all(participant["metrics"] is None for participant in record["participants"].values())
    assert "auc" not in json.dumps(record)


@pytest.mark.end_to_end
def test_non_private_is_called_so(tmp_path: Path) -> None:
    result, _ = _run(tmp_path, scenario="banks-network", rounds=1, epsilon=("inf",))
    assert result["noise"] == "none (non-private)"
    for participant in result["participants"].values():
        assert participant["epsilon"]["non_private"] is True
        assert participant["epsilon"]["run"] is None
        assert participant["epsilon"]["budget"] is None


@pytest.mark.end_to_end
def test_resume_goes_on_and_equals_the_undisturbed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from consortia.coordinator.rounds import Coordinator

    whole, folder = _run(tmp_path, scenario="banks-network", rounds=4, seed=5, epsilon=("inf",))
    real = Coordinator._round

    def dies_in_round_3(self: Coordinator, state):  # type: ignore[no-untyped-def]
        if state.round == 2:
            raise KeyboardInterrupt
        return real(self, state)

    monkeypatch.setattr(Coordinator, "_round", dies_in_round_3)
    options = Options(scenario="banks-network", rounds=4, seed=5, epsilon=("inf",), out=tmp_path / "broken")
    job = prepare(options)
    with pytest.raises(KeyboardInterrupt):
        execute(job, options)
    monkeypatch.setattr(Coordinator, "_round", real)
    again = Options(scenario="", resume=job.folder)
    resumed = execute(prepare(again), again)
    assert resumed.result["status"] == "completed"
    assert [line["round"] for line in resumed.result["history"]] == [1, 2, 3, 4]
    left, right = (
        safetensors.torch.load((f / "model" / "bank.safetensors").read_bytes()) for f in (folder, job.folder)
    )
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert whole["status"] == "completed"


@pytest.mark.end_to_end
def test_simulations_charge_a_given_ledger_and_stop(tmp_path: Path) -> None:
    ledgers = tmp_path / "ledgers"
    options = {"scenario": "linear", "rounds": 2, "epsilon": ("1",), "ledger": ledgers}
    with pytest.raises(InputError, match="budget init line-a"):
        _run(tmp_path, **options)
    init("", scenario="linear", home=ledgers)
    with pytest.raises(RunRefusedError, match="line-b: CONTRACT_NOT_ALLOWED"):
        _run(tmp_path, **options)  # the owner's policy there does not know this contract
    for name in ("line-a", "line-b"):
        allow([name, "linear"], rounds=2, home=ledgers)
    spent = []
    for _ in range(4):
        result, _ = _run(tmp_path, **options)
        assert result["charged"] is True
        spent.append(result["participants"]["line-a"]["epsilon"]["lifetime"])
    assert spent == sorted(spent)
    assert spent[0] < spent[-1] <= 4
    # Four runs of epsilon 1 fill the lifetime of 4: everyone is receive-only now, and the run says so.
    with pytest.raises(RunRefusedError, match="line-a: BUDGET_EXHAUSTED"):
        _run(tmp_path, **options)
    folder = max((tmp_path / "runs").glob("*/result.json"), key=lambda file: file.stat().st_mtime_ns).parent
    told = board(gather(folder)).decision.sentences  # the report of a run that never began
    assert told[0].startswith("The run of 2 participants (linear) was refused.")
    assert told[1].startswith("line-a and line-b: BUDGET_EXHAUSTED: its budget is spent; its owner raises")
    assert "nobody was charged" in told[2]
    assert as_markdown(gather(folder))


def test_epsilon_after_fewer_rounds_is_smaller(tmp_path: Path) -> None:
    result, _ = _run(tmp_path, scenario="linear", rounds=2, epsilon=("line-a=1", "line-b=2"))
    accounts = {name: participant["epsilon"]["run"] for name, participant in result["participants"].items()}
    assert math.isclose(accounts["line-a"], 1, rel_tol=5e-3)
    assert math.isclose(accounts["line-b"], 2, rel_tol=5e-3)


@pytest.mark.end_to_end
def test_an_independent_script_recounts_every_number(tmp_path: Path) -> None:
    result, folder = _run(tmp_path, scenario="cross-industry-network", rounds=3, dump=tmp_path / "dump")
    script = [
        sys.executable,
        str(ROOT / "benchmarks" / "recount.py"),
        str(folder / "result.json"),
        str(tmp_path / "dump"),
    ]
    honest = subprocess.run(script, capture_output=True, text=True, check=False)
    assert honest.returncode == 0, honest.stdout + honest.stderr
    assert "6 participants, 0 numbers differ" in honest.stdout
    # A record that says less than was spent, or more than was reached, is caught.
    result["participants"]["bank-a"]["epsilon"]["run"] -= 0.05
    result["participants"]["bank-b"]["metrics"]["auc"]["federated"] += 0.01
    (folder / "result.json").write_text(json.dumps(result))
    false = subprocess.run(script, capture_output=True, text=True, check=False)
    assert false.returncode == 1
    assert "2 numbers differ" in false.stdout
