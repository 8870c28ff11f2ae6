"""HTTP/1.1 with one client, on the event loop. llhttp parses (by httptools); this keeps order, limits and time.

A connection is in one of four states:

    OPEN       requests are read and answered, in their order
      -> FINISHING  the client's last request is complete (`connection: close`, HTTP/1.0), or one is rejected: not HTTP,
                    beyond a limit, too slow
      -> LINGERING  an answer is the connection's last (draining, `Response.close`), or it was idle for too long
    FINISHING  nothing more is read; complete requests are answered, the last of them or the rejection at the end
      -> LINGERING  that answer is written
    LINGERING  all is answered, the server's side is closed; what still comes is discarded, for a bounded time
      -> CLOSED     the client closes, or its time is up
    CLOSED     the transport is gone; this is also where a client that leaves ends, from any state

Reading and answering go on side by side, since clients send requests ahead: `_incoming` is the request being read,
`_queue` holds complete ones, `_active` is the one being answered, `_producer` makes its body if that comes piece by
piece. Each side can be held up: writing while the client does not take its answers (`_blocked_since`), reading while
too many requests wait (`_reading_paused`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple, NoReturn, Protocol, cast
from urllib.parse import unquote_to_bytes

import httptools

from ..errors import Problem
from .messages import Headers, Producer, Request, Response, StreamedResponse

_MAX_PIPELINED_REQUESTS = 16
"""Waiting requests of one client; beyond, its bytes are left in the kernel."""
_PIECE_BYTES = 8_192
"""Parsed at a time, or a body's rest if that is more: unparsed bytes take less memory than the requests in them."""
_MAX_SKIPPED_BODY_BYTES = 65_536
"""A refused request's body is skipped up to this size; with a larger one the connection is closed instead."""
_LINGER_SECONDS = 2.0
"""From half-close to abort: a reset while the client still sends would take the last answer from it."""
_SMALL_PART_BYTES = 1_024
"""Smaller parts of a body are joined at once: an object for each would take a multiple of its bytes."""
_HEADER_OVERHEAD_BYTES = 32
"""Counted for each header besides name and value, as in HTTP/2's SETTINGS_MAX_HEADER_LIST_SIZE."""
_UPGRADE_HEADERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
_HEAD_END = b"\r\n\r\n"
_MAX_KNOWN_HEADS = 512
_MAX_KNOWN_HEAD_BYTES = 2048
_UNCACHEABLE_HEADERS = frozenset({b"expect", b"upgrade", b"transfer-encoding", b"traceparent", b"x-request-id"})
"""Headers that need more than their values, or differ from request to request."""
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds on what a client may use, and the answer or end beyond them."""

    body_bytes: int
    """One request's body: 413."""
    all_bodies_bytes: int
    """Bodies of all requests that are being read or answered: 429."""
    head_bytes: int = 32_768
    """Request line and headers: 431."""
    read_seconds: float = 30.0
    """From a request's first byte to its last: 408; and for taking an answer: the connection is aborted."""
    idle_seconds: float = 75.0
    """Keep-alive between requests: above the 60 s of common load balancers, which must be the first to close."""
    connections: int = 16_384
    """Clients at a time; the next ones get spare connections, and the place of an idle client once they ask."""
    spare_connections: int = 1_024
    """Connections beyond: vital requests are answered, others with 503 unless a client is idle; for one more the
    oldest is aborted."""


class Core(Protocol):
    """Answers requests."""

    def refuse(self, request: Request) -> Response | None:
        """Judge a request by its head: the answer if its body need not be read, else None."""
        ...

    def vital(self, request: Request) -> bool:
        """Judge by its head whether a request is answered even on a spare connection."""
        ...

    def handle(self, request: Request) -> None:
        """Answer through `request.reply`, now or later. Never raises."""
        ...

    def problem(self, problem: Problem, request: Request | None) -> Response:
        """Make the answer to what is not a proper request; `request` is None before its head is complete."""
        ...


class _Head(NamedTuple):
    """A parsed head."""

    method: str
    path: str
    headers: dict[bytes, bytes]
    body_bytes: int


