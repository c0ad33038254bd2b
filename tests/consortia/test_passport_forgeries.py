"""`check` finds every forgery, also those that are signed again with a valid key of somebody else."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from passports import RUN, World, again, home_with_run, key_of, payload, pins, public_hex, world
from securesystemslib.signer import SSlibKey
from typer.testing import CliRunner

from consortia.participant.passport import make_part
from consortia.trust.passport.verify import check
from privacy.ledger import Ledger

NAMES = ["clinic-a", "clinic-b", "clinic-c"]
Json = dict[str, Any]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("honest"), NAMES, {"clinic-b": {"kind": "laplace"}, "clinic-c": {"before": 1}})


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Json]:
    """Return what makes a part that clinic-a itself signed, of something else."""

    def make(run: str = RUN, **options: Any) -> Json:
        home = home_with_run(tmp_path_factory.mktemp("else"), "clinic-a", run=run, **options)
        with Ledger.open(home.ledger, "clinic-a") as ledger:
            return make_part(home, ledger, run)

    return make


def test_the_honest_passport_is_accepted(honest: World) -> None:
    verdict = check(json.dumps(honest.envelope).encode(), pins(*NAMES), honest.folder)
    assert verdict.problems == []
    assert list(verdict.parts) == NAMES


def stated(envelope: Json, change: Callable[[Json], Any], signer: str | None, keyid: str | None = None) -> Json:
    """Return the envelope with another statement, signed again or with the old signature."""
    said = payload(envelope)
    change(said)
    if signer is None:
        text = json.dumps(said, sort_keys=True, separators=(",", ":")).encode()
        return {**envelope, "payload": base64.b64encode(text).decode()}
    found = again(said, signer)
    if keyid:
        found["signatures"][0]["keyid"] = SSlibKey.from_crypto(key_of(keyid).public_key()).keyid
    return found


def outer(path: str, value: Any, signer: str | None = None, keyid: str | None = None) -> Callable[[Json], Json]:
    """Return a forgery of what the coordinator states."""
    return lambda envelope: stated(envelope, lambda said: put(said, path, value), signer, keyid)


def part(path: str, value: Any, signer: str | None = None, keyid: str | None = None) -> Callable[[Json], Json]:
    """Return a forgery of clinic-a's part, in a passport that the coordinator signed."""

    def change(said: Json) -> None:
        seen = said["predicate"]["participants"]["clinic-a"]
        seen["part"] = stated(seen["part"], lambda own: put(own, path, value), signer, keyid)

    return lambda envelope: stated(envelope, change, "coordinator")


def put(said: Any, path: str, value: Any) -> None:
    """Set the value at a dotted path."""
    *above, last = path.split(".")
    for step in above:
        said = said[int(step)] if isinstance(said, list) else said[step]
    if isinstance(said, list):
        said[int(last)] = value
    else:
        said[last] = value


def of_participants(change: Callable[[Json], Any]) -> Callable[[Json], Json]:
    """Return a forgery of who stands in the passport, which the coordinator signed."""
    return lambda envelope: stated(envelope, lambda said: change(said["predicate"]["participants"]), "coordinator")


def whole(change: Callable[[Json], Any]) -> Callable[[Json], Json]:
    """Return a forgery of the envelope itself."""

    def forge(envelope: Json) -> Json:
        change(envelope)
        return envelope

    return forge


def _swapped(people: Json) -> None:
    people["clinic-a"]["part"] = people["clinic-b"]["part"]


def _renamed(people: Json) -> None:
    people["coordinator"] = people.pop("clinic-a")


def _stranger(people: Json) -> None:
    own = payload(people["clinic-a"]["part"])
    own["predicate"]["participant"] = "stranger"
    people["stranger"] = {**people["clinic-a"], "part": again(own, "stranger")}


def _same_ledger(people: Json) -> None:
    own = payload(people["clinic-a"]["part"])
    own["predicate"]["ledger"] = payload(people["clinic-b"]["part"])["predicate"]["ledger"]
    people["clinic-a"]["part"] = again(own, "clinic-a")


