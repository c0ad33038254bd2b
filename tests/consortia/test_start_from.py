"""A file to start from, frozen parts, and adapters: what trains, what travels, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from clients.networks.lora import freeze
from consortia.common.errors import InputError
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.request import Request
from consortia.participant import handle as participant
from consortia.participant import own_candidates, secure_sum, training
from consortia.participant.context import Work
from consortia.planning.plan import make_plans
from consortia.studies import tuning
from consortia.terms import pretrained
from consortia.terms.contract import Contract, contract_from_json
from consortia.terms.scenario import load_scenario
from consortia.terms.scopes import build_module, initial_groups, state_of, travelling
from privacy.observation import observing

Make = Callable[..., Any]
MLP = {"kind": "mlp", "hidden": [8, 6]}
LORA = {"rank": 2, "layers": ["encoder.*", "trunk.*"]}


def _contract(**terms: Any) -> Contract:
    data = json.loads(load_scenario("cross-industry-network").contract.canonical())
    data["industries"]["bank"] |= {"model": MLP, **terms}
    return contract_from_json(json.dumps(data))


def _site(make_site: Make, **terms: Any) -> Any:
    site = make_site()
    site.scenario = site.scenario.model_copy(update={"contract": _contract(**terms)})
    site.policy(lambda data: data["allow"].update(contracts="any"))
    return site


def _file(folder: Path, **changes: Tensor) -> dict[str, str]:
    """Write a pretrained network (all parameters 1/4, but for the changes) and return `init`."""
    state = {name: torch.full_like(t, 0.25) for name, t in state_of(build_module(_contract(), "bank")).items()}
    file = folder / "start.safetensors"
    safetensors.torch.save_file({**state, **changes}, file)
    return {"file": str(file), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}


def test_a_contract_without_these_terms_keeps_its_hash() -> None:
    before = json.loads(load_scenario("cross-industry-network").contract.canonical())
    assert not {"freeze", "lora"} & set(before["industries"]["bank"])


def test_what_is_frozen_starts_from_the_file_and_is_in_no_message(tmp_path: Path) -> None:
    contract = _contract(init=_file(tmp_path), freeze=["encoder.*"])
    module = build_module(contract, "bank")
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert all(bool((parameter == 0.25).all()) for parameter in module.parameters())
    assert {name.partition(".")[0] for name in trained} == {"trunk", "head"}
    assert set(initial_groups(contract, ["bank"])["bank"]) == trained == set(travelling(module, contract))


def test_adapters_travel_and_the_layers_below_them_do_not(tmp_path: Path) -> None:
    contract = _contract(init=_file(tmp_path), lora=LORA)
    module = build_module(contract, "bank")
    names = {"encoder.0.down.weight", "encoder.0.up.weight", "trunk.0.down.weight", "trunk.0.up.weight"}
    assert set(initial_groups(contract, ["bank"])["bank"]) == {*names, "head.weight", "head.bias"}
    plain, rows = build_module(_contract(init=_file(tmp_path), freeze=["trunk.*"]), "bank"), torch.randn(5, 61)
    rows = rows[:, : plain.encoder[0].in_features]
    assert torch.equal(module({"features": rows}), plain({"features": rows}))  # it starts as what it adapts
    again = build_module(contract, "bank")
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"freeze": ["decoder.*"]}, r"industries.bank.freeze: wanted names of parameters \(encoder.0.weight.*'decoder"),
        ({"freeze": ["*"]}, "freeze: wanted something left to train"),
        ({"lora": {"layers": ["head*", "rnn"]}}, "lora.layers: wanted names of dense layers .encoder.0.*'rnn'"),
        ({"lora": {"rank": 8}}, "lora.rank: wanted a number below 8, the smaller side of encoder.0, got 8"),
    ],
)
def test_names_and_ranks_that_do_not_fit_are_named(terms: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        build_module(_contract(**terms), "bank")


def test_a_file_that_does_not_fit_is_named(tmp_path: Path) -> None:
    for changes, words in (
        ({"tail.weight": torch.ones(1)}, "nobody asked for: tail.weight"),
        ({"head.bias": torch.ones(2)}, r"head.bias: wanted shape \(1,\), got \(2,\)"),
        ({"head.bias": torch.tensor([torch.nan])}, "head.bias: wanted finite numbers"),
    ):
        with pytest.raises(InputError, match=words):
            build_module(_contract(init=_file(tmp_path, **changes), freeze=["encoder.*"]), "bank")
    init = {**_file(tmp_path), "sha256": "0" * 64}
    with pytest.raises(InputError, match="the file is not the agreed one"):
        build_module(_contract(init=init, freeze=["encoder.*"]), "bank")
    text = tmp_path / "start.safetensors"
    text.write_text("no tensors", encoding="utf-8")
    init["sha256"] = hashlib.sha256(text.read_bytes()).hexdigest()
    with pytest.raises(InputError, match="wanted a safetensors file, got another"):
        build_module(_contract(init=init, freeze=["encoder.*"]), "bank")


def test_a_participant_finds_the_file_among_the_homes_or_says_that_it_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = _file(tmp_path)
    contract = _contract(init={**init, "file": "elsewhere/start.safetensors"}, freeze=["encoder.*"])
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    with pytest.raises(InputError, match="put it at one of the two"):
        build_module(contract, "bank")
    (tmp_path / "homes").mkdir()
    Path(init["file"]).rename(tmp_path / "homes" / "start.safetensors")
    assert bool((build_module(contract, "bank").encoder[0].weight == 0.25).all())


def _check_a_round_leaves_out_what_is_frozen(site: Any) -> None:
    """A round's clipped sum has the trained parameters alone; the frozen ones are as before, and do not leave."""
    contract = site.scenario.contract
    module = build_module(contract, "bank")
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    with observing() as seen:
        reply = site.ask(1)
    assert reply.header["status"] == "OK", reply.header
    assert set(reply.tensors) == set(trained)
    sums = [note.noised for note in seen]
    rules = contract.industries["bank"]
    assert len(sums) == rules.local_steps
    assert {len(vector) for vector in sums} == {sum(p.numel() for p in trained.values())}


