"""The HTTP core: routes requests and turns every outcome into an answer. Knows no sockets."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Literal, NoReturn, cast

import msgspec

from . import log
from .batching import Batcher, BatchSlice, Engine, QueueLimits, StreamBatcher
from .errors import OutOfMemory, Problem, problem_of
from .http.messages import JSON, Request, Response, StreamedResponse, encode, problem_response
from .model.calibration import Calibration
from .model.manifest import Manifest
from .predictor import Predictor
from .protocol.docs_page import read_page
from .protocol.open_inference import error_body
from .protocol.predict_json import ModelId
from .settings import Settings
from .streaming import StreamingEngine, Streams
from .telemetry.drift import DriftCounters
from .telemetry.metrics import Metrics
from .telemetry.prediction_log import PredictionLog
from .telemetry.stream_metrics import StreamMetrics
from .telemetry.tracing import Run, Tracer

State = Literal["loading", "ready", "draining"]
_READ = frozenset({"GET", "HEAD"})
_WRITE = frozenset({"POST"})
_BODY_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})
"""The last is what `curl -d` sends by default."""
_BINARY_TYPES = _BODY_TYPES | {"application/octet-stream"}
_PROBE_HOLD_SECONDS = 0.8
"""A readiness probe is held so long while the model loads; Kubernetes' probes time out after a second."""
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Route(msgspec.Struct, frozen=True):
    """A path's methods and handler."""

    methods: frozenset[str]
    respond: Callable[[Request], None]
    body_types: frozenset[str] = frozenset()
    """Content types of a prediction, which needs the key; empty: the path takes no body."""
    vital: bool = False
    """Whether it is answered even when there are too many clients: what sees to the server's health."""


