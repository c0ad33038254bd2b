"""A vertical run through the participants' own handlers: what leaves, what is refused, what is charged."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import APP
from shared import Shared, make_shared
from typer.testing import CliRunner

from clients import holdings
from clients.schema import Target
from clients.sources import parse_source
from consortia.common.errors import InputError, RunFailedError
from consortia.messages.envelope import Envelope, decode, encode
from consortia.terms.scenario import load_scenario
from consortia.vertical import stacking
from consortia.vertical.grid import MISSING
from consortia.vertical.handle import handle
from consortia.vertical.request import STEPS
from privacy.events import NonPrivate, RandomizedResponse, ReplaceGaussian
from privacy.ledger import Ledger

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module", autouse=True)
def _quick_stack() -> Iterator[None]:
    """Stack linearly only: trees take most of a run's time, and other tests try them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stacking, "_STACKERS", {"logistic": stacking._STACKERS["logistic"]})
        yield


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """A finished run whose batch of new persons was scored later, when nothing else was asked for again."""
    shared = make_shared(tmp_path_factory.mktemp("shared"), batches=1)
    assert shared.run(batches=0)["status"] == "completed"
    assert not (shared.homes["bank"].folder / "runs/run-1/scored-1.csv").exists()
    trained = len(shared.seen)
    record = shared.run(resume=True)
    assert {decode(message).header["batch"] for _, _, message, _ in shared.seen[trained:]} == {"1"}
    assert record["participants"]["bank"]["epsilon_budget"] == 2.0
    assert [(line["step"], line["batch"]) for line in record["history"]] == [(s, b) for b in (0, 1) for s in STEPS]
    return shared


def _rows(shared: Shared, name: str) -> holdings.Encoded:
    case = holdings.get("customers")
    return case.holding(name).encode(case.frame(parse_source("synthetic:600"), name, 0))


def _kept(shared: Shared, name: str, file: str, batch: int = 0) -> bytes:
    return (shared.homes[name].folder / "runs" / "run-1" / f"vertical-{batch}" / file).read_bytes()


def test_a_partner_finds_exactly_the_persons_that_both_hold(done: Shared) -> None:
    bank = _rows(done, "bank")
    order = np.frombuffer(_kept(done, "bank", "order"), "<i8")
    for partner in ("hospital", "factory"):
        theirs = _rows(done, partner)
        matched = np.frombuffer(_kept(done, partner, "matched"), "<i8")
        place = {name: i for i, name in enumerate(theirs.ids)}
        assert matched.tolist() == [place.get(bank.ids[i], -1) for i in order]
        assert 0 < (matched >= 0).sum() < len(matched)


def test_the_receipt_says_whether_joining_pays_and_what_it_cost(done: Shared) -> None:
    receipt = json.loads((done.homes["bank"].folder / "runs/run-1/receipt.json").read_text())
    assert receipt["role"] == "label owner"
    assert receipt["keeps"] == ("federated" if receipt["decision"]["joins"] else "local")
    assert 0.4 < receipt["metrics"]["auc"]["local"] < 1
    assert receipt["metrics"]["auc"]["federated"] is not None
    account = receipt["epsilon"]
    assert (account["run"], account["lifetime"], account["delta"]) == (2.0, 2.0, 0.0)
    assert (account["unit"], account["relation"]) == ("record", "change_one_label")
    theirs = json.loads((done.homes["hospital"].folder / "runs/run-1/receipt.json").read_text())
    assert theirs["epsilon"]["non_private"] is True
    assert theirs["epsilon"]["run"] is None
    assert (theirs["label"], theirs["label_owner"]) == ("default", "bank")