def _part_as_passport(envelope: Json) -> Json:
    return again(payload(payload(envelope)["predicate"]["participants"]["clinic-a"]["part"]), "coordinator")


def _signed_twice(envelope: Json) -> None:
    envelope["signatures"] += again(payload(envelope), "stranger")["signatures"]


def _respelled(envelope: Json) -> None:
    envelope["payload"] += "===="


EPSILON = "predicate.accounts.0.epsilon"
HEAD = "predicate.ledger.after.head"
MODEL = "subject.0.digest.sha256"
#: Each by what was done; the word stands in what `verify` says.
FORGERIES: dict[str, tuple[Callable[[Json], Json], str]] = {
    "a metric is changed": (outer("predicate.participants.clinic-a.metrics.auc.value", 0.99), "coordinator"),
    "a model's hash is changed": (outer(MODEL, "0" * 64), "coordinator"),
    "the status is changed": (outer("predicate.status", "COMPLETED"), "coordinator"),
    "the contract, signed by a stranger": (outer("predicate.contract_sha256", "e" * 64, "stranger"), "another key"),
    "the same, under the coordinator's key id": (
        outer("predicate.contract_sha256", "e" * 64, "stranger", "coordinator"),
        "forged",
    ),
    "a metric, signed by a participant": (
        outer("predicate.participants.clinic-a.metrics.auc.value", 0.99, "clinic-a"),
        "another key",
    ),
    "the contract, signed by the coordinator": (
        outer("predicate.contract_sha256", "e" * 64, "coordinator"),
        "clinic-a: it took part under another contract",
    ),
    "the run, signed by the coordinator": (outer("predicate.run_id", "hospitals-2", "coordinator"), "clinic-a: its"),
    "a participant's ε by the coordinator": (part(EPSILON, 0.1), "clinic-a: its part was changed"),
    "the same, signed by a stranger": (part(EPSILON, 0.1, "stranger"), "clinic-a: its part is signed with another"),
    "the same, under the participant's key id": (part(EPSILON, 0.1, "stranger", "clinic-a"), "clinic-a: its part was"),
    "the same, signed by another participant": (part(EPSILON, 0.1, "clinic-b"), "clinic-a: its part is signed with"),
    "the same, signed by the coordinator": (part(EPSILON, 0.1, "coordinator"), "clinic-a: its part is signed with"),
    "a ledger's head": (part(HEAD, "0" * 64), "clinic-a: its part was changed"),
    "ε above its budget": (part(EPSILON, 51.0, "clinic-a"), "clinic-a: account heart: ε 51 exceeds"),
    "no ε": (part(EPSILON, None, "clinic-a"), "clinic-a: account heart: ε is missing"),
    "a ledger that shrank": (part("predicate.ledger.after.counter", 0, "clinic-a"), "clinic-a: its ledger did not"),
    "a field that nobody knows": (part("predicate.clean", True, "clinic-a"), "predicate.clean"),
    "another subject": (part(MODEL, "0" * 64, "clinic-a"), "clinic-a: the subject"),
    "another's part": (of_participants(_swapped), "clinic-a: its part is signed with another"),
    "no part": (of_participants(lambda people: people["clinic-a"].update(part=None)), "clinic-a: its part is missing"),
    "no signature on a part": (
        of_participants(lambda people: people["clinic-a"]["part"].update(signatures=[])),
        "clinic-a: its part is not signed",
    ),
    "a participant is left out": (of_participants(lambda people: people.pop("clinic-a")), "clinic-a: is pinned"),
    "a participant is added": (of_participants(_stranger), "stranger: is in the passport"),
    "a participant is called coordinator": (of_participants(_renamed), "this one is the coordinator's"),
    "two state one ledger": (of_participants(_same_ledger), "states the ledger of"),
    "a part as the passport": (_part_as_passport, "coordinator: the passport is not of its format"),
    "no signature": (whole(lambda envelope: envelope.update(signatures=[])), "coordinator: the passport is not signed"),
    "a second signature": (whole(_signed_twice), "coordinator: the passport wanted one signature, got 2"),
    "another payload type": (whole(lambda envelope: envelope.update(payloadType="text/plain")), "payloadType"),
    "a payload that is cut": (
        whole(lambda envelope: envelope.update(payload=envelope["payload"][:400])),
        "coordinator: the passport was changed",
    ),
    "another spelling of the payload": (whole(_respelled), "coordinator: the passport is damaged"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_found_and_named(honest: World, name: str) -> None:
    forge, says = FORGERIES[name]
    verdict = check(json.dumps(forge(copy.deepcopy(honest.envelope))).encode(), pins(*NAMES))
    assert any(says in problem for problem in verdict.problems), verdict.problems


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"run": "hospitals-2"}, "clinic-a: its part is of run hospitals-2"),
        ({"contract": "e" * 64}, "clinic-a: it took part under another contract"),
    ],
)
def test_an_own_part_of_something_else_is_found(
    honest: World, elsewhere: Callable[..., Json], options: Json, says: str
) -> None:
    other = elsewhere(**options)
    forged = of_participants(lambda people: people["clinic-a"].update(part=other))(copy.deepcopy(honest.envelope))
    assert any(says in problem for problem in check(json.dumps(forged).encode(), pins(*NAMES)).problems)


