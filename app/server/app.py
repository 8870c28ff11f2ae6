"""The HTTP core: routes requests and turns every outcome into an answer, without sockets."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
import time
from collections.abc import Callable
from functools import cache
from typing import Literal, NoReturn

import msgspec

from . import log
from .batching import Share
from .errors import Problem
from .http.messages import JSON, Request, Response, encode, problem_response
from .predictor import Predictor
from .protocol.docs_page import read_page
from .protocol.open_inference import error_body
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer

State = Literal["loading", "ready", "draining"]
_READ = frozenset({"GET", "HEAD"})
_WRITE = frozenset({"POST"})
_BODY_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})
"""The last is what `curl -d` sends unasked."""
_BINARY_TYPES = _BODY_TYPES | {"application/octet-stream"}
_READY_WAIT_SECONDS = 0.8
"""A probe that comes while the model loads waits so long for a yes: less than the second that probes wait for."""
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")


class Route(msgspec.Struct, frozen=True):
    """What a path takes."""

    methods: frozenset[str]
    respond: Callable[[Request], None]
    body_types: frozenset[str] = frozenset()
    """Of a prediction: content types that it may have."""


class App:
    """A Core for the connections; on the event loop."""

    def __init__(self, metrics: Metrics, api_key: bytes | None, tracer: Tracer | None = None) -> None:
        self._metrics = metrics
        self._tracer = tracer
        self._authorization = None if api_key is None else b"Bearer " + api_key
        self._log_requests = log.logger.isEnabledFor(logging.DEBUG)
        self._state: State = "loading"
        self._asking: dict[Request, None] = {}
        """Whether it is ready, while it is not known yet; in the order in which they came."""
        self._ids = f"{os.urandom(4).hex()}-%x".encode()
        self._requests = 0
        page = Response(200, *read_page())
        self._routes = {
            "/predict": Route(_WRITE, self._not_ready, _BODY_TYPES),
            "/v2/health/live": Route(
                _READ, lambda request: self.answer(request, Response(200, JSON, b'{"live":true}'))
            ),
            "/v2/health/ready": Route(_READ, self._ready),
            "/metrics": Route(_READ, self._show_metrics),
            "/docs": Route(_READ, lambda request: self.answer(request, page)),
        }

    def open(self, predictor: Predictor, describe: Callable[[], bytes]) -> None:
        """The model is ready to answer; `describe` makes the OpenAPI document, when it is first asked for."""
        model = f"/v2/models/{predictor.model.name}"
        protocol = predictor.protocol
        self._routes["/predict"] = Route(_WRITE, predictor.predict, _BODY_TYPES)
        describe = cache(describe)
        self._routes["/openapi.json"] = Route(
            _READ, lambda request: self.answer(request, Response(200, JSON, describe()))
        )
        self._routes["/v2"] = self._fixed(protocol.server_metadata())
        for path in (model, f"{model}/versions/{predictor.model.version}"):
            self._routes[path] = self._fixed(protocol.model_metadata())
            self._routes[f"{path}/ready"] = Route(_READ, self._ready)
            self._routes[f"{path}/infer"] = Route(_WRITE, predictor.infer, _BINARY_TYPES)
        if self._tracer:
            self._tracer.open(predictor.model.name, predictor.model.version)
        if self._state == "loading":
            self._state = "ready"
        self._answer_asking()

    def _fixed(self, body: bytes) -> Route:
        response = Response(200, JSON, body)
        return Route(_READ, lambda request: self.answer(request, response))

    def drain(self) -> None:
        """Not ready from now on."""
        self._state = "draining"
        self._answer_asking()

    def refuse(self, request: Request) -> Response | None:
        """The answer to a request whose body need not be read, judged by its head."""
        self._give_id(request)
        try:
            self._check_head(request)
        except Problem as problem:
            return self.problem(problem, request)
        return None

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
        if not hmac.compare_digest(request.headers.get(b"authorization", b""), authorization):
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
        except Exception:
            log.logger.exception("request failed", extra={"fields": self._identity(request)})
            self.answer(request, Problem(500, "internal_error", "the server failed; its log says why"))

    def answer(self, request: Request, outcome: Response | Problem, share: Share | None = None) -> None:
        """Send a request's answer; `share` is the run that it came from."""
        response = self._response(outcome, request) if isinstance(outcome, Problem) else outcome
        self._metrics.answered(request.path, response.status)
        if share:
            batch, received = share.batch, request.received
            self._metrics.predicted(batch.started - received, batch.seconds, time.perf_counter() - received)
        if self._log_requests:
            self._log(request, response)
        request.reply(response)
        if self._tracer:
            self._tracer.note(request, response.status, share)

    def problem(self, problem: Problem, request: Request | None) -> Response:
        """The answer to what does not get as far as `handle`."""
        if request and not request.id:
            self._give_id(request)
        response = self._response(problem, request)
        routed = request is not None and request.path in self._routes
        self._metrics.answered(request.path if request and routed else "other", response.status)
        if request and self._log_requests:
            self._log(request, response)
        if request and self._tracer:
            self._tracer.note(request, response.status, None, routed=routed)
        return response

    def _response(self, problem: Problem, request: Request | None) -> Response:
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
            self._asking[request] = None
            asyncio.get_running_loop().call_later(_READY_WAIT_SECONDS, self._give_up_asking, request)
        else:
            self._say_whether_ready(request)

    def _give_up_asking(self, request: Request) -> None:
        if request in self._asking:
            del self._asking[request]
            self._say_whether_ready(request)

    def _answer_asking(self) -> None:
        asking, self._asking = self._asking, {}
        for request in asking:
            self._say_whether_ready(request)

    def _say_whether_ready(self, request: Request) -> None:
        ready = self._state == "ready"
        self.answer(request, Response(200 if ready else 503, JSON, encode({"ready": ready})))

    def _show_metrics(self, request: Request) -> None:
        self.answer(request, Response(200, (("content-type", self._metrics.content_type),), self._metrics.text()))
