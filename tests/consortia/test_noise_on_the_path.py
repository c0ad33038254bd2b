"""A machine that is restored with the same kernel randomness: through the real paths, no other release has its noise.

Every message here is answered by a copy of one home while ``os.urandom`` starts from one state. The same message then
has the same answer, which shows that the replay is one; anything else has noise that is unrelated.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noise_contexts import TEST
from secure_sum_world import World, genuine

from consortia.audit import statistics
from consortia.audit.entropy import abandoned, contexts
from consortia.coordinator import trusted_rounds
from consortia.coordinator.checkpoint import Checkpoint
from consortia.coordinator.trusted_rounds import CentralRounds
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.size_release import SIZE
from consortia.participant.data import load_partitions
from consortia.participant.handle import handle
from consortia.participant.home import Home
from consortia.terms.contract import contract_from_json
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import initial_groups
from consortia.terms.vertical import ModelPrivacy
from consortia.vertical import private_model
from consortia.vertical.private_model import assist_privately
from privacy.noise_context import NoiseContext

TERMS = {"run": {"epsilon": 3.0, "delta": 1e-5}, "lifetime": {"epsilon": 6.0, "delta": 2e-5}}


class Snapshot:
    """``os.urandom`` from one state: the n-th question has the same answer each time."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, size: int) -> bytes:
        self.asked += 1
        return hashlib.shake_256(b"snapshot%d" % self.asked).digest(size)


@pytest.fixture
def site(make_site: Callable[..., Any]) -> Any:
    """A bank with no row to train on, so that what moves is noise; metrics and a size leave besides the update."""
    made = make_site("bank-a", rounds=5)
    data = json.loads(made.scenario.contract.canonical())
    data["releases"] = ["update", "metrics", "size"]
    data["evaluation"] |= {"metrics": "dp", "every": 1}
    data["strategy"]["weighting"] = "noised"
    data["split"] = {"train": 0.01, "validation": 0.49, "test": 0.5}  # the key of the split is a constant here
    data["industries"] = {"bank": {**data["industries"]["bank"], "model": {"kind": "mlp", "hidden": [24, 24]}}}
    data["industries"]["bank"] |= {"weight_decay": 0.0, "momentum": 0.0}
    made.scenario = made.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})

    def change(policy: dict[str, Any]) -> None:
        policy["allow"]["releases"] = ["update", "metrics", "size"]
        policy["budget"]["evaluation"] = TERMS
        policy["dataset"]["credit"]["source"] = "synthetic:6?seed=3"

    made.policy(change)
    terms = load_policy(made.home.policy, simulation=True).dataset["credit"]
    assert not len(load_partitions(made.home, terms, "credit", made.scenario.contract, "look").train)
    return made


def _answer(
    site: Any, folder: Path, *, secure: bool, shift: float = 0.0, attempts: int = 1, other: bool = False
) -> Any:
    """Return model and reply of a restored copy: to another model, after dead attempts, with another entry before."""
    message = decode(site.message(2))  # metrics come from the second round on, the size with the first answer
    model = {name: tensor + shift for name, tensor in message.tensors.items()}
    request = encode(Envelope(message.header, model))
    shutil.copytree(site.home.folder, folder)
    home = Home(folder, site.name, simulation=True)
    text = home.policy.read_text(encoding="utf-8")
    home.policy.write_text(f'noise = "{"secure" if secure else "float"}"\n{text}', encoding="utf-8")
    if other:
        handle(site.message(2, run="another-run"), home)
    for _ in range(attempts - 1):
        with abandoned():
            handle(request, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", Snapshot())
        reply = decode(handle(request, home))
    assert reply.header["status"] == "OK", home.log.read_text(encoding="utf-8")
    return model, reply


def _noise(model: Any, reply: Any) -> np.ndarray:
    moved = torch.cat([(reply.tensors[name] - tensor).double().flatten() for name, tensor in sorted(model.items())])
    return np.asarray(moved / moved.square().mean().sqrt())


@pytest.mark.parametrize("secure", [True, False], ids=["secure", "float"])
def test_the_same_kernel_randomness_gives_no_other_release_the_same_noise(
    site: Any, tmp_path: Path, secure: bool
) -> None:
    first = _answer(site, tmp_path / "first", secure=secure)
    again = _answer(site, tmp_path / "again", secure=secure)
    assert all(torch.equal(tensor, again[1].tensors[name]) for name, tensor in first[1].tensors.items())
    others = {
        "another model": _answer(site, tmp_path / "model", secure=secure, shift=0.25),
        "another attempt": _answer(site, tmp_path / "attempt", secure=secure, attempts=2),
        "another ledger": _answer(site, tmp_path / "ledger", secure=secure, other=True),
    }
    noises = np.array([_noise(*first), *[_noise(*answer) for answer in others.values()]])
    assert statistics.alike_p(noises) > 1e-8
    for what, (_, reply) in others.items():
        for name in ("metrics.histogram", SIZE):
            known = first[1].tensors.get(name), reply.tensors.get(name)
            assert known[1] is not None or what == "another attempt", name  # a size leaves with the first attempt alone
            # There is no row: what is released of the histogram is noise, and the size is cut off at 1.
            assert name == SIZE or not torch.equal(known[0], known[1]), f"{what}: {name}"


def test_each_use_of_noise_in_one_answer_has_a_context_of_its_own(site: Any, seen: list[NoiseContext]) -> None:
    assert site.ask(2).header["status"] == "OK"
    assert sorted(context.purpose for context in seen) == ["metrics", "size", "train"]
    metrics, size, train = sorted(seen, key=lambda context: context.purpose)
    entries = {entry.run_id: entry for entry in site.ledger().entries()}
    assert {train.attempt, size.attempt} == {entries["run-1"].seq}
    assert train.ledger == size.ledger != metrics.ledger
    key = entries["run-1"].key
    assert train.message == size.message == f"run-1/2/{key}"
    assert metrics.message == f"run-1/metrics/2/{key}"


@pytest.fixture
def seen() -> Iterator[list[NoiseContext]]:
    """What keys of noise are bound to, in order."""
    with contexts() as found:
        yield found


def test_a_masked_sum_binds_noise_masks_and_shares_to_the_attempt(seen: list[NoiseContext]) -> None:
    world = World(genuine(), 5, drops=1)
    seen.clear()
    world.ask("org-00")
    assert [context.purpose for context in seen] == ["own mask", "share of *", "shares of keys"]
    first = set(seen)
    for request in (world.request(attempt=1), world.request(2, model="m2")):
        seen.clear()
        world.ask("org-00", request)
        assert len(seen) == 3
        assert not first & set(seen)


def test_in_a_masked_sum_the_same_kernel_randomness_gives_other_noise_for_another_model() -> None:
    found = {}
    for what, context in (("one", TEST), ("again", TEST), ("other", TEST.to("another model"))):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "urandom", Snapshot())
            world = World(genuine(), 3, dim=4000)
            found[what] = world.point.encode(np.zeros(4000), 3, 32, context).view(np.int32) / world.point.share_std(3)
    assert (found["one"] == found["again"]).all()
    assert statistics.alike_p(np.array([found["one"], found["other"]])) > 1e-8


