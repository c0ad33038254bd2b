"""Small and odd inputs of a vertical run: few persons, few labels, who knows nobody, who is away."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from shared import Shared, make_shared

from clients import holdings
from clients.sources import numpy_generator
from consortia.cli.budget import init
from consortia.common.errors import InputError, RefusedError, RunFailedError
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.terms.scenario import load_scenario
from consortia.vertical import label_message, stacking
from consortia.vertical.assistance import assist
from consortia.vertical.grid import MISSING
from consortia.vertical.handle import handle
from consortia.vertical.owner import Owner
from consortia.vertical.partner import Partner
from consortia.vertical.setup import introduce
from privacy.ledger import Ledger

Frames = dict[str, pd.DataFrame]


@pytest.fixture(autouse=True)
def _one_stacker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_STACKERS", {"logistic": stacking._STACKERS["logistic"]})


def _with_files(folder: Path, change: Callable[[Frames], Any], **vertical: Any) -> Shared:
    """Return a federation whose rows lie in files that `change` has edited; policies allow many intersections."""
    frames: Frames = dict(holdings.get("customers").synthesise(numpy_generator("odd"), 300))
    change(frames)
    shared = make_shared(folder, persons=300, **vertical)
    for name, frame in frames.items():
        frame.to_csv(folder / f"{name.replace(':', '-')}.csv", index=False)
    for name in shared.homes:
        source = {"source": f"csv:{folder / name}.csv"}
        shared.policy(name, lambda data, source=source: data["dataset"]["customers"].update(source))
    shared.policy("bank", lambda data: data["vertical"].update(new_persons=f"csv:{folder / 'bank-new'}.csv"))
    return shared


def _own(shared: Shared, name: str, file: str) -> Path:
    return shared.homes[name].folder / "runs" / "run-1" / file


def _batch(message: bytes) -> int:
    return int(decode(message).header["batch"])


def _scored(shared: Shared, batch: int = 1) -> list[dict[str, str]]:
    return list(csv.DictReader(_own(shared, "bank", f"scored-{batch}.csv").read_text().splitlines()))


def test_the_models_of_a_partner_score_nobody() -> None:
    x, labels = np.random.default_rng(0).normal(size=(60, 2)), np.arange(60) % 2
    for model in ("logistic", "stumps"):
        assert assist(x, labels, [model]).score(x[:0]).shape == (0,)


@pytest.mark.parametrize("positives", [0, 1, 4, 60])
def test_few_rows_of_a_class_are_no_error(positives: int) -> None:
    own, scores = np.random.default_rng(0).normal(size=(60, 2)), np.zeros((60, 1))
    decision = stacking.decide(own, scores, (np.arange(60) < positives).astype(int))
    assert (decision.joins, decision.gain, decision.standard_error) == (False, None, None)
    for value in (decision.alone.predict(own, scores[:, :0]), decision.assisted.predict(own, scores)):
        assert ((value > 0) & (value < 1)).all()


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xff\xff\xff",
        label_message.pack(2.0, b"", bytes([0, 1, 2])),
        label_message.pack(-1.0, b""),
        label_message.pack(math.nan, b""),
        label_message.pack(2.0, bytes(64))[:-1],
    ],
)
def test_a_label_message_of_another_kind_is_refused(message: bytes) -> None:
    with pytest.raises(RefusedError, match="BAD_MESSAGE"):
        label_message.unpack(message)


def test_a_partner_has_no_epsilon_by_the_command_line() -> None:
    """It would be ignored, and the scores be as exact as without it."""
    scenario = load_scenario("shared-customers")
    assert scenario.with_overrides(epsilon=["bank=1"]).participant("bank").epsilon == 1
    with pytest.raises(InputError, match=r"wanted the label owner bank, got a partner; its scores .*score_epsilon"):
        scenario.with_overrides(epsilon=["hospital=1"])


@pytest.mark.parametrize("key", [None, b"", b"secret"])
def test_without_the_id_authoritys_key_keyed_ids_are_refused(tmp_path: Path, key: bytes | None) -> None:
    """A key that is short can be guessed, an empty one is known."""
    shared = make_shared(tmp_path, persons=100, keyed_ids=True)
    if key is not None:
        (shared.homes["bank"].folder / "ids.key").write_bytes(key)
    with pytest.raises(RunFailedError, match="NO_ID_KEY"):
        shared.run()


@pytest.mark.parametrize("name", ["bank", "hospital"])
def test_a_privacy_unit_of_several_rows_is_refused(tmp_path: Path, name: str) -> None:
    """Its events would count one label, or one score, of the unit's several."""
    shared = make_shared(tmp_path, persons=100)
    shared.silent = {("query.hello", "factory")}
    shared.policy(name, lambda data: data["dataset"]["customers"].update(unit="household", max_rows_per_unit=4))
    with pytest.raises(RunFailedError, match="BAD_POLICY"):
        shared.run()


