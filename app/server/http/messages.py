"""Requests and responses, as the HTTP core sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import Problem

Headers: TypeAlias = tuple[tuple[str, str], ...]
JSON: Headers = (("content-type", "application/json"),)
encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, eq=False):
    """A request: with its head only when the core may refuse it, with its whole body when the core handles it."""

    method: str
    path: str
    """Without the query."""
    headers: dict[bytes, bytes]
    """Values by lower-case name, repeated ones joined by commas. Do not change it: requests may share it."""
    reply: Callable[[Response], None]
    """Call it once, with the answer, at any time."""
    body: bytes = b""
    received: float = 0.0
    """When it was complete, by time.perf_counter(); 0 before."""
    id: bytes = b""
    """Sent back as `x-request-id`; the core sets it."""
    keep_alive: bool = True
    """Whether another request may follow on its connection."""
    early: Response | None = None
    """The answer, where the head was enough to refuse it."""
    abandoned: bool = False
    """Set when the client disconnects."""

    def header(self, name: bytes) -> str | None:
        """Decode a header's value by its lower-case name; None if there is no such header."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer to a request."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False
    """Whether the connection ends after it."""


class Body(Protocol):
    """The body of an answer that has begun."""

    def write(self, piece: bytes) -> bool:
        """Send a piece that is not empty; False: send the next one once `Producer.resume` is called."""
        ...

    def end(self) -> None:
        """Complete the answer."""
        ...


class Producer(Protocol):
    """Makes a body piece by piece, on the event loop."""

    def start(self, body: Body) -> None:
        """Take the body, whose head is sent."""
        ...

    def resume(self) -> None:
        """Go on: the client has taken what it was sent."""
        ...

    def cancel(self) -> None:
        """Write no more: the client has left."""
        ...


class StreamedResponse(Response, frozen=True, kw_only=True, gc=True):
    """An answer whose body `producer` sends after the head; its own `body` is empty."""

    producer: Producer


class ErrorDetail(msgspec.Struct, frozen=True, gc=False):
    """A stable code, a sentence for people, and the JSON path of the field at fault."""

    code: str
    message: str
    path: str | UnsetType = UNSET


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """Body of an error answer, outside the paths of the Open Inference Protocol."""

    error: ErrorDetail


def problem_response(problem: Problem) -> Response:
    """Make a problem's answer: `{"error": {"code", "message", "path"}}`."""
    path = UNSET if problem.path is None else problem.path
    body = ErrorBody(ErrorDetail(problem.code, problem.message, path))
    return Response(problem.status, JSON + problem.headers, encode(body))