def test_the_coordinator_binds_draw_and_noise_to_run_round_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    scenario = load_scenario("smart-home")
    seen: list[NoiseContext] = []
    make = trusted_rounds.fresh_generator
    monkeypatch.setattr(trusted_rounds, "fresh_generator", lambda context: (seen.append(context), make(context))[1])
    groups = initial_groups(scenario.contract, ["smart_home"])
    moved = {group: {name: tensor + 1 for name, tensor in named.items()} for group, named in groups.items()}
    for run, number, model in (("run-1", 0, groups), ("run-2", 0, groups), ("run-1", 1, groups), ("run-1", 0, moved)):
        state = Checkpoint(number, model, {}, {}, [])
        CentralRounds(scenario, run).round(scenario.contract.strategy.strategy(), state, lambda _: {})
    assert [context.purpose for context in seen] == ["who is asked", "sum"] * 4
    assert len(set(seen)) == 8


def test_vertical_training_under_the_same_kernel_randomness_differs_by_attempt(
    monkeypatch: pytest.MonkeyPatch, seen: list[NoiseContext]
) -> None:
    x, labels = np.zeros((600, 400)), np.arange(600) % 2
    terms = ModelPrivacy(epsilon=1.0, delta=1e-5, steps=1)

    def weights(context: NoiseContext) -> np.ndarray:
        monkeypatch.setattr(os, "urandom", Snapshot())
        models = assist_privately(x, labels, terms, context).models
        noise = np.concatenate([model.weights[:-1] for model in models])  # there is nothing to learn
        return np.asarray(noise / np.sqrt(np.square(noise).mean()))

    monkeypatch.setattr(private_model, "_noise", lambda *_: 1.0)
    one, again, other = weights(TEST), weights(TEST), weights(replace(TEST, attempt=2))
    assert (one == again).all()
    assert statistics.alike_p(np.array([one, other])) > 1e-8
    folds = len({context.purpose for context in seen})
    assert folds == len(seen) // 3 > 1


def test_draws_of_a_round_are_not_those_of_the_last(make_site: Callable[..., Any]) -> None:
    """Sizes of the draws in the participant's own file: the same in two rounds only by a chance below 1e-6."""
    site = make_site("bank-a", rounds=5)
    data = json.loads(site.scenario.contract.canonical())
    data["industries"]["bank"] |= {"local_steps": 12, "sampling_rate": 0.3}
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    for number in range(1, 6):
        assert site.ask(number).header["status"] == "OK"
    lines = (site.home.run_folder("run-1") / "training.jsonl").read_text(encoding="utf-8").splitlines()
    draws = [tuple(json.loads(line)["report"]["draws"]) for line in lines]
    assert len(draws) == 5 == len(set(draws))
    assert len({tuple(reversed(one)) for one in draws} | set(draws)) == 10
