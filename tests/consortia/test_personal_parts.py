"""Parts that stay at home while others are shared: FedPer, FedRep and FedBN, all inside the DP step."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from noise_contexts import TEST
from torch import nn

from clients.errors import ModelError
from clients.models import check_norm_names, is_norm
from consortia.common.errors import InputError
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import handle as participant
from consortia.participant import local, training
from consortia.participant.alternating import phases
from consortia.participant.data import load_partitions
from consortia.participant.training import RoundOutcome, make_plan, ready_module, train_round
from consortia.planning.plan import make_plans
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.policy import load_policy
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module, group_of, initial_groups, scope_of, shared_names, state_of
from privacy.dp_sgd import PlainPlan, train_plain
from privacy.ledger import Budget
from privacy.randomness import seeded_generator

Make = Callable[..., Any]
FEDREP: dict[str, Any] = {"scopes": {"head": "private"}, "steps": {"local_steps": 4, "private_steps": 3}}
FEDBN: dict[str, Any] = {
    "scopes": {"norm": "private"},
    "steps": {"local_steps": 4},
    "model": {"kind": "mlp", "hidden": [8, 4], "norm": "layer"},
}


def _contract(
    scopes: dict[str, str],
    steps: dict[str, int] | None = None,
    model: dict[str, Any] | None = None,
    rounds: int = 3,
    industry: str = "factory",
) -> Contract:
    data = json.loads(
        load_scenario("factories-network" if industry == "factory" else "banks-network").contract.canonical()
    )
    data["industries"][industry] |= {**(steps or {}), **({"model": model} if model else {})}
    return contract_from_json(json.dumps({**data, "rounds": rounds, "scopes": scopes}))


def _site(make_site: Make, contract: Contract) -> Any:
    site = make_site("high", "factories-network")
    site.scenario = site.scenario.model_copy(update={"contract": contract})
    return site


def _kept(site: Any, number: int) -> dict[str, torch.Tensor]:
    file: Path = site.home.folder / "runs" / "run-1" / f"private-{number}.safetensors"
    return safetensors.torch.load(file.read_bytes())


class Two(nn.Module):
    """x -> head (encoder x): two numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 1, bias=False)
        self.head = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.encoder.weight.fill_(1.0)
            self.head.weight.fill_(0.5)

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(inputs["features"]))
        return out


