"""Secure sums from contract to record, embedded: real participants, ledgers and messages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from secure_town import Town, kind_of

from consortia.common.errors import RunFailedError
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import handle as participant
from consortia.participant import secure_sum as member_module
from consortia.trust.secure_sum.protocol import SumRequest, unpack
from privacy.ledger import Ledger


@pytest.mark.end_to_end
def test_a_run_takes_one_message_a_round_and_one_charge(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=2, participants=3)
    town.evaluates = True
    record = town.run()
    assert record["status"] == "completed"
    for name in town.homes:
        assert [kind_of(data)[:2] for data in town.sent[name]] == [
            ("run-key", 1),
            ("train", 1),
            ("train", 2),
            ("evaluate", 3),
        ]
        entries = town.entries(name)
        assert [entry.state for entry in entries] == ["committed", "committed"]
        with Ledger.open(town.homes[name].ledger, name) as ledger:
            plan = ledger.plan("run-1")
        assert plan is not None
        assert all(entry.events == (plan.round_event(),) for entry in entries)
        assert plan.noise_multiplier * plan.clip == pytest.approx(town.scenario.contract.secure_terms.noise)
        assert record["participants"][name]["rounds_contributed"] == 2
        assert town.secrets(name) == 0  # the run key is gone
        masked = [reply for reply in town.replies[name] if unpack(reply)]
        assert [len(reply) for reply in masked] == [18 * 4 + 60] * 2  # 4 D + 60 bytes, and nothing else
        receipt = json.loads((town.homes[name].folder / "runs" / "run-1" / "receipt.json").read_text())
        assert receipt["secure_sum"]["charged_against"] == {"coordinator": True, "colluders": 1}
        assert receipt["epsilon"]["run"] <= 1.0
    # The coordinator keeps nobody's words: what is on its disk is the sum's.
    words = [unpack(reply) for replies in town.replies.values() for reply in replies if unpack(reply)]
    kept = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert len(words) == 6
    assert not any(found[1][:72] in kept for found in words if found)
    # Beside model and contract a member receives at most 200 bytes for each of the others, once the roster is stored.
    first, second = (town.sent["new-car"][i] for i in (1, 2))
    assert len(decode(second).header["secure"]) <= 200 * 3
    assert len(first) - len(second) < 400 * 3


def test_what_is_decoded_is_the_sum_of_the_clipped_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise the step is that of all rows in one place; with it, the model moves by what was promised."""
    from privacy.secure_sum import fixed_point

    monkeypatch.setattr(fixed_point, "rounded_gaussian", lambda count, std, context: np.zeros(count, np.int64))
    seen: list[Any] = []
    genuine = member_module.clipped_sum

    def keep(*args: Any, **kwargs: Any) -> Any:
        made = genuine(*args, **kwargs)
        seen.append(made.by_name)
        return made

    monkeypatch.setattr(member_module, "clipped_sum", keep)
    town = Town(tmp_path, rounds=1)
    coordinator = town.coordinator()
    coordinator.run()
    import safetensors.torch

    model = safetensors.torch.load((town.folder / "out" / "model" / "bank.safetensors").read_bytes())
    start = decode(town.sent["other"][1]).tensors
    expected = sum(round(participant.units * 0.6) for participant in town.scenario.roster)  # q = 1
    for name, tensor in model.items():
        mean = sum(part[name] for part in seen) / expected
        assert np.allclose(tensor.double(), start[name].double() - 4.0 * mean, atol=1e-4)