class App:
    """The Core of the connections, on the event loop."""

    def __init__(self, metrics: Metrics, api_key: bytes | None, tracer: Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._authorization = None if api_key is None else b"Bearer " + api_key
        self._log_requests = log.logger.isEnabledFor(logging.DEBUG)
        self._state: State = "loading"
        self._held_probes: dict[Request, None] = {}
        """Readiness probes that wait for the model, in the order in which they came."""
        self._ids = f"{os.urandom(4).hex()}-%x".encode()
        self._requests = 0
        self._streams: Streams | None = None
        self._routes = {
            "/predict": Route(_WRITE, self._not_ready, _BODY_TYPES),
            "/v2/health/live": self._fixed(Response(200, JSON, b'{"live":true}'), vital=True),
            "/v2/health/ready": Route(_READ, self._ready, vital=True),
            "/metrics": Route(_READ, self._show_metrics, vital=True),
            "/docs": self._fixed(Response(200, *read_page())),
        }

    def model_loaded(
        self,
        manifest: Manifest,
        engine: Engine,
        calibration: Calibration,
        settings: Settings,
        prediction_log: PredictionLog | None = None,
    ) -> Batcher:
        """Predict and be ready from now on. Call the batcher's `expire_queued` a few times a second."""
        metrics = self._metrics
        limits = QueueLimits(
            rows=settings.max_queue_rows, bytes=settings.max_queue_bytes, seconds=settings.queue_seconds
        )
        if manifest.predictor and manifest.predictor.streams:
            batcher = StreamBatcher(engine, calibration, limits, metrics)
            self._streams = self._open_streams(manifest, engine, batcher, settings)
        else:
            batcher = Batcher(engine, calibration, limits, metrics)
        predictor = Predictor(
            manifest,
            batcher,
            max_rows=settings.max_rows,
            timeout_seconds=settings.timeout_ms / 1000,
            answer=self.answer,
            prediction_log=prediction_log,
            streams=self._streams,
        )
        metrics.model_loaded(manifest.name, manifest.version, DriftCounters(manifest))
        metrics.watch("model_waiting_rows", "Rows that wait for the model", lambda: batcher.waiting_rows)
        if self._tracer:
            self._tracer.model_loaded(manifest.name, manifest.version)
        self._add_routes(predictor, manifest, settings)
        if self._state == "loading":
            self._state = "ready"
        self._answer_held_probes()
        return batcher

    def _open_streams(self, manifest: Manifest, engine: Engine, batcher: StreamBatcher, settings: Settings) -> Streams:
        metrics = StreamMetrics()
        streams = Streams(
            cast(StreamingEngine, engine),
            batcher,
            self,
            metrics,
            max_streams=settings.max_streams,
            seconds=settings.stream_seconds,
            model=ModelId(manifest.name, manifest.version),
        )
        self._metrics.add(metrics)
        self._metrics.watch("model_active_streams", "Answers that are being sent in pieces", lambda: len(streams))
        return streams

    async def close_streams(self, seconds: float) -> None:
        """End the answers that are being sent in pieces, and wait at most `seconds` for the author's code to end."""
        if self._streams:
            await self._streams.close(seconds)

    def _add_routes(self, predictor: Predictor, manifest: Manifest, settings: Settings) -> None:
        @cache
        def document() -> Response:
            from .protocol.openapi import describe  # seldom wanted

            body = describe(
                manifest,
                max_rows=settings.max_rows,
                max_body_bytes=settings.max_body_bytes,
                timeout_ms=settings.timeout_ms,
                needs_key=settings.api_key is not None,
            )
            return Response(200, JSON, body)

        self._routes["/predict"] = Route(_WRITE, predictor.predict, _BODY_TYPES)
        self._routes["/openapi.json"] = Route(_READ, lambda request: self.answer(request, document()))
        self._routes["/v2"] = self._fixed(Response(200, JSON, predictor.protocol.server_metadata()))
        model = f"/v2/models/{manifest.name}"
        for path in (model, f"{model}/versions/{manifest.version}"):
            self._routes[path] = self._fixed(Response(200, JSON, predictor.protocol.model_metadata()))
            self._routes[f"{path}/ready"] = Route(
                _READ, partial(self._answer_readiness, name=manifest.name), vital=True
            )
            self._routes[f"{path}/infer"] = Route(_WRITE, predictor.infer, _BINARY_TYPES)

    def _fixed(self, response: Response, *, vital: bool = False) -> Route:
        return Route(_READ, lambda request: self.answer(request, response), vital=vital)

    def drain(self) -> None:
        """Be unready from now on, but answer."""
        self._state = "draining"
        self._answer_held_probes()

    def refuse(self, request: Request) -> Response | None:
        """Return the answer to a request whose body need not be read, judged by its head."""
        self._give_id(request)
        try:
            self._check_head(request)
        except Problem as problem:
            return self.problem(problem, request)
        return None

    def vital(self, request: Request) -> bool:
        """Tell probes and scrapes from other requests."""
        route = self._routes.get(request.path)
        return route is not None and route.vital

    def _give_id(self, request: Request) -> None:
        given = request.headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            request.id = given
        else:
            self._requests += 1
            request.id = self._ids % self._requests

    def _check_head(self, request: Request) -> None:
        route = self._routes.get(request.path)
        if route is None:
            if self._state == "loading":
                self._not_ready(request)
            raise Problem(404, "not_found", f"there is nothing at this path; there are {', '.join(self._routes)}")
        if request.method not in route.methods:
            allowed = ", ".join(sorted(route.methods))
            raise Problem(405, "method_not_allowed", f"this path takes {allowed}", headers=(("allow", allowed),))
        if not route.body_types:
            return
        if self._authorization is not None:
            self._check_key(request, self._authorization)
        content_type = request.headers.get(b"content-type", b"")
        if content_type != b"application/json":
            content_type = content_type.decode("latin-1").partition(";")[0].strip().lower()
            if content_type not in route.body_types:
                raise Problem(415, "unsupported_media_type", f"send application/json, not {content_type}")
        if b"content-encoding" in request.headers and request.headers[b"content-encoding"].lower() != b"identity":
            raise Problem(415, "unsupported_media_type", "send the body without a content encoding")

    def _check_key(self, request: Request, authorization: bytes) -> None:
        given = request.headers.get(b"authorization", b"")
        if hmac.compare_digest(given, authorization):
            return
        scheme, _, key = given.partition(b" ")  # in any case, and any number of spaces [RFC 9110 11.1, 11.4]
        if not hmac.compare_digest(b"%b %b" % (scheme.capitalize(), key.lstrip(b" ")), authorization):
            raise Problem(
                401,
                "unauthorized",
                "send the key as `Authorization: Bearer <key>`",
                headers=(("www-authenticate", "Bearer"),),
            )

    def handle(self, request: Request) -> None:
        """Answer a request that was not refused."""
        try:
            self._routes[request.path].respond(request)
        except Problem as problem:
            self.answer(request, problem)
        except Exception as error:
            self.answer(request, problem_of(error, "request_failed", **self._identity(request)))

    def answer(self, request: Request, outcome: Response | Problem, part: BatchSlice | None = None) -> None:
        """Send a request's answer; `part` is its part of the run that it comes from."""
        request.reply(self._settle(request, outcome, part))

    def begin(self, request: Request, response: StreamedResponse) -> None:
        """Send the head of an answer that comes in pieces; `ended` is called after the last of them."""
        self._metrics.answered(request.path, response.status)
        request.reply(response)

    def ended(self, request: Request, response: Response) -> None:
        """Log and trace an answer that came in pieces."""
        if self._log_requests:
            self._log(request, response)
        if self._tracer:
            self._tracer.answered(request, response.status, None)

    def problem(self, problem: Problem, request: Request | None) -> Response:
        """Return the answer to what does not get as far as `handle`."""
        if request and not request.id:
            self._give_id(request)
        return self._settle(request, problem, None)

    def _settle(self, request: Request | None, outcome: Response | Problem, part: BatchSlice | None) -> Response:
        """Count, log and trace an outcome, whichever way its answer goes out."""
        response = self._response(outcome, request) if isinstance(outcome, Problem) else outcome
        if request is None:
            self._metrics.answered("other", response.status)
            return response
        routed = request.path in self._routes
        self._metrics.answered(request.path if routed else "other", response.status)
        if part:
            batch, received = part.batch, request.received
            self._metrics.predicted(batch.started - received, batch.seconds, time.perf_counter() - received)
        if self._log_requests:
            self._log(request, response)
        if self._tracer:
            run = Run(part.end - part.first, part.batch.rows, part.batch.started, part.batch.seconds) if part else None
            self._tracer.answered(request, response.status, run, routed=routed)
        return response

    def _response(self, problem: Problem, request: Request | None) -> Response:
        if isinstance(problem, OutOfMemory):
            self._metrics.out_of_memory()
        response = problem_response(problem)
        if request and request.path.startswith("/v2"):
            return Response(response.status, response.headers, error_body(problem))
        return response

    def _log(self, request: Request, response: Response) -> None:
        seconds = round(time.perf_counter() - request.received, 6) if request.received else None
        log.log(logging.DEBUG, "request", **self._identity(request), status=response.status, seconds=seconds)

    def _identity(self, request: Request) -> dict[str, str]:
        fields = {"method": request.method, "path": request.path, "request_id": request.id.decode("latin-1")}
        traceparent = request.header(b"traceparent")
        return fields | {"traceparent": traceparent} if traceparent else fields

    def _not_ready(self, _: Request) -> NoReturn:
        raise Problem(503, "not_ready", "the model is not loaded yet", headers=(("retry-after", "1"),))

    def _ready(self, request: Request) -> None:
        if self._state == "loading":
            self._held_probes[request] = None
            asyncio.get_running_loop().call_later(_PROBE_HOLD_SECONDS, self._probe_timed_out, request)
        else:
            self._answer_readiness(request)

    def _probe_timed_out(self, request: Request) -> None:
        if request in self._held_probes:
            del self._held_probes[request]
            self._answer_readiness(request)

    def _answer_held_probes(self) -> None:
        held, self._held_probes = self._held_probes, {}
        for request in held:
            self._answer_readiness(request)

    def _answer_readiness(self, request: Request, **model: str) -> None:
        ready = self._state == "ready"
        self.answer(request, Response(200 if ready else 503, JSON, encode({**model, "ready": ready})))

    def _show_metrics(self, request: Request) -> None:
        content_type, text = self._metrics.text(request.header(b"accept") or "")
        self.answer(request, Response(200, (("content-type", content_type), ("vary", "accept")), text))
