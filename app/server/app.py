"""The HTTP core: `handle(request) -> response`, without sockets."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from . import log
from .batching import Batcher
from .codec import Decoder
from .metrics import Metrics
from .problem import Problem

Headers = tuple[tuple[str, str], ...]

_JSON_HEADERS: Headers = (("content-type", "application/json"),)
_CLOSE: Headers = (("connection", "close"),)
_BODY_TYPES = frozenset({"", "application/json", "application/x-www-form-urlencoded"})
"""The second is what `curl -d` sends unasked."""
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Request:
    """What the core needs of a request."""

    method: str
    path: str
    header: Callable[[str], str | None]
    """A header's value by its lower-case name."""
    body: Callable[[], Awaitable[bytes]]
    """Reads the body; a Problem with status 413 when it is too long."""


@dataclass(frozen=True)
class Response:
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes


class ModelId(msgspec.Struct, frozen=True):
    """Which model answered."""

    name: str
    version: str


class Answer(msgspec.Struct, frozen=True):
    """The answer to one row."""

    model: ModelId
    prediction: Any


class Answers(msgspec.Struct, frozen=True):
    """The answer to many rows."""

    model: ModelId
    predictions: list[Any]


class App:
    """Routes requests and turns every outcome into a JSON answer; `handle` never raises an Exception."""

    def __init__(
        self, *, model: ModelId, decoder: Decoder, batcher: Batcher, metrics: Metrics, api_key: bytes | None
    ) -> None:
        self.draining = False
        """Set once, when the process is asked to stop: not ready any more, and every answer closes its connection."""
        self._model = model
        self._decoder = decoder
        self._batcher = batcher
        self._metrics = metrics
        self._authorization = None if api_key is None else b"Bearer " + api_key
        self._routes: dict[str, tuple[frozenset[str], Callable[[Request], Awaitable[Response]]]] = {
            "/predict": (frozenset({"POST"}), self._predict),
            "/v2/health/live": (frozenset({"GET", "HEAD"}), self._live),
            "/v2/health/ready": (frozenset({"GET", "HEAD"}), self._ready),
            "/metrics": (frozenset({"GET", "HEAD"}), self._show_metrics),
        }

    async def handle(self, request: Request) -> Response:
        """Answer a request."""
        try:
            response = await self._route(request)
        except Problem as problem:
            response = _problem_response(problem)
        except Exception:
            log.logger.exception("request failed", extra={"fields": {"path": request.path}})
            response = _problem_response(Problem(500, "internal_error", "the server failed; its log says why"))
        self._metrics.answered(request.path if request.path in self._routes else "other", response.status)
        if log.logger.isEnabledFor(logging.DEBUG):
            log.log(logging.DEBUG, "request", method=request.method, path=request.path, status=response.status)
        if self.draining:
            return Response(response.status, response.headers + _CLOSE, response.body)
        return response

    async def _route(self, request: Request) -> Response:
        route = self._routes.get(request.path)
        if route is None:
            raise Problem(404, "not_found", f"there is nothing at this path; there are {', '.join(self._routes)}")
        methods, respond = route
        if request.method not in methods:
            allowed = ", ".join(sorted(methods))
            raise Problem(405, "method_not_allowed", f"this path takes {allowed}", headers=(("allow", allowed),))
        return await respond(request)

    async def _live(self, _: Request) -> Response:
        return Response(200, _JSON_HEADERS, b'{"live":true}')

    async def _ready(self, _: Request) -> Response:
        if self.draining:
            return Response(503, _JSON_HEADERS, b'{"ready":false}')
        return Response(200, _JSON_HEADERS, b'{"ready":true}')

    async def _show_metrics(self, _: Request) -> Response:
        return Response(200, (("content-type", self._metrics.content_type),), self._metrics.text())

    async def _predict(self, request: Request) -> Response:
        start = time.perf_counter()
        try:
            self._check_key(request)
            _check_content_type(request)
            rows = self._decoder.decode(await request.body())
            predictions = await self._batcher.predict(rows.values)
            for index, prediction in enumerate(predictions):
                if isinstance(prediction, Problem):
                    prediction.path = "$.input" if rows.alone else f"$.input[{index}]"
                    raise prediction
            answer = Answer(self._model, predictions[0]) if rows.alone else Answers(self._model, predictions)
            return Response(200, _JSON_HEADERS, _encode(answer))
        finally:
            self._metrics.predicted(time.perf_counter() - start)

    def _check_key(self, request: Request) -> None:
        if self._authorization is None:
            return
        given = (request.header("authorization") or "").encode()
        if not hmac.compare_digest(given, self._authorization):
            raise Problem(
                401,
                "unauthorized",
                "send the key as `Authorization: Bearer <key>`",
                headers=(("www-authenticate", "Bearer"),),
            )


def _check_content_type(request: Request) -> None:
    content_type = (request.header("content-type") or "").partition(";")[0].strip().lower()
    if content_type not in _BODY_TYPES:
        raise Problem(415, "unsupported_media_type", f"send application/json, not {content_type}")


def _problem_response(problem: Problem) -> Response:
    error = {"code": problem.code, "message": problem.message}
    if problem.path is not None:
        error["path"] = problem.path
    return Response(problem.status, _JSON_HEADERS + problem.headers, _encode({"error": error}))
