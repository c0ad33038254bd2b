"""Local optimizers and schedules: written into the contract, fed noisy gradients only, fresh in every round."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from noise_contexts import TEST

from consortia.audit.settings import Audit
from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.engines.vectorized import participants
from consortia.participant import data, training
from consortia.terms.contract import Contract
from consortia.terms.optimizer import OptimizerTerms, ScheduleTerms, make_optimizer
from consortia.terms.policy import load_policy
from consortia.terms.scenario import Scenario, scenario_from_toml
from consortia.terms.scopes import State, build_module, for_participant, initial_groups
from privacy._optimizer import NoisyOptimizer
from privacy.randomness import seeded_generator

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("sgd", "adam", "adamw", "rmsprop")


def _scenario(strategy: dict[str, Any] | None = None, name: str = "banks-network", **terms: Any) -> Scenario:
    raw = read_toml(ROOT / "scenarios" / f"{name}.toml")
    raw["contract"] |= {"evaluation": {}, "releases": ["update"]} if name == "banks-network" else {}
    raw["contract"] |= {} if strategy is None else {"strategy": strategy}
    raw["contract"].pop("stopping", None)
    raw["contract"]["industries"]["bank"] |= terms
    return scenario_from_toml(tomli_w.dumps(raw))


def _round(contract: Contract, site: Any, number: int = 1) -> tuple[State, State]:
    """Return what a participant received and what it would release, with seeded noise."""
    policy = load_policy(site.home.policy, simulation=True)
    terms = policy.dataset["credit"]
    received = for_participant(initial_groups(contract, ["bank"]), "bank")
    parts = data.load_partitions(site.home, terms, "credit", contract, "run")
    plan = training.make_plan(contract, terms, "credit", "run", policy.budget.run.budget())
    module = training.ready_module(contract, "bank", plan, parts.train, received, {})
    keys = {"participant": "new-car", "round_number": number, "noise": TEST, "secure_noise": False}
    return received, training.train_round(module, contract, "bank", plan, parts.train, received, **keys).update


@pytest.mark.parametrize("name", NAMES)
def test_an_optimizer_is_torch_s_own(name: str) -> None:
    own = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}
    values = [torch.ones(3, requires_grad=True) for _ in range(2)]
    made = make_optimizer(
        OptimizerTerms(name=name),
        values[:1],
        learning_rate=0.1,
        momentum=0.0,
        weight_decay=0.01,  # type: ignore[arg-type]
    )
    wanted = own[name](values[1:], lr=0.1, weight_decay=0.01)
    for gradient in ([1.0, -2.0, 0.1], [0.5, 0.0, 3.0]):
        for value, optimizer in zip(values, (made, wanted), strict=True):
            value.grad = torch.tensor(gradient)
            optimizer.step()
    assert torch.equal(values[0], values[1])


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop"])
def test_an_optimizer_sees_the_noisy_gradient_alone(
    name: str, make_site: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What moved the parameters is torch's optimizer on the gradients that `NoisyOptimizer` left, from no state."""
    monkeypatch.setattr(training, "fresh_generator", lambda _: seeded_generator("test"))
    seen: list[list[torch.Tensor]] = []
    real = NoisyOptimizer.pre_step

    def noted(self: NoisyOptimizer, closure: Any = None) -> bool:
        done = real(self, closure)
        assert not torch.equal(self._noisy * self.expected_batch_size, self.total)  # noise was added
        seen.append([part.clone() for part in self._parts])
        return done

    monkeypatch.setattr(NoisyOptimizer, "pre_step", noted)
    terms = {"local_steps": 3, "optimizer": {"name": name}, "schedule": {"name": "cosine"}, "learning_rate": 0.1}
    contract = _scenario(**terms).contract
    site = make_site("new-car", "banks-network")
    for number in (1, contract.rounds):
        seen.clear()
        received, update = _round(contract, site, number)
        assert len(seen) == 3
        names = [name for name, _ in build_module(contract, "bank").named_parameters()]
        values = [torch.nn.Parameter(received[name].clone()) for name in names]
        rules = contract.industries["bank"]
        rate = 0.1 * (1.0 if number == 1 else 0.1)  # `final` at the last round
        optimizer = make_optimizer(rules.optimizer, values, learning_rate=rate, momentum=0.0, weight_decay=0.0)
        for gradients in seen:
            for value, gradient in zip(values, gradients, strict=True):
                value.grad = gradient
            optimizer.step()
        for name, value in zip(names, values, strict=True):
            torch.testing.assert_close(value.detach(), update[name], rtol=1e-5, atol=1e-6)


