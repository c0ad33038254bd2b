"""A participant's promises: refuse by default, charge before release, repeat for free, say nothing about rows."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import local
from consortia.participant.handle import handle
from consortia.terms.contract import contract_from_json
from privacy.egress import PUBLIC_CONSTANTS
from privacy.ledger import Ledger

Make = Callable[..., Any]


def _flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def test_an_update_is_reserved_committed_and_sent_from_the_outbox(site: Any) -> None:
    reply = site.ask(1)
    assert reply.header["status"] == "OK"
    assert set(reply.tensors) == {"head.weight", "head.bias"}
    with site.ledger() as ledger:
        (entry,) = ledger.entries()
        assert entry.state == "committed"
        plan = ledger.plan("run-1")
    assert plan.noise_multiplier == float(reply.header["noise_multiplier"]) > 0
    assert entry.events == (plan.round_event(),)


def test_asked_again_the_bytes_are_identical_and_free(site: Any) -> None:
    message = site.message(1)
    first = handle(message, site.home)
    assert handle(message, site.home) == first
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 1


def test_the_same_round_with_another_model_is_a_new_charge(site: Any) -> None:
    message = decode(site.message(1))
    moved = {name: tensor + 0.1 for name, tensor in message.tensors.items()}
    first = handle(site.message(1), site.home)
    second = handle(encode(Envelope(message.header, moved)), site.home)
    assert decode(second).header["status"] == "OK"
    assert first != second
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 2


def test_another_contract_in_the_same_run_is_refused(site: Any) -> None:
    assert site.ask(1).header["status"] == "OK"
    site.scenario = site.scenario.with_overrides(seed=99)
    assert site.ask(1).header["code"] == "CONTRACT_NOT_ALLOWED"
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 1


def test_exact_metrics_leave_only_by_the_owners_word_and_on_their_own_account(site: Any) -> None:
    data = json.loads(site.scenario.contract.canonical())
    data["releases"] = ["update", "metrics"]
    data["evaluation"]["metrics"] = "exact"
    site.scenario = site.scenario.model_copy(update={"contract": contract_from_json(json.dumps(data))})
    site.policy(lambda p: p["allow"].update(releases=["update", "metrics"]))
    assert site.ask(1).header["code"] == "RELEASE_NOT_ALLOWED"
    site.policy(lambda p: p["allow"].update(exact_metrics=True))
    assert site.ask(1).header["status"] == "OK"
    message = site.message(6, kind="evaluate")
    reply = handle(message, site.home)
    assert "metrics.auc" in decode(reply).tensors
    assert handle(message, site.home) == reply
    with site.ledger() as ledger:
        assert math.isinf(ledger.spent("credit/evaluation", 1e-5))
        assert ledger.spent("credit", 1e-5) < 3


def test_noise_is_fresh_for_every_attempt(make_site: Make) -> None:
    one, two = make_site("bank-a", rounds=5), make_site("bank-b", rounds=5)
    replies = [one.ask(1).tensors, one.ask(2).tensors, two.ask(1).tensors]
    flat = [_flat(reply) for reply in replies]
    for i in range(3):
        for j in range(i):
            assert not torch.equal(flat[i], flat[j])


def test_noise_of_restarts_is_uncorrelated_and_of_the_claimed_size(make_site: Make, tmp_path: Path) -> None:
    """Sixteen participants with the same rows, seed and message, as after restoring a machine sixteen times."""
    site = make_site("bank-a", rounds=5)
    message = site.message(1)
    replies = []
    for number in range(16):
        home = dataclasses.replace(site.home, folder=tmp_path / str(number))
        shutil.copytree(site.home.folder, home.folder)
        replies.append(decode(handle(message, home)))
    flat = torch.stack([_flat(reply.tensors) for reply in replies]).double()
    noise = flat - flat.mean(0)
    with Ledger.open(tmp_path / "0" / "ledger.db", "bank-a") as ledger:
        plan = ledger.plan("run-1")
    rules = site.scenario.contract.industries["bank"]
    # Every step adds noise of deviation lr x sigma x C / (q n); the steps' noises add in quadrature. The model moves
    # with the noise between steps, hence the generous band; a third of the noise or none would be far outside.
    one = rules.learning_rate * plan.noise_multiplier * plan.clip / (plan.sampling_rate * plan.declared_units)
    wanted = one * math.sqrt(plan.steps_per_round)
    measured = float(noise.std()) * math.sqrt(16 / 15)
    assert wanted * 0.75 < measured < wanted * 1.33
    correlation = torch.corrcoef(noise - noise.mean(1, keepdim=True))
    off = correlation[~torch.eye(16, dtype=torch.bool)]
    assert float(off.abs().max()) < 0.95  # no two alike
    assert abs(float(off.mean())) < 0.15


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda p: p["allow"].update(contracts=["sha256:" + "0" * 64]), "CONTRACT_NOT_ALLOWED"),
        (lambda p: p["allow"].update(releases=[]), "RELEASE_NOT_ALLOWED"),
        (lambda p: p.update(dataset={"other": p["dataset"]["credit"]}), "DATASET_NOT_OFFERED"),
        (lambda p: p["dataset"]["credit"].update(industry="factory"), "DATASET_NOT_OFFERED"),
        (lambda p: p.update(participant="bank-z"), "WRONG_PARTICIPANT"),
        (lambda p: p.update(budgit=1), "BAD_POLICY"),
        (lambda p: p.update(schema=2), "BAD_POLICY"),
        (lambda p: p["budget"]["run"].update(delta=0.5), "BAD_POLICY"),
    ],
)
def test_the_policy_outranks_the_scenario(site: Any, change: Callable[[dict[str, Any]], None], code: str) -> None:
    site.policy(change)
    reply = site.ask(1)
    assert reply.header["status"] == "REFUSED"
    assert reply.header["code"] == code
    assert not reply.tensors
    with site.ledger() as ledger:
        assert not ledger.entries()


def test_no_policy_no_ledger_and_demo_outside_a_simulation_are_refusals(site: Any, tmp_path: Path) -> None:
    from consortia.participant.home import Home

    deployed = Home(site.home.folder, site.name)
    assert decode(handle(site.message(1), deployed)).header["code"] == "DEMO_POLICY"
    site.home.ledger.unlink()
    assert site.ask(1).header["code"] == "NO_LEDGER"
    assert not site.home.ledger.exists()
    site.home.policy.unlink()
    assert site.ask(1).header["code"] == "NO_POLICY"


def test_a_home_of_another_user_is_named_as_such(site: Any) -> None:
    from consortia.common.errors import RefusedError
    from consortia.messages.answer_codes import meaning
    from consortia.terms.policy import load_policy

    site.home.folder.chmod(0)
    user = os.geteuid()
    os.seteuid(65534 if user == 0 else user)  # root may read everything
    try:
        with pytest.raises(
            RefusedError, match=r"policy\.toml: wanted a home that this process \(user \d+\) may read"
        ) as caught:
            load_policy(site.home.policy, simulation=False)
    finally:
        os.seteuid(user)
        site.home.folder.chmod(0o700)
    reply = decode(encode(Envelope({"status": "REFUSED", "code": caught.value.code, "participant": site.name})))
    assert reply.header["code"] == "HOME_UNREADABLE"
    assert "chown -R" in meaning("HOME_UNREADABLE")


def test_non_private_needs_the_owners_word(make_site: Make) -> None:
    site = make_site("bank-a", rounds=3, epsilon=["inf"])
    assert site.ask(1).header["code"] == "NON_PRIVATE_NOT_ALLOWED"
    site.policy(lambda p: p["allow"].update(non_private=True))
    reply = site.ask(1)
    assert reply.header["status"] == "OK"
    assert reply.header["non_private"] == "true"
    assert reply.header["epsilon_budget"] == "null"


def test_the_effective_budget_is_the_smallest(make_site: Make) -> None:
    site = make_site("bank-a", rounds=3, epsilon=["50"])
    assert site.ask(1).header["epsilon_budget"] == repr(3.0)  # the policy's
    lower = make_site("bank-b", rounds=3, epsilon=["0.5"])
    assert lower.ask(1).header["epsilon_budget"] == repr(0.5)  # the proposal


def test_an_exhausted_budget_is_receive_only_and_measured_at_home(make_site: Make) -> None:
    site = make_site("bank-a", rounds=2)
    site.policy(lambda p: p["budget"].update(lifetime=p["budget"]["run"]))
    for number in (1, 2):
        assert site.ask(number).header["status"] == "OK"
    other = {"run": "run-2"}
    reply = site.ask(1, **other)
    assert reply.header["status"] == "RECEIVE_ONLY"
    assert reply.header["code"] == "BUDGET_EXHAUSTED"
    assert not reply.tensors
    assert site.ask(3, kind="evaluate", **other).header["code"] == "BUDGET_EXHAUSTED"
    receipt = json.loads((site.home.folder / "runs" / "run-2" / "receipt.json").read_text())
    assert receipt["metrics"]["auc"]["federated"] is not None
    with site.ledger() as ledger:
        assert len(ledger.entries()) == 2


def test_the_plan_is_fixed_at_the_first_message(site: Any) -> None:
    first = site.ask(1)
    second = site.ask(2, proposal=json.dumps({"dataset": "credit", "epsilon": 0.1, "delta": 1e-6}))
    assert second.header["noise_multiplier"] == first.header["noise_multiplier"]


@pytest.mark.parametrize(
    "changes",
    [
        {"round": "0"},
        {"round": "6"},
        {"round": "x"},
        {"kind": "dance"},
        {"run": "../../etc"},
        {"run": ""},
        {"proposal": "{}"},
        {"proposal": json.dumps({"dataset": "credit", "epsilon": -1, "delta": 1e-5})},
        {"proposal": json.dumps({"dataset": "credit", "epsilon": 1, "delta": 2})},
        {"contract": "{}"},
        {"contract": "not json"},
    ],
)
def test_a_malformed_message_is_refused_with_a_code(site: Any, changes: dict[str, str]) -> None:
    reply = site.ask(1, **changes)
    assert reply.header["code"] == "BAD_MESSAGE"
    assert not (site.home.folder / "runs").exists()
    with site.ledger() as ledger:
        assert not ledger.runs()


def test_garbage_and_a_message_for_somebody_else(site: Any) -> None:
    assert decode(handle(b"garbage", site.home)).header["code"] == "BAD_MESSAGE"
    assert site.ask(1, participant="bank-b").header["code"] == "WRONG_PARTICIPANT"


def test_an_error_crosses_as_a_code_and_an_incident(
    site: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    planted = "patient Zero, 1234567"

    def boom(*_: object, **__: object) -> None:
        raise RuntimeError(planted)

    monkeypatch.setattr(local, "train_round", boom)
    data = handle(site.message(1), site.home)
    reply = decode(data)
    assert reply.header["status"] == "FAILED"
    assert reply.header["code"] == "PARTICIPANT_ERROR"
    assert len(reply.header["incident"]) == 16
    assert planted.encode() not in data
    # The log at home names the kind of error and the place, not the text, which may hold a row.
    assert planted not in caplog.text
    assert reply.header["incident"] in caplog.text
    with site.ledger() as ledger:
        assert [entry.state for entry in ledger.entries()] == ["reserved"]  # it stays spent


def test_replies_hold_nothing_but_public_constants_and_the_update(site: Any) -> None:
    for reply in (site.ask(1), site.ask(6, kind="evaluate")):
        assert set(reply.header) - {"wire"} <= PUBLIC_CONSTANTS
    assert not site.ask(6, kind="evaluate").tensors


def test_a_private_part_never_leaves_and_is_trained_on(make_site: Make) -> None:
    site = make_site("factory-a", rounds=3)
    contract = site.scenario.contract
    data = json.loads(contract.canonical())
    data["scopes"]["head"] = "private"
    data["industries"]["factory"]["local_steps"] = 3
    private = contract_from_json(json.dumps(data))
    site.scenario = site.scenario.model_copy(update={"contract": private})
    for number in (1, 2):
        reply = site.ask(number)
        assert reply.header["status"] == "OK"
        assert not [name for name in reply.tensors if name.startswith("head.")]
    folder = site.home.folder / "runs" / "run-1"
    first, second = ((folder / f"private-{n}.safetensors").read_bytes() for n in (1, 2))
    assert first != second


def test_the_privacy_unit_may_be_a_patient(make_site: Make) -> None:
    site = make_site("hospital-a", rounds=3)
    site.policy(lambda p: p["dataset"]["heart"].update(unit="patient_id", max_rows_per_unit=5))
    assert site.ask(1).header["unit"] == "patient_id"
    with site.ledger() as ledger:
        (entry,) = ledger.entries()
    assert entry.events[0].unit == "patient_id"
    # The same data set by record now would be a second account under another unit: refused.
    site.policy(lambda p: p["dataset"]["heart"].update(unit="record"))
    assert site.ask(1, run="run-2").header["code"] == "CONTRACT_NOT_ALLOWED"


def test_too_many_broken_rows_refuse_before_the_first_charge(make_site: Make, tmp_path: Path) -> None:
    site = make_site("bank-a", rounds=3)
    file = tmp_path / "rows.csv"
    file.write_text("nothing,here\n1,2\n")
    site.policy(lambda p: p["dataset"]["credit"].update(source=f"csv:{file}"))
    reply = site.ask(1)
    assert reply.header["code"] == "PARTICIPANT_ERROR"
    with site.ledger() as ledger:
        assert not ledger.entries()
