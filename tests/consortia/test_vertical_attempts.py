"""What a vertical run asks for a second time: after a crash, in a masked sum, when the label owner was away."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import tomli_w
from shared import Shared, make_shared

from consortia.common.errors import RunFailedError
from consortia.common.strict import parse
from consortia.messages.envelope import Envelope, decode, encode
from consortia.messages.exchange import Answer
from consortia.participant.home import Home
from consortia.terms.scenario import Scenario
from consortia.vertical import stacking
from consortia.vertical.handle import handle
from consortia.vertical.setup import introduce
from consortia.vertical.store import Store
from privacy.events import Event, RandomizedResponse, ReplaceGaussian
from privacy.ledger import Ledger

pytestmark = pytest.mark.end_to_end

NOISY = {"score_epsilon": 0.5, "model_privacy": {"epsilon": 1.0, "delta": 1e-5, "steps": 5}}


@pytest.fixture(autouse=True)
def _one_stacker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacking, "_STACKERS", {"logistic": stacking._STACKERS["logistic"]})


def _charged(shared: Shared, name: str) -> list[list[type[Event]]]:
    with Ledger.open(shared.homes[name].ledger, name) as ledger:
        return [[type(event) for event in entry.events] for entry in ledger.entries("run-1/scores")]


def _assist_again(shared: Shared, name: str, attempt: int) -> dict[str, str]:
    """Ask for another attempt of the masked sum, as after the loss of a third partner; the reply's header."""
    (asked,) = (data for kind, who, data, _ in shared.seen if (kind, who) == ("query.assist", name))
    envelope = decode(asked)
    again = encode(Envelope({**envelope.header, "attempt": str(attempt)}, envelope.tensors))
    return dict(decode(handle(again, shared.homes[name])).header)


def test_another_attempt_of_a_noisy_sum_is_charged_the_scores_and_never_the_model_again(tmp_path: Path) -> None:
    """The noise is the same, so that the second charge is more than the truth: it comes out of a later batch's."""
    shared = make_shared(tmp_path, persons=300, secure_sum=True, batches=1, **NOISY)
    assert shared.run(batches=0)["status"] == "completed"
    assert _assist_again(shared, "hospital", 2)["status"] == "OK"
    once = [RandomizedResponse, ReplaceGaussian]
    assert _charged(shared, "hospital") == [once, [RandomizedResponse]]
    assert _assist_again(shared, "hospital", 3)["code"] == "BUDGET_EXHAUSTED"
    assert _charged(shared, "hospital") == [once, [RandomizedResponse]]


def test_a_crash_between_charge_and_reply_is_charged_the_model_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = make_shared(tmp_path, persons=300, batches=1, **NOISY)
    objects, crashed = Store.objects, set()

    def crash_once(store: Store, name: str, make: Callable[[], object]) -> object:
        if store.folder not in crashed:
            crashed.add(store.folder)
            raise RuntimeError
        return objects(store, name, make)

    monkeypatch.setattr(Store, "objects", crash_once)
    assert shared.run(batches=0)["status"] == "completed"
    assert _charged(shared, "hospital") == [[RandomizedResponse, ReplaceGaussian], [RandomizedResponse]]


def test_scores_that_reached_the_label_owner_fix_who_is_asked(tmp_path: Path) -> None:
    """Two sums over other circles would show the scores of those who are in one of them."""
    shared = make_shared(tmp_path, persons=300)
    shared.silent = {("query.hello", "factory"), ("query.stack", "bank")}
    with pytest.raises(RunFailedError, match="stack"):
        shared.run()
    shared.silent = set()
    shared.seen.clear()
    assert shared.run(resume=True)["status"] == "completed"
    assert {name for _, name, _, _ in shared.seen} == {"bank", "hospital"}


def _with_a_third(tmp_path: Path) -> Shared:
    """A masked sum of three: another factory, the plant."""
    shared = make_shared(tmp_path, persons=300)
    data = shared.scenario.model_dump(mode="python", by_alias=True)
    (participant,) = (participant for participant in data["roster"] if participant["name"] == "factory")
    data["roster"] = (*data["roster"], {**participant, "name": "plant"})
    data["contract"]["vertical"] |= {"partners": ("hospital", "factory", "plant"), "secure_sum": True}
    shared.scenario = parse(Scenario, data, "test")
    home = Home(tmp_path / "participants" / "plant", "plant", simulation=True)
    home.create(split_seed=1)
    policy = tomllib.loads(shared.homes["factory"].policy.read_text(encoding="utf-8"))
    del policy["vertical"]["peers"]
    home.policy.write_text(tomli_w.dumps({**policy, "participant": "plant"}), encoding="utf-8")
    Ledger.create(home.ledger, "plant").close()
    shared.homes["plant"] = home
    introduce(shared.scenario, shared.homes)
    return shared


def _asked(shared: Shared, kind: str) -> list[str]:
    return [name for step, name, _, _ in shared.seen if step == kind]