@pytest.mark.parametrize("terms", [{"freeze": ["encoder.*"]}, {"lora": LORA}])
def test_frozen_parameters_get_no_noise_and_are_in_no_reply(make_site: Make, terms: dict[str, Any]) -> None:
    _check_a_round_leaves_out_what_is_frozen(_site(make_site, **terms))


def test_a_freeze_that_training_forgets_is_caught(make_site: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = training.train_private

    def thaws(module: nn.Module, *rest: Any, **more: Any) -> Any:
        return real(module.requires_grad_(True), *rest, **more)

    monkeypatch.setattr(training, "train_private", thaws)
    with pytest.raises(AssertionError):
        _check_a_round_leaves_out_what_is_frozen(_site(make_site, freeze=["encoder.*"]))


def test_a_coordinator_cannot_set_what_is_frozen(make_site: Make) -> None:
    site = _site(make_site, freeze=["encoder.*"])
    message = decode(site.message(1))
    whole = state_of(build_module(site.scenario.contract, "bank"))
    reply = decode(participant.handle(encode(Envelope(message.header, whole)), site.home))
    assert reply.header["code"] == "BAD_MESSAGE"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_the_noise_is_that_of_the_contract_without_it() -> None:
    scenario = load_scenario("cross-industry-network")
    plans = {}
    for name, terms in {"whole": {}, "frozen": {"freeze": ["encoder.*"]}, "adapted": {"lora": LORA}}.items():
        every = make_plans(scenario.model_copy(update={"contract": _contract(**terms)}))
        plans[name] = next(one for one in every if one.name == "bank-a")
    assert len({one.noise_multiplier for one in plans.values()}) == 1
    whole, frozen = plans["whole"].parameters_shared, plans["frozen"].parameters_shared
    assert frozen == whole - sum(p.numel() for p in build_module(_contract(), "bank").encoder.parameters())


def test_a_path_of_the_coordinators_choice_tells_it_nothing(
    make_site: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever lies there, the code is one; nothing is charged, and the log has no hash of it."""
    site = _site(make_site)
    header = json.dumps({"head.bias": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}).encode()
    strange = len(header).to_bytes(8, "little") + header + b"\0"  # a type of numbers that torch does not have
    (tmp_path / "strange").write_bytes(strange)
    (tmp_path / "rows").write_text("a participant's own rows", encoding="utf-8")
    with (tmp_path / "wide").open("wb") as wide:
        wide.truncate(2**25)
    paths = {
        "nothing": tmp_path / "nothing",
        "another": tmp_path / "rows",
        "unreadable": tmp_path / ("x" * 300),
        "wide": tmp_path / "wide",
        "strange": tmp_path / "strange",
    }
    codes = {}
    for name, path in paths.items():
        init = {"file": str(path), "sha256": hashlib.sha256(strange).hexdigest()}
        contract = _contract(init=init, freeze=["encoder.*"]).canonical()
        codes[name] = site.ask(1, contract=contract, run=name).header.get("code")
    assert set(codes.values()) == {"NO_PRETRAINED_FILE"}, codes
    assert hashlib.sha256((tmp_path / "rows").read_bytes()).hexdigest() not in caplog.text
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_a_network_trained_alone_starts_from_the_file_too(make_site: Make, tmp_path: Path) -> None:
    """Without rows nothing trains, so the start is what comes back: where the federated network starts."""
    site = _site(make_site, init=_file(tmp_path))
    contract = site.scenario.contract
    with site.ledger() as ledger:
        work = Work(Request.parse(site.message(1)), site.home, None)
        nothing = work.partitions(ledger).train.take([])
    found = own_candidates.network(contract, "bank", nothing, "bank-a").model().network
    assert found is not None
    assert all(bool((parameter == 0.25).all()) for parameter in found.parameters())
    sent = initial_groups(contract, ["bank"])["bank"]
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in sent.items())


def test_a_participant_without_the_file_takes_no_part(make_site: Make, tmp_path: Path) -> None:
    """It could train, but its own network would start from worse."""
    init = _file(tmp_path)
    site = _site(make_site, init=init)
    message = site.message(1)
    Path(init["file"]).rename(tmp_path / "away")
    reply = decode(participant.handle(message, site.home))
    assert reply.header["code"] == "NO_PRETRAINED_FILE"
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_a_file_larger_than_the_network_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "wide").open("wb") as wide:
        wide.truncate(2**25)
    init = {"file": str(tmp_path / "wide"), "sha256": "0" * 64}
    with pytest.raises(InputError, match=r"init\.file: wanted a file of 1 to 16778\d* bytes"):
        build_module(_contract(init=init, freeze=["encoder.*"]), "bank")


class _Tied(nn.Module):
    """Encoder and head have one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 4), nn.Linear(4, 4)
        self.head.weight = self.encoder.weight


@pytest.mark.parametrize("name", ["encoder.weight", "head.weight"])
def test_a_frozen_weight_with_two_names_is_in_no_message(name: str) -> None:
    module = _Tied()
    freeze(module, [name])
    assert set(travelling(module, _contract())) == {"encoder.bias", "head.bias"}


def _whole(change: Callable[[dict[str, Any]], None], **terms: Any) -> Contract:
    """A contract whose industries share one trunk, or whatever `change` makes of it."""
    data = json.loads(_contract(**terms).canonical())
    data["scopes"]["trunk"] = "consortium"
    for rules in data["industries"].values():
        rules["model"] = MLP
    change(data)
    return contract_from_json(json.dumps(data))


def _all_adapted(data: dict[str, Any]) -> None:
    for rules in data["industries"].values():
        rules["lora"] = {"rank": 2, "layers": ["trunk.*"]}


@pytest.mark.parametrize(
    ("change", "terms", "words"),
    [
        (lambda _: None, {"freeze": ["trunk.*"]}, "got trunk.0.bias in one of bank and factory alone"),
        (lambda _: None, {"lora": {"rank": 2, "layers": ["trunk.*"]}}, "got trunk.0.bias in one of"),
        (_all_adapted, {}, "trunk.0.base.bias is consortium-wide and stays as it is.*same numbers"),
    ],
)
def test_a_common_trunk_is_frozen_alike_or_refused(change: Any, terms: dict[str, Any], words: str) -> None:
    contract = _whole(change, **terms)
    with pytest.raises(InputError, match=words):
        initial_groups(contract, contract.industries)


def test_a_round_that_would_send_nothing_is_refused() -> None:
    data = json.loads(_contract().canonical())
    data["scopes"]["head"] = "private"
    data["industries"]["bank"]["freeze"] = ["encoder.*", "trunk.*"]
    with pytest.raises(InputError, match="freeze: wanted something left to train that is shared"):
        build_module(contract_from_json(json.dumps(data)), "bank")


def test_what_a_client_fixes_itself_comes_from_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`build` stands for a client whose own encoder has a parameter that does not train, without `freeze`."""
    init, real = _file(tmp_path), pretrained.build

    def fixes(*args: Any, **more: Any) -> Any:
        module = real(*args, **more)
        module.encoder[0].weight.requires_grad_(False)
        return module

    monkeypatch.setattr(pretrained, "build", fixes)
    contract = _contract(init=init)
    module = build_module(contract, "bank")
    assert bool((module.encoder[0].weight == 0.25).all())
    assert "encoder.0.weight" not in initial_groups(contract, ["bank"])["bank"]


def test_what_if_counts_what_trains() -> None:
    scenario = load_scenario("cross-industry-network")
    bank = scenario.participant("bank-a")
    for terms in ({"freeze": ["encoder.*"]}, {"lora": LORA}):
        contract = _contract(**terms)
        changed = scenario.model_copy(update={"contract": contract})
        trained = [p.numel() for p in build_module(contract, "bank").parameters() if p.requires_grad]
        assert tuning._size(changed, bank) == sum(trained)
        tuning._size(tuning._linear(changed, "bank"), bank)  # its layers have other names than `freeze` and `lora` give


def test_a_private_step_keeps_no_frozen_part() -> None:
    """With secure sums, too: `work` and `plan` stand for a round of which only these numbers are read."""
    data = json.loads(_contract(freeze=["encoder.*"]).canonical())
    data["scopes"]["head"] = "private"
    contract = contract_from_json(json.dumps(data))
    module = build_module(contract, "bank")
    request = SimpleNamespace(contract=contract, industry="bank", model=travelling(module, contract))
    plan = SimpleNamespace(noise_multiplier=1.0, clip=1.0, sampling_rate=0.5, declared_units=10)
    made = SimpleNamespace(by_name={n: torch.zeros(p.shape, dtype=torch.float64) for n, p in module.named_parameters()})
    work: Any = SimpleNamespace(request=request)
    step: Any = secure_sum._private_step
    assert set(step(work, plan, module, made, torch.Generator())) == {"head.weight", "head.bias"}