def test_the_ledgers_hold_three_accounts_and_nothing_is_mixed(done: Shared) -> None:
    with Ledger.open(done.homes["bank"].ledger, "bank") as ledger:
        (label,) = ledger.entries(dataset="customers/labels")
        assert label.events == (
            RandomizedResponse(what="label", epsilon=2.0, classes=2, partition="train", unit="record"),
        )
        assert ledger.spent("customers/labels", 0.0) == 2.0
        kinds = [e.events[0] for e in ledger.entries(dataset="customers/intersection")]
        assert kinds
        assert all(isinstance(kind, NonPrivate) for kind in kinds)
        ledger.verify()
    with Ledger.open(done.homes["factory"].ledger, "factory") as ledger:
        assert {e.dataset for e in ledger.entries()} == {"customers/intersection", "customers/scores"}


def test_budget_show_keeps_the_labels_lifetime_apart(done: Shared) -> None:
    home = done.homes["bank"]
    command = ["budget", "show", "bank", "--home", str(home.folder.parent)]
    said = CliRunner().invoke(APP, [*command, "--json"])
    assert said.exit_code == 0, said.output
    accounts = {(line["dataset"], line["horizon"][:3]): line for line in json.loads(said.output)["accounts"]}
    assert {dataset for dataset, _ in accounts} == {"customers/labels", "customers/intersection"}
    label = accounts["customers/labels", "lif"]
    # Two of the lifetime's four, pure; the account of training, which this policy does not let out, is not there.
    assert (label["epsilon"], label["budget"], label["left"], label["delta"]) == (2.0, 4.0, 2.0, 0.0)
    assert (label["unit"], label["relation"]) == ("record", "change_one_label")
    seen = accounts["customers/intersection", "lif"]
    assert (seen["non_private"], seen["budget"], seen["left"], seen["releases"]) == (True, None, None, 3)
    history = ["budget", "history", "bank", "--home", str(home.folder.parent)]
    assert "at δ 0, change" in CliRunner().invoke(APP, history).output
    for words in (command, [*history, "--rounds"]):
        text = CliRunner().invoke(APP, words).output
        assert all(word in text for word in ("change", "label", "randomised", "values")), text


def test_labels_were_randomised_once_and_every_partner_has_the_same_bits(done: Shared) -> None:
    bits = _kept(done, "hospital", "labels")
    assert bits == _kept(done, "factory", "labels")
    bank = _rows(done, "bank")
    order = np.frombuffer(_kept(done, "bank", "order"), "<i8")
    sent = np.frombuffer(bits[: len(order)], np.uint8)
    truth = bank.labels[order]
    train = sent != MISSING
    assert 0.6 < train.mean() < 0.8
    # The attack: guessing the label from the bit is right with probability e^eps / (1 + e^eps) = .881.
    law = math.exp(2) / (1 + math.exp(2))
    right = (sent[train] == truth[train]).mean()
    assert abs(right - law) < 3 * math.sqrt(law * (1 - law) / train.sum())


def test_asked_again_the_replies_are_the_same_to_the_byte_and_cost_nothing(done: Shared) -> None:
    def entries() -> int:
        return sum(len(done.homes[n].open_ledger().entries()) for n in done.homes)

    before = entries()
    asked = 0
    for _, name, message, reply in list(done.seen):
        assert handle(message, done.homes[name]) == reply
        asked += name == "bank"
    assert entries() == before
    assert asked <= 3 * 2  # three message pairs for the label owner a batch, and so for each partner
    assert sum(name == "hospital" for _, name, _, _ in done.seen) <= 3 * 2


def test_nothing_readable_passes_the_coordinator(done: Shared) -> None:
    seen = b"".join(message + reply for _, _, message, reply in done.seen)
    stored = b"".join(f.read_bytes() for f in (done.folder / "run-1").rglob("*") if f.is_file())
    case = holdings.get("customers")
    for name in done.homes:
        frame = case.frame(parse_source("synthetic:600"), name, 0)
        for text in frame["national_id"].head(200):
            for spelled in {text.strip(), holdings.normalise(text)} - {""}:
                assert spelled.encode() not in seen + stored
        rows = _rows(done, name)
        assert all(rows.features[i].tobytes() not in seen for i in range(0, len(rows), 7))
    for secret in ("codes", "labels", "theirs", "matched", "power"):
        assert _kept(done, "hospital", secret)[:64] not in seen + stored
    # The searched bytes are the right ones: a participant's own files do hold them.
    assert _kept(done, "hospital", "codes")[:64] in _kept(done, "hospital", "codes")
    assert len(seen) > 50_000