class Shared:
    """State that the connections of one server share."""

    def __init__(self, core: Core, limits: Limits, on_close: Callable[[], None] = lambda: None) -> None:
        self.core = core
        self.limits = limits
        self.connections: set[Connection] = set()
        self.spare: dict[Connection, bool] = {}
        """Those of them beyond the limit, the oldest first, and whether it has asked for something."""
        self.idle: list[Connection] | None = None
        """Clients within the limit that are idle, the longest at the end; None until they are looked for in a tick."""
        self.refused = 0
        """Connections that got a 503 for being beyond the limit, or were ended in favour of others."""
        self.heads: dict[bytes, _Head] = {}
        """Parsed heads of whole requests, by their bytes."""
        self.body_bytes = 0
        """Bodies of all requests that are being read or answered."""
        self.now = 0.0
        """The event loop's time in seconds, a tick ago at most."""
        self.date = b""
        """The `date` header with its line end."""
        self.draining = False
        """Whether every answer is its connection's last."""
        self.on_close = on_close


class _State(Enum):
    """See the head of this module."""

    OPEN = auto()
    FINISHING = auto()
    LINGERING = auto()
    CLOSED = auto()


_OPEN, _FINISHING, _LINGERING, _CLOSED = _State  # a member's look-up by its class costs ten times as much


class _StopParserError(Exception):
    """Raised by the parser's callbacks; httptools turns it into an HttpParserError."""


class _Incoming:
    """The request being read, if one has begun; reused, since an object for each would cost 5 % of its parsing."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget the request."""
        self.since: float | None = None
        """Time of its first byte, renewed when reading goes on after a pause; None between requests."""
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.head_bytes = 0
        """Including trailers, and an overhead for each header."""
        self.bare_bytes = 0
        """Bytes of pieces that brought nothing of the body and not the request's end."""
        self.request: Request | None = None
        """Set when the head is complete."""
        self.refused = False
        """Whether the body is skipped."""
        self.declared_body_bytes = 0
        """By content-length; 0 if chunked."""
        self.parts: list[bytes | bytearray] = []
        self.body_bytes = 0
        """Sum of `parts`."""
        self.rejection: Response | None = None
        """The answer, where a callback stopped the parser."""


