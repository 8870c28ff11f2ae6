"""OpenTelemetry: a span for each answered request, with its queueing and the model's run as spans inside.

An optional extra, configured by OpenTelemetry's own environment variables. It is on where OTEL_EXPORTER_OTLP_ENDPOINT
(or its _TRACES_ form) names a collector or OTEL_TRACES_EXPORTER is `otlp`, unless the latter is `none` or
OTEL_SDK_DISABLED is true. Spans go out over HTTP in the background; sampling, batches, headers and resource are as the
other variables say.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from .. import log
from ..errors import StartError
from ..http.messages import Request

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import SpanProcessor

_SERVICE = "model-endpoint"
_PROTOCOL = "http/protobuf"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"})
"""Those that the semantic conventions for HTTP know; others are named _OTHER."""
_UNTRACED = frozenset({"/metrics", "/v2/health/live", "/v2/health/ready"})
"""Paths that machines ask for all the time."""


class Run(NamedTuple):
    """The model's run that answered a request."""

    rows: int
    """Rows of the request."""
    batch_rows: int
    started: float
    """Start of the run, as time.perf_counter()."""
    seconds: float


def open_tracer(environment: Mapping[str, str]) -> Tracer | None:
    """Return the tracer, if the environment asks for one; a StartError where it asks for what is not there."""
    if not _asked_for(environment):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise StartError(
            "the OTEL_* variables ask for tracing, and OpenTelemetry is not installed: "
            "pip install -r app/requirements-otel.lock, or build the image with --build-arg EXTRAS=otel; "
            "OTEL_TRACES_EXPORTER=none turns tracing off"
        ) from None
    logger = logging.getLogger("opentelemetry")
    logger.handlers = log.logger.handlers
    logger.propagate = False
    return Tracer(BatchSpanProcessor(OTLPSpanExporter()))


def _asked_for(environment: Mapping[str, str]) -> bool:
    def read(*names: str) -> str:
        return next(filter(None, (environment.get(name, "").strip() for name in names)), "")

    if read("OTEL_SDK_DISABLED").lower() == "true":
        return False
    endpoint = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = read("OTEL_TRACES_EXPORTER") or ("otlp" if endpoint else "none")
    protocol = read("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOL
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise StartError(f"OTEL_TRACES_EXPORTER={exporter!r} must be otlp or none")
    if protocol != _PROTOCOL:
        raise StartError(f"the OpenTelemetry protocol must be {_PROTOCOL}, not {protocol!r}")
    return True


class Tracer:
    """Makes spans after the fact. On the event loop it only works in memory."""

    def __init__(self, processor: SpanProcessor) -> None:
        from opentelemetry import trace
        from opentelemetry.context import Context
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer(_SERVICE)
        self._propagator = TraceContextTextMapPropagator()
        self._api = trace
        self._nowhere = Context()
        self._model: dict[str, str] = {}

    def model_loaded(self, name: str, version: str) -> None:
        """Name this model in the spans from now on."""
        self._model = {"model.name": name, "model.version": version}

    def answered(self, request: Request, status: int, run: Run | None, *, routed: bool = True) -> None:
        """Make the spans of a request that is answered now.

        `routed`: there is something at the request's path. If not, the path is in no span's name.
        """
        if request.path in _UNTRACED:
            return
        now, now_ns = time.perf_counter(), time.time_ns()

        def unix_ns(moment: float) -> int:
            return now_ns - round((now - moment) * 1e9)

        carrier = {name: value for name in ("traceparent", "tracestate") if (value := request.header(name.encode()))}
        method = request.method if request.method in _METHODS else "_OTHER"
        attributes: dict[str, str | int] = {
            "http.request.method": method,
            "http.response.status_code": status,
            "url.path": request.path,
            "url.scheme": "http",
            "request.id": request.id.decode("latin-1"),
            **self._model,
        }
        if routed:
            attributes["http.route"] = request.path
        if method != request.method:
            attributes["http.request.method_original"] = request.method
        agent = request.header(b"user-agent")
        if agent:
            attributes["user_agent.original"] = agent
        if run:
            attributes["model.rows"] = run.rows
            attributes["model.batch.rows"] = run.batch_rows
        received = request.received or now
        span = self._tracer.start_span(
            f"{method} {request.path}" if routed else method,
            self._propagator.extract(carrier, self._nowhere),
            self._api.SpanKind.SERVER,
            attributes,
            start_time=unix_ns(received),
        )
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(self._api.StatusCode.ERROR)
        if run and span.is_recording():
            inside = self._api.set_span_in_context(span, self._nowhere)
            self._part("queue", inside, unix_ns(received), unix_ns(run.started))
            self._part("run", inside, unix_ns(run.started), unix_ns(run.started + run.seconds))
        span.end(now_ns)

    def _part(self, name: str, inside: Context, start: int, end: int) -> None:
        self._tracer.start_span(name, inside, start_time=start).end(end)

    def close(self, seconds: float) -> None:
        """Send what has not been sent, within `seconds`."""
        sending = threading.Thread(target=self._provider.shutdown, name="tracing-close", daemon=True)
        sending.start()
        sending.join(seconds)
        if sending.is_alive():
            log.error("traces_lost", reason="the collector did not take the last ones in time", seconds=seconds)
