"""OpenTelemetry: a trace of the run, its rounds and the coordinator's messages, where the standard variables say.

It is off without `--track otel`, and refused without `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`).

Guarantee: a span holds the attributes of `ALLOWED` and nothing else, each of the form that is written there; its name
is one of ours, it has no event, no link and no description. It is checked when it leaves, so whatever made it, another
attribute or another form ends the tracker and is not sent. All of it is read from the coordinator's event file.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Span, Status, StatusCode, set_span_in_context

from consortia.common.errors import InputError
from consortia.common.logs import quieter
from consortia.coordinator.event_file import FILE
from consortia.reports.trackers import TrackedRun, Value

__all__ = ["ALLOWED", "OpenTelemetry", "exporter_from_environment"]

_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_AT_ONCE: Final = 512


def _text(pattern: str) -> Callable[[Any], bool]:
    whole = re.compile(pattern)
    return lambda value: isinstance(value, str) and whole.fullmatch(value) is not None


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


#: The attributes that a span may have, with the form of each. Seconds are numbers; names are those of the roster, which
#: `_Spans` checks besides; a status is OK, NO_ANSWER, a word of the run's own, or the code of a failure.
ALLOWED: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "consortia.run": _text(r"[\w.-]{1,120}"),
        "consortia.scenario": _text(r"[\w.-]{1,80}"),
        "consortia.round": _count,
        "consortia.kind": _text(r"[a-z][a-z_-]{1,29}"),
        "consortia.participant": _text(r"[\w.-]{1,80}"),
        "consortia.bytes.question": _count,
        "consortia.bytes.answer": _count,
        "consortia.replies": _count,
        "consortia.seconds": lambda value: isinstance(value, float) and value >= 0,
        "consortia.status": _text(r"[A-Z][A-Z0-9_]{1,40}"),
    }
)
_NAME: Final = re.compile(r"run|round|step|message [a-z][a-z_-]{1,29}")


def exporter_from_environment() -> SpanExporter:
    """Return the OTLP exporter over HTTP, as the standard variables have it.

    Raises
    ------
    InputError
        No endpoint is set, or another protocol than `http/protobuf`.
    """
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        raise InputError(
            f"--track otel: wanted ${_ENDPOINTS[1]}, the address of an OTLP collector such as http://localhost:4318, "
            "got none"
        )
    protocol = next((found for name in _PROTOCOLS if (found := os.environ.get(name))), "http/protobuf")
    if protocol != "http/protobuf":
        raise InputError(f"${_PROTOCOLS[1]}: wanted http/protobuf, got another protocol; its port is usually 4318")
    return OTLPSpanExporter()


@dataclass
class _Message:
    """A message that was asked; times are seconds since 1970."""

    participant: str
    kind: str
    round: int
    asked: float
    question: int
    heard: float | None = None
    answer: int = 0
    status: str = "NO_ANSWER"


class _Kept(SpanProcessor):
    """Keeps what ended until it is sent."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