def test_fedrep_moves_the_head_and_then_the_representation_under_the_new_head() -> None:
    # One row x = 1, y = 2, loss (v w x - y)^2, w = 1, v = .5, rate .1.
    # Head first: dv = 2 (.5 - 2) 1 = -3, v = .8. Then dw = 2 (.8 - 2) .8 = -1.92, w = 1.192.
    module = Two()
    one, index = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    seen = []
    for steps in phases(module, {"encoder.weight"}, 2, 1):
        train_plain(
            module,
            {"features": one},
            2 * one[0],
            index,
            1,
            lambda out, y: (out.squeeze(-1) - y) ** 2,
            lambda parameters: torch.optim.SGD(parameters, lr=0.1),
            PlainPlan(sampling_rate=1.0, declared_units=1, steps=steps),
            seeded_generator(0),
        )
        seen.append((module.encoder.weight.item(), module.head.weight.item()))
    assert seen == [pytest.approx((1.0, 0.8)), pytest.approx((1.192, 0.8))]
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_an_error_in_a_phase_leaves_no_parameter_frozen() -> None:
    module = Two()
    with pytest.raises(RuntimeError):  # noqa: PT012 - the loop is what is tested
        for _ in (steps := phases(module, {"encoder.weight"}, 2, 1)):
            steps.throw(RuntimeError())
    assert all(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.parametrize("terms", [FEDREP, FEDBN, FEDBN | FEDREP | {"scopes": {"norm": "private", "head": "private"}}])
def test_private_parameters_are_trained_kept_and_never_leave(make_site: Make, terms: dict[str, Any]) -> None:
    contract = _contract(**terms)
    site = _site(make_site, contract)
    replies = [site.ask(number) for number in (1, 2)]
    names = set(build_module(contract, "factory").state_dict())
    private = {name for name in names if scope_of(name, contract) == "private"}
    assert private
    for reply in replies:
        assert reply.header["status"] == "OK"
        assert set(reply.tensors) == names - private
    first, second = _kept(site, 1), _kept(site, 2)
    assert set(first) == private
    assert all(not torch.equal(first[name], second[name]) for name in private)
    steps = contract.industries["factory"].local_steps
    with site.ledger() as ledger:
        assert [entry.events[0].steps for entry in ledger.entries()] == [steps, steps]  # all of them are charged
        plan = ledger.plan("run-1")
    assert plan is not None
    joint = make_plan(_contract({"head": "private"}, {"local_steps": steps}), _terms(site), "machines", "x", _budget())
    assert plan.noise_multiplier == joint.noise_multiplier  # sigma is that of as many steps, whatever they move


def _terms(site: Any) -> Any:
    return load_policy(site.home.policy, simulation=True).dataset["machines"]


def _budget() -> Budget:
    participant = load_scenario("factories-network").participant("high")
    return Budget(participant.epsilon, participant.delta)


def _silent_round(site: Any, clip: float) -> tuple[float, float, RoundOutcome]:
    """Train one round with next to no noise; return how far the private and the shared parameters moved."""
    contract = site.scenario.contract
    plan = dataclasses.replace(
        make_plan(contract, _terms(site), "machines", "run-1", _budget()), noise_multiplier=1e-6, clip=clip
    )
    parts = load_partitions(site.home, _terms(site), "machines", contract, "run-1")
    start = state_of(build_module(contract, "factory"))
    sent = {name: start[name] for name in shared_names(start, contract)}
    module = ready_module(contract, "factory", plan, parts.train, sent, {})
    keys = {"participant": "high", "round_number": 1, "noise": TEST, "secure_noise": False}
    out = train_round(module, contract, "factory", plan, parts.train, sent, **keys)
    private = math.hypot(*(float((t - start[n]).norm()) for n, t in out.private.items()))
    shared = math.hypot(*(float((t - start[n]).norm()) for n, t in out.update.items()))
    return private, shared, out


def _check_every_phase_is_clipped(site: Any) -> None:
    """With clip C no step moves what it trains by more than rate x C x (units drawn) / (q n)."""
    rules, clip = site.scenario.contract.industries["factory"], 1e-4
    private, shared, out = _silent_round(site, clip)
    declared = site.scenario.contract.split.training_units(_terms(site).declared_units)
    drawn = max(out.report.draws) / (rules.sampling_rate * declared)
    most = rules.learning_rate * clip * drawn / (1 - rules.momentum)
    assert private <= rules.private_steps * most * 1.01
    assert 0 < shared <= rules.shared_steps * most * 1.01
    assert out.report.steps_taken == rules.local_steps == len(out.report.draws)


def test_both_phases_clip_what_they_move(make_site: Make) -> None:
    _check_every_phase_is_clipped(_site(make_site, _contract(**FEDREP)))


def test_a_head_fitted_outside_the_dp_step_is_caught(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.train_private

    def fits_the_head_plainly(module: nn.Module, *rest: Any, **more: Any) -> Any:
        *rows, plan, generator = rest
        if {n.partition(".")[0] for n, p in module.named_parameters() if p.requires_grad} != {"head"}:
            return real(module, *rest, **more)
        plain = PlainPlan(sampling_rate=plan.sampling_rate, declared_units=plan.declared_units, steps=plan.steps)
        return train_plain(module, *rows, plain, generator)

    monkeypatch.setattr(training, "train_private", fits_the_head_plainly)
    with pytest.raises(AssertionError):
        _check_every_phase_is_clipped(_site(make_site, _contract(**FEDREP)))


@pytest.mark.parametrize("terms", [FEDREP, FEDBN])
def test_a_participant_that_would_send_a_private_parameter_sends_nothing(
    make_site: Make, monkeypatch: pytest.MonkeyPatch, terms: dict[str, Any]
) -> None:
    def leaks(*args: Any, **kwargs: Any) -> RoundOutcome:
        out = train_round(*args, **kwargs)
        return dataclasses.replace(out, update=out.update | out.private)

    monkeypatch.setattr(local, "train_round", leaks)
    reply = _site(make_site, _contract(**terms)).ask(1)
    assert (reply.header["status"], reply.tensors) == ("FAILED", {})


def test_a_coordinator_cannot_set_a_private_norm(make_site: Make) -> None:
    site = _site(make_site, _contract(**FEDBN))
    message = decode(site.message(1))
    full = state_of(build_module(site.scenario.contract, "factory"))
    reply = decode(participant.handle(encode(Envelope(message.header, full)), site.home))
    assert reply.header["code"] == "BAD_MESSAGE"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_norms_have_a_scope_of_their_own_only_where_the_contract_says_so() -> None:
    names = {"trunk.norm0.weight": "private", "trunk.0.weight": "industry", "encoder.norm0.bias": "private"}
    contract = _contract(**FEDBN)
    assert {name: scope_of(name, contract) for name in names} == names
    plain = _contract({}, model=FEDBN["model"])
    assert {scope_of(name, plain) for name in names} == {"industry"}
    everywhere = _contract({"norm": "consortium"}, model=FEDBN["model"])
    assert group_of("trunk.norm0.weight", "factory", everywhere) == "*"
    assert {name for name in initial_groups(everywhere, ["factory"])["*"] if not is_norm(name)} == set()
    # What is not asked for stands in no contract, so that older ones keep their hash.
    assert not {"norm", "private_steps"} & set(json.dumps(json.loads(_contract({}).canonical())).split('"'))


def test_a_norm_of_another_name_is_refused_where_scopes_go_by_names() -> None:
    module = nn.ModuleDict({"norm0": nn.LayerNorm(2), "dense": nn.Linear(2, 2)})
    check_norm_names(module, "insurer")
    with pytest.raises(ModelError, match="layer scale: wanted a name that begins with 'norm'"):
        check_norm_names(nn.ModuleDict({"scale": nn.GroupNorm(1, 2)}), "insurer")
    with pytest.raises(ModelError, match="layer normal: wanted another name"):
        check_norm_names(nn.ModuleDict({"normal": nn.Linear(2, 2)}), "insurer")


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"scopes": {}, "steps": {"local_steps": 4, "private_steps": 1}}, "a part whose scope is 'private'"),
        ({"scopes": {"head": "private"}, "steps": {"local_steps": 4, "private_steps": 4}}, "private_steps < local_st"),
        ({"scopes": {}, "model": {"kind": "linear", "norm": "layer"}}, "norm = 'none' for kind 'linear'"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        _contract(**change)


def test_private_steps_of_a_network_without_private_parameters_are_refused_before_the_run() -> None:
    contract = _contract({"norm": "private"}, {"local_steps": 4, "private_steps": 1})  # its mlp has no norms
    with pytest.raises(InputError, match="private_steps: wanted 0, got 1"):
        make_plans(load_scenario("factories-network").model_copy(update={"contract": contract}))


@pytest.mark.end_to_end
def test_a_whole_run_with_private_heads_and_norms(tmp_path: Path) -> None:
    terms = FEDBN | FEDREP | {"scopes": {"norm": "private", "head": "private"}}
    options = Options(scenario="banks-network", out=tmp_path)
    job = prepare(options)
    changes = {"contract": _contract(**terms, rounds=2, industry="bank"), "roster": job.scenario.roster[:2]}
    job = dataclasses.replace(job, scenario=job.scenario.model_copy(update=changes))
    result = execute(job, options).result
    assert result["status"] == "completed"
    model = safetensors.torch.load((job.folder / "model" / "bank.safetensors").read_bytes())
    assert {name.partition(".")[0] for name in model} == {"encoder", "trunk"}
    assert not [name for name in model if is_norm(name)]
    for line in result["participants"].values():
        assert line["epsilon"]["run"] <= line["epsilon"]["budget"]
        assert line["metrics"]["auc"]["federated"] is not None
