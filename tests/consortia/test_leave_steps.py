"""A participant leaves a run of steps that kept its updates: a replay of the others, which says what it is not."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from left_runs import finished
from passports import key_of, pins

from consortia.common import environment
from consortia.common.errors import InputError
from consortia.coordinator import clusters, updates
from consortia.coordinator.aggregation import aggregate, running_mean
from consortia.coordinator.checkpoint import Checkpoint, load_latest
from consortia.coordinator.leaving import leave
from consortia.coordinator.leaving_steps import final
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.terms.contract import contract_from_json
from consortia.terms.scenario import Scenario, load_scenario
from consortia.terms.scopes import State, initial_groups
from consortia.trust.passport.verify import check

KEY, BANK, LEAVER = key_of("coordinator"), "bank", "used-car"


def scenario(rounds: int, strategy: str = "fedavg", **terms: Any) -> Scenario:
    """Return the five banks whose network's updates are kept."""
    loaded = load_scenario("banks-network")
    data = json.loads(loaded.contract.canonical())
    data |= {"rounds": rounds, "keeps_updates": True, **terms}
    data["strategy"] = {**data["strategy"], "name": strategy}
    if strategy == "fedsgd":
        data["industries"][BANK]["local_steps"] = 1
    return loaded.model_copy(update={"contract": contract_from_json(json.dumps(data))})


@cache
def answer(name: str, number: int, shape: torch.Size) -> torch.Tensor:
    """Return a noisy change; where it does not depend on the model, a replay is exact in every round."""
    generator = torch.Generator().manual_seed(sum(name.encode()) + 1000 * number)
    return torch.randn(shape, generator=generator) * 0.1


def played(folder: Path, of: Scenario, names: Sequence[str], declared: Mapping[str, float] | None = None) -> Path:
    """Play a run by the coordinator's own code, answers drawn here; write its folder."""
    strategy, gradient = of.contract.strategy.strategy(), of.contract.strategy.strategy().fit.gradient
    groups: dict[str, State] = initial_groups(of.contract, [one.industry for one in of.roster])
    state, states = Checkpoint(0, groups, {}, {}, []), []
    for number in range(1, of.contract.rounds + 1):
        sent = clusters.models(of, strategy, state.groups, state.memory)
        replies = {
            name: {p: answer(name, number, t.shape) + (0 if gradient else t) for p, t in sent[name].items()}
            for name in names
        }
        noise = {**dict.fromkeys(names, 2.0), **(declared or {})}
        updates.keep(folder, of, number, sent, replies, noise, {})
        groups, memory, few = aggregate(of, strategy, state, replies, noise)
        history = [*state.history, {"round": number, "replies": sorted(names), "too_few_replies": few}]
        state = Checkpoint(number, groups, memory, running_mean(of.contract, state.average, number, groups), history)
        states.append(state)
    written = finished(folder.with_name(f"{folder.name}-run"), of, states[-2:])
    (folder / updates.FOLDER).rename(written / updates.FOLDER)
    model = next((written / "model").iterdir())
    model.write_bytes(safetensors.torch.save(final(of, state)))
    record = json.loads((written / "result.json").read_text())
    (written / "result.json").write_text(json.dumps({**record, "files": environment.hashes(written)}))
    return written


def names_of(of: Scenario) -> list[str]:
    return [one.name for one in of.roster]


def model_of(folder: Path) -> State:
    return safetensors.torch.load(next((folder / "model").iterdir()).read_bytes())


def all_bytes(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file())


@pytest.mark.parametrize(
    ("rounds", "strategy", "average_last"), [(1, "fedavg", 1), (3, "fedsgd", 1), (4, "fedadam", 1), (4, "fedavg", 2)]
)
def test_it_is_the_run_without_the_leaver_where_updates_do_not_depend_on_the_model(
    rounds: int, strategy: str, average_last: int, tmp_path: Path
) -> None:
    of = scenario(rounds, strategy)
    terms = of.contract.strategy.model_copy(update={"average_last": average_last})
    of = of.model_copy(update={"contract": of.contract.model_copy(update={"strategy": terms})})
    run = played(tmp_path / "all", of, names_of(of))
    old = model_of(run)
    said = leave(run, LEAVER, KEY).stated
    never = played(tmp_path / "never", of, [name for name in names_of(of) if name != LEAVER])
    new, wanted = model_of(run), model_of(never)
    assert new.keys() == wanted.keys()
    for name in new:
        assert torch.allclose(new[name], wanted[name], rtol=1e-5, atol=1e-6), name
    assert any((new[name] - old[name]).norm() > 1e-3 for name in new)
    assert said.replay is not None
    assert (said.replay.rounds, said.shaped.updates) == (rounds, rounds > 1)
    assert check((run / "left" / f"{LEAVER}.json").read_bytes(), pins(), run).problems == []


