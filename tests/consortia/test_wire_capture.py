"""Everything that leaves SuperNodes in a run on real Flower, in clear: what has no event has a place on a list."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tomli_w
from flwr.app import ConfigRecord
from flwr.app.message.recorddict import RecordDict
from flwr.proto import heartbeat_pb2, message_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_object_children_ids_from_object_content,
    get_object_type_from_object_content,
)
from public_values import header, planted_in, unaccounted
from wire_tap import Call, Tap, TappedFederation, fields_of

from clients.hospital import CLIENT as HOSPITAL
from clients.sources import parse_source, read
from consortia.common.strict import read_toml
from consortia.engines.base import Job
from consortia.engines.options import Options
from consortia.engines.runner import prepare
from consortia.messages.envelope import decode
from consortia.messages.flower import FIELD, RECORD
from consortia.messages.request import READY
from consortia.participant.home import Home
from consortia.terms.policy import load_policy
from consortia.terms.scenario import find_scenario, load_scenario
from privacy.ledger import Ledger

pytestmark = pytest.mark.end_to_end

ROUNDS = 2
ROWS = {"ward-a": 240, "ward-b": 137, "ward-c": 188}
BROKEN = "ward-c"
NAME, NUMBER, CHOLESTEROL, AGE = "QZMARK", 40_587_321, 231.71828, 57.34917
#: What no reply holds: identifiers, values of rows, and these as the model sees them (scaled to [-1, 1]).
PLANTED: tuple[float | str, ...] = (
    *(NAME, NUMBER, CHOLESTEROL, AGE),
    *((CHOLESTEROL - 100) / 300 * 2 - 1, (AGE - 20) / 70 * 2 - 1),
)
#: A participant that puts its number of rows where the gate lets a constant of the policy pass.
LEAK = """
from consortia.participant import context
honest, load, seen = context.Work.header, context.load_partitions, []
def loading(*arguments):
    parts = load(*arguments)
    seen.append(len(parts.train.target))
    return parts
def header(self, plan, status, due=None):
    return honest(self, plan, status, due) | {"incident": str(seen[-1])}
context.load_partitions, context.Work.header = loading, header
"""

#: Flower's own fields. `given`: the SuperLink said it first. `digest`: SHA-256 of an object that left. `fixed`: a
#: constant of Flower. `key`: the node's public key. `time`: depends on the clock, and so on how long the rows took.
#: docs/guarantees.md, "What Flower adds", says what each tells.
FIELDS = {
    "ActivateNodeRequest.public_key": "key",
    "ActivateNodeRequest.heartbeat_interval": "fixed",
    "DeactivateNodeRequest.node_id": "given",
    "SendNodeHeartbeatRequest.heartbeat_interval": "fixed",
    "Node.node_id": "given",
    "GetRunRequest.run_id": "given",
    "GetFabRequest.run_id": "given",
    "GetFabRequest.hash_str": "given",
    "PullObjectRequest.run_id": "given",
    "PullObjectRequest.object_id": "given",
    "ConfirmMessageReceivedRequest.run_id": "given",
    "ConfirmMessageReceivedRequest.message_object_id": "given",
    "PushObjectRequest.run_id": "given",
    "PushObjectRequest.session_id": "given",
    "PushObjectRequest.object_id": "digest",
    "PushObjectRequest.object_content": "content",
    "PushMessagesRequest.clientapp_runtime_list": "time",
    "ObjectTree.object_id": "digest",
    "Metadata.run_id": "given",
    "Metadata.message_id": "digest",
    "Metadata.reply_to_message_id": "given",
    "Metadata.src_node_id": "given",
    "Metadata.dst_node_id": "given",
    "Metadata.group_id": "given",
    "Metadata.message_type": "given",
    "Metadata.src_task_id": "given",
    "Metadata.dst_task_id": "given",
    "Metadata.created_at": "time",
    "Metadata.ttl": "time",
}
#: HTTP headers that differ from request to request; all others are the same in every request of a participant.
VARYING = {"content-length", "flwr-timestamp", "flwr-signature"}
HEADERS = VARYING | {
    *("host", "accept", "accept-encoding", "connection", "user-agent", "content-type"),
    *("flwr-public-key", "flwr-package-name", "flwr-package-version", "flwr-component-name"),
}
HEARTBEAT_SECONDS = 30.0


def _rows(name: str, file: Path) -> None:
    frame: pd.DataFrame = read(parse_source(f"synthetic:{ROWS[name]}?seed=3"), HOSPITAL, "cleveland")
    frame["patient_id"] = [str(NUMBER) if i < 2 else f"{NAME}-{i:04d}" for i in range(len(frame))]
    frame["chol"], frame["age"] = CHOLESTEROL, AGE
    frame.to_csv(file, index=False)


def _prepared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Lay out three wards whose public terms are the same and whose rows are not."""
    data = read_toml(find_scenario("hospitals-network"))
    data["contract"] |= {"rounds": ROUNDS, "releases": ["update", "metrics"]}
    data["contract"]["evaluation"] = {"metrics": "dp", "every": 1}
    data["contract"]["industries"]["hospital"] |= {"filter": "", "split": "hash"}
    data.pop("expect", None)
    data["roster"] = [data["roster"][0] | {"name": name, "units": 200} for name in ROWS]
    file = folder / "wards.toml"
    file.write_text(tomli_w.dumps(data), encoding="utf-8")
    homes = folder / "homes"
    monkeypatch.setenv("CONSORTIA_HOME", str(homes))
    account = {"run": {"epsilon": 2.0, "delta": 1e-4}, "lifetime": {"epsilon": 4.0, "delta": 4e-4}}
    contract = load_scenario(str(file)).contract
    for name in ROWS:
        home = Home(homes / name, name)
        home.create()
        _rows(name, homes / name / "rows.csv")
        policy = {
            "schema": 1,
            "participant": name,
            "dataset": {
                "heart": {
                    "industry": "hospital",
                    "source": f"csv:{homes / name / 'rows.csv'}",
                    "site": "cleveland",
                    "unit": "patient_id",
                    "declared_units": 200,
                    "max_rows_per_unit": 2,
                }
            },
            "budget": account | {"evaluation": account},
            "allow": {"releases": ["update", "metrics"], "contracts": [f"sha256:{contract.sha256()}"]},
        }
        home.policy.write_text(tomli_w.dumps(policy), encoding="utf-8")
        Ledger.create(home.ledger, name).close()
    return prepare(Options(scenario=str(file), engine="flower", out=folder / "runs"))


