"""`--engine vectorized`: the embedded engine's results and accounts, without a message; refusals by name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import tomli_w
import torch
from each_generator import EachGenerator
from torch import Tensor, nn

from consortia.common.errors import InputError
from consortia.common.strict import read_toml
from consortia.engines.options import Options
from consortia.engines.runner import Outcome, execute, prepare
from consortia.engines.vectorized import participants, receipts
from consortia.engines.vectorized.accounts import ScratchAccount
from consortia.engines.vectorized.network import dense_layers
from consortia.participant import training
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module
from privacy.errors import BudgetExhaustedError
from privacy.ledger import Budget, Ledger
from privacy.randomness import seeded_generator

ROOT = Path(__file__).resolve().parents[2]


def _run(tmp_path: Path, engine: str, **options: Any) -> Outcome:
    chosen = Options(out=tmp_path / engine, engine=engine, **options)
    return execute(prepare(chosen), chosen)


def _models(outcome: Outcome) -> dict[str, Tensor]:
    files = sorted((outcome.job.folder / "model").glob("*.safetensors"))
    return {f"{file.stem}/{n}": t for file in files for n, t in safetensors.torch.load(file.read_bytes()).items()}


def _equal(one: Outcome, other: Outcome) -> bool:
    left, right = _models(one), _models(other)
    return left.keys() == right.keys() and all(torch.allclose(left[n], right[n], atol=2e-5) for n in left)


def _variant(tmp_path: Path, **strategy: Any) -> str:
    """Return the path of cross-industry-network with fewer rows and participants, momentum, and another strategy."""
    data = read_toml(ROOT / "scenarios" / "cross-industry-network.toml")
    data["contract"]["strategy"] = strategy
    data["roster"] = data["roster"][2:]  # two banks, two factories
    for terms in data["contract"]["industries"].values():
        terms |= {"local_steps": 3, "sampling_rate": 0.3, "learning_rate": 0.3, "momentum": 0.5, "weight_decay": 0.01}
    for participant in data["roster"]:
        participant["units"] = 234
    path = tmp_path / "cross-industry-network.toml"
    path.write_text(tomli_w.dumps(data), encoding="utf-8")
    policies = tmp_path / "policies" / "cross-industry-network"
    policies.mkdir(parents=True, exist_ok=True)
    for file in (ROOT / "scenarios" / "policies" / "cross-industry-network").glob("*.toml"):
        policy = read_toml(file)
        for terms in policy["dataset"].values():
            terms["source"] = "synthetic:234"
        policies.joinpath(file.name).write_text(tomli_w.dumps(policy), encoding="utf-8")
    return str(path)


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    "strategy",
    [
        {"name": "fedavg"},
        {"name": "fedprox", "options": {"mu": 0.5}},
        {"name": "scaffold"},
        {"name": "fedadam", "server_learning_rate": 0.1},
    ],
)
def test_a_non_private_run_equals_the_embedded_one(
    tmp_path: Path, strategy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("consortia.participant.receipt.write", lambda *_: None)  # the models are compared
    chosen = {"scenario": _variant(tmp_path, **strategy), "rounds": 2, "epsilon": ("inf",)}
    embedded, vectorized = (_run(tmp_path, engine, **chosen) for engine in ("embedded", "vectorized"))
    assert _equal(embedded, vectorized)


def test_any_number_of_threads_gives_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("consortia.engines.vectorized.receipts.write", lambda *_: None)
    monkeypatch.setattr(participants, "CHUNK", 1)
    by: list[str] = []
    train = participants.Trainer._train

    def noted(self: participants.Trainer, *args: Any) -> Any:
        by.append(threading.current_thread().name)
        return train(self, *args)

    monkeypatch.setattr(participants.Trainer, "_train", noted)
    chosen = {"scenario": _variant(tmp_path, name="scaffold"), "rounds": 2, "epsilon": ("inf",)}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _models(_run(tmp_path / "alone", "vectorized", **chosen))
        assert not any(name.startswith("chunk") for name in by)
        torch.set_num_threads(3)
        together = _models(_run(tmp_path / "together", "vectorized", **chosen))
        assert any(name.startswith("chunk") for name in by)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def _seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give both engines the same noise: from a seed, which only a test may do."""
    working: list[tuple[str, int]] = []
    train_round = training.train_round

    def noted(*args: Any, participant: str, round_number: int, **rest: Any) -> Any:
        working.append((participant, round_number))
        return train_round(*args, participant=participant, round_number=round_number, **rest)

    def source(chunk: Sequence[participants.Place], number: int, _: object) -> EachGenerator:
        return EachGenerator([seeded_generator("noise", place.participant.name, number) for place in chunk])

    monkeypatch.setattr("consortia.participant.local.train_round", noted)
    monkeypatch.setattr(training, "fresh_generator", lambda _: seeded_generator("noise", *working[-1]))
    monkeypatch.setattr(participants, "noise_source", source)


