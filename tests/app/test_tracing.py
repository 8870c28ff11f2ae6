from __future__ import annotations

import gzip
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from server.errors import StartError
from server.http.messages import Request
from server.telemetry.tracing import Run, Tracer, open_tracer
from tests.app.conftest import StartServer
from tests.app.harness import APP, SETOSA

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{CALLER}-01"
BODY = json.dumps({"input": SETOSA})
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


# --- whether it is on


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {ENDPOINT: " "},
        {"OTEL_TRACES_EXPORTER": "none", ENDPOINT: "http://collector:4318"},
        {"OTEL_SDK_DISABLED": "TRUE", ENDPOINT: "http://collector:4318"},
        {"OTEL_SERVICE_NAME": "model"},
    ],
)
def test_it_is_off_unless_it_is_asked_for(environment: dict[str, str]) -> None:
    assert open_tracer(environment) is None


@pytest.mark.parametrize(
    "environment",
    [
        {ENDPOINT: "http://127.0.0.1:9"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
        {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
    ],
)
def test_it_is_on_where_it_is_asked_for(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)  # what OpenTelemetry reads itself
    tracer = open_tracer(environment)
    assert tracer is not None
    tracer.close(5)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER='zipkin' must be otlp or none"),
        ({ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "must be http/protobuf, not 'grpc'"),
    ],
)
def test_what_it_cannot_do_is_a_reason_not_to_start(environment: dict[str, str], reason: str) -> None:
    with pytest.raises(StartError, match=reason):
        open_tracer(environment)


def test_missing_packages_are_named_with_the_way_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(StartError, match=r"pip install -r app/requirements-otel\.lock, or .* EXTRAS=otel"):
        open_tracer({ENDPOINT: "http://collector:4318"})
    assert (APP / "requirements-otel.lock").is_file()


def test_opentelemetry_is_not_imported_while_it_is_off() -> None:
    program = (
        "import sys, server.lifecycle as l, server.model, server.predictor; l.open_tracer({});"
        "sys.exit(any(name.startswith('opentelemetry') for name in sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(APP)}, check=False)
    assert run.returncode == 0


# --- spans


class Noted:
    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracer = Tracer(SimpleSpanProcessor(self.exporter))
        self.tracer.model_loaded("iris", "3")

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> Noted:
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    return Noted()


def request(path: str = "/predict", method: str = "POST", **headers: str) -> Request:
    made = Request(method, path, {name.encode(): value.encode() for name, value in headers.items()}, print)
    made.id = b"abc"
    made.received = time.perf_counter() - 0.5
    return made


def run_of(asked: Request) -> Run:
    return Run(rows=2, batch_rows=5, started=asked.received + 0.125, seconds=0.25)


def test_a_prediction_is_a_span_in_the_callers_trace_with_its_wait_and_its_run_inside(noted: Noted) -> None:
    asked = request(traceparent=TRACEPARENT, tracestate="vendor=1")
    before = time.time_ns()
    noted.tracer.answered(asked, 200, run_of(asked))
    server, queue, run = (noted.spans[name] for name in ("POST /predict", "queue", "run"))
    assert server.parent is not None
    assert f"{server.parent.trace_id:032x}/{server.parent.span_id:016x}" == f"{TRACE}/{CALLER}"
    assert server.parent.trace_state["vendor"] == "1"
    assert server.kind is SpanKind.SERVER
    assert server.context is not None
    assert server.context.trace_id == int(TRACE, 16)
    assert queue.parent == run.parent == server.context
    assert queue.context is not None
    assert run.context is not None
    assert queue.context.trace_id == run.context.trace_id == server.context.trace_id
    assert server.start_time is not None
    assert server.end_time is not None
    assert server.end_time - server.start_time == pytest.approx(500e6, rel=0.02)
    assert before <= server.end_time <= time.time_ns()
    moments = [queue.start_time, queue.end_time, run.start_time, run.end_time]
    assert [moment - server.start_time for moment in moments if moment] == pytest.approx([0, 125e6, 125e6, 375e6])


def test_a_span_says_what_was_asked_and_answered_by_the_semantic_conventions(noted: Noted) -> None:
    asked = request(**{"user-agent": "curl/8"})
    noted.tracer.answered(asked, 200, run_of(asked))
    assert dict(noted.spans["POST /predict"].attributes or {}) == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/predict",
        "url.path": "/predict",
        "url.scheme": "http",
        "user_agent.original": "curl/8",
        "request.id": "abc",
        "model.name": "iris",
        "model.version": "3",
        "model.rows": 2,
        "model.batch.rows": 5,
    }
    assert noted.spans["POST /predict"].resource.attributes["service.name"] == "model-endpoint"
    assert noted.spans["POST /predict"].parent is None


def test_the_service_has_the_name_that_the_environment_gives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "fraud")
    noted = Noted()
    noted.tracer.answered(request(), 200, None)
    assert noted.spans["POST /predict"].resource.attributes["service.name"] == "fraud"