def _scalars(calls: list[Call]) -> set[Any]:
    return {value for call in calls for _, value in fields_of(call.answer)}


def _objects(calls: list[Call]) -> list[bytes]:
    return [call.message.object_content for call in calls if isinstance(call.message, message_pb2.PushObjectRequest)]


def _strange(calls: list[Call], started: float) -> Iterator[str]:
    """Yield what Flower's own part of the traffic holds beyond `FIELDS`."""
    given = _scalars(calls)
    objects = {hashlib.sha256(content).hexdigest() for content in _objects(calls)}
    constants = {tuple(pair for pair in call.headers if pair[0] not in VARYING) for call in calls}
    if len(constants) != 1:
        yield "HTTP headers that change"
    keys = {value for call in calls for name, value in fields_of(call.message) if FIELDS.get(name) == "key"}
    if len(keys) != 1:
        yield "more than one public key"
    for call in calls:
        yield from (f"HTTP header {name}" for name, _ in call.headers if name not in HEADERS)
        if call.body is not None and dict(call.headers)["content-length"] != str(len(call.body)):
            yield "HTTP header content-length"
        for name, value in fields_of(call.message):
            match FIELDS.get(name):
                case "given" if value in given:
                    pass
                case "digest" if value in objects:
                    pass
                case "fixed" if value == HEARTBEAT_SECONDS:
                    pass
                case "time" if 0 <= value <= 600 or started <= value <= time.time():
                    pass
                case "content" | "key":
                    pass
                case _:
                    yield name