def test_a_schedule_warms_up_and_falls_to_its_final_share() -> None:
    for name in ("linear", "cosine", "exponential"):
        schedule = ScheduleTerms(name=name, final=0.2, warmup=3)  # type: ignore[arg-type]
        shares = [schedule.share(number, 10) for number in range(1, 11)]
        assert shares[:4] == [0.25, 0.5, 0.75, 1.0]
        assert all(after < before for before, after in pairwise(shares[3:]))
        assert shares[-1] == pytest.approx(0.2)
        assert schedule.share(11, 10) == pytest.approx(0.2)  # an attempt beyond the last round
    assert ScheduleTerms(name="linear").share(1, 1) == 1.0


def test_a_contract_without_them_hashes_as_before_and_one_with_them_does_not() -> None:
    plain = _scenario().contract
    assert "optimizer" not in plain.canonical()
    assert "schedule" not in plain.canonical()
    hashes = {plain.sha256(), *(_scenario(optimizer={"name": name}).contract.sha256() for name in NAMES)}
    assert len(hashes) == 5


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "scaffold": ({"name": "scaffold"}, {"optimizer": {"name": "adam"}}, "strategy scaffold reckons with"),
    "fednova": ({"name": "fednova"}, {"optimizer": {"name": "rmsprop"}}, "strategy fednova reckons with"),
    "fedsgd": ({"name": "fedsgd"}, {"optimizer": {"name": "adam"}, "local_steps": 1}, "strategy fedsgd reckons with"),
    "bound": (
        {"name": "norm-bound", "weighting": "equal", "options": {"attackers": 1}},
        {"optimizer": {"name": "adam"}},
        "strategy norm-bound reckons with",
    ),
    "information": (
        {"weighting": "information"},
        {"optimizer": {"name": "adamw"}},
        "weighting = 'information' reckons",
    ),
    "no rounds": ({"name": "fedasync"}, {"schedule": {"name": "linear"}}, "fedasync has no rounds"),
    "a gradient": ({"name": "fedsgd"}, {"schedule": {"name": "linear"}, "local_steps": 1}, "sends a gradient"),
    "momentum": ({}, {"optimizer": {"name": "adam"}, "momentum": 0.5}, "which has beta1"),
    "beta1": ({}, {"optimizer": {"name": "rmsprop", "beta1": 0.9}}, "no beta1 with rmsprop"),
    "epsilon": ({}, {"optimizer": {"name": "sgd", "epsilon": 1e-8}}, "no epsilon with sgd"),
    "name": ({}, {"optimizer": {"name": "lion"}}, "adamw"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_by_name(case: str) -> None:
    strategy, terms, sentence = REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        _scenario(strategy, **terms)


def test_a_secure_sum_takes_neither() -> None:
    with pytest.raises(InputError, match="no optimizer and no schedule"):
        _scenario(name="secure-banks-network", optimizer={"name": "adam"})


def test_the_vectorized_engine_takes_the_same_optimizer() -> None:
    assert participants.local_optimizer is training.local_optimizer is make_optimizer


def test_an_audit_takes_linear_steps(tmp_path: Path) -> None:
    scenario = _scenario(optimizer={"name": "adam"}, schedule={"name": "linear"})
    rules = Audit(scenario, tmp_path).contract.industries["bank"]
    assert (rules.optimizer, rules.schedule) == (None, None)