class Connection(asyncio.Protocol):
    """One client."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._refuse = shared.core.refuse
        self._parser = httptools.HttpRequestParser(self)
        self._transport = cast(asyncio.Transport, None)
        self._state = _OPEN
        self.since = shared.now
        """When the latest answer was given; in LINGERING, when that began."""
        self._incoming = _Incoming()
        self._whole = b""
        """The piece being parsed, if a request starts with it."""
        self._unread: bytes | memoryview = b""
        """Bytes that came but are not parsed yet."""
        self._queue: deque[Request] = deque()
        """Complete requests; empty, unless one is being answered or writing is blocked."""
        self._active: Request | None = None
        self._producer: Producer | None = None
        """Set from the head of an answer in pieces to its end."""
        self._advancing = False
        """Whether `_advance` runs: an answer given at once must not nest it."""
        self._reading_paused = False
        self._blocked_since: float | None = None
        """Since when the client has not taken what is written; None if it does."""

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new client, on a spare connection if there are too many."""
        self._transport = cast(asyncio.Transport, transport)
        shared = self._shared
        shared.connections.add(self)
        if len(shared.connections) - len(shared.spare) > self._limits.connections:
            self._become_spare()

    def data_received(self, data: bytes) -> None:
        """Read what the client has sent."""
        if self._state is not _OPEN:
            return
        between_requests = self._incoming.since is None
        if between_requests and self._active is None and self._blocked_since is None and self._take_known(data):
            return
        if len(data) <= _PIECE_BYTES:
            self._whole = data if between_requests else b""
            self._parse(data)
            self._whole = b""
        else:
            self._unread = memoryview(data)
            self._advance()

    def _take_known(self, data: bytes) -> bool:
        """Take a whole request whose head was parsed before, byte for byte, on whichever connection.

        Most clients send the same few heads over and over; parsing them is a third of what a small request costs.
        """
        shared = self._shared
        end = data.find(_HEAD_END) + len(_HEAD_END)
        head = shared.heads.get(data[:end])
        if head is None or len(data) != end + head.body_bytes:
            return False
        if shared.body_bytes + head.body_bytes > self._limits.all_bodies_bytes:
            return False
        request = Request(head.method, head.path, head.headers, self._reply, data[end:])
        request.early = self._refuse(request)
        if request.early:
            request.body = b""
        else:
            shared.body_bytes += head.body_bytes
        request.received = time.perf_counter()
        self._start(request)
        return True

    def _remember(self, request: Request) -> None:
        """Keep the head of a request that came in one piece, unless it is one that does not come again."""
        data, shared = self._whole, self._shared
        end = data.find(_HEAD_END) + len(_HEAD_END)
        body_bytes = len(data) - end
        if (
            body_bytes == len(request.body)
            and not request.early
            and request.keep_alive
            and end <= _MAX_KNOWN_HEAD_BYTES
            and _UNCACHEABLE_HEADERS.isdisjoint(request.headers)
        ):
            if len(shared.heads) >= _MAX_KNOWN_HEADS:
                shared.heads.clear()
            shared.heads[data[:end]] = _Head(request.method, request.path, request.headers, body_bytes)

    def eof_received(self) -> bool:
        """Close: a client that has left looks the same as one that only sends no more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of everything: the connection has ended, on whichever side."""
        del exc  # whatever the reason
        self._state = _CLOSED
        if self._active:
            self._active.abandoned = True
            self._release()
        producer, self._producer = self._producer, None
        if producer:
            producer.cancel()
        self._drop_unanswered()
        del self._parser  # which holds on to this: memory is free at once, not when cycles are looked for
        self._stop_being_spare()
        self._shared.connections.discard(self)
        self._shared.on_close()

    def pause_writing(self) -> None:
        """Start no more requests: the client does not take its answers."""
        self._blocked_since = self._shared.now

    def resume_writing(self) -> None:
        """Go on: the client takes its answers again."""
        self._blocked_since = None
        if self._producer:
            self._producer.resume()
        else:
            self._advance()

    # Called by the parser.

    def on_message_begin(self) -> None:
        """Begin a request, at its first byte."""
        self._incoming.since = self._shared.now

    def on_url(self, url: bytes) -> None:
        """Read a part of the request's target."""
        incoming = self._incoming
        incoming.url += url
        incoming.head_bytes += len(url)
        if incoming.head_bytes > self._limits.head_bytes:
            self._reject(self._head_too_large())

    def on_header(self, name: bytes, value: bytes) -> None:
        """Read a header; a trailer is only counted."""
        incoming = self._incoming
        if incoming.request is None:
            name = name.lower()
            value = value.rstrip()
            headers = incoming.headers
            if name in headers:
                if name == b"host":
                    self._reject(Problem(400, "malformed_request", "a request names one host"))
                value = headers[name] + b", " + value
            headers[name] = value
        incoming.head_bytes += len(name) + len(value) + _HEADER_OVERHEAD_BYTES
        if incoming.head_bytes > self._limits.head_bytes:
            self._reject(self._head_too_large())

    def on_headers_complete(self) -> None:
        """Judge the request by its head."""
        incoming, parser = self._incoming, self._parser
        if parser.should_upgrade():
            return  # see _ignore_upgrade
        headers = incoming.headers
        request = Request(parser.get_method().decode(), _path(incoming.url), headers, self._reply)
        request.keep_alive = parser.should_keep_alive()
        incoming.request = request
        if b"connection" in headers or b"host" not in headers or not request.keep_alive:
            self._check_version(request)
        incoming.declared_body_bytes = length = int(headers.get(b"content-length", b"0"))
        chunked = b"transfer-encoding" in headers
        if chunked and headers[b"transfer-encoding"].lower() != b"chunked":
            self._reject(Problem(501, "unknown_encoding", "the only transfer encoding here is chunked"))
        early = request.early = self._refuse(request)
        incoming.refused = early is not None
        expects = b"expect" in headers and headers[b"expect"].lower() == b"100-continue"
        if early and (expects or chunked or length > _MAX_SKIPPED_BODY_BYTES):
            incoming.rejection = early
            raise _StopParserError
        if length > self._limits.body_bytes:
            self._reject(self._body_too_large())
        if expects and not self._active and not self._queue and parser.get_http_version() == "1.1":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Keep a part of the body, within the limits."""
        incoming, shared = self._incoming, self._shared
        if incoming.refused:
            return
        parts = incoming.parts
        if not parts or len(body) >= _SMALL_PART_BYTES:
            parts.append(body)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += body
        else:
            parts.append(bytearray(body))
        incoming.body_bytes += len(body)
        shared.body_bytes += len(body)
        if incoming.body_bytes > self._limits.body_bytes:
            self._reject(self._body_too_large())
        if shared.body_bytes > self._limits.all_bodies_bytes:
            message = "the bodies of the requests in flight fill the memory that is set aside for them"
            self._reject(Problem(429, "overloaded", message, headers=(("retry-after", "1"),)))

    def on_message_complete(self) -> None:
        """Answer a complete request, or let it wait for its turn."""
        incoming = self._incoming
        request = incoming.request
        if request is None:
            return  # see _ignore_upgrade
        request.body = b"".join(incoming.parts)  # no copy, when there is one
        request.received = time.perf_counter()
        incoming.clear()
        if not request.keep_alive:
            self._state = _FINISHING
        if self._active is None and self._blocked_since is None:
            if self._whole:
                self._remember(request)
            self._start(request)
        else:
            self._queue.append(request)
            if len(self._queue) > _MAX_PIPELINED_REQUESTS and not self._reading_paused:
                self._reading_paused = True
                self._transport.pause_reading()
        if self._state is not _OPEN:  # what follows is not read
            self._unread = b""
            raise _StopParserError

    # Reading.

    def _next_piece(self) -> bytes | memoryview:
        incoming = self._incoming
        body_left = 0 if incoming.refused else incoming.declared_body_bytes - incoming.body_bytes
        size = max(_PIECE_BYTES, body_left)
        piece, self._unread = self._unread[:size], self._unread[size:]
        return piece

    def _parse(self, data: bytes | memoryview) -> None:
        body_bytes = self._incoming.body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError as error:
            if self._state is _OPEN:
                problem = Problem(400, "malformed_request", f"this is not HTTP/1.1: {error}")
                self._answer_and_close(self._incoming.rejection or self._problem(problem))
            return
        # The parser keeps a header until its end, however long it is, and does not tell.
        incoming = self._incoming
        if incoming.since is not None and incoming.body_bytes == body_bytes and not incoming.refused:
            incoming.bare_bytes += len(data)
            if incoming.bare_bytes > self._limits.head_bytes:
                self._answer_and_close(self._problem(self._head_too_large()))

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Serve a request with an Upgrade header as plain HTTP/1.1 [RFC 9110 7.8].

        llhttp stops at its head: `rest`, with the body, is still to be parsed.
        """
        method, url, headers = self._parser.get_method(), self._incoming.url, self._incoming.headers
        if method == b"CONNECT":
            self._answer_and_close(self._problem(Problem(501, "no_proxy", "this server is no proxy")))
            return
        ends = b"connection: close\r\n" if b"close" in headers.get(b"connection", b"").lower() else b""
        kept = [b"%b: %b\r\n" % header for header in headers.items() if header[0] not in _UPGRADE_HEADERS]
        self._parser = httptools.HttpRequestParser(self)
        self._incoming.clear()
        self._parse(b"%b %b HTTP/1.1\r\n%b%b\r\n" % (method, url, b"".join(kept), ends))
        if self._state is _OPEN:
            self._unread = b"".join((rest, self._unread))
            self._advance()

    def _check_version(self, request: Request) -> None:
        version = self._parser.get_http_version()
        if version == "1.0":
            request.keep_alive = False
        elif version != "1.1":
            self._reject(Problem(505, "unknown_version", "this server speaks HTTP/1.1"))
        elif b"host" not in request.headers:
            self._reject(Problem(400, "malformed_request", "an HTTP/1.1 request must name its host"))

    def _head_too_large(self) -> Problem:
        message = f"request line and headers may have {self._limits.head_bytes} bytes"
        return Problem(431, "head_too_large", message)

    def _body_too_large(self) -> Problem:
        return Problem(413, "body_too_large", f"the body may have {self._limits.body_bytes} bytes (MAX_BODY_BYTES)")

    def _problem(self, problem: Problem) -> Response:
        return self._shared.core.problem(problem, self._incoming.request)

    def _reject(self, problem: Problem) -> NoReturn:
        """Stop the parser, from one of its callbacks, at a request that `problem` answers."""
        self._incoming.rejection = self._problem(problem)
        raise _StopParserError

    # Beyond the limit of connections.

    def _become_spare(self) -> None:
        """Answer vital requests alone; where there is no room for that, in the place of the oldest that does."""
        spare = self._shared.spare
        spare[self] = False
        self._refuse = self._refuse_unless_vital
        if len(spare) > self._limits.spare_connections:
            next(iter(spare)).make_room()

    def make_room(self) -> None:
        """End a spare connection."""
        self._shared.refused += not self._shared.spare[self]
        self._stop_being_spare()
        self._transport.abort()

    def _stop_being_spare(self) -> None:
        self._shared.spare.pop(self, None)
        self._refuse = self._shared.core.refuse

    def _refuse_unless_vital(self, request: Request) -> Response | None:
        """Judge a request by its head; it is the connection's last, unless there is room for one more client by now."""
        shared = self._shared
        vital = shared.core.vital(request)
        if len(shared.connections) - len(shared.spare) < self._limits.connections or (
            not vital and self._replace_idle()
        ):
            self._stop_being_spare()
            return self._refuse(request)
        shared.spare[self] = True
        request.keep_alive = False
        if vital:
            return shared.core.refuse(request)
        shared.refused += 1
        message = f"{self._limits.connections} clients are connected, which is the limit"
        return shared.core.problem(
            Problem(503, "too_many_connections", message, headers=(("retry-after", "1"),)), request
        )

    def _replace_idle(self) -> bool:
        """End the client that has been idle for longest, if one is. All are looked through once a tick at most."""
        shared = self._shared
        if shared.idle is None:
            found = [each for each in shared.connections if each.idle and each not in shared.spare]
            shared.idle = sorted(found, key=lambda each: each.since, reverse=True)
        while shared.idle:
            oldest = shared.idle.pop()
            if oldest.idle:
                shared.spare[oldest] = True  # until it is gone
                shared.refused += 1
                oldest.close_if_idle()
                return True
        return False

    # Answering.

    def _advance(self) -> None:
        """Answer what waits and parse what is unread, as far as either can go; in a loop, not by recursion."""
        if self._advancing:
            return
        self._advancing = True
        while True:
            if self._queue and self._active is None and self._blocked_since is None:
                self._start(self._queue.popleft())
            elif self._reading_paused and self._active is None and not self._queue:
                self._resume_reading()
            elif self._unread and not self._reading_paused:
                self._parse(self._next_piece())
            else:
                break
        self._advancing = False

    def _resume_reading(self) -> None:
        self._reading_paused = False
        if self._incoming.since is not None:
            self._incoming.since = self._shared.now
        self._transport.resume_reading()

    def _start(self, request: Request) -> None:
        self._active = request
        if request.early:
            self._reply(request.early)
        else:
            self._shared.core.handle(request)

    def _reply(self, response: Response) -> None:
        request = self._active
        if request is None:
            return  # the client has left
        keep_alive = request.keep_alive and not response.close and not self._shared.draining
        if type(response) is StreamedResponse:
            self._begin(response, request, keep_alive=keep_alive)
            return
        self._release()
        self._transport.write(
            b"%b%b%b%bcontent-length: %d\r\n\r\n%b"
            % (
                _head(response.status, response.headers),
                self._shared.date,
                b"x-request-id: %b\r\n" % request.id if request.id else b"",
                b"" if keep_alive else b"connection: close\r\n",
                len(response.body),
                b"" if request.method == "HEAD" else response.body,
            )
        )
        self._answered(keep_alive=keep_alive)

    def _answered(self, *, keep_alive: bool) -> None:
        self.since = self._shared.now
        if not keep_alive:
            self._half_close()
        elif self._queue or self._reading_paused:
            self._advance()

    def _begin(self, response: StreamedResponse, request: Request, *, keep_alive: bool) -> None:
        """Send the head of an answer whose body follows in chunks, or until the connection's end to HTTP/1.0."""
        chunked = request.keep_alive or self._parser.get_http_version() != "1.0"  # who has sent its last is parsed last
        request.reply = _discard
        self._transport.write(
            b"%b%b%b%b%b\r\n"
            % (
                _head(response.status, response.headers),
                self._shared.date,
                b"x-request-id: %b\r\n" % request.id if request.id else b"",
                b"" if keep_alive else b"connection: close\r\n",
                b"transfer-encoding: chunked\r\n" if chunked else b"",
            )
        )
        self._producer = response.producer
        response.producer.start(_Body(self, response.producer, chunked=chunked))

    def write_piece(self, piece: bytes, producer: Producer) -> bool:
        """Send a part of the body of `producer`, unless that has ended."""
        if self._producer is producer:
            self._transport.write(piece)
        return self._blocked_since is None

    def end_body(self, last: bytes, producer: Producer) -> None:
        """Complete the answer of `producer`, and go on to the next request."""
        if self._producer is not producer or self._active is None:
            return
        self._transport.write(last)
        keep_alive = self._active.keep_alive and not self._shared.draining
        self._producer = None
        self._release()
        self._answered(keep_alive=keep_alive)

    def _release(self) -> None:
        """End the active request: its body is counted no more, a second reply discarded."""
        if self._active:
            self._shared.body_bytes -= len(self._active.body)
            self._active.reply = _discard
            self._active = None

    # Ending.

    def _answer_and_close(self, response: Response) -> None:
        """Read no more; answer complete requests, the incoming one with `response`, and end the connection."""
        incoming = self._incoming
        request = incoming.request or Request("", "", incoming.headers, self._reply)
        request.early = response
        request.keep_alive = False
        self._shared.body_bytes -= incoming.body_bytes
        incoming.clear()
        self._unread = b""
        self._state = _FINISHING
        self._queue.append(request)
        self._advance()

    def _half_close(self) -> None:
        """End the server's side after what is written; the client is the first to close, if it is quick."""
        self._state = _LINGERING
        self.since = self._shared.now
        self._drop_unanswered()
        self._transport.resume_reading()
        self._transport.write_eof()

    def _close_now(self) -> None:
        self._state = _LINGERING
        self.since = self._shared.now
        self._transport.close()

    def _drop_unanswered(self) -> None:
        self._shared.body_bytes -= self._incoming.body_bytes + sum(len(request.body) for request in self._queue)
        self._incoming.clear()
        self._queue.clear()
        self._unread = b""
        self._reading_paused = False

    # Called by the transport.

    @property
    def unanswered(self) -> int:
        """Requests that have begun."""
        return len(self._queue) + (self._active is not None) + (self._incoming.since is not None)

    @property
    def idle(self) -> bool:
        """Whether nothing is on the connection, and was not in this tick either: a request may still be on its way."""
        return (
            self._state is _OPEN
            and self.since < self._shared.now
            and not self.unanswered
            and not self._transport.get_write_buffer_size()
        )

    def close_if_idle(self) -> None:
        """Close the connection, unless a request is on it."""
        if self._state is _OPEN and not self.unanswered:
            self._close_now()

    def check(self) -> None:
        """Hold the client to the limits' times; call it every now and then."""
        now, limits = self._shared.now, self._limits
        if self._state is _LINGERING:
            patience = limits.read_seconds if self._transport.get_write_buffer_size() else _LINGER_SECONDS
            if now - self.since > patience:
                self._transport.abort()
        elif self._blocked_since is not None:
            if now - self._blocked_since > limits.read_seconds:
                self._transport.abort()
        elif self._incoming.since is not None:
            if now - self._incoming.since > limits.read_seconds and not self._reading_paused:
                message = f"a request must arrive within {limits.read_seconds:g} seconds"
                self._answer_and_close(self._problem(Problem(408, "too_slow", message)))
        elif self._active is None and now - self.since > limits.idle_seconds:
            self._close_now()


class _Body:
    """An answer's body on its connection."""

    def __init__(self, connection: Connection, producer: Producer, *, chunked: bool) -> None:
        self._connection = connection
        self._producer = producer
        self._chunked = chunked

    def write(self, piece: bytes) -> bool:
        """Send a piece; False while the client does not take what it is sent."""
        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece
        return self._connection.write_piece(framed, self._producer)

    def end(self) -> None:
        """Complete the answer."""
        self._connection.end_body(b"0\r\n\r\n" if self._chunked else b"", self._producer)


def _discard(_: Response) -> None:
    """Reply of a request already answered or abandoned."""


@lru_cache(maxsize=256)
def _path(url: bytes) -> str:
    """Extract the target's path: of `/a?b`, and of `http://host/a?b`, which proxies send."""
    path = url.partition(b"?")[0]
    if not path.startswith(b"/") and b"://" in path:
        path = b"/" + path.partition(b"://")[2].partition(b"/")[2]
    return (unquote_to_bytes(path) if b"%" in path else path).decode("utf-8", "replace")


@lru_cache(maxsize=256)
def _head(status: int, headers: Headers) -> bytes:
    """Encode status line and headers."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers), ""]
    return "\r\n".join(lines).encode("latin-1")
