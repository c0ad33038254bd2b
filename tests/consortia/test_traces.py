"""A trace holds a run, its rounds and its messages, and nothing that is not on the list."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from command_line import APP
from finished_run import PLANTED, write_run
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from own_homes import own_homes
from typer.testing import CliRunner

from consortia.common.errors import InputError
from consortia.coordinator.event_file import EventFile
from consortia.engines.options import Options
from consortia.engines.runner import execute, prepare
from consortia.reports import trackers
from consortia.reports.trackers import TrackedRun, otel
from consortia.reports.tracking import Tracking

ROOT = Path(__file__).parents[2]
PRODUCT = ("platform", "clients", "strategies", "privacy")
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    found = InMemorySpanExporter()
    monkeypatch.setattr(otel, "exporter_from_environment", lambda: found)
    return found


def _tracker(folder: Path, *names: str) -> otel.OpenTelemetry:
    folder.mkdir(exist_ok=True)
    return otel.OpenTelemetry(
        TrackedRun(id=folder.name, folder=folder, scenario="banks", facts={"participants": ", ".join(names)})
    )


def _told(memory: InMemorySpanExporter) -> str:
    """Everything that was exported, as text."""
    return "\n".join(span.to_json() for span in memory.get_finished_spans())


def _facts(span: Any) -> dict[str, Any]:
    return {key.removeprefix("consortia."): value for key, value in span.attributes.items()}


def test_a_run_has_its_rounds_and_a_round_its_messages(tmp_path: Path, memory: InMemorySpanExporter) -> None:
    folder = tmp_path / "banks-1"
    tracker = _tracker(folder, "used-car", "other", "late")
    event = EventFile(folder, folder.name)
    event("asked", round=1, participant="used-car", kind="ready", bytes=10)
    event("heard", round=1, participant="used-car", kind="ready", bytes=20)
    event("start", rounds=1, done=0)
    for name in ("used-car", "other", "late"):
        event("asked", round=1, participant=name, kind="train", bytes=1500)
    event("heard", round=1, participant="used-car", kind="train", bytes=700)
    event("heard", round=1, participant="other", kind="train", bytes=7)
    event("failure", round=1, participant="other", attempt=1, code="BAD_REPLY", detail=f"the row of {PLANTED}")
    event("failure", round=1, participant="late", attempt=1, code="NO_REPLY", detail="")
    event("round", round=1, seconds=0.25, replies=["used-car"], members={})
    event("asked", round=2, participant="used-car", kind="evaluate", bytes=11)
    tracker.write([])
    before = {span.name for span in memory.get_finished_spans()}
    assert before == {"message ready", "message train", "round"}  # while the run goes on
    event("end", status="completed", reason=f"the row of {PLANTED}", members={})
    tracker.close("completed")
    spans = memory.get_finished_spans()
    (run,), (round_,) = ([span for span in spans if span.name == name] for name in ("run", "round"))
    assert _facts(run) == {"run": "banks-1", "scenario": "banks", "status": "COMPLETED"}
    assert _facts(round_) == {"round": 1, "seconds": 0.25, "replies": 1}
    assert round_.parent.span_id == run.context.span_id
    train = {_facts(span)["participant"]: span for span in spans if span.name == "message train"}
    assert {span.parent.span_id for span in train.values()} == {round_.context.span_id}
    assert {name: _facts(span)["status"] for name, span in train.items()} == {
        "used-car": "OK", "other": "BAD_REPLY", "late": "NO_REPLY",
    }  # fmt: skip
    told = _facts(train["used-car"])
    assert (told["bytes.question"], told["bytes.answer"], told["kind"], told["round"]) == (1500, 700, "train", 1)
    assert told["seconds"] == pytest.approx((train["used-car"].end_time - train["used-car"].start_time) / 1e9, abs=1e-6)
    assert train["other"].status.status_code is StatusCode.ERROR
    outside = [span for span in spans if span.name in {"message ready", "message evaluate"}]
    assert {span.parent.span_id for span in outside} == {run.context.span_id}
    assert {_facts(span)["status"] for span in outside} == {"OK", "NO_ANSWER"}
    assert all(span.start_time <= span.end_time and span.context.trace_id == run.context.trace_id for span in spans)
    assert "Lovelace" not in _told(memory)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "train Lovelace"},
        {"participant": "Lovelace"},
        {"bytes": "Lovelace"},
        {"round": 3.25},
    ],
)
def test_another_form_than_the_list_has_ends_the_tracker(
    tmp_path: Path, memory: InMemorySpanExporter, change: dict[str, Any]
) -> None:
    folder = tmp_path / "banks-1"
    tracker = _tracker(folder, "used-car")
    event = EventFile(folder, folder.name)
    event("asked", **{"round": 1, "participant": "used-car", "kind": "train", "bytes": 1, **change})
    event("failure", round=1, participant=change.get("participant", "used-car"), code="NO_REPLY", detail="")
    event("round", round=1, seconds=0.25, replies=[], members={})
    with pytest.raises(ValueError, match="got another") as caught:
        tracker.write([])
    assert not memory.get_finished_spans()
    assert "Lovelace" not in str(caught.value)


@pytest.mark.parametrize("where", ["attribute", "event", "description", "name"])
def test_a_tracker_that_adds_something_sends_nothing(tmp_path: Path, memory: InMemorySpanExporter, where: str) -> None:
    folder = tmp_path / "banks-1"
    tracker = _tracker(folder, "used-car")
    if where == "attribute":
        tracker._run.set_attribute("consortia.row", PLANTED)
    elif where == "event":
        tracker._run.record_exception(ValueError(PLANTED))
    elif where == "description":
        tracker._run.set_status(StatusCode.ERROR, PLANTED)
        tracker._run.set_status = lambda _: None  # type: ignore[method-assign]
    else:
        tracker._run.update_name(PLANTED)
    with pytest.raises(ValueError, match="span: wanted"):
        tracker.close("completed")
    assert not memory.get_finished_spans()


def test_what_was_told_before_is_not_told_again(tmp_path: Path, memory: InMemorySpanExporter) -> None:
    folder = write_run(tmp_path)
    tracker = _tracker(folder, "used-car", "other")
    tracker.write([])
    assert not memory.get_finished_spans()


@pytest.mark.end_to_end
def test_a_real_run_is_traced_and_no_row_is_in_it(
    tmp_path: Path, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otel.OpenTelemetry, "ready", staticmethod(lambda: None))
    data = tmp_path / "linear" / "line"
    data.mkdir(parents=True)
    for site in ("a", "b"):
        rows = "\n".join(f"0.4711471{row:02d},3.4711471{row:02d}" for row in range(40))
        (data / f"{site}.csv").write_text(f"x,y\n{rows}\n")
    options = Options(scenario="linear", rounds=2, data=tmp_path, out=tmp_path / "runs")
    job = prepare(options)
    with Tracking(job.folder, trackers.chosen("otel"), pytest.fail):
        assert execute(job, options).result["status"] == "completed"
    spans = memory.get_finished_spans()
    counts = {name: sum(span.name == name for span in spans) for name in ("run", "round", "message train")}
    assert counts == {"run": 1, "round": 2, "message train": 4}
    assert {_facts(span)["participant"] for span in spans if span.name == "message train"} == {"line-a", "line-b"}
    assert all(_facts(span)["bytes.answer"] > 100 for span in spans if span.name == "message train")
    assert {key for span in spans for key in span.attributes} <= set(otel.ALLOWED)
    assert not any(planted in _told(memory) for planted in ("4711471", str(tmp_path)))


def test_it_is_off_without_a_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*otel._ENDPOINTS, *otel._PROTOCOLS):
        monkeypatch.delenv(name, raising=False)
    done = CliRunner().invoke(APP, ["run", "linear", "--track", "otel", "--out", str(tmp_path / "runs")])
    assert done.exit_code == 2
    assert f"wanted ${ENDPOINT}" in done.output
    assert not (tmp_path / "runs").exists()
    monkeypatch.setenv(ENDPOINT, "http://localhost:4317")
    monkeypatch.setenv(otel._PROTOCOLS[1], "grpc")
    with pytest.raises(InputError, match="wanted http/protobuf"):
        trackers.chosen("otel")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "consortia.reports.trackers.otel")
    with pytest.raises(InputError, match=r"consortia\[otel\]"):
        trackers.chosen("otel")


def test_nothing_of_it_is_imported_where_it_is_off() -> None:
    product = [file for room in PRODUCT for file in (ROOT / room).rglob("*.py")]
    assert len(product) > 100
    assert [file.name for file in product if "opentelemetry" in file.read_text()] == ["otel.py"]
    code = (
        "import sys; from consortia.reports import trackers; trackers.names(); trackers.chosen(''); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith(("opentelemetry", f"{trackers.__name__}.otel"))]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """An OTLP collector over HTTP that keeps what it gets."""
    got: list[bytes] = []

    class Collect(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Collect)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setenv(ENDPOINT, f"http://127.0.0.1:{server.server_address[1]}")
    yield got
    server.shutdown()
    server.server_close()


def test_a_collector_gets_the_trace_over_otlp(tmp_path: Path, collector: list[bytes]) -> None:
    tracker = _tracker(tmp_path / "banks-1", "used-car")
    tracker.close("failed")
    request = ExportTraceServiceRequest.FromString(collector[0])
    (resource,) = request.resource_spans
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "consortia"
    (span,) = resource.scope_spans[0].spans
    assert {each.key: each.value.string_value for each in span.attributes}["consortia.status"] == "FAILED"


def test_a_collector_that_is_away_ends_the_tracker_and_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            return otel.SpanExportResult.FAILURE

    monkeypatch.setattr(otel, "exporter_from_environment", Away)
    said: list[str] = []
    with Tracking(write_run(tmp_path), ["otel"], said.append):
        pass
    assert said == ["--track otel: ConnectionError; this run is no longer tracked there"]
    assert not caplog.records


@pytest.mark.end_to_end
def test_a_run_of_flower_processes_is_traced(
    tmp_path: Path, collector: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    own_homes("linear", tmp_path / "homes", monkeypatch, rounds=2)
    options = Options(scenario="linear", rounds=2, engine="flower", out=tmp_path / "runs")
    job = prepare(options)
    with Tracking(job.folder, trackers.chosen("otel"), pytest.fail):
        assert execute(job, options).result["status"] == "completed"
    got = [ExportTraceServiceRequest.FromString(data) for data in collector]
    names = [span.name for each in got for span in each.resource_spans[0].scope_spans[0].spans]
    assert (names.count("run"), names.count("round"), names.count("message train")) == (1, 2, 4)
