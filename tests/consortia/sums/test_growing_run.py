"""Growing runs at the coordinator: sums add up over releases, a first release stays as it was, the rest is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from growing import BANK, NAMES, Banks
from left_runs import banks as five_banks
from left_runs import finished, multiplier, played, rows_of

from consortia.common.errors import InputError
from consortia.coordinator import sums
from consortia.coordinator.checkpoint import Checkpoint, load_latest
from consortia.coordinator.leaving import leave
from consortia.coordinator.participant_view import ParticipantView
from consortia.deploy import runner
from consortia.engines.options import Options, check_options
from consortia.engines.runner import prepare
from consortia.learners.blocks.release import deviations
from consortia.learners.blocks.rows import Rows
from consortia.learners.sums.model import CENTRE, RADIUS, frozen
from consortia.messages.blocks import in_state
from consortia.messages.sums import NO_PART, ToHome
from consortia.reports.page.releases import releases
from consortia.terms.contract import contract_from_json
from consortia.terms.recipe import recipe
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import State, initial_groups


def growing(**sums_terms: Any) -> Scenario:
    """Return the five banks as a run that grows."""
    data = json.loads(five_banks().contract.canonical())
    data["sums"] |= {"grows": True, **sums_terms}
    return five_banks().model_copy(update={"contract": contract_from_json(json.dumps(data))})


def built_on(group: State, release: int = 2) -> dict[str, Any]:
    return {"run": "banks-1", "contract": "c" * 64, "frozen": {BANK: frozen(group)}, "release": release}


def without_noise(
    scenario: Scenario, state: Checkpoint, rows: Mapping[str, Rows], messages: Sequence[int]
) -> Checkpoint:
    """Play messages of one release among participants that add no noise."""
    rule = recipe(scenario.contract, BANK)
    free = [one.model_copy(update={"epsilon": math.inf}) for one in scenario.roster]
    scenario = scenario.model_copy(update={"roster": tuple(free)})
    views = {name: ParticipantView(scenario.participant(name), header={"noise_multiplier": "0.0"}) for name in rows}
    for message in messages:

        def answers(sent: Mapping[str, State], message: int = message) -> dict[str, State]:
            return {n: in_state(rule, message, rule.exact(message, rows[n], model)) for n, model in sent.items()}

        groups, memory, _, _ = sums.local_round(scenario, views, state, message, answers)
        state = Checkpoint(message, groups, memory, {}, [])
    return state


def part_of(rows: Rows, start: int, end: int) -> Rows:
    return Rows(rows.features[start:end], rows.target[start:end], torch.arange(end - start))


def test_without_noise_releases_add_up_to_one_of_all() -> None:
    scenario, names = growing(), ("new-car", "used-car")
    whole = {name: rows_of(name) for name in names}
    start = Checkpoint(0, initial_groups(scenario.contract, [BANK]), {}, {}, [])
    state = without_noise(scenario, start, {n: part_of(r, 0, 20) for n, r in whole.items()}, (1, 2))
    current = scenario
    for release, (first, last) in enumerate(((20, 35), (35, 60)), start=2):
        memory = {BANK: sums.before_top_up(current, BANK, state.memory[BANK])}
        current = growing(builds_on=built_on(state.groups[BANK], release))
        new = {name: part_of(rows, first, last) for name, rows in whole.items()}
        state = without_noise(current, Checkpoint(1, state.groups, memory, {}, []), new, (2,))
    under = state.groups[BANK]
    rule = recipe(current.contract, BANK)
    parts = sums.parts_of(current, BANK, state.memory[BANK], 2)
    for name in names:
        for got, wanted in zip(parts[name].blocks, rule.exact(2, whole[name], under), strict=True):
            assert np.allclose(got, wanted, rtol=1e-13, atol=1e-13)  # the square root of 2 is a factor after each sum
        assert (parts[name].multiplier, parts[name].units) == (0.0, 3 * round(scenario.participant(name).units * 0.6))
    one = Checkpoint(1, state.groups, {}, {}, [])
    alone = without_noise(current, one, whole, (2,))
    assert torch.allclose(alone.groups[BANK]["head.weights"], under["head.weights"], atol=1e-12)


def test_noise_of_a_first_release_is_restated_and_variances_add() -> None:
    scenario = growing()
    state = played(scenario, ["new-car", "used-car"])[-1]
    further = growing(builds_on=built_on(state.groups[BANK]))
    kept = sums.before_top_up(scenario, BANK, state.memory[BANK])
    (part, _) = sums.parts_of(further, BANK, kept, 2).values()
    before = deviations(recipe(scenario.contract, BANK), 2, multiplier())
    after = deviations(recipe(further.contract, BANK), 2, part.multiplier)
    assert after == pytest.approx(before)  # the same noise, told by the shares of a further release
    both = {**kept, **state.memory[BANK]}
    merged = sums.parts_of(further, BANK, both, 2)["new-car"]
    assert merged.multiplier == pytest.approx(math.hypot(part.multiplier, multiplier()))
    again = sums.before_top_up(further, BANK, both)
    assert float(again["new-car/earlier/multiplier"]) == pytest.approx(merged.multiplier)
    assert set(again) == {
        f"{n}/earlier/{w}" for n in ("new-car", "used-car") for w in ("sums.gram", "sums.slope", "multiplier", "units")
    }


def test_a_participant_receives_the_sums_of_the_others() -> None:
    scenario = growing()
    state = played(scenario, ["new-car", "used-car"])[-1]
    told = sums.beside(scenario, {BANK: state.memory[BANK]})
    came = ToHome.from_tensors(recipe(scenario.contract, BANK), told["new-car"])
    assert came.own.key == NO_PART
    other = sums.parts_of(scenario, BANK, state.memory[BANK], 2)["used-car"]
    assert np.allclose(came.released.slope.ravel(), other.blocks[1])
    alone = sums.beside(scenario, {BANK: {k: t for k, t in state.memory[BANK].items() if k.startswith("used-car/")}})
    assert ToHome.from_tensors(recipe(scenario.contract, BANK), alone["used-car"]).released.units == 0.0


def test_a_further_release_gives_message_2_everything() -> None:
    further = growing(builds_on=built_on(initial_groups(growing().contract, [BANK])[BANK])).contract
    assert further.sums is not None
    shares = further.sums.shares
    assert (shares.messages, len(shares.of(1))) == (2, 0)
    assert sum(shares.of(2)) == pytest.approx(1.0)
    rounds, events = shares.plan(2.0, "customer_id")
    assert (rounds, len(events)) == (1, 2)
    assert growing().contract.sha256() != five_banks().contract.sha256()
    assert "grows" not in five_banks().contract.canonical()


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"trust": "aggregate"}, "difference of two totals"),
        ({"sums": {"builds_on": {"run": "r", "contract": "c" * 64, "frozen": {}, "release": 2}}}, "grows = true"),
    ],
)
def test_terms_that_cannot_grow_are_refused(change: dict[str, Any], wanted: str) -> None:
    data = json.loads(growing().contract.canonical())
    with pytest.raises(InputError, match=wanted):
        contract_from_json(json.dumps({**data, **change}))


def test_options_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for options, wanted in (
        (Options(scenario="banks", top_up=tmp_path), "SCENARIO"),
        (Options(scenario="", top_up=tmp_path, resume=tmp_path, seed=3), "--resume, --seed"),
        (Options(scenario="", top_up=tmp_path, engine="vectorized"), "vectorized"),
        (Options(scenario="", top_up=tmp_path), "holds job.json"),
        (Options(scenario="banks", units=("5",)), "wanted --top-up RUN"),
    ):
        with pytest.raises(InputError, match=wanted):
            check_options(options)


def test_a_growing_run_wants_ledgers_that_outlive_it(tmp_path: Path) -> None:
    scenario = Banks(tmp_path / "banks").scenario
    with pytest.raises(InputError, match="ledgers that outlive the run"):
        prepare(Options(scenario=str(scenario), out=tmp_path / "runs"))
    with pytest.raises(InputError, match="ledgers that outlive the run"):
        prepare(Options(scenario=str(scenario), out=tmp_path / "runs", engine="vectorized"))
    assert not (tmp_path / "runs").exists()


def a_run(folder: Path, scenario: Scenario) -> Path:
    states = played(scenario, [one.name for one in scenario.roster][:2])
    finished(folder, scenario, states)
    (folder / "job.json").write_text(json.dumps({"engine": "flower", "sources": {}, "ledger": None, "run_id": "r"}))
    return folder


def test_runs_that_cannot_grow_are_refused_by_name(tmp_path: Path) -> None:
    plain = a_run(tmp_path / "plain", five_banks())
    grown = a_run(tmp_path / "grown", growing())

    def refused(folder: Path, wanted: str, **options: Any) -> None:
        with pytest.raises(InputError, match=wanted):
            prepare(Options(scenario="", top_up=folder, out=tmp_path / "out", **{"engine": "flower", **options}))
        assert not (tmp_path / "out").exists()

    refused(plain, "no unit was claimed")
    refused(grown, "used --engine flower, got embedded", engine="embedded")
    refused(grown, "NAME=N", units=("nobody=3",))
    refused(grown, "NAME=N", units=("0",))
    record = json.loads((grown / "result.json").read_text())
    for change, wanted in (({"status": "failed"}, "a completed run"), ({"files": {}}, "hashes result.json names")):
        (grown / "result.json").write_text(json.dumps({**record, **change}))
        refused(grown, wanted)
    (grown / "result.json").write_text("{")
    refused(grown, "put a whole copy back")


def test_containers_add_new_units_to_a_run_below_runs(tmp_path: Path) -> None:
    """The runner has no homes: it goes on from the folder of the run, and owners accept by the new one's scenario."""
    a_run(tmp_path / "grown", growing())
    here = five_banks()
    job = runner.make_job(here, tmp_path, top_up="grown", units=("40", "new-car=50"))
    assert json.loads((job.folder / "releases.json").read_text())[0]["run_id"]
    assert load_latest(job.folder) is not None
    kept = load_scenario(str(job.folder / "scenario.json"))
    assert kept.contract.sha256() == job.scenario.contract.sha256()
    assert kept.contract.built_on is not None
    assert {one.name: one.units for one in kept.roster}["new-car"] == 50
    for asked, wanted in (
        ({"top_up": "nowhere"}, "below runs/"),
        ({"top_up": "grown", "resume": "grown"}, "leave one out"),
        ({"units": ("3",)}, "leave one out"),
    ):
        with pytest.raises(InputError, match=wanted):
            runner.make_job(here, tmp_path, **asked)  # type: ignore[arg-type]