def test_new_persons_are_scored_by_the_stored_models(done: Shared) -> None:
    lines = (done.homes["bank"].folder / "runs/run-1/scored-1.csv").read_text().splitlines()
    assert lines[0] == "person,score,score_alone,score_assisted,partners"
    rows = [line.split(",") for line in lines[1:]]
    assert len(rows) > 100
    assert {row[4] for row in rows} == {"0", "1", "2"}
    assert all(0 <= float(row[1]) <= 1 for row in rows)
    with Ledger.open(done.homes["hospital"].ledger, "hospital") as ledger:
        assert len(ledger.entries(dataset="customers/intersection")) == 2
        assert len(ledger.entries(dataset="customers/scores")) == 2


@pytest.mark.end_to_end
def test_who_failed_in_training_is_not_asked_later(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=300, batches=1)
    shared.silent = {("query.assist", "factory")}
    shared.run(batches=0)
    shared.silent = set()
    shared.seen.clear()
    assert shared.run(resume=True)["status"] == "completed"
    assert "factory" not in {name for _, name, _, _ in shared.seen}
    rows = (shared.homes["bank"].folder / "runs/run-1/scored-1.csv").read_text().splitlines()
    assert {row.rsplit(",", 1)[1] for row in rows[1:]} == {"0", "1"}


def test_offline_the_label_owner_has_its_own_model(
    done: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = done.homes["bank"]
    monkeypatch.setenv("CONSORTIA_HOME", str(bank.folder.parent))
    new = holdings.get("customers").frame(parse_source("synthetic:600"), "bank", 0, new=True)
    new["age"] = new["age"].astype(object)
    new.loc[3, "age"] = "unknown"  # breaks the schema: no prediction
    new.drop(columns="national_id").to_csv(tmp_path / "rows.csv", index=False)
    command = ["predict", "run-1", str(tmp_path / "rows.csv"), "--participant", "bank", "--out"]
    said = CliRunner().invoke(APP, [*command, str(tmp_path / "out.csv")])
    assert said.exit_code == 0, said.output
    assert "without any partner" in " ".join(said.output.split())
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0] == "row,p(defaults)"
    assert lines[4] == "4,"
    # As the batch that was scored with partners says of the same persons.
    scored = csv.DictReader((bank.folder / "runs/run-1/scored-1.csv").read_text().splitlines())
    alone = {row["person"]: float(row["score_alone"]) for row in scored}
    ids = [holdings.normalise(value) for value in new["national_id"]]
    same = [
        (float(line.split(",")[1]), alone[name])
        for name, line in zip(ids, lines[1:], strict=True)
        if name in alone and line[-1] != ","
    ]
    assert len(same) > 100
    assert np.allclose(*zip(*same, strict=True))
    refused = CliRunner().invoke(APP, ["predict", "run-1", str(tmp_path / "rows.csv"), "--participant", "factory"])
    assert refused.exit_code == 2
    assert "label owner's own model" in " ".join(refused.output.split())
    refused = CliRunner().invoke(APP, [*command, str(tmp_path / "other.csv"), "--model", "federated"])
    assert refused.exit_code == 2
    assert "wanted kept for the label owner" in " ".join(refused.output.split())


