"""What the released sums make free, and what never leaves: the model that was finished on own rows."""

from __future__ import annotations

import json
import math
import runpy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from command_line import APP
from doc_blocks import ROOT
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.coordinator import coalitions
from consortia.coordinator.checkpoint import load_latest
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.learners.blocks.parts import Part
from consortia.learners.sums.combine import combined, precision_weights
from consortia.learners.sums.solution import everybodys
from consortia.models import registry
from consortia.models.source import of_coordinator, of_participant
from consortia.participant import metrics_release, sums_at_home
from consortia.participant.own_model import AT_HOME, FEDERATED, JOINED
from consortia.terms.recipe import recipe
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.egress import Release, gate
from privacy.errors import ReleaseRefusedError
from privacy.events import GaussianRelease
from privacy.ledger import Ledger

PARTICIPANTS = ("new-car", "used-car")
RECOUNT: Any = runpy.run_path(str(ROOT / "benchmarks" / "recount_ledger.py"))["main"]


def _scenario(folder: Path) -> str:
    """Write banks for two banks, with metrics under DP; return its path."""
    source = find_scenario("banks")
    data = load_scenario("banks").model_dump(mode="json", by_alias=True, exclude_none=True)
    data["roster"] = [participant for participant in data["roster"] if participant["name"] in PARTICIPANTS]
    data["contract"] |= {"releases": ["sums", "metrics"], "evaluation": {"metrics": "dp"}}
    file = folder / "two-banks.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    (folder / "policies" / file.stem).mkdir(parents=True)
    account = "{ run = { epsilon = 1.0, delta = 1e-05 }, lifetime = { epsilon = 4.0, delta = 4e-05 } }"
    for name in PARTICIPANTS:
        text = (source.parent / "policies" / source.stem / f"{name}.toml").read_text(encoding="utf-8")
        text = text.replace('["sums"]', '["sums", "metrics"]').replace(
            "\n[allow]", f"evaluation = {account}\n\n[allow]"
        )
        (folder / "policies" / file.stem / f"{name}.toml").write_text(text, encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def measured() -> list[dict[str, torch.Tensor]]:
    """States of the models that metrics of the run were measured on."""
    return []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, measured: list[Any]) -> Iterator[Outcome]:
    folder = tmp_path_factory.mktemp("released")
    options = Options(scenario=_scenario(folder), out=folder / "runs", dump=folder / "dump")
    with pytest.MonkeyPatch.context() as patch:
        genuine = metrics_release.measure

        def measure(due: Any, request: Any, module: Any, *rest: Any) -> Any:
            measured.append({name: tensor.clone() for name, tensor in module.state_dict().items()})
            return genuine(due, request, module, *rest)

        patch.setattr(metrics_release, "measure", measure)
        yield execute(prepare(options), options)


def _kinds(run: Outcome, name: str) -> dict[str, Any]:
    choices, folder = ("kept", "federated", "joined", "released"), str(run.job.folder)
    found = {choice: of_participant(folder, name, choice) for choice in choices}
    return {choice: each.about.kind for choice, each in found.items()}


@pytest.mark.end_to_end
def test_only_the_model_of_released_sums_is_exported(run: Outcome, tmp_path: Path) -> None:
    folder = str(run.job.folder)
    for name in PARTICIPANTS:
        kinds = _kinds(run, name)
        assert (kinds["federated"], kinds["released"]) == (AT_HOME, FEDERATED)
        assert kinds["joined"] == JOINED
        for choice in ("kept", "federated", "joined"):
            with pytest.raises(InputError, match="never leaves"):
                registry.register(tmp_path, "bank", of_participant(folder, name, choice), None)
        released = of_participant(folder, name, "released")
        assert released.guarantee["epsilon"] == pytest.approx(3.0, abs=1e-3)
        assert registry.register(tmp_path, "bank", released, None).is_dir()
        shared = of_coordinator(folder, "bank").model.state_dict()
        assert all(torch.equal(tensor, shared[key]) for key, tensor in released.model.state_dict().items())