def test_nobody_leaves_a_run_that_grows(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec

    with pytest.raises(InputError, match="does not grow"):
        leave(a_run(tmp_path / "grown", growing()), "new-car", ec.generate_private_key(ec.SECP384R1()))


def test_a_report_shows_released_metrics_by_release() -> None:
    def line(run: str, units: int, auc: float) -> dict[str, Any]:
        one = {"units": units, "epsilon": 3.0, "released": {"auc": auc}}
        return {"run_id": run, "participants": {"new-car": one, "used-car": {**one, "released": {}}}}

    metrics = {"auc": {"release": "dp", "released_value": 0.73, "federated": 0.9}}
    seen = {one.name: {"metrics": metrics if one.name == "new-car" else {}} for one in growing().roster}
    result = {"run_id": "third", "releases": [line("first", 100, 0.7), line("second", 20, 0.71)], "participants": seen}
    facts: Any = SimpleNamespace(result=result, run=SimpleNamespace(scenario=growing()))
    section = releases(facts)
    assert section is not None
    (table,) = section.tables
    assert [row[4] for row in table.rows] == ["AUC 0.700", "AUC 0.710", "AUC 0.730"]  # none that only a receipt has
    assert (table.rows[0][2:4], table.rows[2][2]) == (("200", "3"), f"{sum(one.units for one in growing().roster):,}")
    assert len(section.charts) == 1
    assert releases(SimpleNamespace(result={"run_id": "first"})) is None  # type: ignore[arg-type]


@pytest.mark.end_to_end
def test_two_top_ups_on_ledgers_of_their_own(tmp_path: Path) -> None:
    """What an old unit paid does not move, new units pay once, and the model is that of all releases."""
    banks = Banks(tmp_path / "banks")
    first = banks.begin()
    assert first.result["status"] == "completed"
    second, third = banks.twice(first, (1, 2, 2, 2))
    for name in NAMES:
        receipt = json.loads((third.job.homes[name].run_folder(third.job.run_id) / "receipt.json").read_text())
        assert receipt["epsilon"]["lifetime"] == pytest.approx(3.0, abs=1e-3)
        assert not list(banks.home(name).folder.rglob("own-sums*"))
    assert [line["run_id"] for line in third.result["releases"]] == [first.job.run_id, second.job.run_id]
    assert third.result["releases"][1]["participants"]["used-car"] == {"units": 80, "epsilon": 3.0, "released": {}}
    states = [load_latest(outcome.job.folder) for outcome in (first, second, third)]
    assert all(state is not None for state in states)
    one, two, three = (state for state in states if state is not None)
    for what in (CENTRE, RADIUS):
        assert torch.equal(one.groups[BANK][what], three.groups[BANK][what])
    assert not torch.equal(one.groups[BANK]["head.weights"], two.groups[BANK]["head.weights"])
    parts = sums.parts_of(third.job.scenario, BANK, three.memory[BANK], 2)
    assert parts["used-car"].units == pytest.approx(round(0.6 * 103) + 2 * round(0.6 * 80))
    # Under another name for the ledgers, or in a simulation of its own, nothing is recognised: refused.
    with pytest.raises(InputError, match="which it knows"):
        banks.top_up(third, ledger=tmp_path)
    assert load_scenario(str(banks.scenario)).contract.grows
    last = third.job.scenario.contract.sums
    assert last is not None
    assert last.builds_on is not None
    assert last.builds_on.release == 3