def _dies_after(shared: Shared, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Play until a step is answered: the coordinator is killed, so that it leaves no record."""
    exchange = shared.exchange

    def killed(step: str, envelopes: Mapping[str, bytes], deadline: float) -> list[Answer]:
        answers = exchange(step, envelopes, deadline)
        if step == kind:
            raise KeyboardInterrupt
        return answers

    with monkeypatch.context() as patch:
        patch.setattr(shared, "exchange", killed)
        with pytest.raises(KeyboardInterrupt):
            shared.run()
    assert not (shared.folder / "run-1" / "coordinator.json").exists()


def test_a_killed_coordinator_keeps_the_circle_of_a_sum_that_it_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = _with_a_third(tmp_path)
    shared.silent = {("query.assist", "plant")}
    _dies_after(shared, "query.stack", monkeypatch)
    assert _asked(shared, "query.assist") == ["hospital", "factory"] * 2  # without the plant: new masks
    shared.silent = set()
    shared.seen.clear()
    assert shared.run(resume=True)["status"] == "completed"
    assert _asked(shared, "query.assist") == ["hospital", "factory"]  # the plant is back, and the sum stays


def test_a_sum_without_one_of_its_circle_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = _with_a_third(tmp_path)
    _dies_after(shared, "query.stack", monkeypatch)
    shared.silent = {("query.assist", "plant")}
    shared.seen.clear()
    with pytest.raises(RunFailedError, match="wanted plant again, got no answer"):
        shared.run(resume=True)
    assert _asked(shared, "query.assist") == ["hospital", "factory"]  # no attempt without it
    shared.silent = set()
    assert shared.run(resume=True)["status"] == "completed"


@pytest.mark.parametrize("step", ["hello", "match", "assist"])
def test_a_masked_sum_of_a_later_batch_has_the_circle_of_the_training(tmp_path: Path, step: str) -> None:
    """A person may be in both batches: the two sums' difference would be the score of who is in the first alone."""
    shared = _with_a_third(tmp_path)
    shared.contract(batches=1)
    for name in shared.homes:
        shared.policy(name, lambda data: data["vertical"].update(new_persons="synthetic:300"))
    shared.run(batches=0)
    shared.silent = {(f"query.{step}", "plant")}
    with pytest.raises(RunFailedError, match=f"{step}: wanted plant again, got no answer"):
        shared.run(resume=True)
    assert not (shared.homes["bank"].folder / "runs/run-1/scored-1.csv").exists()
    shared.silent = set()
    assert shared.run(resume=True)["status"] == "completed"


def test_who_is_away_after_the_training_is_not_needed_for_a_later_batch(tmp_path: Path) -> None:
    shared = make_shared(tmp_path, persons=300, batches=1)
    shared.run(batches=0)
    shared.silent = {(f"query.{step}", "factory") for step in ("hello", "match", "assist")}
    record = shared.run(resume=True)
    assert record["status"] == "completed"
    assert record["participants"]["factory"]["rounds_contributed"] == 1
    rows = (shared.homes["bank"].folder / "runs/run-1/scored-1.csv").read_text().splitlines()
    assert {row.rsplit(",", 1)[1] for row in rows[1:]} == {"0", "1"}


def test_what_the_label_owner_was_asked_is_asked_with_the_same_partners(tmp_path: Path) -> None:
    """With others it would randomise the labels again, which its budget refuses."""
    shared = make_shared(tmp_path, persons=300)
    shared.silent = {("query.hello", "factory"), ("query.assist", "hospital")}
    with pytest.raises(RunFailedError, match="assist"):
        shared.run()
    before = len(shared.homes["bank"].open_ledger().entries())
    shared.silent = {("query.hello", "hospital")}  # the factory is back, and the hospital away
    with pytest.raises(RunFailedError, match="hello: wanted a reply of the partner"):
        shared.run(resume=True)
    shared.silent = set()
    assert shared.run(resume=True)["status"] == "completed"
    assert len(shared.homes["bank"].open_ledger().entries()) == before
    shared = make_shared(tmp_path / "two", persons=300)
    shared.silent = {("query.assist", "hospital"), ("query.assist", "factory")}
    with pytest.raises(RunFailedError, match="assist"):
        shared.run()
    shared.silent = {("query.hello", "hospital")}
    with pytest.raises(RunFailedError, match="hello: wanted hospital again, got no answer"):
        shared.run(resume=True)
    assert len(shared.homes["bank"].open_ledger().entries()) == before


def test_before_a_sum_was_sent_whoever_comes_back_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = _with_a_third(tmp_path)
    shared.silent = {("query.assist", "plant")}
    _dies_after(shared, "query.assist", monkeypatch)
    shared.silent = set()
    shared.seen.clear()
    assert shared.run(resume=True)["status"] == "completed"
    assert _asked(shared, "query.assist") == ["hospital", "factory", "plant"]
