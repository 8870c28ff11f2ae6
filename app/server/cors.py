"""App for pages of other origins: which of them may read its answers [Fetch standard, CORS protocol]."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from .app import App
from .batching import BatchSlice
from .errors import Problem
from .http.messages import Headers, Request, Response, StreamedResponse
from .settings import Origins
from .telemetry.metrics import Metrics
from .telemetry.tracing import Tracer

_Response = TypeVar("_Response", bound=Response)

_REQUEST_HEADERS = (
    "authorization",
    "content-encoding",
    "content-type",
    "inference-header-content-length",
    "traceparent",
    "tracestate",
    "x-request-id",
    "x-request-timeout-ms",
)
"""The headers that the server reads, beyond those that every page may send."""
_ANSWER_HEADERS = ("allow", "inference-header-content-length", "retry-after", "www-authenticate", "x-request-id")
"""The headers of its answers, beyond those that every page may read."""
_PREFLIGHT: Headers = (
    ("access-control-allow-methods", "GET, HEAD, POST"),
    ("access-control-allow-headers", ", ".join(_REQUEST_HEADERS)),
    ("access-control-max-age", "600"),
)


class CorsApp(App):
    """An App whose answers pages of `origins` may read, without cookies.

    A class of its own, so that a server without such a list does nothing for it.
    """

    def __init__(self, metrics: Metrics, api_key: bytes | None, tracer: Tracer | None, origins: Origins) -> None:
        super().__init__(metrics, api_key, tracer)
        self._origins = origins

    def vital(self, request: Request) -> bool:
        """Let preflights through: without the answer to one, a page cannot read that there are too many clients."""
        return self._is_preflight(request) or super().vital(request)

    def handle(self, request: Request) -> None:
        """Answer a preflight for any path: the request itself is told what is wrong with it."""
        if not self._is_preflight(request):
            super().handle(request)
            return
        self._metrics.answered("other", 200)  # not a prediction, whatever its path
        response = self._labelled(Response(200, _PREFLIGHT, b""), request)
        if self._log_requests:
            self._log(request, response)
        request.reply(response)

    def begin(self, request: Request, response: StreamedResponse) -> None:
        """Send the head of an answer that comes in pieces."""
        super().begin(request, self._labelled(response, request))

    def _check_head(self, request: Request) -> None:
        if not self._is_preflight(request):
            super()._check_head(request)

    def _settle(self, request: Request | None, outcome: Response | Problem, part: BatchSlice | None) -> Response:
        return self._labelled(super()._settle(request, outcome, part), request)

    def _is_preflight(self, request: Request) -> bool:
        return (
            request.method == "OPTIONS"
            and b"access-control-request-method" in request.headers
            and request.headers.get(b"origin") in self._origins
        )

    def _labelled(self, response: _Response, request: Request | None) -> _Response:
        headers = dict(response.headers)
        headers["vary"] = f"{headers['vary']}, origin" if "vary" in headers else "origin"
        origin = request.headers.get(b"origin") if request else None
        if origin is not None and origin in self._origins:
            headers["access-control-allow-origin"] = origin.decode("ascii")
            headers["access-control-expose-headers"] = ", ".join(_ANSWER_HEADERS)
        return msgspec.structs.replace(response, headers=tuple(headers.items()))