@pytest.mark.end_to_end
def test_with_seeded_noise_a_private_run_equals_the_embedded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _seeded(monkeypatch)
    chosen = {"scenario": _variant(tmp_path, name="fedavg"), "rounds": 2}
    embedded, vectorized = (_run(tmp_path, engine, **chosen) for engine in ("embedded", "vectorized"))
    assert _equal(embedded, vectorized)
    for name, participant in vectorized.result["participants"].items():
        account, other = participant["epsilon"], embedded.result["participants"][name]["epsilon"]
        whole = embedded.result["participants"][name]
        assert account == other
        assert participant["metrics"]["auc"]["federated"] == pytest.approx(
            whole["metrics"]["auc"]["federated"], abs=1e-3
        )
        assert (participant["rows"], participant["units"], participant["classes"]) == (
            whole["rows"],
            whole["units"],
            whole["classes"],
        )
        assert 0 < account["run"] <= account["budget"]
        assert participant["noise_multiplier"] == embedded.result["participants"][name]["noise_multiplier"]


@pytest.mark.end_to_end
def test_noise_is_fresh_and_the_record_says_what_it_is(tmp_path: Path) -> None:
    runs = [_run(tmp_path, "vectorized", scenario="linear", rounds=2, epsilon=("3",)) for _ in range(2)]
    assert not _equal(*runs)
    result = runs[0].result
    assert (result["engine"], result["observer"], result["charged"]) == ("vectorized", "simulation", False)
    assert result["together"].startswith("simulation only")
    assert result["noise"] == "operating system entropy"
    assert all(participant["bytes"] == {"sent": 0, "received": 0} for participant in result["participants"].values())
    assert not list(runs[0].job.folder.rglob("ledger.db"))
    assert all(0 < participant["epsilon"]["run"] <= 3 for participant in result["participants"].values())


def test_the_scratch_account_is_the_ledgers(tmp_path: Path) -> None:
    job = prepare(Options(scenario="banks-network", rounds=3, out=tmp_path, engine="vectorized"))
    place = participants.open_place(job, job.scenario.roster[0])
    life = place.policy.budget.lifetime.budget()
    with Ledger.create(tmp_path / "ledger.db", "new-car") as ledger:
        ledger.open_run(place.plan, life)
        for number in (1, 2, 3):
            ledger.reserve(job.run_id, number, f"{number}" * 64, place.plan.round_events(), lifetime=life)
            place.account.charge(number)
            assert place.account.spent("credit", life.delta) == ledger.spent("credit", life.delta)
            assert [e.events for e in place.account.entries(job.run_id)] == [e.events for e in ledger.entries()]
    with pytest.raises(BudgetExhaustedError, match="round 4"):
        place.account.charge(4)
    assert len(place.account.entries()) == 3
    mean = ScratchAccount(place.plan, Budget(0.1, 1e-7))
    with pytest.raises(BudgetExhaustedError):
        mean.charge(1)
    assert mean.entries() == []


def test_who_refuses_is_out_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receipts, "LOCAL", 0)
    chosen = Options(scenario="banks-network", rounds=1, out=tmp_path, engine="vectorized", epsilon=("inf",))
    job = prepare(chosen)
    home = job.homes["used-car"]
    text = home.policy.read_text(encoding="utf-8")
    home.policy.write_text(text.replace("non_private = true", "non_private = false"), encoding="utf-8")
    result = execute(job, chosen).result
    assert result["participants"]["used-car"]["state"] == "REFUSED"
    assert result["participants"]["used-car"]["failures"][0]["code"] == "NON_PRIVATE_NOT_ALLOWED"
    assert "used-car" not in result["history"][0]["replies"]
    assert len(result["history"][0]["replies"]) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "secure-banks-network"}, "contract.trust: wanted no secure sums"),
        ({"scenario": "shared-heart"}, 'contract.mode = "horizontal"'),
        ({"scenario": "banks-network", "dump": Path("x")}, "--dump, --ledger, --resume and --secure-noise"),
        ({"scenario": "banks-network", "secure_noise": True}, "floating-point noise"),
    ],
)
def test_what_it_cannot_express_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepare(Options(out=tmp_path, engine="vectorized", **options))
    assert not list(tmp_path.iterdir())


def test_strategies_and_networks_that_it_does_not_know_are_refused(tmp_path: Path) -> None:
    for strategy in ({"name": "fedasync"}, {"name": "clustered"}, {"name": "cyclic"}):
        with pytest.raises(InputError, match=r"contract.strategy.name.*take --engine embedded"):
            prepare(
                Options(scenario=_variant(tmp_path, **strategy), epsilon=("inf",), out=tmp_path, engine="vectorized")
            )
    contract = load_scenario("factories-network").contract
    module = build_module(contract, "factory")
    assert [layer.tanh for layer in dense_layers(module, "factory")] == [True, True, False]
    module.trunk = nn.Sequential(nn.Linear(32, 16), nn.ReLU())
    with pytest.raises(InputError, match="got ReLU"):
        dense_layers(module, "factory")
    twice = nn.Linear(32, 32)
    module.trunk = nn.Sequential(twice, twice, nn.Tanh(), nn.Linear(32, 16))
    with pytest.raises(InputError, match="one after the other"):
        dense_layers(module, "factory")