def test_nothing_of_it_and_no_model_of_before_is_left(tmp_path: Path) -> None:
    of = scenario(3)
    run = played(tmp_path / "all", of, names_of(of))
    state = load_latest(run)
    assert state is not None
    sent = [one for file in updates.files_of(run, 3) for one in updates.load(file, of)[LEAVER].change.values()]
    first = safetensors.torch.load((run / "checkpoints" / "round-000002.safetensors").read_bytes())
    models = [one for name, one in first.items() if name.startswith("groups/")]
    models += [one for model in state.groups.values() for one in model.values()]
    parts = [one.numpy().tobytes() for one in (*sent, *models) if one.numel() > 4]
    before = all_bytes(run)
    assert parts
    assert all(part in before for part in parts)
    said = leave(run, LEAVER, KEY).stated
    after = all_bytes(run)
    assert not [part for part in parts if part in after]
    assert [one.file for one in said.erased] == [f"updates/round-00000{n}.safetensors" for n in (1, 2, 3)]
    others = updates.load(updates.files_of(run, 3)[1], of)
    assert set(others) == set(names_of(of)) - {LEAVER}
    leave(run, "other", KEY)  # another one may follow
    assert check((run / "left" / f"{LEAVER}.json").read_bytes(), pins(), run).problems == []
    tensors = safetensors.torch.load(updates.files_of(run, 3)[0].read_bytes())
    tensors[f"updates/{BANK}/{LEAVER}/x"] = torch.zeros(1)
    updates.files_of(run, 3)[0].write_bytes(safetensors.torch.save(tensors))
    problems = check((run / "left" / f"{LEAVER}.json").read_bytes(), pins(), run).problems
    assert any(f"holds updates/{BANK}/{LEAVER}/x" in one for one in problems)


def test_who_cannot_leave_is_told_so_and_nothing_changes(tmp_path: Path) -> None:
    of = scenario(2)
    exact = played(tmp_path / "exact", of, names_of(of), {LEAVER: 0.0})
    few = played(tmp_path / "few", of, names_of(of)[:3])
    gone = played(tmp_path / "gone", of, names_of(of))
    free = [one.model_copy(update={"epsilon": math.inf}) if one.name == LEAVER else one for one in of.roster]
    open_ = played(tmp_path / "open", of.model_copy(update={"roster": tuple(free)}), names_of(of))
    for run, name, match in (
        (exact, LEAVER, "which sent none"),
        (few, names_of(of)[0], "at least 3 participants left"),
        (few, names_of(of)[4], "of whom none is"),
        (open_, LEAVER, "exact updates"),
    ):
        before = all_bytes(run)
        with pytest.raises(InputError, match=match):
            leave(run, name, KEY)
        assert all_bytes(run) == before
    updates.files_of(gone, 2)[0].unlink()
    with pytest.raises(InputError, match="put the run's own back"):
        leave(gone, LEAVER, KEY)


@pytest.mark.parametrize(
    ("terms", "match"),
    [
        ({"strategy": {"name": "scaffold"}}, "not scaffold"),
        ({"trust": "coordinator"}, 'trust = "local"'),
    ],
)
def test_contracts_that_cannot_be_played_again_are_refused(terms: dict[str, Any], match: str) -> None:
    data = json.loads(scenario(2).contract.canonical()) | terms
    with pytest.raises(InputError, match=match):
        contract_from_json(json.dumps(data))


def test_a_contract_that_keeps_nothing_has_the_hash_it_had() -> None:
    kept = json.loads(scenario(2).contract.canonical())
    assert kept.pop("keeps_updates") is True
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    assert contract_from_json(json.dumps({**kept, "keeps_updates": False})).canonical() == text


@pytest.mark.end_to_end
def test_a_real_run_keeps_what_its_model_is_made_of(tmp_path: Path) -> None:
    options = Options(scenario="banks-network", rounds=2, out=tmp_path)
    kept = {"keeps_updates": True}
    job = prepare(options, change=lambda of: of.model_copy(update={"contract": of.contract.model_copy(update=kept)}))
    assert execute(job, options).result["status"] == "completed"
    *_, state = updates.replayed(job.folder, job.scenario, 2, names_of(job.scenario))
    released = model_of(job.folder)
    for name, tensor in final(job.scenario, state).items():
        assert torch.allclose(tensor, released[name], rtol=1e-5, atol=1e-6), name
    said = leave(job.folder, LEAVER, KEY).stated
    assert said.replay is not None
    assert check((job.folder / "left" / f"{LEAVER}.json").read_bytes(), pins(), job.folder).problems == []