def test_a_lost_reply_is_a_new_attempt_and_a_new_charge(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=2)

    def lose(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        return None if name == "other" and kind_of(data) == ("train", 1, 0) else reply

    town.hook = lose
    record = town.run()
    assert record["status"] == "completed"
    assert [len(town.entries(name)) for name in town.homes] == [3, 3, 3, 3, 2]  # `other` is back in round 2
    assert record["history"][0]["replies"] == sorted(set(town.homes) - {"other"})
    assert record["history"][1]["replies"] == sorted(town.homes)
    assert record["history"][0]["failures"] == [
        {"participant": "other", "round": 1, "attempt": 1, "code": "NO_REPLY", "detail": ""}
    ]
    firsts = [reply for reply in town.replies["new-car"] if unpack(reply)]
    assert unpack(firsts[0]) != unpack(firsts[1])


@pytest.mark.end_to_end
def test_spare_attempts_are_paid_for_and_bounded(tmp_path: Path) -> None:
    """One spare attempt is in the plan; the third extra charge of a two-round run does not fit its budget."""
    town = Town(tmp_path, rounds=2)

    def lose(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        lost = {("train", 1, 0): "other", ("train", 2, 0): "radio-tv"}
        return None if lost.get(kind_of(data)) == name else reply

    town.hook = lose
    with pytest.raises(RunFailedError, match="BUDGET_EXHAUSTED"):
        town.run()
    assert len(town.entries("new-car")) == 3
    with Ledger.open(town.homes["new-car"].ledger, "new-car") as ledger:
        assert ledger.spent("credit", 1e-5) <= 1.0


def test_a_crash_after_the_charge_loses_the_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    town = Town(tmp_path, rounds=1)
    genuine, broken = member_module.clipped_sum, ["yes"]

    def crash(*args: Any, **kwargs: Any) -> Any:
        if broken:
            broken.pop()
            raise RuntimeError("killed")
        return genuine(*args, **kwargs)

    monkeypatch.setattr(member_module, "clipped_sum", crash)
    record = town.run()
    assert record["status"] == "completed"
    assert record["participants"]["furniture"]["failures"][0]["code"] == "PARTICIPANT_ERROR"
    assert [entry.state for entry in town.entries("furniture")] == ["reserved"]  # it stays spent
    assert [len(town.entries(name)) for name in town.homes] == [2, 2, 1, 2, 2]
    with_roster = next(data for data in town.sent["furniture"] if kind_of(data) == ("train", 1, 0))
    again = decode(participant.handle(with_roster, town.homes["furniture"]))
    assert again.header["code"] == "REPLAY"


@pytest.mark.end_to_end
def test_a_coordinator_that_died_goes_on_without_a_second_charge(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=2)

    def die(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        if name == "other" and kind_of(data)[:2] == ("train", 2):
            raise KeyboardInterrupt
        return reply

    town.hook = die
    with pytest.raises(KeyboardInterrupt):
        town.run()
    town.hook = lambda name, data, answer: answer(data)
    record = town.coordinator().run(resume=True)
    assert record["status"] == "completed"
    assert all(len(town.entries(name)) == 2 for name in town.homes)


def _changed(data: bytes, **changes: Any) -> bytes:
    """Return the message with another request for the sum."""
    envelope = decode(data)
    request = SumRequest.from_json(envelope.header["secure"])
    header = {**envelope.header, "secure": dataclasses.replace(request, **changes).to_json()}
    return encode(Envelope(header, envelope.tensors))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda data: _changed(data, roster=None), "NO_ROSTER"),
        (lambda data: _changed(data, models={"bank": "0" * 64}), "MODEL_MISMATCH"),
        (lambda data: _changed(data, cohorts={"bank": ("new-car", "other")}), "COHORT_TOO_SMALL"),
        (lambda data: _changed(data, cohorts={"*": ("furniture", "new-car", "other")}), "BAD_COHORT"),
        (lambda data: _changed(data, round=2), "BAD_MESSAGE"),
        (lambda data: _changed(data, attempt=3), "TOO_MANY_ATTEMPTS"),
        (lambda data: encode(Envelope({**decode(data).header, "secure": "{}"}, decode(data).tensors)), "BAD_MESSAGE"),
    ],
)
def test_refusals_cost_nothing(town: Town, change: Callable[[bytes], bytes], code: str) -> None:
    message = next(data for data in town.sent["new-car"] if kind_of(data)[0] == "train")
    reply = decode(participant.handle(change(message), town.homes["new-car"]))
    assert (reply.header["status"], reply.header["code"]) == ("REFUSED", code)
    assert not reply.tensors
    assert not town.entries("new-car")


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Town:
    """Banks that said hello; the first request for a sum never reached anybody."""
    made = Town(tmp_path_factory.mktemp("town"), rounds=2)
    made.hook = lambda name, data, answer: answer(data) if kind_of(data)[0] == "run-key" else None
    with pytest.raises(RunFailedError):
        made.run()
    return made


@pytest.mark.end_to_end
def test_without_identity_or_pins_nobody_takes_part(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=1, participants=3)
    town.homes["new-car"].policy.with_name("identity.pem").unlink()
    with pytest.raises(RunFailedError, match="NO_IDENTITY"):
        town.run()
    other = Town(tmp_path / "other", rounds=1, participants=4)
    file = other.homes["new-car"].policy
    lines = [line for line in file.read_text().splitlines() if not line.startswith("used-car = ")]
    file.write_text("\n".join(lines))
    record = other.run()  # new-car does not know used-car and leaves; three are enough
    assert record["participants"]["new-car"]["failures"][0]["code"] == "UNKNOWN_PEER"
    assert not other.entries("new-car")
    assert record["history"][0]["replies"] == ["furniture", "radio-tv", "used-car"]


def _shout(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
    reply = answer(data)
    if name == "other" and (found := unpack(reply)):
        words = np.frombuffer(found[1][:-40], "<u4") + np.uint32(2**28)
        return reply[:20] + words.tobytes() + reply[-40:]
    return reply


@pytest.mark.end_to_end
def test_a_sum_out_of_range_ends_the_run(tmp_path: Path) -> None:
    """One member's code multiplies its gradient by 100: within what it encodes, beyond what honest members can send."""
    town = Town(tmp_path, rounds=1)

    town.hook = _shout
    with pytest.raises(RunFailedError, match="SUM_OUT_OF_RANGE"):
        town.run()


@pytest.mark.end_to_end
def test_cohort_sums_lose_only_the_one_out_of_range(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=1, participants=6, secure={"cohorts": 2, "colluders": 1, "min_cohort": 3, "spare": 1})
    town.hook = _shout
    record = town.run()
    assert record["history"][0]["replies"] == ["new-car", "other-2", "used-car"]  # every second name
    codes = {name: [f["code"] for f in record["participants"][name]["failures"]] for name in ("furniture", "used-car")}
    assert codes["furniture"][0] == "SUM_OUT_OF_RANGE"
    assert "SUM_OUT_OF_RANGE" not in codes["used-car"]