@pytest.mark.end_to_end
@pytest.mark.parametrize(
    ("kind", "name", "change", "words"),
    [
        ("query.match", "factory", {"delta": None}, "delta"),
        ("query.assist", "factory", {"epsilon_budget": "much", "non_private": "false"}, "epsilon_budget"),
        ("query.assist", "factory", {"unit": None}, "unit"),
        ("query.label", "bank", {}, "sealed/factory"),
        ("query.blind", "bank", {}, "sealed/factory"),
    ],
)
def test_a_reply_without_what_it_must_have_is_its_senders_failure(
    tmp_path: Path, kind: str, name: str, change: dict[str, str | None], words: str
) -> None:
    shared = make_shared(tmp_path, persons=300)

    def change_it(step: str, sender: str, reply: bytes) -> bytes:
        if (step, sender) != (kind, name):
            return reply
        envelope = decode(reply)
        header = {key: value for key, value in {**envelope.header, **change}.items() if value is not None}
        kept = {key: value for key, value in envelope.tensors.items() if change or key != "sealed/factory"}
        return encode(Envelope(header, kept))

    shared.tamper = change_it
    if name == "bank":
        with pytest.raises(RunFailedError, match="BAD_REPLY"):
            shared.run()
    else:
        assert shared.run()["status"] == "completed"
    record = json.loads((tmp_path / "run-1" / "coordinator.json").read_text())
    assert words in record["participants"][name]["failures"][-1]["detail"]