class OpenTelemetry:
    """See `consortia.reports.trackers.Tracker`. It sends spans, no values: rounds as they end, the run at its close."""

    def __init__(self, run: TrackedRun) -> None:
        self._file = run.folder / FILE
        self._position = self._file.stat().st_size if self._file.is_file() else 0  # a run that goes on was told before
        self._roster = frozenset(run.facts.get("participants", "").split(", "))
        self._exporter, self._kept = exporter_from_environment(), _Kept()
        service = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "consortia"}
        provider = TracerProvider(resource=Resource.create(service), shutdown_on_exit=False)
        provider.add_span_processor(self._kept)
        self._tracer = provider.get_tracer("consortia")
        self._open: dict[str, _Message] = {}
        self._ended: list[_Message] = []
        self._run = self._start("run", None, time.time(), {"run": run.id, "scenario": run.scenario})

    @staticmethod
    def ready() -> None:
        """Refuse what the environment lacks, before a run starts (`consortia.reports.trackers.chosen`)."""
        exporter_from_environment().shutdown()

    def write(self, new: Sequence[Value]) -> None:
        """See `Tracker`. Values are not sent; the events behind them are.

        Raises
        ------
        ValueError
            A span would hold what is not on the list.
        OSError
            The collector did not take them.
        """
        del new
        self._read()
        self._send()

    def close(self, status: str) -> None:
        """See `Tracker`; raises as `write`."""
        self._read()
        now = time.time()
        for name in list(self._open):
            self._end_message(name)
        self._flush(self._run, now)
        self._run.set_attribute("consortia.status", status.upper())
        self._run.set_status(Status(StatusCode.OK if status == "completed" else StatusCode.ERROR))
        self._run.end(_nanoseconds(now))
        self._send()
        self._exporter.shutdown()

    def _read(self) -> None:
        if not self._file.is_file():
            return
        with self._file.open("rb") as stream:
            stream.seek(self._position)
            data = stream.read()
        data = data[: data.rfind(b"\n") + 1]
        self._position += len(data)
        for line in data.splitlines():
            self._fold(json.loads(line))

    def _fold(self, line: Mapping[str, Any]) -> None:
        event, name, now = line["event"], str(line.get("participant")), float(line["time"])
        if event == "asked":
            self._end_message(name)
            self._open[name] = _Message(name, line["kind"], line["round"], now, line["bytes"])
        elif event == "heard" and name in self._open:
            message = self._open[name]
            message.heard, message.answer, message.status = now, line["bytes"], "OK"
        elif event == "failure" and name in self._open and line["code"] != "LATE_REPLY":
            self._open[name].heard = self._open[name].heard or now
            self._open[name].status = line["code"]
            self._end_message(name)
        elif event in {"start", "end", "round", "step"}:
            for each in [each for each, message in self._open.items() if message.heard is not None]:
                self._end_message(each)
            if event in {"round", "step"}:
                self._end_round(line, now)
            else:
                self._flush(self._run, now)

    def _end_message(self, name: str) -> None:
        if name in self._open:
            self._ended.append(self._open.pop(name))

    def _end_round(self, line: Mapping[str, Any], now: float) -> None:
        own = [each.asked for each in self._ended if each.round == line["round"]]
        begun = min([now - line["seconds"], *own])
        facts = {"round": line["round"], "seconds": float(line["seconds"]), "replies": len(line["replies"])}
        span = self._start(line["event"], self._run, begun, facts)
        self._flush(span, now)
        span.end(_nanoseconds(now))

    def _flush(self, parent: Span, now: float) -> None:
        """End the messages that were answered or given up since the last time, as parts of `parent`."""
        for each in self._ended:
            end = now if each.heard is None else each.heard
            facts: dict[str, Any] = {
                "participant": each.participant,
                "round": each.round,
                "kind": each.kind,
                "bytes.question": each.question,
                "bytes.answer": each.answer,
                "seconds": max(0.0, end - each.asked),
                "status": each.status,
            }
            span = self._start(f"message {each.kind}", parent, each.asked, facts)
            span.set_status(Status(StatusCode.OK if each.status == "OK" else StatusCode.ERROR))
            span.end(_nanoseconds(end))
        self._ended.clear()

    def _start(self, name: str, parent: Span | None, begun: float, facts: Mapping[str, Any]) -> Span:
        context = None if parent is None else set_span_in_context(parent)
        attributes = {f"consortia.{key}": value for key, value in facts.items()}
        return self._tracer.start_span(name, context, attributes=attributes, start_time=_nanoseconds(begun))

    def _send(self) -> None:
        spans, self._kept.spans = self._kept.spans, []
        for span in spans:
            self._check(span)
        with quieter(logging.CRITICAL, "opentelemetry"):
            for start in range(0, len(spans), _AT_ONCE):
                if self._exporter.export(spans[start : start + _AT_ONCE]) is not SpanExportResult.SUCCESS:
                    raise ConnectionError("the collector took no spans")

    def _check(self, span: ReadableSpan) -> None:
        if span.events or span.links or span.status.description or not _NAME.fullmatch(span.name):
            raise ValueError("span: wanted a name of ours and no event, link or description, got another")
        for key, value in (span.attributes or {}).items():
            if key not in ALLOWED or not ALLOWED[key](value):
                raise ValueError("span: wanted the attributes of the list, got another")
            if key == "consortia.participant" and value not in self._roster:
                raise ValueError("span: wanted a participant of the roster, got another")


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