@pytest.mark.end_to_end
def test_no_metric_of_the_model_at_home_leaves(run: Outcome, measured: list[dict[str, torch.Tensor]]) -> None:
    shared = load_latest(run.job.folder)
    assert shared is not None
    assert len(measured) == len(PARTICIPANTS)
    for state in measured:
        assert all(torch.equal(state[name], tensor) for name, tensor in shared.groups["bank"].items())
    for name in PARTICIPANTS:
        home = of_participant(str(run.job.folder), name, "federated").model.state_dict()
        assert not torch.equal(home["network.head.weights"], shared.groups["bank"]["head.weights"])
    coordinator = json.loads((run.job.folder / "coordinator.json").read_text(encoding="utf-8"))
    for name in PARTICIPANTS:  # what the coordinator knows came from the histogram, not from the receipt
        receipt = run.job.homes[name].folder / "runs" / run.job.run_id / "receipt.json"
        exact = json.loads(receipt.read_text(encoding="utf-8"))["metrics"]["auc"]["federated"]
        assert coordinator["participants"][name]["metrics"]["auc"] != exact


@pytest.mark.end_to_end
def test_neither_own_sums_nor_weights_of_home_are_found_outside(run: Outcome, tmp_path: Path) -> None:
    """Nothing of the model at home lies in the coordinator's folder or in a dump."""
    outside = [file for file in run.job.folder.glob("*") if file.name != "participants"]
    files = [f for place in outside for f in ([place] if place.is_file() else place.rglob("*")) if f.is_file()]
    dumped = list((run.job.folder.parents[1] / "dump").rglob("*"))
    assert {file.name for file in dumped if file.is_file()} == {"predictions.csv", "events.json", "receipt.json"}
    everything = b"".join(file.read_bytes() for file in files)
    for name in PARTICIPANTS:
        weights = of_participant(str(run.job.folder), name, "federated").model.state_dict()["network.head.weights"]
        assert weights.numpy().tobytes()[:64] not in everything
        assert not list(run.job.homes[name].folder.rglob("own-sums*"))


@pytest.mark.end_to_end
def test_what_is_made_of_released_sums_is_free(run: Outcome) -> None:
    folder, scenario = run.job.folder, run.job.scenario
    before = {name: _entries(run, name) for name in PARTICIPANTS}
    assert all(len(events) == 3 for events in before.values())
    rule, state = recipe(scenario.contract, "bank"), load_latest(folder)
    assert state is not None
    parts = {
        name: Part(
            tuple(state.memory["bank"][f"{name}/sums.{block}"].numpy() for block in ("gram", "slope")),
            float(state.memory["bank"][f"{name}/multiplier"]),
            round(scenario.participant(name).units * 0.6),
        )
        for name in PARTICIPANTS
    }
    # Without the second bank: the first one's release alone, to the last bit.
    alone = coalitions.of_run(folder, scenario, "bank", without=[PARTICIPANTS[1]])
    first = [parts[PARTICIPANTS[0]]]
    wanted = everybodys(combined(rule, first, precision_weights(rule, first)), rule.outcome)
    assert np.array_equal(alone["head.weights"].numpy(), wanted)
    # The run's own model is that of everybody at strength 10.
    everybody = coalitions.of_run(folder, scenario, "bank")
    assert torch.equal(everybody["head.weights"], state.groups["bank"]["head.weights"])
    stronger = coalitions.of_run(folder, scenario, "bank", strength=1e4)["head.weights"]
    assert stronger[1:].norm() < everybody["head.weights"][1:].norm() / 3
    some = [place < 5 for place in range(rule.columns.width)]
    few = coalitions.of_run(folder, scenario, "bank", columns=some)["head.weights"]
    assert (few[6:] == 0).all()
    assert (few[:6] != 0).all()
    assert of_coordinator(str(folder), "bank", [PARTICIPANTS[1]]).about.detail == "without used-car"
    assert {name: _entries(run, name) for name in PARTICIPANTS} == before
    with pytest.raises(InputError, match="wanted some of new-car, used-car"):
        coalitions.of_run(folder, scenario, "bank", without=["nobody"])
    with pytest.raises(InputError, match="got none"):
        coalitions.of_run(folder, scenario, "bank", without=list(PARTICIPANTS))