@pytest.mark.end_to_end
def test_a_person_that_the_label_owner_names_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one person would be enough for `minimum_rows`, and be more than one row of DP training."""
    shared = make_shared(tmp_path, persons=300)
    ids = Owner.identifiers
    monkeypatch.setattr(Owner, "identifiers", lambda work, places: ids(work, [*places[:1], *places[:-1]]))
    with pytest.raises(RunFailedError, match=r"match: .*BAD_MESSAGE"):
        shared.run()
    for name in ("hospital", "factory"):
        with Ledger.open(shared.homes[name].ledger, name) as ledger:
            assert ledger.entries() == []


@pytest.mark.end_to_end
@pytest.mark.parametrize("shorter", [0, 1])
def test_a_partner_that_scores_nobody_or_sends_too_little_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shorter: int
) -> None:
    codes = Partner._codes

    def none(work: Partner, *more: Any) -> Any:
        found = codes(work, *more)
        return np.full(len(found) - shorter, MISSING, np.uint8) if work.home.participant == "factory" else found

    monkeypatch.setattr(Partner, "_codes", none)
    shared = make_shared(tmp_path, persons=300)
    assert shared.run()["status"] == "completed"
    matched = json.loads(_own(shared, "bank", "receipt.json").read_text())["matched"]
    assert matched["factory"] == 0 < matched["hospital"]


@pytest.mark.end_to_end
def test_rows_that_change_in_the_middle_are_not_scored(tmp_path: Path) -> None:
    """The places of the old rows would name other persons."""
    shared = _with_files(tmp_path, lambda frames: None)
    shared.silent = {("query.label", "bank")}
    with pytest.raises(RunFailedError, match="label"):
        shared.run()
    shared.silent = set()
    file = tmp_path / "hospital.csv"
    pd.read_csv(file, dtype=str).iloc[::-1].to_csv(file, index=False)
    record = shared.run(resume=True)
    assert record["status"] == "completed"
    assert shared.codes(record, "hospital") == "DATASET_NOT_OFFERED"


@pytest.mark.end_to_end
def test_later_batches_have_the_model_and_the_grid_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = make_shared(tmp_path, persons=300, batches=1)
    shared.silent = {("query.assist", "hospital")}
    assert shared.run(batches=0)["status"] == "completed"
    (asked,) = (decode(data) for kind, _, data, _ in shared.seen if kind == "query.assist")
    header = {k: v for k, v in asked.header.items() if not k.startswith("ledger_")}
    header |= {"participant": "hospital", "industry": "hospital", "batch": "1"}
    reply = decode(handle(encode(Envelope(header, asked.tensors)), shared.homes["hospital"]))
    assert reply.header["code"] == "NOT_TRAINED"
    shared.silent = set()
    pack = label_message.pack
    monkeypatch.setattr(label_message, "pack", lambda epsilon, points: pack(epsilon / 8, points))
    with pytest.raises(RunFailedError, match=r"assist: .*BAD_MESSAGE"):
        shared.run(resume=True)


@pytest.mark.end_to_end
def test_more_broken_rows_than_the_policy_allows_are_no_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def half_broken(frames: Frames) -> None:
        days = frames["hospital"]["days_ill"].astype(object)
        frames["hospital"]["days_ill"] = days.where(np.arange(len(days)) % 2 == 0, "many")

    shared = _with_files(tmp_path, half_broken)
    record = shared.run()
    assert record["status"] == "completed"
    assert shared.codes(record, "hospital") == "PARTICIPANT_ERROR"
    assert "Wanted at most 20% broken rows" in caplog.text
    assert "many" not in caplog.text


@pytest.mark.end_to_end
def test_nobody_in_a_batch_is_known_to_a_partner(tmp_path: Path) -> None:
    def strangers(frames: Frames) -> None:
        frames["bank:new"] = frames["bank:new"].head(3).assign(national_id=["X1", "X2", "X3"])

    shared = _with_files(tmp_path, strangers, batches=1)
    assert shared.run()["status"] == "completed"
    assert [row["partners"] for row in _scored(shared)] == ["0"] * 3


@pytest.mark.end_to_end
def test_a_partner_that_is_away_in_a_batch_knows_none_of_its_rows(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=300, batches=2)
    for name in shared.homes:
        # One intersection for the training and each batch: the label owner's two messages of a batch are one.
        shared.policy(name, lambda data: data["vertical"].update(intersections=3))
    exchange = shared.exchange

    def without_the_factory(kind: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        left = {n: d for n, d in envelopes.items() if (kind, n) != ("query.assist", "factory") or _batch(d) == 0}
        return exchange(kind, left, deadline)

    shared.exchange = without_the_factory  # type: ignore[method-assign]
    assert shared.run()["status"] == "completed"
    for batch in (1, 2):
        assert {row["partners"] for row in _scored(shared, batch)} == {"0", "1"}
    with Ledger.open(shared.homes["bank"].ledger, "bank") as ledger:
        assert len(ledger.entries("run-1/intersection")) == 1 + 2 * 2


@pytest.mark.end_to_end
@pytest.mark.parametrize("positives", [0, 2])
def test_the_coordinator_sees_no_difference_when_a_class_is_rare(tmp_path: Path, positives: int) -> None:
    def rare(frames: Frames) -> None:
        frames["bank"]["default"] = (np.arange(len(frames["bank"])) < positives).astype(int)

    shared = _with_files(tmp_path, rare, batches=1)
    record = shared.run()
    assert record["status"] == "completed"
    assert not any(member["failures"] for member in record["participants"].values())
    receipt = json.loads(_own(shared, "bank", "receipt.json").read_text())
    assert (receipt["keeps"], receipt["decision"]["cross_validated_gain"]) == ("local", None)
    assert _scored(shared)


@pytest.mark.end_to_end
def test_too_few_labels_are_refused_before_anything_is_charged(tmp_path: Path) -> None:
    shared = _with_files(tmp_path, lambda frames: frames.update(bank=frames["bank"].assign(default="")))
    with pytest.raises(RunFailedError, match=r"blind: .*TOO_FEW_ROWS"):
        shared.run()
    with Ledger.open(shared.homes["bank"].ledger, "bank") as ledger:
        assert ledger.entries() == []


def test_keys_lie_beside_the_ledger_where_the_run_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSORTIA_HOME", str(tmp_path / "homes"))
    init("", scenario="shared-customers")
    scenario = load_scenario("shared-customers")
    names = [participant.name for participant in scenario.roster]
    before = {name: (tmp_path / "homes" / name / "policy.toml").read_bytes() for name in names}
    introduce(scenario, {n: Home(tmp_path / "run" / n, n, True, tmp_path / "homes" / n) for n in names})
    assert {name: (tmp_path / "homes" / name / "policy.toml").read_bytes() for name in names} == before
    assert not (tmp_path / "run").exists()