def _twice(text: str) -> str:
    return text.replace('"payloadType"', '"payload": "", "payloadType"', 1)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "truncated"),
        (lambda text: "", "truncated"),
        (_twice, "a key twice"),
        (lambda text: "[" * 100_000, "damaged"),
        (lambda text: "[]", "a JSON object"),
        (lambda text: " " * (2**24 + 1), "at most"),
    ],
)
def test_a_damaged_file_is_found(honest: World, damage: Callable[[str], str], says: str) -> None:
    (problem,) = check(damage(json.dumps(honest.envelope)).encode(), pins(*NAMES)).problems
    assert says in problem


def test_a_key_twice_below_a_signature_is_found(honest: World) -> None:
    text = base64.b64decode(honest.envelope["payload"]).decode()
    doubled = text.replace('"status":', '"status":"failed","status":', 1)
    raw = again({}, "coordinator")
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    envelope = Envelope(doubled.encode(), raw["payloadType"], {})
    envelope.sign(CryptoSigner(key_of("coordinator")))
    (problem,) = check(json.dumps(envelope.to_dict()).encode(), pins(*NAMES)).problems
    assert "a key twice" in problem


def test_a_file_of_the_run_that_was_changed_is_found(honest: World, tmp_path: Path) -> None:
    data = json.dumps(honest.envelope).encode()
    (problem,) = check(data, pins(*NAMES), tmp_path).problems
    assert "model/hospital.safetensors: is missing" in problem
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "hospital.safetensors").write_bytes(b"another model")
    (problem,) = check(data, pins(*NAMES), tmp_path).problems
    assert "is not the file of the passport" in problem


def test_a_subject_that_is_no_file_is_a_problem(honest: World, tmp_path: Path) -> None:
    def add(said: Json) -> None:
        said["subject"].append({"name": ".", "digest": {"sha256": "0" * 64}})

    forged = stated(copy.deepcopy(honest.envelope), add, "coordinator")
    assert any(
        one.startswith(".: is missing") for one in check(json.dumps(forged).encode(), pins(*NAMES), tmp_path).problems
    )


def test_a_forged_file_cannot_steer_the_terminal(honest: World, tmp_path: Path) -> None:
    """It could erase the line that calls it forged, and write that it was accepted."""
    (tmp_path / "keys.toml").write_text("".join(f'{name} = "{public_hex(name)}"\n' for name in ("coordinator", *NAMES)))
    (tmp_path / "forged.json").write_text(json.dumps({**honest.envelope, "\x1b[2K\raccepted\u202e": 1}))
    result = CliRunner().invoke(
        APP, ["verify", str(tmp_path / "forged.json"), "--keys", str(tmp_path / "keys.toml")], color=True
    )
    assert result.exit_code == 1
    assert r"\x1b[2K\raccepted\u202e" in result.output
    assert "\x1b[2K" not in result.output
