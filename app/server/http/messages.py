"""A request and its answer, as the HTTP core sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from ..errors import Problem

Headers: TypeAlias = tuple[tuple[str, str], ...]
JSON: Headers = (("content-type", "application/json"),)
encode = msgspec.json.Encoder().encode


class Request(msgspec.Struct, eq=False):
    """A request, first with its head only; the body is complete when the core is asked to handle it."""

    method: str
    path: str
    """Without the query."""
    headers: dict[bytes, bytes]
    """By lower-case name; what comes more than once is joined by commas. Not to be changed: requests may share them."""
    reply: Callable[[Response], None]
    """To be called once, with the answer, at any time."""
    body: bytes = b""
    received: float = 0.0
    """When it was complete, as time.perf_counter()."""
    id: bytes = b""
    """Goes out as `x-request-id`; the core's to set."""
    keep_alive: bool = True
    """Whether the client may send another one on its connection."""
    early: Response | None = None
    """The answer, where the head was enough to give it."""
    abandoned: bool = False
    """Whether the client has left: there is nobody to answer."""

    def header(self, name: bytes) -> str | None:
        """A header's value by its lower-case name."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")


class Response(msgspec.Struct, frozen=True, gc=False):
    """A whole answer."""

    status: int
    headers: Headers
    body: bytes
    close: bool = False
    """End the connection after it."""


class ErrorDetail(msgspec.Struct, frozen=True, gc=False):
    """What went wrong: a stable code, a sentence for people, and the field at fault."""

    code: str
    message: str
    path: str | UnsetType = UNSET


class ErrorBody(msgspec.Struct, frozen=True, gc=False):
    """The body of an error, outside the paths of the Open Inference Protocol."""

    error: ErrorDetail


def problem_response(problem: Problem) -> Response:
    """An error's answer: `{"error": {"code", "message", "path"}}`."""
    path = UNSET if problem.path is None else problem.path
    body = ErrorBody(ErrorDetail(problem.code, problem.message, path))
    return Response(problem.status, JSON + problem.headers, encode(body))
