"""Mode `two` from contract to record, embedded: who drops out costs nobody a new attempt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from secure_town import Town, kind_of

from consortia.common.errors import RunFailedError
from consortia.messages.envelope import Envelope, decode, encode
from consortia.participant import handle as participant
from privacy.ledger import Ledger

TERMS = {"mode": "two", "drops": 1, "colluders": 1, "min_cohort": 3, "spare": 1}


def _town(folder: Path, **terms: Any) -> Town:
    return Town(folder, rounds=2, secure={**TERMS, **terms})


def _away(away: Mapping[tuple[str, int], str]) -> Callable[..., bytes | None]:
    """A transport that loses the answer of one participant to one kind of message of a round."""

    def hook(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        return None if away.get(kind_of(data)[:2]) == name else reply

    return hook


def _kinds(town: Town, name: str) -> list[tuple[str, int]]:
    return [kind_of(data)[:2] for data in town.sent[name] if kind_of(data)[0] != "evaluate"]


@pytest.mark.end_to_end
def test_two_messages_a_round_three_after_a_drop_out_one_charge(tmp_path: Path) -> None:
    town = _town(tmp_path)
    town.hook = _away({("train", 1): "other"})
    record = town.run()
    assert record["status"] == "completed"
    assert [line["replies"] for line in record["history"]] == [sorted(set(town.homes) - {"other"}), sorted(town.homes)]
    for name in town.homes:
        first = [("train", 1)] if name == "other" else [("train", 1), ("confirm", 1), ("unmask", 1)]
        assert _kinds(town, name) == [("run-key", 1), *first, ("train", 2), ("unmask", 2)]
        assert [entry.state for entry in town.entries(name)] == ["committed"] * 2  # none for the drop-out
        with Ledger.open(town.homes[name].ledger, name) as ledger:
            assert ledger.spent("credit", 1e-5) <= 1.0
    # The words are the 18 numbers of the model; boxes of 5 members with 5 shares of 33 bytes each go along.
    masked = town.replies["new-car"][1]
    assert len(masked) == 18 * 4 + 60 + 5 * (12 + 5 * 33 + 16)


@pytest.mark.end_to_end
def test_who_drops_out_later_is_in_the_sum(tmp_path: Path) -> None:
    town = _town(tmp_path)
    town.hook = _away({("unmask", 1): "furniture"})
    record = town.run()
    assert [line["replies"] for line in record["history"]] == [sorted(town.homes)] * 2
    assert record["history"][0]["failures"][0]["code"] == "NO_REPLY"
    # What cannot be read, or is of another round, opens nothing and costs nothing.
    (message,) = [data for data in town.sent["new-car"] if kind_of(data)[:2] == ("unmask", 2)]
    sent = decode(message)
    changes = ({"secure": "{}"}, {"secure": "[]"}, {"round": "1"}, {"kind": "train"}, {"kind": "confirm", "secure": ""})
    for change in changes:
        reply = decode(participant.handle(encode(Envelope({**sent.header, **change})), town.homes["new-car"]))
        assert (reply.header["status"], reply.header["code"]) == ("REFUSED", "BAD_MESSAGE")
    assert len(town.entries("new-car")) == 2


@pytest.mark.end_to_end
def test_too_few_to_agree_stop_the_run_and_a_resumed_one_opens_the_same_sum(tmp_path: Path) -> None:
    """T = 4 of 5. `other` drops out, then `furniture` is away: three are left; when it is back, the run goes on."""
    town = _town(tmp_path)
    gone = {"other": {"train", "confirm", "unmask"}, "furniture": {"confirm", "unmask"}}

    def hook(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        return None if kind_of(data)[0] in gone.get(name, ()) else answer(data)

    town.hook = hook
    with pytest.raises(RunFailedError, match="wanted the signatures of at least 4 participants to open the sum, got 3"):
        town.run()
    gone["furniture"] = set()
    record = town.coordinator().run(resume=True)
    assert record["status"] == "completed"
    assert [len(town.entries(name)) for name in town.homes] == [2, 2, 2, 2, 0]  # no second charge for round 1


@pytest.mark.end_to_end
def test_more_drop_outs_than_the_noise_covers_are_a_new_charged_attempt(tmp_path: Path) -> None:
    town = Town(tmp_path, rounds=1, participants=6, secure=TERMS)

    def hook(name: str, data: bytes, answer: Callable[[bytes], bytes]) -> bytes | None:
        reply = answer(data)
        return None if name in {"other", "furniture"} and kind_of(data) == ("train", 1, 0) else reply

    town.hook = hook
    record = town.run()
    assert record["history"][0]["replies"] == sorted(set(town.homes) - {"other", "furniture"})
    assert [len(town.entries(name)) for name in town.homes] == [2, 2, 1, 2, 1, 2]