def test_a_second_label_message_is_refused_in_any_run(done: Shared) -> None:
    for name in ("bank", "hospital", "factory"):
        done.policy(name, lambda data: data["vertical"].update(intersections=9))
    with pytest.raises(RunFailedError, match="LABEL_MESSAGES_EXHAUSTED"):
        done.run("run-2")
    # The same run with other labels, as a label owner who crafts them would send.
    kind, name, message, _ = next(s for s in done.seen if s[:2] == ("query.assist", "hospital"))
    assert kind == "query.assist"
    envelope = decode(message)
    sealed = envelope.tensors["sealed/bank"].clone()
    sealed[-1] ^= 1
    reply = decode(
        handle(encode(Envelope(envelope.header, {**envelope.tensors, "sealed/bank": sealed})), done.homes[name])
    )
    assert reply.header["code"] == "BAD_MESSAGE"  # it cannot be opened: only the label owner can make one


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("hospital", {"purpose": "advertising"}, "LABEL_NOT_ALLOWED"),
        ("hospital", {"label": "income"}, "LABEL_NOT_ALLOWED"),
        ("hospital", {"set_size_cap": 100}, "SET_TOO_LARGE"),
        ("hospital", {"intersections": 0}, "INTERSECTIONS_EXHAUSTED"),
        ("hospital", {"minimum_rows": 100_000}, "TOO_FEW_ROWS"),
        ("hospital", {"label_messages": 0}, "LABEL_MESSAGES_EXHAUSTED"),
        ("hospital", {"exact_scores": False}, "SCORES_NOT_ALLOWED"),
        ("hospital", {"peers": {}}, "PEER_NOT_PINNED"),
        ("hospital", {"peers": {"bank": "ed25519:" + "00" * 32}}, "PEER_NOT_PINNED"),
        ("bank", {"set_size_cap": 100}, "SET_TOO_LARGE"),
        ("bank", {"peers": {}}, "PEER_NOT_PINNED"),
    ],
)
def test_the_owners_policy_decides(tmp_path: Path, name: str, change: dict[str, object], code: str) -> None:
    shared = make_shared(tmp_path, persons=200)
    shared.silent = {(f"query.{step}", "factory") for step in ("hello", "match", "assist")}
    shared.policy(name, lambda data: data["vertical"].update(change))
    with pytest.raises(RunFailedError, match=code):
        shared.run()


def test_no_vertical_policy_no_answer(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=100)
    for name in ("hospital", "factory"):
        shared.policy(name, lambda data: data.pop("vertical"))
    with pytest.raises(RunFailedError, match="VERTICAL_NOT_ALLOWED"):
        shared.run()


def test_a_list_beyond_the_cap_is_refused_by_its_owner_and_by_its_receiver(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=300, largest_set=150)
    with pytest.raises(RunFailedError, match="SET_TOO_LARGE"):
        shared.run()


def test_who_stands_between_is_noticed(tmp_path: Path) -> None:
    """A coordinator that puts its own keys or bytes in the middle gets nothing."""
    shared = make_shared(tmp_path, persons=100)

    def own_key(kind: str, name: str, reply: bytes) -> bytes:
        if kind != "query.hello":
            return reply
        envelope = decode(reply)
        forged = torch.randint(0, 256, (96,), dtype=torch.uint8)
        return encode(Envelope(envelope.header, {f"greeting/{name}": forged}))

    shared.tamper = own_key
    with pytest.raises(RunFailedError, match="PEER_NOT_PINNED"):
        shared.run()


def test_a_masked_sum_shows_the_label_owner_the_sum_only(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, secure_sum=True)
    assert shared.run()["status"] == "completed"
    receipt = json.loads((shared.homes["bank"].folder / "runs/run-1/receipt.json").read_text())
    codes = [np.frombuffer(_kept(shared, name, "codes"), np.uint8) for name in ("hospital", "factory")]
    known = np.any([c != MISSING for c in codes], axis=0)
    assert receipt["matched"] == {"sum": int(known.sum())}
    shared = make_shared(tmp_path / "dropped", secure_sum=True, persons=300)
    shared.silent = {("query.assist", "factory")}
    with pytest.raises(RunFailedError, match="a sum of one hides nothing"):
        shared.run()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hide_membership": True, "batches": 1}, "asks twice"),
        ({"secure_sum": True, "partners": ["hospital"]}, "two or more partners"),
    ],
)
def test_terms_that_cannot_keep_their_promise_are_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_shared(tmp_path, **change)