@pytest.mark.parametrize(("status", "failed"), [(422, False), (429, False), (500, True), (504, True)])
def test_only_the_servers_own_failures_are_errors(noted: Noted, status: int, failed: bool) -> None:
    noted.tracer.answered(request(), status, None)
    span = noted.spans["POST /predict"]
    assert (span.status.status_code is StatusCode.ERROR) is failed
    assert (span.attributes or {}).get("error.type") == (str(status) if failed else None)
    assert list(noted.spans) == ["POST /predict"]


def test_no_name_is_made_of_what_a_client_invents(noted: Noted) -> None:
    invented = request("/secret-17", "PROPFIND")
    invented.received = 0.0  # refused by its head
    noted.tracer.answered(invented, 404, None, routed=False)
    (span,) = noted.spans.values()
    assert span.name == "_OTHER"
    assert (span.attributes or {})["http.request.method_original"] == "PROPFIND"
    assert span.start_time == span.end_time


def test_a_broken_traceparent_begins_a_new_trace(noted: Noted) -> None:
    noted.tracer.answered(request(traceparent="00-0-0-01"), 200, None)
    assert noted.spans["POST /predict"].parent is None


def test_probes_and_scrapes_are_not_traced_and_neither_is_what_the_caller_did_not_sample(noted: Noted) -> None:
    for path in ("/metrics", "/v2/health/ready", "/v2/health/live"):
        noted.tracer.answered(request(path, "GET"), 200, None)
    unsampled = request(traceparent=f"00-{TRACE}-{CALLER}-00")
    noted.tracer.answered(unsampled, 200, run_of(unsampled))
    assert noted.spans == {}


# --- over HTTP


class Collector:
    """Takes what is exported over OTLP/HTTP."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                if self.headers["content-encoding"] == "gzip":
                    content = gzip.decompress(content)
                assert self.path == "/v1/traces"
                collector.requests.append(ExportTraceServiceRequest.FromString(content))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any, **__: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def spans(self) -> list[Span]:
        scopes = [scope for each in self.requests for spans in each.resource_spans for scope in spans.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_the_last_spans_reach_the_collector_before_the_process_ends(
    start_server: StartServer, collector: Collector, compression: str
) -> None:
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_EXPORTER_OTLP_COMPRESSION=compression)
    before = time.time_ns()
    assert server.post(BODY, headers={"traceparent": TRACEPARENT}).status_code == 200
    assert server.post("{").status_code == 400
    assert httpx.get(f"{server.url}/nothing", trust_env=False).status_code == 404
    server.signal()
    assert server.wait() == 0
    spans = {span.name: span for span in collector.spans if span.trace_id.hex() == TRACE}
    answer, queue, run = (spans.pop(name) for name in ("POST /predict", "queue", "run"))
    assert not spans
    assert answer.parent_span_id.hex() == CALLER
    assert queue.parent_span_id == run.parent_span_id == answer.span_id
    assert before <= answer.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano == run.start_time_unix_nano <= run.end_time_unix_nano
    assert run.end_time_unix_nano <= answer.end_time_unix_nano <= time.time_ns()
    others = [span.name for span in collector.spans if span.trace_id.hex() != TRACE]
    assert sorted(others) == ["GET", "POST /predict"]


def test_a_collector_that_is_not_there_costs_no_answer_and_little_time_at_the_end(start_server: StartServer) -> None:
    server = start_server(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_BSP_SCHEDULE_DELAY="100")
    for _ in range(3):
        assert server.post(BODY).status_code == 200
    server.signal()
    assert server.wait(6) == 0
    assert all(line["level"] in ("info", "warning", "error") for line in server.logs)


def test_a_server_that_cannot_trace_as_it_is_asked_to_does_not_start(start_server: StartServer) -> None:
    server = start_server(OTEL_TRACES_EXPORTER="jaeger")
    assert server.wait() == 1
    assert "OTEL_TRACES_EXPORTER" in server.event("cannot_start")["reason"]