@pytest.mark.end_to_end
def test_a_script_of_its_own_recounts_the_ledger(
    run: Outcome, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three Gaussian blocks and the metrics: chain and ε by a script that has nothing of consortia."""
    name = PARTICIPANTS[0]
    homes = str(run.job.homes[name].folder.parent)
    text = CliRunner().invoke(APP, ["budget", "export", name, "--home", homes]).output
    data, file = json.loads(text), tmp_path / "ledger.json"
    file.write_text(text, encoding="utf-8")
    assert RECOUNT([str(file)]) == 0
    assert "recounted 2.99" in capsys.readouterr().out
    data["accounts"][0]["epsilon"] -= 0.02
    file.write_text(json.dumps(data), encoding="utf-8")
    assert RECOUNT([str(file)]) == 1


def _entries(run: Outcome, name: str) -> list[Any]:
    with Ledger.open(run.job.homes[name].ledger, name) as ledger:
        return [event for entry in ledger.entries(run.job.run_id) for event in entry.events]


def test_unequal_budgets_weigh_by_precision_and_equal_ones_alike() -> None:
    rule = recipe(load_scenario("banks").contract, "bank")
    lengths = rule.lengths(2)
    blocks = tuple(np.zeros(length) for length in lengths)
    equal = precision_weights(rule, [Part(blocks, 2.0, 100), Part(blocks, 2.0, 900)])
    assert equal == [1.0, 1.0]
    strict, loose = precision_weights(rule, [Part(blocks, 8.0, 100), Part(blocks, 0.6, 100)])
    assert loose == 1.0
    assert 0 < strict < 0.1
    total = combined(rule, [Part(blocks, 8.0, 100), Part(blocks, 0.6, 100)], [strict, loose])
    lone = combined(rule, [Part(blocks, 0.6, 100)], [1.0])
    assert lone.slope_deviation < total.slope_deviation < 2 * lone.slope_deviation
    assert total.units == pytest.approx(100 * (1 + strict))
    assert precision_weights(rule, [Part(blocks, 0.0, 50)]) == [1.0]


def test_the_gate_lets_sums_out_only_with_their_own_event_and_word() -> None:
    event = GaussianRelease(noise_multiplier=2.0, partition="train", unit="record")
    block = {"sums.gram": torch.zeros(3, dtype=torch.float64)}
    shared = {"allowed": ["sums"], "charged": [event], "shared": []}
    assert gate([Release("sums", block, event)], {}, **shared) == block
    for change, release in (
        ({"allowed": ["update"]}, Release("sums", block, event)),
        ({"charged": []}, Release("sums", block, event)),
        ({}, Release("sums", {"head.weights": torch.zeros(1)}, event)),
        ({}, Release("update", block, event)),
        ({}, Release("sums", {"sums.gram": torch.tensor([math.nan])}, event)),
    ):
        with pytest.raises(ReleaseRefusedError):
            gate([release], {}, **{**shared, **change})


def test_a_part_that_was_not_counted_is_not_taken_off(tmp_path: Path) -> None:
    from consortia.learners.sums.solution import Released
    from consortia.messages.sums import OwnPart, ToHome
    from consortia.participant.home import Home
    from consortia.participant.own_sums import Sent, keep, sent

    contract = load_scenario("banks").contract
    rule = recipe(contract, "bank")
    size = rule.columns.size
    released = Released(np.eye(size) * 9, np.ones((size, 1)), 5.0, 5.0, 50.0)
    home = Home(tmp_path, "new-car")
    keep(home, "run-1", Sent(bytes(31) + b"\1", tuple(np.ones(n) for n in rule.lengths(2)), (3.0, 4.0)))
    of = partial(sums_at_home.SumsAtHome.of, "new-car", sent(home, "run-1"), contract, "bank", {})
    none = of(ToHome(released, OwnPart(bytes(32), 0.0, 0.0)).to_tensors())
    assert np.array_equal(none.others.gram, released.gram)
    mine = of(ToHome(released, OwnPart(bytes(31) + b"\1", 0.5, 5.0)).to_tensors())
    assert mine.others.slope[0, 0] == pytest.approx(0.5)
    assert mine.others.gram_deviation == pytest.approx(math.sqrt(25 - 1.5**2))
    assert mine.others.units == 45.0
    with pytest.raises(ValueError, match="not the one that this participant sent last"):
        of(ToHome(released, OwnPart(b"\2" * 32, 1.0, 1.0)).to_tensors())
    broken = ToHome(released, OwnPart(bytes(32), 0.0, 0.0)).to_tensors()
    for name, tensor in (("sums/gram", torch.zeros(3)), ("sums/about", torch.full((5,), -1.0, dtype=torch.float64))):
        with pytest.raises(ValueError, match=name):
            of({**broken, name: tensor})