@pytest.mark.parametrize(("kind", "words"), [("multiclass", "a score a class"), ("regression", "another mechanism")])
def test_labels_of_more_than_two_values_are_refused(monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    case = holdings.get("customers")
    target = (
        Target(name="default", kind="multiclass", classes=("pays", "late", "defaults"))
        if kind == "multiclass"
        else Target(name="default", kind="regression", low=0, high=1)
    )
    bank = replace(case.holdings["bank"], target=target)
    monkeypatch.setattr(holdings, "get", lambda _: replace(case, holdings={**case.holdings, "bank": bank}))
    with pytest.raises(InputError, match=words):
        load_scenario("shared-customers")


@pytest.mark.end_to_end
def test_hidden_membership_gives_every_row_a_score(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, hide_membership=True)
    shared.run()
    for name in ("hospital", "factory"):
        codes = np.frombuffer(_kept(shared, name, "codes"), np.uint8)
        matched = np.frombuffer(_kept(shared, name, "matched"), "<i8") >= 0
        assert (codes != MISSING).all()
        # An attacker who sees the score alone does no better than a coin: the distributions agree.
        from scipy.stats import ks_2samp

        assert ks_2samp(codes[matched], codes[~matched]).pvalue > 1e-3


@pytest.mark.end_to_end
def test_scores_with_noise_and_a_private_model_have_an_epsilon_and_the_noise_is_kept(tmp_path: Path) -> None:
    privacy = {"epsilon": 1.0, "delta": 1e-5, "steps": 10}
    shared = make_shared(tmp_path, score_epsilon=0.5, model_privacy=privacy, keyed_ids=True, batches=1)
    for name in ("hospital", "factory"):
        shared.policy(name, lambda data: data["vertical"].update(exact_scores=False))
    for home in shared.homes.values():
        (home.folder / "ids.key").write_bytes(b"k" * 32)
    shared.run()
    with Ledger.open(shared.homes["hospital"].ledger, "hospital") as ledger:
        first, second = ledger.entries(dataset="customers/scores")
        assert [type(event) for event in first.events] == [RandomizedResponse, ReplaceGaussian]
        assert [type(event) for event in second.events] == [RandomizedResponse]  # the model is not fitted again
        assert 1.9 < ledger.spent("customers/scores", 1e-5) <= 2.0
    receipt = json.loads((shared.homes["hospital"].folder / "runs/run-1/receipt.json").read_text())
    assert receipt["epsilon"]["run"] == 2.0
    assert receipt["epsilon"]["non_private"] is False
    codes = np.frombuffer(_kept(shared, "hospital", "codes"), np.uint8)
    assert set(codes[codes != MISSING].tolist()) <= {8, 24, 40, 56}  # four bins' middles
    assert len(json.loads(_kept(shared, "hospital", "noise"))) == int((codes != MISSING).sum())


@pytest.mark.end_to_end
def test_one_bad_partner_does_not_end_the_run(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=400)
    shared.policy("factory", lambda data: data["allow"].update(releases=["intersection"]))
    record = shared.run()
    assert record["status"] == "completed"
    assert shared.codes(record, "factory") == "RELEASE_NOT_ALLOWED"


@pytest.mark.end_to_end
def test_label_budget_is_the_least_of_proposal_run_and_lifetime(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=300)
    shared.policy("bank", lambda data: data["budget"].update(run={"epsilon": 0.5, "delta": 1e-5}))
    record = shared.run()
    assert record["participants"]["bank"]["epsilon_budget"] == 0.5
    with Ledger.open(shared.homes["bank"].ledger, "bank") as ledger:
        assert ledger.spent("customers/labels", 0.0) == 0.5