def _envelopes(calls: list[Call]) -> Iterator[bytes]:
    """Yield our envelopes, in the order in which they left; every object belongs to one, to the byte."""
    objects = {hashlib.sha256(content).hexdigest(): content for content in _objects(calls)}
    kinds = [get_object_type_from_object_content(content) for content in objects.values()]
    assert sorted(set(kinds)) == ["ConfigRecord", "Message", "RecordDict"]
    assert len(kinds) == 3 * kinds.count("Message")
    for call in calls:
        for tree in getattr(call.message, "message_object_trees", ()):
            message = objects[tree.object_id]
            ((record_id,),) = [get_object_children_ids_from_object_content(message)]
            # What is left of a message without content is its metadata, whose fields are on the list.
            body = message_pb2.Message.FromString(message.partition(b"\x00")[2])
            assert {name for name, _ in fields_of(body)} <= set(FIELDS)
            (config_id,) = get_object_children_ids_from_object_content(objects[record_id])
            config = ConfigRecord.inflate(objects[config_id])
            assert config.deflate() == objects[config_id]
            assert RecordDict({RECORD: config}).deflate() == objects[record_id]
            assert list(config) == [FIELD]
            data = config[FIELD]
            assert isinstance(data, bytes)
            yield data


def _ready(data: bytes, name: str) -> dict[str, str]:
    """Return the header of an answer that nothing was charged for, but the name; nothing else is in it."""
    envelope = decode(data)
    said = dict(envelope.header)
    assert said.pop("participant") == name
    assert envelope.tensors == {}
    assert len(data) == 8 + int.from_bytes(data[:8], "little")
    return said


def test_nothing_leaves_without_an_event_or_a_place_on_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = _prepared(tmp_path, monkeypatch)
    contract = job.scenario.contract
    started = time.time()
    federation = TappedFederation(job, {BROKEN: LEAK})
    with federation:
        federation.start()
        federation.submit()
        federation.wait()
    taps: dict[str, Tap] = federation.taps

    sizes: dict[str, list[int]] = {}
    headers: dict[str, list[dict[str, str]]] = {}
    unfounded: dict[str, list[str]] = {}
    readies: dict[str, dict[str, str]] = {}
    for name in ROWS:
        calls = taps[name].calls()
        assert sorted(set(_strange(calls, started))) == []
        assert planted_in(taps[name].sent(), PLANTED) == []
        ready, *replies = _envelopes(calls)
        readies[name] = _ready(ready, name)
        kinds = ["train"] * ROUNDS + ["evaluate"]
        assert len(replies) == len(kinds)
        participant, home = job.scenario.participant(name), job.homes[name]
        policy = load_policy(home.policy, simulation=False)
        unfounded[name] = []
        with Ledger.open(home.ledger, name) as ledger:
            for number, (data, kind) in enumerate(zip(replies, kinds, strict=True), start=1):
                said = header(contract, participant, policy, job.run_id, number, kind)
                unfounded[name] += unaccounted(data, said, contract, participant, ledger)
        sizes[name] = [len(data) for data in replies]
        headers[name] = [
            {k: v for k, v in decode(data).header.items() if k not in {"participant", "ledger_head"}}
            for data in replies
        ]
    # What is asked before round 1 is answered by everybody in the same words.
    told = {"wire": "1", "status": "READY", "kind": READY, "run": job.run_id, "round": "1"}
    assert readies == dict.fromkeys(ROWS, told | {"contract": contract.sha256()})
    # The one that leaks is found, and nobody else is.
    assert unfounded == {"ward-a": [], "ward-b": [], BROKEN: ["header incident"] * 3}
    # 240 rows or 137: the same bytes to count, the same words to read.
    assert sizes["ward-a"] == sizes["ward-b"]
    assert headers["ward-a"] == headers["ward-b"]


def test_the_search_can_find(tmp_path: Path) -> None:
    _rows("ward-b", tmp_path / "rows.csv")
    rows = (tmp_path / "rows.csv").read_bytes()
    assert planted_in(rows, PLANTED) == list(PLANTED[:4])


def test_a_request_may_be_cut_before_its_body_and_nowhere_else() -> None:
    body = heartbeat_pb2.SendNodeHeartbeatRequest(heartbeat_interval=30.0).SerializeToString()
    head = b"POST /v1/fleet/send-node-heartbeat HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
    whole, cut = Tap([(bytearray(head + body + head), bytearray())]).calls()
    assert (whole.body, cut.body) == (body, None)
    for sent, why in [(head + body[:2], "half a body"), (head[:-2], "half a head")]:
        with pytest.raises(ValueError, match=why):
            Tap([(bytearray(sent), bytearray())]).calls()


def test_the_page_names_every_field_that_flower_adds() -> None:
    page = (Path(__file__).parents[2] / "docs" / "guarantees.md").read_text(encoding="utf-8")
    assert [name for name in (*FIELDS, *sorted(HEADERS)) if f"`{name}`" not in page] == []
